//! The line of those who wait for a kernel lock, where somebody may not move.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ferrolock::mechanism::{
    self, Attempt, ByteRangeLock, Guard, KernelLock, Manners, Mechanism, Mode, Terms,
};
use ferrolock::wait::sleep;
use ferrolock::{ErrorKind, Lock, Patience, ReadWrite, Scope, Stop, Timeout, Unwatched, Watch};

use crate::alone::alone;
use crate::support::{
    AskedOnce, Asking, Checked, LATE, LONG, POLL, Place, SHORT, acquire, guard_on, in_time, is_free, join,
    kernel_lock, me, only_woken, patience, until,
};

/// The longest time between two looks up from a line.
const LONGEST_TICK: Duration = Duration::from_millis(250);

/// A watch whose thread may not block, as a greenlet's: the wait polls.
struct NeverBlocking;

impl Watch for NeverBlocking {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        ControlFlow::Continue(())
    }

    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
        sleep(pause);
        ControlFlow::Continue(())
    }

    fn may_block(&self) -> bool {
        false
    }
}

/// Whoever stands at the head of the line may be stopped, and the lock be free.
#[test]
fn who_polls_gets_a_free_lock_past_a_line_that_does_not_move() -> Checked {
    let place = Place::new()?;
    let kernel = KernelLock::default();
    let stopped = kernel.open_place(&place.path, Manners::Polite.into())?.ok_or("a local file system")?;
    assert!(stopped.wait_for_turn(Some(LONG))?);
    let lock = kernel_lock(Scope::PerOwner);
    // The longest pause, and a deadline that comes before it is over: then the last attempt decides.
    for (poll_interval, limit) in [(POLL, LONG), (LONG, SHORT)] {
        let patience = Patience { timeout: Timeout::After(limit), poll_interval, lifetime: None };
        lock.acquire(me(), &place.path, patience, &mut NeverBlocking)?;
        lock.release(me(), false)?;
    }
    Ok(())
}

/// That nobody stood in line counts for a moment only.
#[test]
fn who_has_just_had_the_lock_does_not_overtake_who_has_come_to_the_line_since() -> Checked {
    let place = Place::new()?;
    let kernel = KernelLock::default();
    let attempt = || kernel.try_acquire(&place.path, Manners::Polite.into());
    let Attempt::Acquired(guard) = attempt()? else { return Err("nobody stands in line".into()) };
    give_back(guard)?;
    let head = at_head_of_line(&place.path)?;
    sleep(Duration::from_millis(1));
    let overtaking = attempt()?;
    assert!(matches!(overtaking, Attempt::Contended(_)), "{overtaking:?}");
    drop(head);
    Ok(())
}

/// Also a writer, whose attempts build on each other.
#[test]
fn readers_and_writers_that_poll_get_a_free_lock_past_a_line_that_does_not_move() -> Checked {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let place = Place::new()?;
        let ranges = ByteRangeLock::default();
        let terms = Terms { mode, ..Manners::Polite.into() };
        let stopped = ranges.open_place(&place.path, terms)?.ok_or("a local file system")?;
        assert!(stopped.wait_for_turn(Some(LONG))?);
        let lock = ReadWrite::new(Box::<ByteRangeLock>::default());
        for (poll_interval, limit) in [(POLL, LONG), (LONG, SHORT)] {
            let patience = Patience { timeout: Timeout::After(limit), poll_interval, lifetime: None };
            lock.acquire(me(), mode, &place.path, patience, &mut NeverBlocking)?;
            lock.release(me(), false, &place.path)?;
        }
    }
    Ok(())
}

/// A line that was found not to move says nothing about the lines of other locks.
#[test]
fn who_goes_past_one_line_does_not_overtake_in_another() -> Checked {
    let (stuck, moving) = (Place::new()?, Place::new()?);
    let kernel = KernelLock::default();
    let mut heads = Vec::new();
    for place in [&stuck, &moving] {
        let head = kernel.open_place(&place.path, Manners::Polite.into())?.ok_or("a local file system")?;
        assert!(head.wait_for_turn(Some(LONG))?);
        heads.push(head);
    }
    let mut asked = Vec::new();
    let mut take = |place: &Place| -> Checked {
        let lock = kernel_lock(Scope::PerOwner);
        let mut questions = 0;
        let mut watch = Asking::new(|question| {
            questions = question;
            ControlFlow::Continue(())
        });
        // By another spelling, too.
        let path = place.folder().join(".").join("x.lock");
        lock.acquire(me(), &path, patience(Timeout::After(LONG)), &mut watch)?;
        lock.release(me(), false)?;
        asked.push(questions > 0);
        Ok(())
    };
    take(&stuck)?;
    take(&stuck)?;
    take(&moving)?;
    assert_eq!(asked, [true, false, true], "whether they waited");
    Ok(())
}

/// What is known of the one does not depend on what is found out about the other. It is known for a second.
#[test]
fn a_process_goes_past_as_many_lines_as_do_not_move() -> Checked {
    let places = [Place::new()?, Place::new()?];
    let _heads = [at_head_of_line(&places[0].path)?, at_head_of_line(&places[1].path)?];
    until("it waits for neither", || Ok(!has_to_wait(&places[0].path)? && !has_to_wait(&places[1].path)?))
}

/// A stand-in that cannot be interrupted has a hand on it until the line has moved.
#[test]
fn a_place_in_other_hands_does_not_keep_the_lock() -> Checked {
    let place = Place::new()?;
    let terms = Manners::Polite.into();
    let waiting = KernelLock::default().open_place(&place.path, terms)?.ok_or("a local file system")?;
    let other_hand = Arc::clone(&waiting);
    assert!(waiting.wait_for_lock(LONG)?);
    assert!(!is_free(&place.path)?);
    assert!(waiting.into_guard()?.is_none());
    assert!(is_free(&place.path)?, "nobody has it");
    drop(other_hand);
    Ok(())
}

/// Takes a place in the line, at its end.
fn standing(path: &Path) -> Checked<Arc<dyn mechanism::Place>> {
    let place = KernelLock::default().open_place(path, Manners::Polite.into())?;
    Ok(place.ok_or("a local file system")?)
}

fn at_head_of_line(path: &Path) -> Checked<Arc<dyn mechanism::Place>> {
    let place = standing(path)?;
    assert!(place.wait_for_turn(Some(LONG))?);
    Ok(place)
}

/// Whether nobody stands in line.
pub(crate) fn is_line_free(path: &Path) -> Checked<bool> {
    Ok(standing(path)?.wait_for_turn(Some(Duration::from_millis(1)))?)
}

/// The lock, past whoever stands in line.
fn hasty_guard(path: &Path) -> Checked<Box<dyn Guard>> {
    match KernelLock::default().try_acquire(path, Manners::Hasty.into())? {
        Attempt::Acquired(guard) => Ok(guard),
        held @ (Attempt::Contended(_) | Attempt::Interrupted) => Err(format!("{held:?}").into()),
    }
}

fn give_back(guard: Box<dyn Guard>) -> Checked {
    Ok(guard.release().map_err(|failed| failed.error)?)
}

fn lock_and_release(lock: &Lock, path: &Path, patience: Patience) -> Checked {
    lock.acquire(me(), path, patience, &mut Unwatched)?;
    lock.release(me(), false)?;
    Ok(())
}

/// Whether who asks politely has to wait. It gives the lock back.
fn has_to_wait(path: &Path) -> Checked<bool> {
    let lock = kernel_lock(Scope::PerOwner);
    let mut has_waited = false;
    lock.acquire(me(), path, patience(LATE), &mut AskedOnce(|| has_waited = true))?;
    lock.release(me(), false)?;
    Ok(has_waited)
}

/// It looks up from the line at its ticks, and tries the lock past it.
#[test]
fn the_head_of_a_line_stays_there_until_it_has_the_lock() -> Checked {
    let place = Place::new()?;
    let (path, holder) = (&place.path, guard_on(&place.path)?);
    let lock = kernel_lock(Scope::PerOwner);
    thread::scope(|scope| {
        let holder = holder;
        let waiter = scope.spawn(|| lock_and_release(&lock, path, patience(LATE)));
        until("it stands in line", || Ok(!is_line_free(path)?))?;
        let next = standing(path)?;
        assert!(!next.wait_for_turn(Some(2 * LONGEST_TICK))?);
        give_back(holder)?;
        in_time(|| join(waiter))?;
        assert!(next.wait_for_turn(Some(LONG))?, "it has left the line");
        Ok(())
    })
}

/// Whether a thread stands in line for another one of this process.
fn is_stood_in_for() -> Checked<bool> {
    for task in fs::read_dir("/proc/self/task")? {
        // A thread may have ended meanwhile.
        let name = fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
        if name.trim_end() == "ferrolock-line" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// In what the kernel lets somebody wait.
#[derive(Clone, Copy)]
enum Queue {
    Line,
    Lock,
}

/// Whether somebody waits in the kernel, for his turn in the line or for the lock.
fn is_awaited(path: &Path, queue: Queue) -> Checked<bool> {
    let inode = format!(":{}", fs::metadata(path)?.ino());
    let waiting = match queue {
        Queue::Line => "-> OFDLCK",
        Queue::Lock => "-> FLOCK",
    };
    let locks = fs::read_to_string("/proc/locks")?;
    let is_at_path = |lock: &str| lock.split_whitespace().any(|word| word.ends_with(&inode));
    Ok(locks.lines().any(|lock| lock.contains(waiting) && is_at_path(lock)))
}

/// A waiter that looked up from the line now and then would come back to its end.
#[test]
fn who_waits_for_long_keeps_its_place_before_those_who_come_later() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let path = &place.path;
        let (first, holder) = (at_head_of_line(path)?, hasty_guard(path)?);
        let lock = kernel_lock(Scope::PerOwner);
        let (turn, turns) = mpsc::channel();
        thread::scope(|scope| {
            let (first, holder) = (first, holder);
            let waiter = scope.spawn(|| lock_and_release(&lock, path, patience(LATE)));
            until("somebody stands in for it", || Ok(is_stood_in_for()? && is_awaited(path, Queue::Line)?))?;
            let later = scope.spawn(move || -> Checked {
                let later = standing(path)?;
                let has_turn = later.wait_for_turn(Some(LONG))?;
                // Nobody listens any more once the test has failed.
                turn.send(has_turn).unwrap_or_default();
                Ok(())
            });
            // Some ticks.
            sleep(SHORT);
            first.leave_line();
            assert!(turns.recv_timeout(SHORT).is_err(), "the waiter was there before");
            give_back(holder)?;
            in_time(|| join(waiter))?;
            assert!(turns.recv_timeout(LONG)?);
            join(later)
        })
    })
}

/// A thread has stood in line for it, of which there are only so many at a time.
#[test]
fn who_gives_up_behind_a_line_does_so_in_time_and_leaves_nobody_there() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let path = &place.path;
        let (first, holder) = (at_head_of_line(path)?, hasty_guard(path)?);
        let lock = kernel_lock(Scope::PerOwner);
        for _ in 0..20 {
            let begin = Instant::now();
            let mut watch = Asking::new(|_| match is_stood_in_for() {
                Ok(false) if begin.elapsed() < LONG => ControlFlow::Continue(()),
                _ => ControlFlow::Break(Stop::Cancelled),
            });
            let ended = in_time(|| Ok(lock.acquire(me(), path, patience(LATE), &mut watch)))?;
            assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::Cancelled));
            assert!(!is_awaited(path, Queue::Line)?);
            until("the thread is gone", || Ok(!is_stood_in_for()?))?;
        }
        thread::scope(|scope| {
            let (first, holder) = (first, holder);
            let waiter = scope.spawn(|| lock_and_release(&lock, path, patience(LATE)));
            until("somebody stands in for the next one, too", is_stood_in_for)?;
            give_back(holder)?;
            drop(first);
            in_time(|| join(waiter))
        })
    })
}

#[test]
fn a_turn_that_has_come_is_taken_at_once_and_not_at_the_next_tick() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let path = &place.path;
        let mut shortest = LONG;
        for _ in 0..3 {
            let (first, holder) = (at_head_of_line(path)?, hasty_guard(path)?);
            let lock = kernel_lock(Scope::PerOwner);
            let took = thread::scope(|scope| -> Checked<Duration> {
                let (first, holder) = (first, holder);
                let waiter = scope.spawn(|| lock_and_release(&lock, path, only_woken(LATE)));
                // That is just after a tick.
                until("somebody stands in for it", || {
                    Ok(is_stood_in_for()? && is_awaited(path, Queue::Line)?)
                })?;
                let begin = Instant::now();
                give_back(holder)?;
                drop(first);
                join(waiter)?;
                Ok(begin.elapsed())
            })?;
            shortest = shortest.min(took);
        }
        assert!(shortest < LONGEST_TICK / 2, "{shortest:?}");
        Ok(())
    })
}

/// The old file stays locked: nobody is woken by it.
#[test]
fn who_waits_for_a_file_that_is_replaced_stands_in_line_for_its_replacement() -> Checked {
    let place = Place::new()?;
    let (path, holder) = (&place.path, guard_on(&place.path)?);
    let lock = kernel_lock(Scope::PerOwner);
    thread::scope(|scope| {
        let _of_old = holder;
        let waiter = scope.spawn(|| lock_and_release(&lock, path, patience(LATE)));
        until("it stands in line", || Ok(!is_line_free(path)?))?;
        fs::rename(path, path.with_extension("old"))?;
        let Attempt::Acquired(of_new) = KernelLock::default().try_acquire(path, Manners::Polite.into())?
        else {
            // It has found the new file before, which is fine too.
            return in_time(|| join(waiter));
        };
        until("it stands in line for the new one", || Ok(!is_line_free(path)?))?;
        give_back(of_new)?;
        in_time(|| join(waiter))
    })
}

#[test]
fn a_replaced_file_is_no_line_that_does_not_move() -> Checked {
    let place = Place::new()?;
    let (path, holder) = (&place.path, guard_on(&place.path)?);
    let lock = kernel_lock(Scope::PerOwner);
    thread::scope(|scope| {
        let _of_old = holder;
        let waiter = scope.spawn(|| lock_and_release(&lock, path, patience(LATE)));
        until("it stands in line", || Ok(!is_line_free(path)?))?;
        fs::rename(path, path.with_extension("old"))?;
        in_time(|| join(waiter))
    })?;
    let _head = at_head_of_line(path)?;
    assert!(has_to_wait(path)?, "who is first in line is not overtaken");
    Ok(())
}

#[test]
fn who_found_a_line_stuck_says_so_as_long_as_it_has_the_lock() -> Checked {
    let place = Place::new()?;
    let path = &place.path;
    let stopped = at_head_of_line(path)?;
    let lock = kernel_lock(Scope::PerOwner);
    // At once, and after it has waited; both while the process goes past the line, which is for a second.
    until("it says so when it did not have to wait", || {
        let _finds_it_stuck = has_to_wait(path)?;
        acquire(&lock, me(), path, LATE)?;
        let is_reported = stopped.is_line_reported_stuck();
        lock.release(me(), false)?;
        assert!(!stopped.is_line_reported_stuck(), "it is over with the hold");
        Ok(is_reported)
    })?;
    until("it says so when it was woken", || {
        acquire(&lock, me(), path, LATE)?;
        let waiting = kernel_lock(Scope::PerOwner);
        let (asked, asks) = mpsc::channel();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| -> Checked<bool> {
                let mut watch = AskedOnce(|| asked.send(()).unwrap_or_default());
                waiting.acquire(me(), path, only_woken(LATE), &mut watch)?;
                let is_reported = stopped.is_line_reported_stuck();
                waiting.release(me(), false)?;
                Ok(is_reported)
            });
            asks.recv_timeout(LONG)?;
            lock.release(me(), false)?;
            in_time(|| join(waiter))
        })
    })
}

#[test]
fn who_has_waited_in_a_line_that_moves_does_not_say_that_it_is_stuck() -> Checked {
    let place = Place::new()?;
    let (path, holder) = (&place.path, guard_on(&place.path)?);
    let lock = kernel_lock(Scope::PerOwner);
    let looking = standing(path)?;
    assert!(!looking.is_line_reported_stuck(), "nor who did not have to wait");
    thread::scope(|scope| {
        let holder = holder;
        let waiter = scope.spawn(|| -> Checked<bool> {
            acquire(&lock, me(), path, LATE)?;
            let is_reported = looking.is_line_reported_stuck();
            lock.release(me(), false)?;
            Ok(is_reported)
        });
        until("it stands in line", || Ok(!is_line_free(path)?))?;
        give_back(holder)?;
        assert!(!in_time(|| join(waiter))?);
        Ok(())
    })
}

/// Two who told each other would go past that line for ever.
#[test]
fn who_was_told_that_a_line_is_stuck_goes_past_it_and_tells_nobody() -> Checked {
    let place = Place::new()?;
    let path = &place.path;
    let stopped = at_head_of_line(path)?;
    let telling = standing(path)?;
    assert!(telling.wait_for_lock(LONG)?);
    telling.report_stuck_line();
    let lock = kernel_lock(Scope::PerOwner);
    thread::scope(|scope| {
        let telling = telling;
        let waiter = scope.spawn(|| -> Checked {
            acquire(&lock, me(), path, LATE)?;
            assert!(!stopped.is_line_reported_stuck());
            lock.release(me(), false)?;
            // Nor does who comes next.
            acquire(&lock, me(), path, LATE)?;
            assert!(!stopped.is_line_reported_stuck());
            lock.release(me(), false)?;
            Ok(())
        });
        until("it waits for the lock, past the line", || is_awaited(path, Queue::Lock))?;
        drop(telling);
        in_time(|| join(waiter))
    })
}
