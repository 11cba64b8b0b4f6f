//! What a task asks for, and its first attempt, without waiting.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::Patience;
use super::desk::{self, Key};
use super::{Contender, Nesting, canonical};
use crate::error::{Error, ErrorKind};
use crate::fork;
use crate::hold::Level;
use crate::mechanism::{Attempt, Guard, Mechanism, Mode};
use crate::owner::OwnerId;
use crate::registry::{self, LockId};
use crate::sys::{self, FileId};
use crate::time::{Deadline, Timeout};

/// An attempt that signals cut short so often is as good as one that found the lock held.
const INTERRUPTIONS: usize = 64;

/// Who asks for a lock, and how.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Whose hold it will be.
    pub owner: OwnerId,
    /// Who could wait for ever, if he holds the file through another lock object: often the owner, but tasks that share
    /// a thread's holds go their own ways.
    pub debtor: OwnerId,
    /// The path, as it was given.
    pub path: &'a Path,
    /// How long to wait.
    pub patience: Patience,
}

impl Request<'_> {
    pub(crate) fn party(&self, mode: Mode) -> Party {
        Party { owner: self.owner, debtor: self.debtor, mode }
    }
}

/// What a request wants of a lock object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Party {
    pub(crate) owner: OwnerId,
    pub(crate) debtor: OwnerId,
    pub(crate) mode: Mode,
}

/// A lock object that can be waited for without a thread.
pub(crate) trait Target: fmt::Debug + Send + Sync {
    fn id(&self) -> LockId;

    fn mechanism(&self) -> &dyn Mechanism;

    /// Counts one level more, if it is held so that this party has a share in it.
    fn nest_for(&self, party: Party) -> Nesting;

    /// Counts a reader in among those who read, if it came to its turn with them.
    fn join_for(&self, party: Party) -> Nesting {
        self.nest_for(party)
    }

    /// What the queue has got for this party: `Some` is offered, to be committed by the party itself; `None` is a hold
    /// already, of one level. Where that is refused, the lock goes back. Called by whoever may block.
    fn receive(&self, _party: Party, guard: Box<dyn Guard>) -> Result<Option<Box<dyn Guard>>, ErrorKind> {
        Ok(Some(guard))
    }

    /// Makes the lock that `guard` stands for a hold. Where that is refused, the lock goes back.
    fn commit_for(&self, party: Party, guard: Box<dyn Guard>) -> Result<Level, ErrorKind>;

    /// Whether a release is in a system call: who commits now has to wait for it.
    fn is_busy(&self, party: Party) -> bool;

    /// Takes one level back.
    fn give_back(&self, party: Party, path: &Path) -> Result<(), Error>;
}

/// What an attempt without waiting came to.
#[derive(Debug)]
pub(crate) enum First {
    Had(Box<dyn Guard>),
    Nested,
    Contended(Contended),
    /// It was a brief one, and only a whole one can tell.
    Undecided,
}

/// What a first attempt in vain leaves for the wait.
#[derive(Debug, Clone)]
pub(crate) struct Contended {
    pub(super) file: Option<FileId>,
    pub(super) key: Arc<Key>,
}

/// One attempt on `path`, behind those of this process who wait for it already; a brief one for a thread that others need.
pub(crate) fn first_attempt(
    target: &dyn Target,
    party: Party,
    path: &Path,
    patience: Patience,
    is_brief: bool,
) -> Result<First, Error> {
    fork::notice_fork();
    let nest = || target.nest_for(party);
    let refused = |kind| Error::new(kind, "lock", path).with_absolute_path();
    match nest() {
        Nesting::No => {}
        Nesting::Nested => return Ok(First::Nested),
        Nesting::Refused(kind) => return Err(refused(kind)),
    }
    let deadline = Deadline::begin(patience.timeout);
    let may_wait = deadline.remaining().is_some();
    let key = || Ok(Arc::new(Key::new(canonical(path)?, target, patience.lifetime)));
    if may_wait && desk::is_any() {
        let key = key()?;
        if let Some(first) = desk::first_of(&key) {
            let is_there =
                |&file: &FileId| first.file() == Some(file) || sys::is_at(&key.path, file).unwrap_or(false);
            let own = registry::held_elsewhere(target.id(), party.debtor).into_iter().find(is_there);
            // Who reads the file already reads it once more past those who wait for him.
            if own.is_none() || party.mode == Mode::Exclusive {
                refuse_deadlock(target, party, patience, own, path)?;
                return Ok(First::Contended(Contended { file: first.file(), key }));
            }
        }
    }
    let contender = Contender {
        lock: target.id(),
        owner: party.debtor,
        mechanism: target.mechanism(),
        mode: party.mode,
        path,
        deadline,
        poll_interval: patience.poll_interval,
        lifetime: patience.lifetime,
        nest: &nest,
    };
    let mut file = None;
    for _ in 0..INTERRUPTIONS {
        let attempt = if is_brief { contender.attempt_briefly() } else { contender.attempt().map(Some) };
        let Some(attempt) = attempt.map_err(Error::with_absolute_path)? else { return Ok(First::Undecided) };
        match attempt {
            Attempt::Acquired(guard) => return Ok(First::Had(guard)),
            Attempt::Contended(seen) => {
                file = seen;
                break;
            }
            Attempt::Interrupted => {}
        }
    }
    match nest() {
        Nesting::No => {}
        Nesting::Nested => return Ok(First::Nested),
        Nesting::Refused(kind) => return Err(refused(kind)),
    }
    if patience.timeout == Timeout::Once {
        return Err(refused(ErrorKind::TimedOut(file)));
    }
    refuse_deadlock(target, party, patience, file, path)?;
    Ok(First::Contended(Contended { file, key: key()? }))
}

fn refuse_deadlock(
    target: &dyn Target,
    party: Party,
    patience: Patience,
    file: Option<FileId>,
    path: &Path,
) -> Result<(), Error> {
    let is_own = |file| registry::would_deadlock(target.id(), party.debtor, file);
    if patience.timeout == Timeout::Never && file.is_some_and(is_own) {
        return Err(Error::new(ErrorKind::Deadlock, "lock", path).with_absolute_path());
    }
    Ok(())
}
