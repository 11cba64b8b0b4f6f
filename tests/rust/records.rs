//! What the process remembers of its holds, and when it forgets; what an attempt that was none leaves.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ferrolock::{ErrorKind, Lock, Released, Scope, Stop, Timeout, is_held_here};

use crate::alone::alone;
use crate::mechanisms::{Faulty, Step};
use crate::support::{
    Asking, Checked, LONG, Place, acquire, greenlet, guard_on, is_free, join, kernel_lock, me, patience,
};

/// Threads of one object come and go, some at the very moment in which the last one unlocks.
#[test]
fn a_shared_lock_object_counts_threads_that_come_and_go() -> Checked {
    let place = Place::new()?;
    let (shared, other) = (kernel_lock(Scope::Shared), kernel_lock(Scope::PerOwner));
    let others_turn = AtomicBool::new(false);
    let work = |lock: &Lock, is_other: bool| -> Checked {
        for _ in 0..200 {
            acquire(lock, me(), &place.path, Timeout::After(LONG))?;
            assert!(lock.depth(me()) > 0);
            if is_other {
                others_turn.store(true, Ordering::SeqCst);
                thread::yield_now();
                others_turn.store(false, Ordering::SeqCst);
            }
            assert!(!others_turn.load(Ordering::SeqCst), "inside while the other object holds it");
            assert_ne!(lock.release(me(), false)?, Released::NotHeld);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads = [(&shared, false), (&shared, false), (&shared, false), (&other, true)]
            .map(|(lock, is_other)| scope.spawn(move || work(lock, is_other)));
        threads.into_iter().try_for_each(join)
    })?;
    assert_eq!(shared.depth(me()), 0);
    assert!(!shared.is_held_by_anyone());
    assert!(!is_held_here(guard_on(&place.path)?.file()));
    assert!(is_free(&place.path)?);
    Ok(())
}

#[test]
fn a_dropped_lock_object_whose_unlocking_fails_leaves_no_record() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let file = guard_on(&place.path)?.file();
        let lock = Faulty::releasing(|_| Step::Fail).lock(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        drop(lock);
        assert!(is_free(&place.path)?);
        assert!(!is_held_here(file));
        Ok(())
    })
}

/// The consequence: another thread's wait, through any object, is taken for a deadlock.
#[test]
fn and_no_deadlock_is_seen_where_none_is() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let lock = Faulty::releasing(|_| Step::Fail).lock(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        drop(lock);
        let (other, mine) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
        acquire(&other, greenlet(1), &place.path, Timeout::Once)?;
        let mut watch = Asking::new(|_| ControlFlow::Break(Stop::Cancelled));
        let error = mine
            .acquire(me(), &place.path, patience(Timeout::Never), &mut watch)
            .expect_err("held by another owner");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        Ok(())
    })
}

#[test]
fn a_panic_in_a_release_leaves_no_record() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let file = guard_on(&place.path)?.file();
        let lock = Faulty::releasing(|_| Step::Panic).lock(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        assert!(catch_unwind(AssertUnwindSafe(|| lock.release(me(), false))).is_err());
        assert!(is_free(&place.path)?);
        assert!(!is_held_here(file));
        Ok(())
    })
}

#[test]
fn an_error_names_its_file_absolutely() -> Checked {
    alone(|| {
        let place = Place::new()?;
        std::env::set_current_dir(place.folder())?;
        let holder = kernel_lock(Scope::PerOwner);
        acquire(&holder, greenlet(1), &place.path, Timeout::Once)?;
        let lock = kernel_lock(Scope::PerOwner);
        for timeout in [Timeout::After(Duration::ZERO), Timeout::Once] {
            let error = acquire(&lock, me(), Path::new("x.lock"), timeout).expect_err("held");
            assert_eq!(error.path(), place.path, "{timeout:?}");
        }
        Ok(())
    })
}

#[test]
fn an_interrupted_attempt_is_none_for_a_zero_timeout_either() -> Checked {
    for timeout in [Timeout::Once, Timeout::After(Duration::ZERO)] {
        let place = Place::new()?;
        let faults = Faulty::attempting(|n| if n == 1 { Step::Interrupt } else { Step::Proceed });
        let lock = faults.lock(Scope::PerOwner);
        let acquired = acquire(&lock, me(), &place.path, timeout);
        assert!(acquired.is_ok(), "{timeout:?}: {acquired:?}");
        assert_eq!(lock.release(me(), false)?, Released::Unlocked);
    }
    Ok(())
}

/// One thread takes a shared hold while another gives it back, whoever took it.
#[test]
fn a_hold_that_is_given_back_the_moment_it_is_taken_leaves_no_record() -> Checked {
    let place = Place::new()?;
    let file = guard_on(&place.path)?.file();
    let lock = kernel_lock(Scope::Shared);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let releaser = scope.spawn(|| -> Checked {
            while !is_over.load(Ordering::SeqCst) {
                lock.release(greenlet(1), true)?;
            }
            Ok(())
        });
        let taken = (0..3000).try_for_each(|_| {
            acquire(&lock, me(), &place.path, Timeout::After(LONG))?;
            while lock.depth(me()) > 0 {
                thread::yield_now();
            }
            Ok::<_, ferrolock::Error>(())
        });
        is_over.store(true, Ordering::SeqCst);
        join(releaser)?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(taken?)
    })?;
    lock.release(me(), true)?;
    assert!(!lock.is_held_by_anyone());
    assert!(!is_held_here(file), "nobody holds it");
    Ok(())
}
