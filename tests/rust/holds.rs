//! Who holds a lock object, how often, and what ends it.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use ferrolock::mechanism::{KernelLock, MarkerLock, Mechanism};
use ferrolock::{
    ErrorKind, Level, Lock, OwnerId, Released, Scope, Timeout, Unnesting, Unwatched, is_held_here,
};

use crate::mechanisms::Beset;

use crate::support::{
    Checked, LONG, Place, acquire, greenlet, guard_on, is_free, join, kernel_lock, me, patience, telling,
};

#[test]
fn only_the_last_release_unlocks() -> Checked {
    let place = Place::new()?;
    let lock = kernel_lock(Scope::PerOwner);
    for depth in 1..=3 {
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        assert_eq!(lock.depth(me()), depth);
    }
    assert!(lock.nest(me()));
    assert_eq!(lock.depth(me()), 4);
    assert_eq!(lock.unnest(me()), Unnesting::StillHeld);
    for depth in [2, 1] {
        assert_eq!(lock.release(me(), false)?, Released::StillHeld);
        assert_eq!(lock.depth(me()), depth);
        assert!(!is_free(&place.path)?);
    }
    assert!(matches!(lock.unnest(me()), Unnesting::Last { .. }), "the last level is a release's");
    assert_eq!(lock.release(me(), false)?, Released::Unlocked);
    assert_eq!(lock.depth(me()), 0);
    assert!(is_free(&place.path)?);
    Ok(())
}

/// Who lets nobody else run meanwhile would keep them waiting for a file system.
#[test]
fn only_what_touches_no_folder_is_over_at_once() -> Checked {
    let table: [(Box<dyn Mechanism>, bool); 3] = [
        (Box::new(KernelLock::default()), cfg!(target_os = "linux")),
        (Box::new(KernelLock::default().removing_file()), false),
        (Box::new(MarkerLock::default()), false),
    ];
    for (mechanism, expected) in table {
        let place = Place::new()?;
        let lock = Lock::new(mechanism, Scope::PerOwner);
        assert!(!lock.begins_at_once(patience(Timeout::Never)), "nobody knows the place yet: {lock:?}");
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        assert_eq!(lock.unnest(me()), Unnesting::Last { at_once: expected }, "{lock:?}");
        assert_eq!(lock.release(me(), false)?, Released::Unlocked);
        for timeout in [Timeout::Never, Timeout::After(LONG)] {
            assert_eq!(lock.begins_at_once(patience(timeout)), expected, "{lock:?}");
        }
        for timeout in [Timeout::Once, Timeout::After(Duration::from_nanos(1))] {
            assert!(!lock.begins_at_once(patience(timeout)), "it may have to see somebody off: {lock:?}");
        }
    }
    Ok(())
}

#[test]
fn an_unheld_lock_neither_nests_nor_releases() -> Checked {
    let place = Place::new()?;
    let lock = kernel_lock(Scope::PerOwner);
    assert!(!lock.nest(me()));
    assert_eq!(lock.unnest(me()), Unnesting::NotHeld);
    assert_eq!(lock.release(me(), false)?, Released::NotHeld);
    assert_eq!(lock.release(me(), true)?, Released::NotHeld);
    lock.release_all()?;
    assert_eq!(lock.depth(me()), 0);
    assert!(!lock.is_held_by_anyone());
    assert!(!place.path.exists(), "a lock object touches no file before it is acquired");
    Ok(())
}

#[test]
fn every_owner_has_a_hold_and_a_count_of_its_own() -> Checked {
    let (place, elsewhere) = (Place::new()?, Place::new()?);
    let lock = kernel_lock(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    thread::scope(|scope| {
        let other = scope.spawn(|| -> Checked {
            assert_eq!(lock.depth(me()), 0);
            assert!(!lock.nest(me()));
            assert_eq!(lock.release(me(), false)?, Released::NotHeld);
            let refused = acquire(&lock, me(), &place.path, Timeout::Once).map_err(|error| error.kind());
            assert!(matches!(refused, Err(ErrorKind::TimedOut(Some(_)))), "{refused:?}");
            acquire(&lock, me(), &elsewhere.path, Timeout::Once)?;
            assert_eq!(lock.depth(me()), 1);
            assert_eq!(lock.release(me(), false)?, Released::Unlocked);
            Ok(())
        });
        join(other)
    })?;
    assert_eq!(lock.depth(me()), 2);
    assert!(!is_free(&place.path)?);
    Ok(())
}

#[test]
fn a_shared_hold_nests_for_any_thread_and_anybody_releases_it() -> Checked {
    let place = Place::new()?;
    let lock = kernel_lock(Scope::Shared);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    thread::scope(|scope| {
        let other = scope.spawn(|| -> Checked {
            assert_eq!(lock.depth(me()), 1);
            acquire(&lock, me(), &place.path, Timeout::Once)?;
            assert_eq!(lock.depth(me()), 2);
            assert_eq!(lock.release(me(), false)?, Released::StillHeld);
            assert!(!is_free(&place.path)?);
            assert_eq!(lock.release(me(), false)?, Released::Unlocked);
            Ok(())
        });
        join(other)
    })?;
    assert_eq!(lock.depth(me()), 0);
    assert_eq!(lock.release(me(), false)?, Released::NotHeld);
    assert!(is_free(&place.path)?);
    Ok(())
}

#[test]
fn a_shared_hold_of_an_exited_thread_is_everybodys() -> Checked {
    let place = Place::new()?;
    let lock = kernel_lock(Scope::Shared);
    thread::scope(|scope| join(scope.spawn(|| acquire(&lock, me(), &place.path, Timeout::Once))))?;
    assert_eq!(lock.depth(me()), 1);
    assert_eq!(lock.release(me(), false)?, Released::Unlocked);
    assert!(is_free(&place.path)?);
    Ok(())
}

/// Whichever of the waiters gets the lock, the others get in by nesting, and are told so.
#[test]
fn all_who_wait_for_a_shared_lock_object_get_in_together() -> Checked {
    let place = Place::new()?;
    let (holder, lock) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::Shared));
    acquire(&holder, greenlet(1), &place.path, Timeout::Once)?;
    let (waiting, waits) = mpsc::channel();
    thread::scope(|scope| {
        let (lock, path) = (&lock, &place.path);
        let threads = [(); 3].map(|()| {
            let mut watch = telling(waiting.clone());
            scope.spawn(move || lock.acquire(me(), path, patience(Timeout::After(LONG)), &mut watch))
        });
        for _ in &threads {
            waits.recv_timeout(LONG)?;
        }
        holder.release(greenlet(1), false)?;
        let levels = threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(levels.iter().filter(|level| **level == Level::First).count(), 1);
        assert_eq!(lock.depth(me()), 3);
        assert_eq!(lock.acquire(me(), &place.path, patience(Timeout::Once), &mut Unwatched)?, Level::Nested);
        Ok(())
    })
}

#[test]
fn a_shared_lock_object_excludes_other_objects() -> Checked {
    let place = Place::new()?;
    let (one, another) = (kernel_lock(Scope::Shared), kernel_lock(Scope::Shared));
    acquire(&one, me(), &place.path, Timeout::Once)?;
    let refused = acquire(&another, me(), &place.path, Timeout::Once).map_err(|error| error.kind());
    assert!(matches!(refused, Err(ErrorKind::TimedOut(Some(_)))), "{refused:?}");
    Ok(())
}

#[test]
fn force_releases_all_of_ones_own_levels_and_nothing_of_the_living() -> Checked {
    let places = [Place::new()?, Place::new()?, Place::new()?];
    let [mine, greenlets, threads] = places.each_ref().map(|place| place.path.as_path());
    let lock = kernel_lock(Scope::PerOwner);
    acquire(&lock, greenlet(1), greenlets, Timeout::Once)?;
    for _ in 0..3 {
        acquire(&lock, me(), mine, Timeout::Once)?;
    }
    thread::scope(|scope| {
        let (done, wait) = mpsc::channel::<()>();
        let (ready, held) = mpsc::channel();
        let lock = &lock;
        let thread = scope.spawn(move || -> Checked<u32> {
            acquire(lock, me(), threads, Timeout::Once)?;
            ready.send(())?;
            // Until the other end is dropped.
            let _ended = wait.recv();
            Ok(lock.depth(me()))
        });
        held.recv_timeout(LONG)?;
        assert_eq!(lock.release(me(), true)?, Released::Unlocked);
        assert!(!is_free(threads)?);
        drop(done);
        assert_eq!(join(thread)?, 1, "a thread that runs keeps its hold");
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    assert_eq!(lock.depth(me()), 0);
    assert_eq!(lock.depth(greenlet(1)), 1, "a greenlet counts as alive");
    assert!(is_free(mine)?);
    assert!(!is_free(greenlets)?);
    Ok(())
}

#[test]
fn the_hold_of_an_exited_thread_ends_by_force_and_not_without() -> Checked {
    let place = Place::new()?;
    let lock = kernel_lock(Scope::PerOwner);
    thread::scope(|scope| {
        let exiting = scope.spawn(|| acquire(&lock, me(), &place.path, Timeout::Once));
        join(exiting)
    })?;
    assert_eq!(lock.release(me(), false)?, Released::NotHeld);
    assert!(lock.is_held_by_anyone());
    assert!(!is_free(&place.path)?);
    assert_eq!(lock.release(me(), true)?, Released::NotHeld, "of its own it held nothing");
    assert!(!lock.is_held_by_anyone());
    assert!(is_free(&place.path)?);
    Ok(())
}

#[test]
fn a_thread_counts_as_exited_when_its_embedding_says_so() -> Checked {
    let place = Place::new()?;
    let lock = kernel_lock(Scope::PerOwner);
    let token = Arc::new(());
    let liveness = Arc::downgrade(&token);
    thread::scope(|scope| {
        let (done, wait) = mpsc::channel::<()>();
        let (ready, held) = mpsc::channel();
        let (lock, path) = (&lock, &place.path);
        let thread = scope.spawn(move || -> Checked {
            OwnerId::thread_lives_as(&liveness);
            acquire(lock, me(), path, Timeout::Once)?;
            ready.send(())?;
            let _ended = wait.recv();
            Ok(())
        });
        held.recv_timeout(LONG)?;
        lock.release(me(), true)?;
        assert!(!is_free(path)?, "its token lives");
        drop(token);
        lock.release(me(), true)?;
        assert!(is_free(path)?, "its token is gone, though the thread still runs");
        drop(done);
        join(thread)
    })
}

#[test]
fn release_all_ends_the_holds_of_all_owners() -> Checked {
    let places = [Place::new()?, Place::new()?, Place::new()?];
    let lock = kernel_lock(Scope::PerOwner);
    for (place, owner) in places.iter().zip([me(), greenlet(1), greenlet(2)]) {
        acquire(&lock, owner, &place.path, Timeout::Once)?;
        acquire(&lock, owner, &place.path, Timeout::Once)?;
    }
    lock.release_all()?;
    assert!(!lock.is_held_by_anyone());
    for place in &places {
        assert!(is_free(&place.path)?);
    }
    Ok(())
}

#[test]
fn a_dropped_lock_object_releases_every_hold() -> Checked {
    let places = [Place::new()?, Place::new()?];
    let lock = kernel_lock(Scope::PerOwner);
    for (place, owner) in places.iter().zip([me(), greenlet(1)]) {
        acquire(&lock, owner, &place.path, Timeout::Once)?;
    }
    drop(lock);
    for place in &places {
        assert!(is_free(&place.path)?);
    }
    Ok(())
}

#[test]
fn what_is_held_is_known_by_its_file() -> Checked {
    let place = Place::new()?;
    let guard = guard_on(&place.path)?;
    let file = guard.file();
    guard.release().map_err(|failed| failed.error)?;
    let lock = kernel_lock(Scope::PerOwner);
    let elsewhere = Place::new()?;
    acquire(&lock, greenlet(1), &elsewhere.path, Timeout::Once)?;
    assert!(!is_held_here(file));
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    lock.release(me(), false)?;
    assert!(is_held_here(file));
    assert!(lock.is_held_at(&place.path) && !kernel_lock(Scope::PerOwner).is_held_at(&place.path));
    assert!(!lock.is_held_at(&place.folder().join("another.lock")));
    lock.release(me(), false)?;
    assert!(!is_held_here(file));
    assert!(!lock.is_held_at(&place.path));
    Ok(())
}

/// The first to attempt got a file that was replaced before it could say so.
#[test]
fn a_lock_that_is_won_beside_a_shared_hold_counts_as_one_level_of_it_and_goes_back() -> Checked {
    let place = Place::new()?;
    let old = place.folder().join("old.lock");
    let lock = Arc::new(OnceLock::<Lock>::new());
    let meanwhile = {
        let (lock, path, old) = (Arc::clone(&lock), place.path.clone(), old.clone());
        let has_come = AtomicBool::new(false);
        move || {
            if !has_come.swap(true, Ordering::SeqCst) {
                fs::rename(&path, &old).expect("nobody else moves it");
                let lock = lock.get().expect("it is being acquired");
                acquire(lock, greenlet(1), &path, Timeout::Once).expect("nobody has the new file");
            }
        }
    };
    let lock = lock.get_or_init(|| Lock::new(Box::new(Beset::by(meanwhile)), Scope::Shared));
    acquire(lock, me(), &place.path, Timeout::Once)?;
    assert_eq!(lock.depth(me()), 2);
    assert!(lock.is_held_at(&place.path));
    let old_file = guard_on(&old)?;
    assert!(!is_held_here(old_file.file()));
    assert_eq!(lock.release(me(), false)?, Released::StillHeld);
    assert!(!is_free(&place.path)?);
    assert_eq!(lock.release(greenlet(1), false)?, Released::Unlocked);
    assert!(is_free(&place.path)?);
    Ok(())
}
