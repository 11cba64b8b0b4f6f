//! What ends a wait, what refuses one, and what a watch may do meanwhile.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ferrolock::mechanism::{KernelLock, MarkerLock, Mechanism};
use ferrolock::wait::sleep;
use ferrolock::{
    Error, ErrorKind, Lock, Released, Scope, Stop, Timeout, Unwatched, WaitsBy, Watch, is_held_here,
};

use crate::alone::alone;
use crate::mechanisms::{Faulty, Step};
use crate::support::{
    Asking, Checked, LONG, POLL, Place, SHORT, acquire, greenlet, is_free, join, kernel_lock, me, patience,
    telling,
};

/// What a bounded wait may take at most: no more than a hang is told from it.
const LIMIT: Duration = Duration::from_millis(80);

fn kind(result: Result<(), Error>) -> Checked<ErrorKind> {
    match result {
        Ok(()) => Err("it was acquired".into()),
        Err(error) => Ok(error.kind()),
    }
}

fn held(path: &Path) -> Checked<Lock> {
    let lock = kernel_lock(Scope::PerOwner);
    acquire(&lock, greenlet(7), path, Timeout::Once)?;
    Ok(lock)
}

fn watched(lock: &Lock, path: &Path, timeout: Timeout, watch: &mut dyn Watch) -> Checked<ErrorKind> {
    kind(lock.acquire(me(), path, patience(timeout), watch).map(drop))
}

#[test]
fn a_timeout_names_the_contended_file_and_is_never_early() -> Checked {
    let place = Place::new()?;
    let holder = held(&place.path)?;
    let lock = kernel_lock(Scope::PerOwner);
    for timeout in [Timeout::Once, Timeout::After(Duration::ZERO), Timeout::After(LIMIT)] {
        let begin = Instant::now();
        let ended = kind(acquire(&lock, me(), &place.path, timeout))?;
        let ErrorKind::TimedOut(Some(file)) = ended else { return Err(format!("{ended:?}").into()) };
        assert!(is_held_here(file), "the file that another object of this process holds");
        if timeout == Timeout::After(LIMIT) {
            assert!(begin.elapsed() >= LIMIT, "{:?}", begin.elapsed());
        }
        assert!(begin.elapsed() < LONG);
        assert_eq!(lock.depth(me()), 0);
    }
    assert_eq!(holder.release(greenlet(7), false)?, Released::Unlocked);
    Ok(acquire(&lock, me(), &place.path, Timeout::Once)?)
}

#[test]
fn one_attempt_is_one_attempt_and_asks_nobody() -> Checked {
    let place = Place::new()?;
    let faults = Faulty::attempting(|_| Step::Contend);
    let lock = faults.lock(Scope::PerOwner);
    let mut questions = 0;
    let mut watch = Asking::new(|question| {
        questions = question;
        ControlFlow::Continue(())
    });
    let ended = watched(&lock, &place.path, Timeout::Once, &mut watch)?;
    assert_eq!(ended, ErrorKind::TimedOut(None));
    let ended = watched(&lock, &place.path, Timeout::After(Duration::ZERO), &mut watch)?;
    assert_eq!(ended, ErrorKind::TimedOut(None));
    assert_eq!(faults.attempts(), 2);
    assert_eq!(questions, 1, "a timeout of nothing may still be cancelled, a single attempt may not");
    Ok(())
}

#[test]
fn a_wait_goes_on_over_interrupted_attempts() -> Checked {
    let place = Place::new()?;
    let faults = Faulty::attempting(|n| if n <= 3 { Step::Interrupt } else { Step::Proceed });
    let lock = faults.lock(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::After(LONG))?;
    assert_eq!(faults.attempts(), 4);
    assert!(!is_free(&place.path)?);
    Ok(())
}

#[test]
fn an_interrupted_attempt_is_no_attempt() -> Checked {
    let place = Place::new()?;
    let faults = Faulty::attempting(|n| if n <= 2 { Step::Interrupt } else { Step::Proceed });
    let lock = faults.lock(Scope::PerOwner);
    let mut watch = StoppedInPause(Stop::Interrupted);
    let ended = watched(&lock, &place.path, Timeout::Once, &mut watch)?;
    assert_eq!(ended, ErrorKind::Interrupted, "the signal is seen to");
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    assert_eq!(faults.attempts(), 3);
    Ok(())
}

#[test]
fn a_wait_without_limit_ends_with_the_release() -> Checked {
    let place = Place::new()?;
    let holder = held(&place.path)?;
    let lock = kernel_lock(Scope::PerOwner);
    let (waiting, waits) = mpsc::channel();
    let (acquired, gets) = mpsc::channel();
    thread::scope(|scope| {
        let (lock, path) = (&lock, &place.path);
        let waiter = scope.spawn(move || -> Checked {
            let mut watch = telling(waiting);
            lock.acquire(me(), path, patience(Timeout::Never), &mut watch)?;
            acquired.send(lock.depth(me()))?;
            Ok(())
        });
        waits.recv_timeout(LONG)?;
        assert!(gets.recv_timeout(SHORT).is_err(), "it is held");
        holder.release(greenlet(7), false)?;
        assert_eq!(gets.recv_timeout(LONG)?, 1);
        join(waiter)
    })
}

#[test]
fn a_watch_that_stops_the_wait_leaves_everything_as_it_was() -> Checked {
    let place = Place::new()?;
    let holder = held(&place.path)?;
    let lock = kernel_lock(Scope::PerOwner);
    for (stop, at, kind) in [
        (Stop::Cancelled, 1, ErrorKind::Cancelled),
        (Stop::Cancelled, 3, ErrorKind::Cancelled),
        (Stop::Interrupted, 2, ErrorKind::Interrupted),
    ] {
        let mut watch =
            Asking::new(
                |question| {
                    if question == at { ControlFlow::Break(stop) } else { ControlFlow::Continue(()) }
                },
            );
        assert_eq!(watched(&lock, &place.path, Timeout::Never, &mut watch)?, kind);
        let mut watch = StoppedInPause(stop);
        assert_eq!(watched(&lock, &place.path, Timeout::After(LONG), &mut watch)?, kind);
        assert_eq!(lock.depth(me()), 0);
        assert!(!lock.is_held_by_anyone());
        assert!(!is_free(&place.path)?, "the holder keeps it");
    }
    holder.release(greenlet(7), false)?;
    Ok(acquire(&lock, me(), &place.path, Timeout::Once)?)
}

/// Lets the wait go on, but not through a pause.
struct StoppedInPause(Stop);

impl Watch for StoppedInPause {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        ControlFlow::Continue(())
    }

    fn pause(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        ControlFlow::Break(self.0)
    }

    fn look_every(&self) -> Duration {
        Duration::from_millis(5)
    }
}

#[test]
fn who_asks_again_from_inside_the_wait_is_refused() -> Checked {
    for scope in [Scope::PerOwner, Scope::Shared] {
        let place = Place::new()?;
        let holder = held(&place.path)?;
        let lock = kernel_lock(scope);
        let mut inside = Vec::new();
        let mut watch = Asking::new(|question| {
            for timeout in [Timeout::Once, Timeout::After(LIMIT), Timeout::Never] {
                let mut cancelling = Asking::new(|_| ControlFlow::Break(Stop::Cancelled));
                inside.push(watched(&lock, &place.path, timeout, &mut cancelling));
            }
            match (question, holder.release(greenlet(7), false)) {
                (1, Ok(_)) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(Stop::Interrupted),
            }
        });
        lock.acquire(me(), &place.path, patience(Timeout::Never), &mut watch)?;
        assert_eq!(inside.len(), 3);
        assert!(inside.iter().all(|kind| matches!(kind, Ok(ErrorKind::Reentered))), "{inside:?}");
        assert_eq!(lock.depth(me()), 1, "the wait itself went on");
        acquire(&lock, me(), &place.path, Timeout::Once)?;
    }
    Ok(())
}

/// A lock on the lock object would hang it: in a process of its own, which is ended then.
#[test]
fn a_watch_may_use_any_lock_and_ask_after_this_one() -> Checked {
    alone(|| {
        let (place, elsewhere) = (Place::new()?, Place::new()?);
        let holder = held(&place.path)?;
        let lock = kernel_lock(Scope::PerOwner);
        let mut watch = Asking::new(|_| {
            let other = kernel_lock(Scope::PerOwner);
            let asked = lock.depth(me()) == 0 && !lock.is_held_by_anyone() && !lock.nest(me());
            // For another owner, through the lock object that is being waited for.
            let done = acquire(&lock, greenlet(1), &elsewhere.path, Timeout::Once)
                .and_then(|()| lock.release(greenlet(1), false))
                .and_then(|_| acquire(&other, me(), &elsewhere.path, Timeout::Once))
                .and_then(|()| holder.release(greenlet(7), false));
            match done {
                Ok(Released::Unlocked) if asked => ControlFlow::Continue(()),
                _ => ControlFlow::Break(Stop::Interrupted),
            }
        });
        lock.acquire(me(), &place.path, patience(Timeout::Never), &mut watch)?;
        assert_eq!(lock.depth(me()), 1);
        Ok(())
    })
}

#[test]
fn a_thread_that_would_wait_for_itself_is_refused() -> Checked {
    let place = Place::new()?;
    let (holder, lock) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
    acquire(&holder, me(), &place.path, Timeout::Once)?;
    let mut cancelling = Asking::new(|_| ControlFlow::Break(Stop::Cancelled));
    assert_eq!(watched(&lock, &place.path, Timeout::Never, &mut cancelling)?, ErrorKind::Deadlock);
    assert_eq!(lock.depth(me()), 0);
    assert_eq!(holder.depth(me()), 1);
    let bounded = kind(acquire(&lock, me(), &place.path, Timeout::After(Duration::from_millis(5))))?;
    assert!(matches!(bounded, ErrorKind::TimedOut(Some(_))), "a bounded wait ends by itself: {bounded:?}");
    holder.release(me(), false)?;
    Ok(acquire(&lock, me(), &place.path, Timeout::Once)?)
}

#[test]
fn waiting_for_somebody_else_is_no_deadlock() -> Checked {
    let place = Place::new()?;
    let holder = held(&place.path)?;
    let lock = kernel_lock(Scope::PerOwner);
    let cancelling = || Asking::new(|_| ControlFlow::Break(Stop::Cancelled));
    // Held by another owner of this thread, and by another thread.
    assert_eq!(watched(&lock, &place.path, Timeout::Never, &mut cancelling())?, ErrorKind::Cancelled);
    thread::scope(|scope| {
        let other = scope.spawn(|| watched(&lock, &place.path, Timeout::Never, &mut cancelling()));
        assert_eq!(join(other)?, ErrorKind::Cancelled);
        // A hold that this thread had, and gave back, is none.
        holder.release(greenlet(7), false)?;
        acquire(&holder, me(), &place.path, Timeout::Once)?;
        holder.release(me(), false)?;
        acquire(&holder, greenlet(7), &place.path, Timeout::Once)?;
        assert_eq!(watched(&lock, &place.path, Timeout::Never, &mut cancelling())?, ErrorKind::Cancelled);
        Ok(())
    })
}

/// Counts what it is called for, and is asked only as often as it says.
#[derive(Default)]
struct Counting {
    told: Vec<WaitsBy>,
    questions: u32,
    pauses: u32,
    may_not_block: bool,
    has_no_questions: bool,
    look_every: Option<Duration>,
    stops_at_pause: Option<u32>,
}

impl Watch for Counting {
    fn begins(&mut self, waits_by: WaitsBy) {
        self.told.push(waits_by);
    }

    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        self.questions += 1;
        ControlFlow::Continue(())
    }

    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
        self.pauses += 1;
        sleep(pause);
        if self.stops_at_pause.is_some_and(|last| self.pauses >= last) {
            return ControlFlow::Break(Stop::Interrupted);
        }
        ControlFlow::Continue(())
    }

    fn may_block(&self) -> bool {
        !self.may_not_block
    }

    fn has_questions(&self) -> bool {
        !self.has_no_questions
    }

    fn look_every(&self) -> Duration {
        self.look_every.unwrap_or(Unwatched.look_every())
    }
}

#[test]
fn questions_come_as_often_as_the_poll_interval_says_and_no_more_often() -> Checked {
    let place = Place::new()?;
    let _holder = held(&place.path)?;
    let lock = kernel_lock(Scope::PerOwner);
    for may_not_block in [false, true] {
        let begin = Instant::now();
        let mut watch = Counting { may_not_block, ..Counting::default() };
        watched(&lock, &place.path, Timeout::After(LIMIT), &mut watch)?;
        let at_most = begin.elapsed().as_millis() / POLL.as_millis() + 1;
        assert!(watch.questions > 1 && u128::from(watch.questions) <= at_most, "{}", watch.questions);
        let mut watch = Counting { may_not_block, has_no_questions: true, ..Counting::default() };
        watched(&lock, &place.path, Timeout::After(LIMIT), &mut watch)?;
        assert_eq!(watch.questions, 1, "it wants to be asked once");
    }
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn a_watch_looks_up_from_the_kernel_as_often_as_it_says_and_no_more_than_twice_as_often() -> Checked {
    let place = Place::new()?;
    let _holder = held(&place.path)?;
    let lock = kernel_lock(Scope::PerOwner);
    let mut watch = Counting::default();
    watched(&lock, &place.path, Timeout::After(LIMIT), &mut watch)?;
    assert_eq!(watch.pauses, 0, "it has nothing to look after");
    let begin = Instant::now();
    let look_every = Some(Duration::from_millis(20));
    let mut watch = Counting { look_every, stops_at_pause: Some(5), ..Counting::default() };
    assert_eq!(watched(&lock, &place.path, Timeout::After(LONG), &mut watch)?, ErrorKind::Interrupted);
    // Half as long where a tick wakes it anyway.
    assert!(begin.elapsed() >= Duration::from_millis(50), "{:?}", begin.elapsed());
    Ok(())
}

/// The handler of a signal of Python's only leaves a note.
#[cfg(target_os = "linux")]
#[test]
fn a_wait_that_a_signal_cuts_short_looks_at_once_what_it_was() -> Checked {
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::forking::Addressee;
    use crate::support::{LATE, only_woken, until};

    let place = Place::new()?;
    let _holder = held(&place.path)?;
    let lock = kernel_lock(Scope::PerOwner);
    let (who, tells) = mpsc::channel();
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let (lock, path, has_ended) = (&lock, &place.path, &has_ended);
        let (ends, end) = mpsc::channel::<()>();
        let waiter = scope.spawn(move || {
            let mut watch = Counting { stops_at_pause: Some(1), ..Counting::default() };
            who.send(Addressee::me()).unwrap_or_default();
            let ended = lock.acquire(me(), path, only_woken(LATE), &mut watch);
            has_ended.store(true, Ordering::SeqCst);
            // The thread is there as long as it is sent signals.
            end.recv().unwrap_or_default();
            kind(ended.map(drop))
        });
        let thread = tells.recv_timeout(LONG)?;
        // It may come before the wait has begun.
        let looked =
            until("it is interrupted", || Ok(has_ended.load(Ordering::SeqCst) || !thread.interrupt()));
        drop(ends);
        looked?;
        assert_eq!(join(waiter)?, ErrorKind::Interrupted);
        Ok(())
    })
}

#[test]
fn who_may_block_is_woken_by_the_kernel_where_it_can_and_is_told_so() -> Checked {
    let mechanisms: [fn() -> Box<dyn Mechanism>; 2] =
        [|| Box::<KernelLock>::default(), || Box::<MarkerLock>::default()];
    for mechanism in mechanisms {
        let place = Place::new()?;
        let (holder, lock) =
            (Lock::new(mechanism(), Scope::PerOwner), Lock::new(mechanism(), Scope::PerOwner));
        acquire(&holder, me(), &place.path, Timeout::Once)?;
        let by_kernel = if cfg!(target_os = "linux") { WaitsBy::Kernel } else { WaitsBy::Polling };
        assert_eq!(lock.waits_by(&place.path), by_kernel);
        for (may_not_block, expected) in [(false, by_kernel), (true, WaitsBy::Polling)] {
            let mut watch = Counting { may_not_block, ..Counting::default() };
            watched(&lock, &place.path, Timeout::After(POLL), &mut watch)?;
            assert_eq!(watch.told, [expected]);
        }
        // A file system whose locks are not known to be of this machine.
        assert_eq!(lock.waits_by(Path::new("/proc/x.lock")), WaitsBy::Polling);
    }
    Ok(())
}

/// Neither the first of its process, which waits in the kernel, nor the next.
#[cfg(target_os = "linux")]
#[test]
fn who_waits_takes_no_time_of_the_processor() -> Checked {
    use rustix::time::{ClockId, clock_gettime};

    let place = Place::new()?;
    let _holder = held(&place.path)?;
    let busy = |lock: &Lock, watch: &mut dyn Watch| -> Checked<Duration> {
        let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime));
        let before = used()?;
        watched(lock, &place.path, Timeout::After(2 * LIMIT), watch)?;
        Ok(used()?.saturating_sub(before))
    };
    let (waiting, waits) = mpsc::channel();
    thread::scope(|scope| {
        let busy = &busy;
        let first = scope.spawn(move || busy(&kernel_lock(Scope::PerOwner), &mut telling(waiting)));
        waits.recv_timeout(LONG)?;
        for took in [busy(&kernel_lock(Scope::PerOwner), &mut Unwatched)?, join(first)?] {
            assert!(took < LIMIT / 5, "{took:?}");
        }
        Ok(())
    })
}
