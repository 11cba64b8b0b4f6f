//! A lock file that goes with the hold: when it does, and what stays.

use std::fs;
use std::path::Path;

use ferrolock::mechanism::KernelLock;
use ferrolock::{Lock, Scope, Timeout};

use crate::alone::alone;
use crate::support::{Checked, Place, acquire, is_free, me};

/// A lock object whose file goes with the hold.
pub(crate) fn removing(scope: Scope) -> Lock {
    Lock::new(Box::new(KernelLock::default().removing_file()), scope)
}

#[test]
fn the_file_goes_with_the_last_level_of_a_hold() -> Checked {
    let place = Place::new()?;
    let lock = removing(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    lock.release(me(), false)?;
    assert!(place.path.exists() && !is_free(&place.path)?);
    lock.release(me(), false)?;
    assert!(!place.path.exists());
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    lock.release(me(), true)?;
    assert!(!place.path.exists(), "by force");
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    drop(lock);
    assert!(!place.path.exists(), "with the lock object");
    Ok(())
}

fn stays_after_release(prepare: impl FnOnce(&Place) -> Checked) -> Checked<Place> {
    let place = Place::new()?;
    let lock = removing(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    prepare(&place)?;
    lock.release(me(), false)?;
    assert!(place.path.symlink_metadata().is_ok());
    Ok(place)
}

#[test]
fn what_is_more_than_a_lock_file_or_another_file_stays() -> Checked {
    let place = stays_after_release(|place| Ok(fs::write(&place.path, "data")?))?;
    assert_eq!(fs::read_to_string(&place.path)?, "data");
    assert!(is_free(&place.path)?);
    let place = stays_after_release(|place| Ok(fs::hard_link(&place.path, place.folder().join("other"))?))?;
    assert!(is_free(&place.path)?);
    let replace = |place: &Place| -> Checked {
        fs::rename(&place.path, place.folder().join("old"))?;
        Ok(fs::write(&place.path, "")?)
    };
    stays_after_release(replace)?;
    // The same file, but through a link.
    stays_after_release(|place| {
        fs::rename(&place.path, place.folder().join("old"))?;
        Ok(std::os::unix::fs::symlink("old", &place.path)?)
    })?;
    Ok(())
}

#[test]
fn a_file_that_somebody_has_removed_is_no_error() -> Checked {
    let place = Place::new()?;
    let lock = removing(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    fs::remove_file(&place.path)?;
    lock.release(me(), false)?;
    Ok(())
}

#[test]
fn the_file_goes_whatever_the_working_directory_is_by_then() -> Checked {
    alone(|| {
        let (place, elsewhere) = (Place::new()?, Place::new()?);
        fs::write(&elsewhere.path, "")?;
        std::env::set_current_dir(place.folder())?;
        let lock = removing(Scope::PerOwner);
        acquire(&lock, me(), Path::new("x.lock"), Timeout::Once)?;
        std::env::set_current_dir(elsewhere.folder())?;
        lock.release(me(), false)?;
        assert!(!place.path.exists() && elsewhere.path.exists());
        Ok(())
    })
}

#[test]
fn a_forked_child_leaves_its_parents_file_alone() -> Checked {
    use crate::forking::fork;

    alone(|| {
        let place = Place::new()?;
        let lock = removing(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        let child = fork(|_line| {
            lock.release(me(), true)?;
            assert!(place.path.exists() && !is_free(&place.path)?);
            Ok(())
        })?;
        child.finish()?;
        assert!(place.path.exists());
        lock.release(me(), false)?;
        assert!(!place.path.exists());
        Ok(())
    })
}
