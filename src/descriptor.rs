//! The lock of a file that somebody else has opened: the kernel lock's call, and nothing around it.
//!
//! There is no path, no hold and no count: whoever has the descriptor sees to all that, and to forks.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::mechanism::{Attempt, Guard, Manners, Mechanism, Mode, ReleaseError, Terms};
use crate::owner::OwnerId;
use crate::registry::LockId;
use crate::sys::{self, Descriptor, FileId, Verdict, names};
use crate::time::{Deadline, Timeout};
use crate::wait::{Contender, FAR, Nesting, Outcome, Stop, Watch};

/// A descriptor of somebody else's.
#[derive(Debug)]
struct Borrowed(Descriptor);

/// Its lock, which ends by no doing of ours.
#[derive(Debug)]
struct Lent(FileId);

impl Guard for Lent {
    fn file(&self) -> FileId {
        self.0
    }

    fn release(self: Box<Self>) -> Result<(), ReleaseError> {
        Ok(())
    }
}

impl Mechanism for Borrowed {
    fn try_acquire(&self, path: &Path, _terms: Terms) -> Result<Attempt, Error> {
        let lock = |file: &File| sys::try_lock(file).and_then(|()| Ok(names::stamp_of(file)?.id));
        let error = match sys::with_borrowed(self.0, lock) {
            Ok(id) => return Ok(Attempt::Acquired(Box::new(Lent(id)))),
            Err(error) => error,
        };
        match sys::classify(&error) {
            Verdict::Contended => Ok(Attempt::Contended(None)),
            Verdict::Interrupted => Ok(Attempt::Interrupted),
            Verdict::Unsupported | Verdict::Missing | Verdict::Failed => {
                Err(Error::caused(ErrorKind::Io, sys::MECHANISM, path, error))
            }
        }
    }
}

/// Locks the file of an open descriptor (on Windows a handle) as [`KernelLock`](crate::mechanism::KernelLock) would.
/// `false`: somebody else has the lock, and `poll_interval`, the longest pause between two attempts, is `None`.
///
/// Locking a descriptor again that has the lock succeeds.
///
/// # Errors
/// [`Interrupted`](ErrorKind::Interrupted) and [`Cancelled`](ErrorKind::Cancelled), where the watch ended the wait;
/// [`Io`](ErrorKind::Io).
pub fn lock_descriptor(
    descriptor: Descriptor,
    poll_interval: Option<Duration>,
    watch: &mut dyn Watch,
) -> Result<bool, Error> {
    let timeout = if poll_interval.is_some() { Timeout::Never } else { Timeout::Once };
    let contender = Contender {
        lock: LockId::next(),
        owner: OwnerId::current_thread(),
        mechanism: &Borrowed(descriptor),
        path: Path::new(""),
        mode: Mode::Exclusive,
        deadline: Deadline::begin(timeout),
        poll_interval: poll_interval.unwrap_or_default().min(FAR),
        lifetime: None,
        nest: &|| Nesting::No,
    };
    let first = loop {
        match contender.try_acquire(Manners::Hasty)? {
            Attempt::Interrupted if watch.pause(Duration::ZERO).is_break() => {
                return Err(Error::new(ErrorKind::Interrupted, "lock", contender.path));
            }
            Attempt::Interrupted => {}
            first @ (Attempt::Acquired(_) | Attempt::Contended(_)) => break first,
        }
    };
    if matches!(first, Attempt::Acquired(_)) || timeout == Timeout::Once {
        return Ok(matches!(first, Attempt::Acquired(_)));
    }
    match contender.wait(None, None, watch)? {
        Outcome::Acquired(_) => Ok(true),
        Outcome::Stopped(Stop::Cancelled) => Err(Error::new(ErrorKind::Cancelled, "lock", contender.path)),
        Outcome::Stopped(Stop::Interrupted) => {
            Err(Error::new(ErrorKind::Interrupted, "lock", contender.path))
        }
        Outcome::Nested | Outcome::Refused(_) | Outcome::TimedOut(_) | Outcome::Deadlock => Ok(false),
    }
}

/// The descriptor of an open file, on Windows the handle.
#[must_use]
pub fn descriptor_of(file: &File) -> Descriptor {
    sys::descriptor(file)
}

/// Gives back the lock of the file of an open descriptor. One that has none is fine.
///
/// # Errors
/// The operating system's.
pub fn unlock_descriptor(descriptor: Descriptor) -> io::Result<()> {
    sys::with_borrowed(descriptor, sys::unlock)
}
