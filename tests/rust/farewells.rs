//! Waits without a thread that end: who hears of it finds nobody any more who still asks for what only that wait wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ferrolock::mechanism::{Attempt, KernelLock, Manners, Mechanism, Mode};
use ferrolock::wait::sleep;
use ferrolock::{Deferred, Door, Lock, OwnerId, ReadWrite, Scope, Timeout, Unwatched};

use crate::deferred::{Task, kernel, request};
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

/// A gate, and a mechanism whose attempts come to it.
fn beset() -> (Arc<Gate>, Box<Beset>) {
    let gate = Arc::new(Gate::default());
    let at_gate = Arc::clone(&gate);
    (gate, Box::new(Beset::by(move || at_gate.pass())))
}

fn gated() -> (Arc<Gate>, Arc<Lock>) {
    let (gate, mechanism) = beset();
    (gate, Arc::new(Lock::new(mechanism, Scope::Shared)))
}

/// Tasks that have asked at a door in vain, each for what it wants.
fn visitors<const N: usize>(door: &Arc<Door>, place: &Place, wanted: [Mode; N]) -> Checked<[Deferred; N]> {
    let visitors = wanted.map(|mode| {
        let request = request(OwnerId::unique(), place, Timeout::Never);
        Deferred::for_door(Arc::clone(door), &request, mode, false, Box::new(|| true))
    });
    for visitor in &visitors {
        assert!(!visitor.attempt().map_err(|unmet| unmet.error)?);
    }
    Ok(visitors)
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

/// A writer and the reader behind it withdraw while a thread just asks for the writer, and behind them another one waits.
#[test]
fn who_leaves_is_told_when_the_next_one_wants_what_the_first_one_wanted() -> Checked {
    let place = Place::new()?;
    let _holder = holder(&place)?;
    let (gate, mechanism) = beset();
    let door = Arc::new(Door::new(Arc::new(ReadWrite::new(mechanism))));
    let [first, second, third] = visitors(&door, &place, [Mode::Exclusive, Mode::Shared, Mode::Exclusive])?;
    let closed = gate.close();
    first.wait().map_err(|unmet| unmet.error)?;
    gate.must_stop_somebody()?;
    second.wait().map_err(|unmet| unmet.error)?;
    third.wait().map_err(|unmet| unmet.error)?;
    first.withdraw();
    second.withdraw();
    assert!(first.is_leaving() && second.is_leaving());
    drop(closed);
    until("both have left", || Ok(!first.is_leaving() && !second.is_leaving()))?;
    Ok(())
}

#[test]
fn a_writer_that_has_withdrawn_is_not_told_because_a_reader_comes() -> Checked {
    let place = Place::new()?;
    let _holder = holder(&place)?;
    let (gate, mechanism) = beset();
    let door = Arc::new(Door::new(Arc::new(ReadWrite::new(mechanism))));
    let [writer, reader] = visitors(&door, &place, [Mode::Exclusive, Mode::Shared])?;
    let closed = gate.close();
    writer.wait().map_err(|unmet| unmet.error)?;
    gate.must_stop_somebody()?;
    writer.withdraw();
    reader.wait().map_err(|unmet| unmet.error)?;
    assert!(writer.is_leaving(), "a thread still asks for it");
    drop(closed);
    until("it has left", || Ok(!writer.is_leaving()))
}

#[cfg(target_os = "linux")]
mod at_the_deadline {
    use std::path::Path;

    use ferrolock::Request;
    use ferrolock::mechanism::{Place as InKernel, Terms};

    use super::*;
    use crate::support::only_woken;

    /// A kernel lock that is waited for in the kernel, and whose attempts come to a gate.
    #[derive(Debug)]
    struct Watched(Box<Beset>);

    impl Mechanism for Watched {
        fn try_acquire(&self, path: &Path, terms: Terms) -> Result<Attempt, ferrolock::Error> {
            self.0.try_acquire(path, terms)
        }

        fn wakes_waiters(&self, path: &Path) -> bool {
            KernelLock::default().wakes_waiters(path)
        }

        fn open_place(
            &self,
            path: &Path,
            terms: Terms,
        ) -> Result<Option<Arc<dyn InKernel>>, ferrolock::Error> {
            KernelLock::default().open_place(path, terms)
        }
    }

    /// The last attempt of a wait that is over may have the lock when its task withdraws.
    #[test]
    fn who_withdraws_during_his_last_attempt_hears_of_it_when_that_is_over() -> Checked {
        let place = Place::new()?;
        let _holder = holder(&place)?;
        let (gate, mechanism) = beset();
        let lock = Arc::new(Lock::new(Box::new(Watched(mechanism)), Scope::Shared));
        let owner = OwnerId::unique();
        // Before its first tick, so that the thread that waits makes no other attempt.
        let patience = only_woken(Timeout::After(Duration::from_millis(100)));
        let request = Request { owner, debtor: owner, path: &place.path, patience };
        let waiter = Deferred::for_lock(lock, &request, false, Box::new(|| true));
        assert!(!waiter.attempt().map_err(|unmet| unmet.error)?);
        let closed = gate.close();
        waiter.wait().map_err(|unmet| unmet.error)?;
        gate.must_stop_somebody()?;
        waiter.withdraw();
        assert!(waiter.is_leaving());
        drop(closed);
        until("it has left", || Ok(!waiter.is_leaving()))
    }
}
