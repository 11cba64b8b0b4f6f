//! The line of those who wait for a kernel lock, and whoever stands in it and does not move.

use std::ops::ControlFlow;
use std::time::Duration;

use ferrolock::mechanism::{KernelLock, Manners, Mechanism};
use ferrolock::wait::sleep;
use ferrolock::{Patience, Scope, Stop, Timeout, Watch};

use crate::support::{Checked, LONG, POLL, Place, SHORT, kernel_lock, me};

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
