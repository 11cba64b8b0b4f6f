//! What stays in a folder when its process ends, unless somebody removes it.
//!
//! A kernel lock goes with its process, a file does not.

use std::sync::{Arc, Weak};

use crate::fork::ForkMutex;
use crate::owner::{Liveness, OwnerId};

/// A file, or several, that stand for a hold.
pub(super) trait Leftover: Send + Sync {
    /// Removes it. Errors have nobody to go to.
    fn clear_away(self: Arc<Self>);
}

struct Entry {
    /// Known weakly: what was given back is gone.
    what: Weak<dyn Leftover>,
    /// The thread that made it.
    owner: OwnerId,
    liveness: Liveness,
}

static ENTRIES: ForkMutex<Vec<Entry>> = ForkMutex::new();

/// Remembers what the calling thread leaves.
pub(super) fn note<T: Leftover + 'static>(what: &Arc<T>) {
    let owner = OwnerId::current_thread();
    let what: Arc<dyn Leftover> = Arc::<T>::clone(what);
    let entry = Entry { what: Arc::downgrade(&what), owner, liveness: Liveness::of(owner) };
    let mut entries = ENTRIES.lock();
    entries.retain(|entry| entry.what.strong_count() > 0);
    entries.push(entry);
}

/// Removes the markers and claims that nobody will release any more: those of threads that have ended, and of the calling
/// thread.
///
/// For the end of a process. A lock object that stands for such a marker counts as held until it is released.
pub fn remove_markers_at_exit() {
    let here = OwnerId::current_thread();
    let is_left = |entry: &Entry| entry.owner == here || entry.liveness.has_exited();
    let left: Vec<_> = {
        let entries = ENTRIES.lock();
        entries.iter().filter(|entry| is_left(entry)).filter_map(|entry| entry.what.upgrade()).collect()
    };
    for what in left {
        what.clear_away();
    }
}
