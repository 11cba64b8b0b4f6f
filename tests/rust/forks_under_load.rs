//! Forks at the worst moments: while other threads are in the middle of opening, locking and closing.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ferrolock::{Lock, Scope, Timeout};

use crate::alone::alone;
use crate::forking::fork;
use crate::support::{Checked, Place, acquire, greenlet, is_free, join, kernel_lock, me};

/// Stops the threads also where an assertion fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Acquires and releases without a pause.
fn churn(lock: &Lock, place: &Place, stop: &AtomicBool) -> Checked {
    while !stop.load(Ordering::SeqCst) {
        if acquire(lock, me(), &place.path, Timeout::Once).is_ok() {
            lock.release(me(), false)?;
        }
    }
    Ok(())
}

fn what_a_child_finds(lock: &Lock, place: &Place, own: &Place) -> Checked {
    assert_eq!(lock.depth(me()), 0);
    assert!(!lock.is_held_by_anyone());
    #[cfg(target_os = "linux")]
    assert_eq!(crate::support::descriptors_on(&place.path)?, 0, "copies of what is locked there");
    // No mutex is stuck, and the inherited object works.
    acquire(lock, me(), &own.path, Timeout::Once)?;
    lock.release(me(), false)?;
    if acquire(lock, me(), &place.path, Timeout::Once).is_ok() {
        lock.release(me(), false)?;
    }
    Ok(())
}

#[test]
fn a_fork_while_others_acquire_and_release_harms_neither_side() -> Checked {
    alone(|| {
        let (place, own, held) = (Place::new()?, Place::new()?, Place::new()?);
        File::create(&place.path)?;
        // One object that both threads use, and one each thread has for itself.
        let shared = kernel_lock(Scope::PerOwner);
        let separate = [kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner)];
        let stop = AtomicBool::new(false);
        acquire(&shared, greenlet(1), &held.path, Timeout::Once)?;
        thread::scope(|scope| {
            let threads: Vec<_> = separate
                .iter()
                .flat_map(|own| [own, &shared])
                .map(|lock| scope.spawn(|| churn(lock, &place, &stop)))
                .collect();
            {
                let _stop = StopAtEnd(&stop);
                for _ in 0..50 {
                    let child = fork(|_| what_a_child_finds(&shared, &place, &own))?;
                    child.finish()?;
                }
            }
            threads.into_iter().try_for_each(join)
        })?;
        assert_eq!(shared.depth(greenlet(1)), 1);
        assert!(!is_free(&held.path)?, "the parent's hold outlasts its forks");
        Ok(acquire(&shared, me(), &place.path, Timeout::Once)?)
    })
}

#[test]
fn threads_that_fork_at_the_same_time_do_not_block_each_other() -> Checked {
    alone(|| {
        let places = [Place::new()?, Place::new()?, Place::new()?];
        thread::scope(|scope| {
            let forking: Vec<_> = places
                .iter()
                .map(|place| {
                    scope.spawn(move || -> Checked {
                        let lock = kernel_lock(Scope::PerOwner);
                        for _ in 0..10 {
                            acquire(&lock, me(), &place.path, Timeout::Once)?;
                            let child = fork(|_| {
                                assert_eq!(lock.depth(me()), 0);
                                Ok(())
                            })?;
                            lock.release(me(), false)?;
                            child.finish()?;
                        }
                        Ok(())
                    })
                })
                .collect();
            forking.into_iter().try_for_each(join)
        })
    })
}
