//! What is left where a mechanism fails or panics.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ferrolock::{ErrorKind, Released, Scope, Timeout, is_held_here};

use crate::alone::alone;
use crate::mechanisms::{Faulty, Script, Step};
use crate::support::{
    Asking, Checked, LONG, Place, acquire, greenlet, guard_on, is_free, kernel_lock, me, patience,
};

#[test]
fn an_attempt_that_fails_leaves_nothing() -> Checked {
    // The first attempt, and one in the middle of a wait.
    let scripts: [(Script, usize); 2] = [
        (|n| if n == 1 { Step::Fail } else { Step::Proceed }, 1),
        (
            |n| match n {
                ..4 => Step::Contend,
                4 => Step::Fail,
                _ => Step::Proceed,
            },
            4,
        ),
    ];
    for (script, failing) in scripts {
        for scope in [Scope::PerOwner, Scope::Shared] {
            let place = Place::new()?;
            let faults = Faulty::attempting(script);
            let lock = faults.lock(scope);
            let error = acquire(&lock, me(), &place.path, Timeout::After(LONG)).expect_err("it fails");
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert!(error.raw_os_error().is_some(), "{error}");
            assert_eq!(faults.attempts(), failing);
            assert_eq!(lock.depth(me()), 0);
            assert!(!lock.is_held_by_anyone());
            assert_eq!(lock.release(me(), false)?, Released::NotHeld);
            acquire(&lock, me(), &place.path, Timeout::Once)?;
            assert_eq!(lock.release(me(), false)?, Released::Unlocked);
        }
    }
    Ok(())
}

#[test]
fn where_unlocking_fails_the_lock_is_held_as_before() -> Checked {
    let place = Place::new()?;
    let file = guard_on(&place.path)?.file();
    let faults = Faulty::releasing(|n| if n <= 2 { Step::Fail } else { Step::Proceed });
    let lock = faults.lock(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    lock.release(me(), false)?;
    lock.release(me(), false).expect_err("the first unlocking fails");
    assert_eq!(lock.depth(me()), 1);
    assert!(is_held_here(file));
    assert!(lock.nest(me()), "it still nests");
    lock.release(me(), true).expect_err("the second unlocking fails, too");
    assert_eq!(lock.depth(me()), 2, "with all its levels");
    assert!(!is_free(&place.path)?);
    assert_eq!(lock.release(me(), true)?, Released::Unlocked);
    assert_eq!(faults.releases(), 3);
    assert!(!is_held_here(file));
    assert!(is_free(&place.path)?);
    Ok(())
}

#[test]
fn where_only_tidying_up_fails_the_lock_is_free() -> Checked {
    let place = Place::new()?;
    let file = guard_on(&place.path)?.file();
    let lock =
        Faulty::releasing(|n| if n == 1 { Step::FailTidying } else { Step::Proceed }).lock(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    assert!(is_held_here(file));
    lock.release(me(), false).expect_err("the failure is reported");
    assert_eq!(lock.depth(me()), 0);
    assert!(!is_held_here(file));
    assert_eq!(lock.release(me(), false)?, Released::NotHeld);
    assert!(is_free(&place.path)?);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    assert_eq!(lock.release(me(), false)?, Released::Unlocked);
    Ok(())
}

#[test]
fn one_failing_hold_does_not_keep_release_all_from_the_others() -> Checked {
    let scripts: [(Script, usize); 2] = [
        (|n| if n == 1 { Step::Fail } else { Step::Proceed }, 2),
        (|n| if n == 1 { Step::FailTidying } else { Step::Proceed }, 3),
    ];
    for (script, freed) in scripts {
        let places = [Place::new()?, Place::new()?, Place::new()?];
        let faults = Faulty::releasing(script);
        let lock = faults.lock(Scope::PerOwner);
        for (place, number) in places.iter().zip(1..) {
            acquire(&lock, greenlet(number), &place.path, Timeout::Once)?;
        }
        lock.release_all().expect_err("the failure is reported");
        assert_eq!(faults.releases(), 3);
        let mut free = 0;
        for place in &places {
            free += usize::from(is_free(&place.path)?);
        }
        assert_eq!(free, freed);
        lock.release_all()?;
        assert!(!lock.is_held_by_anyone());
    }
    Ok(())
}

#[test]
fn a_lock_object_whose_unlocking_fails_gives_it_back_when_dropped() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let lock = Faulty::releasing(|_| Step::Fail).lock(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        drop(lock);
        assert!(is_free(&place.path)?, "the guard went with it");
        Ok(())
    })
}

#[test]
fn a_panic_in_an_attempt_leaves_the_lock_object_usable() -> Checked {
    let scripts: [Script; 2] = [
        |n| if n == 1 { Step::Panic } else { Step::Proceed },
        |n| match n {
            ..3 => Step::Contend,
            3 => Step::Panic,
            _ => Step::Proceed,
        },
    ];
    for script in scripts {
        let place = Place::new()?;
        let lock = Faulty::attempting(script).lock(Scope::PerOwner);
        let panicked = catch_unwind(AssertUnwindSafe(|| acquire(&lock, me(), &place.path, Timeout::Never)));
        assert!(panicked.is_err());
        assert_eq!(lock.depth(me()), 0);
        assert_eq!(lock.release(me(), false)?, Released::NotHeld);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        assert_eq!(lock.release(me(), false)?, Released::Unlocked);
    }
    Ok(())
}

#[test]
fn a_panic_in_a_watch_leaves_the_lock_object_usable() -> Checked {
    let place = Place::new()?;
    let (holder, lock) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
    acquire(&holder, greenlet(1), &place.path, Timeout::Once)?;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut watch = Asking::new(|question| -> ControlFlow<_> { panic!("question {question}") });
        lock.acquire(me(), &place.path, patience(Timeout::Never), &mut watch)
    }));
    assert!(panicked.is_err());
    holder.release(greenlet(1), false)?;
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    assert_eq!(lock.depth(me()), 1);
    Ok(())
}

#[test]
fn a_panic_in_a_release_leaves_the_lock_object_usable() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let lock =
            Faulty::releasing(|n| if n == 1 { Step::Panic } else { Step::Proceed }).lock(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        let panicked = catch_unwind(AssertUnwindSafe(|| lock.release(me(), false)));
        assert!(panicked.is_err());
        assert_eq!(lock.depth(me()), 0, "the guard went with the panic");
        assert!(is_free(&place.path)?);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        assert_eq!(lock.release(me(), false)?, Released::Unlocked);
        Ok(())
    })
}
