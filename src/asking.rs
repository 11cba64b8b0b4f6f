//! One acquisition: the first attempt, and the wait that comes of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::mechanism::{Attempt, Bid, Guard, Manners, Mechanism, Mode, Terms};
use crate::owner::OwnerId;
use crate::path;
use crate::registry::{self, LockId};
use crate::sys::FileId;
use crate::time::{Deadline, Timeout};
use crate::wait::{self, FAR, Outcome, Patience, Stop, Waiter, Watch, past_lines};

/// What a lock object says to an owner that wants it, before anybody is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nesting {
    /// Nobody holds it whose hold could count for this owner too.
    No,
    /// It is held already, and this owner has one level more.
    Nested,
    /// This owner cannot have it, however long it waits.
    Refused(ErrorKind),
}

/// What an acquisition came to.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The lock was had; making it a hold is the lock object's business.
    Acquired(Box<dyn Guard>),
    /// The lock object has come to be held in another way, and counted this owner too.
    Nested,
}

/// An owner that asks for a lock through a lock object.
pub(crate) struct Asker<'a> {
    pub(crate) lock: LockId,
    pub(crate) owner: OwnerId,
    pub(crate) mechanism: &'a dyn Mechanism,
    pub(crate) mode: Mode,
    pub(crate) patience: Patience,
    pub(crate) nest: &'a dyn Fn() -> Nesting,
}

impl Asker<'_> {
    /// Asks for the lock on `path`, and waits for it; what `enter` gives is kept for the time of the wait.
    ///
    /// A relative path is resolved now, once, and so are the links of its folder.
    pub(crate) fn acquire<W>(
        &self,
        path: &Path,
        watch: &mut dyn Watch,
        enter: impl FnOnce() -> W,
    ) -> Result<Answer, Error> {
        let deadline = Deadline::begin(self.patience.timeout);
        let mut bid = self.first_bid(path, deadline);
        let file = loop {
            // The first attempt opens what the path means at this moment; only waiting has to remember it.
            let attempt = match &mut bid {
                Some(bid) => bid.attempt().map_err(Error::with_absolute_path),
                None => self.attempt(path, deadline),
            };
            match attempt? {
                Attempt::Acquired(guard) => return Ok(Answer::Acquired(guard)),
                Attempt::Contended(file) => break file,
                Attempt::Interrupted if watch.pause(Duration::ZERO).is_break() => {
                    return Err(Error::new(ErrorKind::Interrupted, "lock", path).with_absolute_path());
                }
                // One attempt was asked for, and this was none.
                Attempt::Interrupted if deadline.remaining().is_none() => {}
                Attempt::Interrupted => break None,
            }
        };
        match (self.nest)() {
            Nesting::No => {}
            Nesting::Nested => return Ok(Answer::Nested),
            Nesting::Refused(kind) => return Err(Error::new(kind, "lock", path).with_absolute_path()),
        }
        if self.patience.timeout == Timeout::Once {
            return Err(Error::new(ErrorKind::TimedOut(file), "lock", path).with_absolute_path());
        }
        let path = canonical(path)?;
        if let Some(bid) = &mut bid {
            bid.stay_at(&path);
        }
        let _waiting = enter();
        let waiter = Waiter {
            lock: self.lock,
            owner: self.owner,
            mechanism: self.mechanism,
            path: &path,
            mode: self.mode,
            deadline,
            poll_interval: self.patience.poll_interval.min(FAR),
            lifetime: self.patience.lifetime,
            nest: self.nest,
        };
        let kind = match wait::wait(file, bid, &waiter, watch)? {
            Outcome::Acquired(guard) => return Ok(Answer::Acquired(guard)),
            Outcome::Nested => return Ok(Answer::Nested),
            Outcome::Refused(kind) => kind,
            Outcome::Deadlock => ErrorKind::Deadlock,
            Outcome::TimedOut(file) => ErrorKind::TimedOut(file),
            Outcome::Stopped(Stop::Cancelled) => ErrorKind::Cancelled,
            Outcome::Stopped(Stop::Interrupted) => ErrorKind::Interrupted,
        };
        Err(Error::new(kind, "lock", &path))
    }

    /// The bid with which to begin, if it is one: who makes one attempt only leaves nothing behind it.
    fn first_bid(&self, path: &Path, deadline: Deadline) -> Option<Box<dyn Bid>> {
        let begins = self.mode == Mode::Exclusive && self.mechanism.begins_with_bid();
        (begins && deadline.remaining().is_some()).then(|| {
            let terms = self.terms(past_lines::manners(path));
            self.mechanism.bid(path, terms)
        })?
    }

    /// One attempt, which goes past a line only where it is the last one.
    pub(crate) fn attempt(&self, path: &Path, deadline: Deadline) -> Result<Attempt, Error> {
        let manners = if deadline.remaining().is_none() { Manners::Hasty } else { past_lines::manners(path) };
        let attempt = self.attempt_with(path, manners)?;
        match attempt {
            Attempt::Contended(Some(file)) if self.mode == Mode::Shared && self.holds_elsewhere(file) => {
                self.attempt_with(path, Manners::Nested)
            }
            Attempt::Acquired(_) | Attempt::Contended(_) | Attempt::Interrupted => Ok(attempt),
        }
    }

    fn attempt_with(&self, path: &Path, manners: Manners) -> Result<Attempt, Error> {
        self.mechanism.try_acquire(path, self.terms(manners)).map_err(Error::with_absolute_path)
    }

    fn terms(&self, manners: Manners) -> Terms {
        Terms { mode: self.mode, manners, lifetime: self.patience.lifetime }
    }

    fn holds_elsewhere(&self, file: FileId) -> bool {
        registry::would_deadlock(self.lock, self.owner, file)
    }
}

pub(crate) fn canonical(path: &Path) -> Result<PathBuf, Error> {
    path::canonical(path).map_err(|error| Error::caused(ErrorKind::Io, "realpath", path, error))
}
