//! The lock of a file that somebody else has opened.

use std::fs::{File, OpenOptions};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ferrolock::{Scope, Timeout, Unwatched, descriptor_of, lock_descriptor, unlock_descriptor};

use crate::support::{Checked, LONG, Place, acquire, is_free, kernel_lock, me, telling};

fn opened(place: &Place) -> Checked<File> {
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&place.path)?)
}

#[test]
fn a_descriptor_and_a_lock_object_exclude_each_other() -> Checked {
    let place = Place::new()?;
    let (file, other) = (opened(&place)?, opened(&place)?);
    assert!(lock_descriptor(descriptor_of(&file), None, &mut Unwatched)?);
    assert!(!lock_descriptor(descriptor_of(&other), None, &mut Unwatched)?);
    assert!(!is_free(&place.path)?);
    unlock_descriptor(descriptor_of(&file))?;
    let lock = kernel_lock(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    assert!(!lock_descriptor(descriptor_of(&other), None, &mut Unwatched)?);
    lock.release(me(), false)?;
    assert!(lock_descriptor(descriptor_of(&other), None, &mut Unwatched)?);
    Ok(())
}

#[test]
fn a_wait_for_a_descriptor_ends_when_the_lock_is_had() -> Checked {
    let place = Place::new()?;
    let (file, other) = (opened(&place)?, opened(&place)?);
    assert!(lock_descriptor(descriptor_of(&file), None, &mut Unwatched)?);
    let (waiting, waits) = mpsc::channel();
    thread::scope(|scope| {
        let mut watch = telling(waiting);
        let other = &other;
        let wait = scope
            .spawn(move || lock_descriptor(descriptor_of(other), Some(Duration::from_millis(5)), &mut watch));
        waits.recv_timeout(LONG)?;
        unlock_descriptor(descriptor_of(&file))?;
        assert!(wait.join().map_err(|_| "it panicked")??);
        Ok(())
    })
}
