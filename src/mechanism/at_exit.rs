//! What stays in a folder when its process ends, unless somebody removes it.
//!
//! A kernel lock goes with its process, a file does not. At a normal end what the ending thread and threads that have ended
//! before it have left is removed. What another thread has stays: it may be at work as long as the process is there, in a
//! system call for one, and whoever comes next can judge when it is not. Where nobody judges, such a thread gets a moment to
//! give it back by itself, and may not begin anew.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::fork::ForkMutex;
use crate::owner::{Liveness, OwnerId};
use crate::wait;

/// How long other threads have to give back what nobody would take from them.
const LAST_MOMENT: Duration = Duration::from_millis(500);
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);

/// A file, or several, that stand for a hold, or for the wish for one.
pub(super) trait Leftover: Send + Sync {
    /// Removes it. Errors have nobody to go to.
    fn clear_away(self: Arc<Self>);

    /// What becomes of it if it is still there when its process has ended.
    fn fate(&self) -> Fate {
        Fate::Judged
    }
}

/// What becomes of a leftover when its process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Whoever wants its place judges its owner.
    Judged,
    /// It stays in everybody's way.
    Stays,
    /// As that; but its owner has done with it already.
    GivenUp,
}

struct Entry {
    /// Known weakly: what was given back is gone.
    what: Weak<dyn Leftover>,
    /// The thread that made it.
    owner: OwnerId,
    liveness: Liveness,
}

#[derive(Default)]
struct Known {
    entries: Vec<Entry>,
    /// The thread that ends the process.
    ending: Option<OwnerId>,
}

static KNOWN: ForkMutex<Known> = ForkMutex::new();

/// Remembers what the calling thread leaves.
pub(super) fn note<T: Leftover + 'static>(what: &Arc<T>) {
    let entry = entry(what);
    KNOWN.lock().add(entry);
}

/// As [`note`], before it is made; `false`: the process ends, and it must not be.
pub(super) fn may_make<T: Leftover + 'static>(what: &Arc<T>) -> bool {
    let entry = entry(what);
    let mut known = KNOWN.lock();
    let may = known.ending.is_none_or(|ending| ending == entry.owner);
    if may {
        known.add(entry);
    }
    may
}

fn entry<T: Leftover + 'static>(what: &Arc<T>) -> Entry {
    let owner = OwnerId::current_thread();
    let what: Arc<dyn Leftover> = Arc::<T>::clone(what);
    Entry { what: Arc::downgrade(&what), owner, liveness: Liveness::of(owner) }
}

impl Known {
    fn add(&mut self, entry: Entry) {
        self.entries.retain(|entry| entry.what.strong_count() > 0);
        self.entries.push(entry);
    }
}

/// What is there, and whether the calling thread may remove it.
fn leftovers() -> Vec<(Arc<dyn Leftover>, bool)> {
    let here = OwnerId::current_thread();
    let known = KNOWN.lock();
    let upgraded = known.entries.iter().filter_map(|entry| {
        let what = entry.what.upgrade()?;
        let is_left = entry.owner == here || entry.liveness.has_exited() || what.fate() == Fate::GivenUp;
        Some((what, is_left))
    });
    upgraded.collect()
}

/// Removes the markers and claims that nobody will release any more: those of threads that have ended, and of the calling
/// thread.
///
/// For the end of a process. A lock object that stands for such a marker counts as held until it is released.
pub fn remove_markers_at_exit() {
    for (what, is_left) in leftovers() {
        if is_left {
            what.clear_away();
        }
    }
}

/// Lets other threads give back what nobody would take from them, and from now on make nothing of that kind, and then does
/// as [`remove_markers_at_exit`].
///
/// For a process that does end. What they still have after a moment stays.
pub fn end_holds_at_exit() {
    KNOWN.lock().ending = Some(OwnerId::current_thread());
    let begun = Instant::now();
    let stays = |(what, is_left): &(Arc<dyn Leftover>, bool)| !is_left && what.fate() == Fate::Stays;
    while leftovers().iter().any(stays) && begun.elapsed() < LAST_MOMENT {
        wait::sleep(BETWEEN_LOOKS);
    }
    remove_markers_at_exit();
}
