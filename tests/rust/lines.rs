//! The line of those who wait for a kernel lock, and whoever stands in it and does not move.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use ferrolock::mechanism::{KernelLock, Manners, Mechanism};
use ferrolock::wait::sleep;
use ferrolock::{Patience, Scope, Stop, Timeout, Watch};

use crate::support::{Asking, Checked, LONG, POLL, Place, SHORT, is_free, kernel_lock, me, patience};

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
    assert!(stopped.wait_for_head_of_line(Some(LONG))?);
    let lock = kernel_lock(Scope::PerOwner);
    // The longest pause, and a deadline that comes before it is over: then the last attempt decides.
    for (poll_interval, limit) in [(POLL, LONG), (LONG, SHORT)] {
        let patience = Patience { timeout: Timeout::After(limit), poll_interval, lifetime: None };
        lock.acquire(me(), &place.path, patience, &mut NeverBlocking)?;
        lock.release(me(), false)?;
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
        assert!(head.wait_for_head_of_line(Some(LONG))?);
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
