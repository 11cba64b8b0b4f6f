//! Those who wait for a kernel lock: in the line, where somebody may not move, and in the queue of their process.

use std::fs;
use std::ops::ControlFlow;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ferrolock::mechanism::{ByteRangeLock, KernelLock, Manners, Mechanism, Mode, Terms};
use ferrolock::wait::sleep;
use ferrolock::{Lock, Patience, ReadWrite, Scope, Stop, Timeout, Watch};

use crate::removal::removing;
use crate::support::{
    Asking, Checked, LONG, POLL, Place, SHORT, acquire, greenlet, is_free, join, kernel_lock, me, patience,
    telling, until,
};

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

/// A watch with one question, whose answer is a closure's.
struct AskedOnce<F>(F);

impl<F: FnMut()> Watch for AskedOnce<F> {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        (self.0)();
        ControlFlow::Continue(())
    }

    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
        sleep(pause);
        ControlFlow::Continue(())
    }

    fn has_questions(&self) -> bool {
        false
    }
}

/// The hold comes while the waiter is in a callback, and nothing else wakes it: it is not the first in its queue.
#[test]
fn a_shared_hold_that_comes_during_a_callback_ends_the_wait() -> Checked {
    let place = Place::new()?;
    let holder = kernel_lock(Scope::PerOwner);
    acquire(&holder, greenlet(7), &place.path, Timeout::Once)?;
    let (first, shared) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::Shared));
    let (waiting, waits) = mpsc::channel();
    let (asked, asks) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    thread::scope(|scope| {
        let (first, shared, path) = (&first, &shared, &place.path);
        let head = scope.spawn(move || -> Checked {
            let mut watch = AskedOnce(|| waiting.send(()).unwrap_or_default());
            lock_and_release(first, path, &mut watch)
        });
        waits.recv_timeout(LONG)?;
        let next = scope.spawn(move || -> Checked {
            let mut watch = AskedOnce(|| {
                asked.send(()).unwrap_or_default();
                answers.recv_timeout(LONG).unwrap_or_default();
            });
            lock_and_release(shared, path, &mut watch)
        });
        asks.recv_timeout(LONG)?;
        // Another file, which the head does not wait for: nobody is in the way.
        std::fs::rename(path, path.with_extension("old"))?;
        acquire(shared, greenlet(1), path, Timeout::Once)?;
        answer.send(())?;
        let nested = join(next);
        shared.release(greenlet(1), false)?;
        join(head)?;
        nested
    })?;
    holder.release(greenlet(7), false)?;
    Ok(())
}

fn lock_and_release(lock: &Lock, path: &Path, watch: &mut dyn Watch) -> Checked {
    lock.acquire(me(), path, patience(Timeout::After(LONG)), watch)?;
    lock.release(me(), false)?;
    Ok(())
}

/// Has a waiter that stands in line see a release; gives the inode numbers of the two holds.
fn hand_over(place: &Place, waiter: &Lock) -> Checked<(u64, u64)> {
    let holder = removing(Scope::PerOwner);
    acquire(&holder, me(), &place.path, Timeout::Once)?;
    let before = fs::metadata(&place.path)?.st_ino();
    let (waiting, waits) = mpsc::channel();
    let after = thread::scope(|scope| -> Checked<u64> {
        let waiting = scope.spawn(|| -> Checked<u64> {
            let mut watch = telling(waiting);
            waiter.acquire(greenlet(1), &place.path, patience(Timeout::After(LONG)), &mut watch)?;
            Ok(fs::metadata(&place.path)?.st_ino())
        });
        waits.recv_timeout(LONG)?;
        until("it stands in line", || is_line_occupied(&place.path))?;
        holder.release(me(), false)?;
        join(waiting)
    })?;
    Ok((before, after))
}

/// Whether a description has a lock on bytes of the file: the turnstile of its line.
fn is_line_occupied(path: &Path) -> Checked<bool> {
    let inode = fs::metadata(path)?.st_ino();
    let locks = fs::read_to_string("/proc/locks")?;
    Ok(locks.lines().any(|line| line.contains("OFDLCK") && line.contains(&format!(":{inode} "))))
}

#[test]
fn a_file_in_whose_line_somebody_stands_is_handed_over_and_goes_with_the_last() -> Checked {
    let place = Place::new()?;
    let waiter = removing(Scope::PerOwner);
    let (before, after) = hand_over(&place, &waiter)?;
    assert_eq!(before, after);
    waiter.release(greenlet(1), false)?;
    assert!(!place.path.exists());
    let keeping = kernel_lock(Scope::PerOwner);
    hand_over(&place, &keeping)?;
    keeping.release(greenlet(1), false)?;
    assert!(place.path.exists(), "its last holder does not remove it");
    Ok(())
}

/// The holder releases while the one for whom it left the file is in a callback that will end his wait.
#[test]
fn who_gives_up_removes_the_file_that_was_left_for_him() -> Checked {
    let place = Place::new()?;
    let (holder, waiter) = (removing(Scope::PerOwner), removing(Scope::PerOwner));
    acquire(&holder, me(), &place.path, Timeout::Once)?;
    let (asks, asked) = mpsc::channel();
    let (answer, answers) = mpsc::channel::<()>();
    thread::scope(|scope| -> Checked {
        let path = &place.path;
        let gives_up = scope.spawn(move || {
            let mut watch = Asking::new(|_| {
                if is_line_occupied(path).unwrap_or(true) {
                    asks.send(()).unwrap_or_default();
                    answers.recv_timeout(LONG).unwrap_or_default();
                    return ControlFlow::Break(Stop::Cancelled);
                }
                ControlFlow::Continue(())
            });
            waiter.acquire(greenlet(1), path, patience(Timeout::After(LONG)), &mut watch)
        });
        asked.recv_timeout(LONG)?;
        holder.release(me(), false)?;
        assert!(place.path.exists(), "somebody stands in line");
        answer.send(())?;
        assert!(join(gives_up).is_err());
        Ok(())
    })?;
    assert!(!place.path.exists());
    Ok(())
}

/// It is blocked in a lock, and the file goes.
#[test]
fn a_place_in_the_line_of_a_file_that_is_gone_gives_no_lock() -> Checked {
    let place = Place::new()?;
    let (holder, other) = (removing(Scope::PerOwner), removing(Scope::PerOwner));
    acquire(&holder, me(), &place.path, Timeout::Once)?;
    let kernel = KernelLock::default().removing_file();
    // It has not come to the line when the holder looks.
    let waiting = kernel.open_place(&place.path, Manners::Polite.into())?.ok_or("a local file system")?;
    holder.release(me(), false)?;
    assert!(!place.path.exists());
    acquire(&other, me(), &place.path, Timeout::Once)?;
    assert!(waiting.wait_for_turn(Some(LONG))? && waiting.wait_for_lock(LONG)?);
    assert!(waiting.into_guard()?.is_none());
    assert!(!is_free(&place.path)?, "the other's file is where it was");
    Ok(())
}
