//! What the whole process knows of its holds: which owner has which file, through which lock object.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::fork::ForkMutex;
use crate::mechanism::{Guard, Loss};
use crate::owner::OwnerId;
use crate::sys::FileId;

/// Names a lock object in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LockId(pub(crate) u64);

impl LockId {
    /// A name that no other lock object has.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A first-level hold of a lock object.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) lock: LockId,
    pub(crate) owner: OwnerId,
    pub(crate) file: FileId,
    pub(crate) loss: Option<Loss>,
}

impl Held {
    /// That of `owner`, through `lock`, for as long as it has `guard`.
    pub(crate) fn of(lock: LockId, owner: OwnerId, guard: &dyn Guard) -> Self {
        Self { lock, owner, file: guard.file(), loss: guard.loss() }
    }

    /// Whether it still keeps others out. One that was lost keeps nobody waiting, its owner neither.
    fn stands(&self) -> bool {
        !self.loss.as_ref().is_some_and(Loss::is_likely)
    }
}

static HELD: ForkMutex<Vec<Held>> = ForkMutex::new();

/// Records a hold, until [`forget`].
pub(crate) fn record(held: Held) {
    HELD.lock().push(held);
}

/// Takes a hold of `lock` on `file` off the record.
pub(crate) fn forget(lock: LockId, file: FileId) -> Option<Held> {
    let mut held_here = HELD.lock();
    let index = held_here.iter().rposition(|held| held.lock == lock && held.file == file)?;
    Some(held_here.swap_remove(index))
}

/// Takes the hold of `lock` that `owner` has off the record.
pub(crate) fn forget_owner(lock: LockId, owner: OwnerId) {
    HELD.lock().retain(|held| (held.lock, held.owner) != (lock, owner));
}

/// Takes all holds of `lock` off the record.
pub(crate) fn forget_all(lock: LockId) {
    HELD.lock().retain(|held| held.lock != lock);
}

/// Whether `owner` holds `file` through another lock object than `asking`: waiting would never end.
pub(crate) fn would_deadlock(asking: LockId, owner: OwnerId, file: FileId) -> bool {
    let is_in_the_way =
        |held: &Held| held.file == file && held.owner == owner && held.lock != asking && held.stands();
    HELD.lock().iter().any(is_in_the_way)
}

/// The files that `owner` holds through other lock objects than `asking`.
pub(crate) fn held_elsewhere(asking: LockId, owner: OwnerId) -> Vec<FileId> {
    let held = HELD.lock();
    let elsewhere = held.iter().filter(|held| held.owner == owner && held.lock != asking && held.stands());
    elsewhere.map(|held| held.file).collect()
}

/// Whether any lock object of this process holds `file`.
#[must_use]
pub fn is_held_here(file: FileId) -> bool {
    HELD.lock().iter().any(|held| held.file == file && held.stands())
}
