//! The descriptors that a forked child closes.
//!
//! A small number has a place of its own, which only who has the descriptor open writes to: listing it is a few
//! stores. Who lists or takes off is in transit (`transit`), so that a child finds nothing half written.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::transit;
use crate::sys::{self, Descriptor, FileId};

/// An open descriptor, and the file that it was opened for.
pub(super) type Entry = (Descriptor, FileId);

/// The numbers that have a place. A process may have more descriptors, but hardly with as many locks.
const PLACES: usize = 1024;

static PLACED: [Place; PLACES] = [const { Place::empty() }; PLACES];

#[derive(Debug)]
struct Place {
    is_taken: AtomicBool,
    device: AtomicU64,
    inode: AtomicU64,
}

impl Place {
    const fn empty() -> Self {
        Self { is_taken: AtomicBool::new(false), device: AtomicU64::new(0), inode: AtomicU64::new(0) }
    }

    #[allow(clippy::useless_conversion, reason = "a handle of Windows is an `usize` already")]
    fn of(descriptor: Descriptor) -> Option<&'static Self> {
        PLACED.get(usize::try_from(descriptor).ok()?)
    }

    fn take(&self, file: FileId) {
        self.device.store(file.device, Ordering::Relaxed);
        self.inode.store(file.inode, Ordering::Relaxed);
        self.is_taken.store(true, Ordering::Release);
    }

    fn leave(&self) {
        self.is_taken.store(false, Ordering::Release);
    }

    fn file(&self) -> Option<FileId> {
        let file =
            FileId { device: self.device.load(Ordering::Relaxed), inode: self.inode.load(Ordering::Relaxed) };
        self.is_taken.load(Ordering::Acquire).then_some(file)
    }
}

/// Lists a descriptor that the caller has opened, and takes off before he closes it.
pub(super) fn list(entry: Entry) {
    match Place::of(entry.0) {
        Some(place) => place.take(entry.1),
        None => list_others(entry),
    }
}

/// Takes off what was [listed](list).
pub(super) fn unlist(entry: Entry) {
    match Place::of(entry.0) {
        Some(place) => place.leave(),
        None => unlist_others(entry),
    }
}

/// Lists a descriptor that somebody else may close at any time, and its number may then be listed once more.
pub(super) fn list_others(entry: Entry) {
    transit::gate().push(entry);
}

/// Takes off what was [listed](list_others).
pub(super) fn unlist_others(entry: Entry) {
    let mut others = transit::gate();
    if let Some(index) = others.iter().rposition(|&listed| listed == entry) {
        others.swap_remove(index);
    }
}

/// Closes a child's copies of all that is listed, also in `others`, and lists it no more.
pub(super) fn close_inherited(others: &mut Vec<Entry>) {
    for (place, number) in PLACED.iter().zip(0..) {
        if let Some(file) = place.file() {
            place.leave();
            sys::close_inherited(number, file);
        }
    }
    for (descriptor, file) in others.drain(..) {
        sys::close_inherited(descriptor, file);
    }
}
