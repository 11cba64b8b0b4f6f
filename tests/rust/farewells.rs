//! Waits without a thread that end: who hears of it finds nobody any more who still asks for what only that wait wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ferrolock::mechanism::{Attempt, KernelLock, Manners, Mechanism};
use ferrolock::wait::sleep;
use ferrolock::{Lock, OwnerId, Scope, Timeout, Unwatched};

use crate::deferred::{Task, kernel};
use crate::mechanisms::Beset;
use crate::support::{Checked, Place, is_free, kernel_lock, me, patience, until};

/// Stops attempts when they have what they asked for, or know that they have not.
#[derive(Default)]
struct Gate {
    bar: Mutex<()>,
    stopped: AtomicUsize,
}

impl Gate {
    fn close(&self) -> MutexGuard<'_, ()> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self) {
        self.stopped.fetch_add(1, Ordering::SeqCst);
        drop(self.close());
        self.stopped.fetch_sub(1, Ordering::SeqCst);
    }

    fn must_stop_somebody(&self) -> Checked {
        until("an attempt comes to the gate", || Ok(self.stopped.load(Ordering::SeqCst) > 0))
    }
}

fn gated() -> (Arc<Gate>, Arc<Lock>) {
    let gate = Arc::new(Gate::default());
    let at_gate = Arc::clone(&gate);
    (gate, Arc::new(Lock::new(Box::new(Beset::by(move || at_gate.pass())), Scope::Shared)))
}

/// A lock object that holds the lock, for this thread.
fn holder(place: &Place) -> Checked<Lock> {
    let lock = kernel_lock(Scope::Shared);
    lock.acquire(me(), &place.path, patience(Timeout::Once), &mut Unwatched)?;
    Ok(lock)
}

#[test]
fn who_comes_to_share_a_hold_is_told_when_nobody_asks_for_it_any_more() -> Checked {
    for withdraws in [false, true] {
        let place = Place::new()?;
        let holder = holder(&place)?;
        let (gate, shared) = gated();
        let of_shared = || Task::of(Arc::clone(&shared), &place, Timeout::Never, false).waits();
        let (first, second) = (of_shared()?, of_shared()?);
        holder.release_all()?;
        first.must_be_granted()?;
        let closed = gate.close();
        gate.must_stop_somebody()?;
        assert!(first.waiter.accept()?.is_some());
        second.must_still_wait()?;
        if withdraws {
            second.waiter.withdraw();
            assert!(second.waiter.is_leaving());
        }
        assert_eq!(shared.depth(first.owner), 2, "its level keeps the lock as long as somebody asks for it");
        first.release()?;
        drop(closed);
        if withdraws {
            until("it has left", || Ok(!second.waiter.is_leaving()))?;
        } else {
            second.must_get_it()?;
            second.release()?;
        }
        assert!(is_free(&place.path)?, "round {withdraws}: somebody asked for it");
    }
    Ok(())
}

#[test]
fn a_lock_that_was_got_for_who_has_withdrawn_goes_back_before_he_hears_of_it() -> Checked {
    let place = Place::new()?;
    let holder = holder(&place)?;
    let (gate, lock) = gated();
    let task = Task::of(Arc::clone(&lock), &place, Timeout::Never, false);
    assert!(!task.waiter.attempt().map_err(|unmet| unmet.error)?);
    holder.release_all()?;
    let closed = gate.close();
    task.waiter.wait().map_err(|unmet| unmet.error)?;
    gate.must_stop_somebody()?;
    task.waiter.withdraw();
    assert!(task.waiter.is_leaving());
    let beside = KernelLock::default().try_acquire(&place.path, Manners::Hasty.into())?;
    assert!(matches!(beside, Attempt::Contended(_)), "{beside:?}");
    // Who asks once may not see that a helper of his own process has it, for nobody.
    let other = kernel();
    let asks = || other.acquire(OwnerId::unique(), &place.path, patience(Timeout::Once), &mut Unwatched);
    let asked = thread::scope(|scope| {
        let asking = scope.spawn(asks);
        sleep(Duration::from_millis(5));
        drop(closed);
        asking.join()
    });
    assert!(matches!(asked, Ok(Ok(_))), "{asked:?}");
    assert!(!task.waiter.is_leaving());
    Ok(())
}
