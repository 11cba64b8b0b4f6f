//! The way of tasks to a lock object of readers and writers.
//!
//! Several doors can lead to one lock object: its hold, and the one queue, are common to them, and a task that came in by
//! one nests by another. But who came in by a door goes out by it, and closing a door ends only what came in there.
//!
//! | inside is | a task that is inside | another task |
//! |---|---|---|
//! | nobody | | asks, and waits |
//! | readers | reads once more; is refused to write | asks, as if it had a lock object of its own: a writer that waits, here or in another process, keeps it out |
//! | a writer | writes once more; is refused to read | asks, and waits |
//!
//! Threads that use the lock object itself are as other tasks to it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ReadWrite;
use super::levels::Whose;
use crate::error::{Error, ErrorKind};
use crate::hold::{Level, Released};
use crate::mechanism::{Guard, Mechanism, Mode};
use crate::owner::OwnerId;
use crate::registry::LockId;
use crate::wait::{self, Nesting, Party, Target};

/// A way in, for tasks: to be waited at with a [`Deferred`](crate::Deferred).
///
/// In a forked child nobody has come in by it.
#[derive(Debug)]
pub struct Door {
    id: LockId,
    lock: Arc<ReadWrite>,
    is_closed: AtomicBool,
}

impl Door {
    /// A door to `lock`. Touches no file.
    #[must_use]
    pub fn new(lock: Arc<ReadWrite>) -> Self {
        Self { id: LockId::next(), lock, is_closed: AtomicBool::new(false) }
    }

    /// The lock object that it leads to.
    #[must_use]
    pub fn lock(&self) -> &ReadWrite {
        &self.lock
    }

    /// Releases one level of `owner`'s that came in here where that makes no system call, for other levels stay; says
    /// whether it did.
    #[must_use]
    pub fn unnest(&self, owner: OwnerId) -> bool {
        self.lock.unnest(Whose::Owner(owner, self.id), Path::new(""))
    }

    /// Releases one level of `owner`'s that came in here, or with `force` all of them.
    ///
    /// # Errors
    /// [`NotHeld`](ErrorKind::NotHeld) and [`NotTheHolder`](ErrorKind::NotTheHolder), but with `force` there is nothing to
    /// refuse; what the mechanism gives. Where unlocking itself failed, the lock is held as before.
    pub fn release(&self, owner: OwnerId, force: bool, path: &Path) -> Result<Released, Error> {
        let released = self.lock.release_of(Whose::Owner(owner, self.id), force, path);
        if force { unless_nothing(released) } else { released }
    }

    /// Releases all that came in here, for a door that nobody can reach any more.
    ///
    /// # Errors
    /// What the mechanism gives.
    pub fn release_all(&self, path: &Path) -> Result<Released, Error> {
        unless_nothing(self.lock.release_of(Whose::Door(self.id), true, path))
    }

    /// Releases all that came in here, and lets nobody in any more, nor those who wait. Closing again does nothing.
    ///
    /// # Errors
    /// What the mechanism gives.
    pub fn close(&self, path: &Path) -> Result<(), Error> {
        self.is_closed.store(true, Ordering::SeqCst);
        wait::desk::nudge(self.lock.id());
        self.release_all(path).map(drop)
    }

    /// Whether nobody comes in any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst) || self.lock.is_closed()
    }

    /// Whether anybody who came in here is inside.
    #[must_use]
    pub fn is_held_by_anyone(&self) -> bool {
        self.lock.is_held_by(Whose::Door(self.id))
    }

    /// Takes back what was let in while the door was being closed: closing may have looked before.
    fn unless_closed(&self, party: Party, nesting: Nesting) -> Nesting {
        if nesting == Nesting::Nested && self.is_closed() {
            // Closing may also have taken it already.
            let _or_gone = self.lock.release_of(Whose::Owner(party.owner, self.id), false, Path::new(""));
            return Nesting::Refused(ErrorKind::Closed);
        }
        nesting
    }
}

fn unless_nothing(released: Result<Released, Error>) -> Result<Released, Error> {
    match released {
        Err(error) if matches!(error.kind(), ErrorKind::NotHeld | ErrorKind::NotTheHolder(_)) => {
            Ok(Released::NotHeld)
        }
        released => released,
    }
}

impl Target for Door {
    fn id(&self) -> LockId {
        self.lock.id()
    }

    fn mechanism(&self) -> &dyn Mechanism {
        self.lock.mechanism()
    }

    fn nest_for(&self, party: Party) -> Nesting {
        if self.is_closed() {
            return Nesting::Refused(ErrorKind::Closed);
        }
        self.unless_closed(party, self.lock.nest_again(party.owner, self.id, party.mode))
    }

    fn join_for(&self, party: Party) -> Nesting {
        if party.mode == Mode::Exclusive || self.is_closed() {
            return Nesting::No;
        }
        self.unless_closed(party, self.lock.nest_with_readers(party.owner, self.id))
    }

    /// Comes in at once. A second lock, of a reader that joins others, is of no use, and giving it back may take long: so
    /// that is done here, and not by the task.
    fn receive(&self, party: Party, guard: Box<dyn Guard>) -> Result<Option<Box<dyn Guard>>, ErrorKind> {
        self.commit_for(party, guard).map(|_| None)
    }

    fn commit_for(&self, party: Party, guard: Box<dyn Guard>) -> Result<Level, ErrorKind> {
        let level = self.lock.commit(party.owner, self.id, party.mode, guard)?;
        match self.unless_closed(party, Nesting::Nested) {
            Nesting::Refused(kind) => Err(kind),
            Nesting::No | Nesting::Nested => Ok(level),
        }
    }

    fn is_busy(&self, _party: Party) -> bool {
        false
    }

    fn give_back(&self, party: Party, path: &Path) -> Result<(), Error> {
        self.release(party.owner, false, path).map(drop)
    }
}
