//! A lock file that goes with the hold, when others stand in line for it.

use std::fs;
use std::ops::ControlFlow;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use ferrolock::mechanism::{KernelLock, Manners, Mechanism};
use ferrolock::{Lock, Scope, Stop, Timeout};

use crate::removal::removing;
use crate::support::{
    Asking, Checked, LONG, Place, acquire, greenlet, is_free, join, kernel_lock, me, patience, telling, until,
};

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
