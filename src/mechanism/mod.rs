//! How a lock is represented on disk: a folder for each way.
//!
//! A mechanism makes single attempts and waits for nobody; waiting is [`crate::wait`]'s, counting the business of
//! [`crate::Lock`].

mod at_exit;
mod byte_range;
mod folder;
mod health;
mod kernel;
mod lease_rw;
mod leftover;
mod lock_file;
mod look;
mod marker;
mod monitor;
mod new_file;
mod strict;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use at_exit::{end_holds_at_exit, remove_markers_at_exit};
pub use byte_range::{ByteRangeLock, expect_record_locks};
pub use kernel::KernelLock;
pub use lease_rw::LeaseReadWriteLock;
pub use leftover::{Leftover, visit_leftover};
pub use marker::{LeaseTerms, MarkerLock};
pub use monitor::{Compromise, CompromiseReason, LeaseMonitor, LeaseSettings, OnCompromise};
pub use strict::{ClaimState, StrictClaim, StrictLock};

use crate::error::Error;
use crate::sys::FileId;

/// What one attempt came to. A failure is the `Err` around it.
#[derive(Debug)]
#[must_use]
pub enum Attempt {
    /// The lock is held for as long as the guard is.
    Acquired(Box<dyn Guard>),
    /// Somebody else holds it; `Some` names the file that shows it.
    Contended(Option<FileId>),
    /// A signal cut the attempt short. It says nothing about the lock and does not count.
    Interrupted,
}

/// One way to lock a path.
pub trait Mechanism: Debug + Send + Sync {
    /// Makes one attempt on `path`, without ever waiting for anybody.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported), [`Refused`](crate::ErrorKind::Refused) or
    /// [`Io`](crate::ErrorKind::Io), each with the operating system's error; nothing is held then.
    fn try_acquire(&self, path: &Path, terms: Terms) -> Result<Attempt, Error>;

    /// The same for a thread that others need: takes the lock if it is free, but judges nobody who does not show by a lock of
    /// his own that he holds it, and takes nobody's place. `None`: that would have to be done, and nothing was.
    ///
    /// # Errors
    /// As [`Mechanism::try_acquire`].
    fn try_acquire_briefly(&self, path: &Path, terms: Terms) -> Result<Option<Attempt>, Error> {
        self.try_acquire(path, terms).map(Some)
    }

    /// Whether an attempt makes no call that may take long, as far as is known from the last one that succeeded: who makes it
    /// need not let others run meanwhile. Makes no system call.
    fn attempts_at_once(&self) -> bool {
        false
    }

    /// Opens a place in the kernel's queue for the lock on `path`, or gives `None` where nobody is woken
    /// by the kernel and waiting has to poll.
    ///
    /// # Errors
    /// As [`Mechanism::try_acquire`].
    fn open_place(&self, _path: &Path, _terms: Terms) -> Result<Option<Arc<dyn Place>>, Error> {
        Ok(None)
    }

    /// Begins a bid for the lock on `path`, where a waiter leaves something published between its attempts; `None`
    /// where each attempt stands for itself. Touches nothing.
    fn bid(&self, _path: &Path, _terms: Terms) -> Option<Box<dyn Bid>> {
        None
    }

    /// Whether who wants to exclude others and can wait begins with a bid: where a single attempt would take back what it
    /// published, for the wait to publish it again, and let others in between.
    fn begins_with_bid(&self) -> bool {
        false
    }

    /// Whether the kernel wakes those who wait for the lock on `path`. Touches nothing.
    fn wakes_waiters(&self, _path: &Path) -> bool {
        false
    }

    /// Whether attempts are dear. A waiter that polls then makes one every poll interval, and none sooner.
    fn is_costly(&self) -> bool {
        false
    }

    /// Gives up what is kept for later acquisitions: there will be none.
    fn retire(&self) {}

    /// Who holds the lock on `path`, where the lock itself says so.
    fn holder(&self, _path: &Path) -> Option<Holder> {
        None
    }

    /// Whose locks on one path are as good as each other: what was waited for through one lock object can be given to
    /// another of its family. `None`: to itself only.
    fn family(&self) -> Option<Family> {
        None
    }
}

/// Lock objects that ask for the same thing in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Family {
    /// What they ask for.
    pub kind: &'static str,
    /// The permission bits of what they create.
    pub mode: Option<u32>,
}

/// A waiter's attempts, where they build on each other: a writer claims first, which keeps new readers out, and then
/// waits for the readers that are there. Dropping it withdraws what was published and not granted.
pub trait Bid: Debug + Send {
    /// Makes one attempt, without ever waiting for anybody.
    ///
    /// # Errors
    /// As [`Mechanism::try_acquire`].
    fn attempt(&mut self) -> Result<Attempt, Error>;

    /// Makes one attempt past those who queue, whatever the manners of the bid: the first of them may be stopped.
    ///
    /// # Errors
    /// As [`Mechanism::try_acquire`].
    fn attempt_past_line(&mut self) -> Result<Attempt, Error> {
        self.attempt()
    }

    /// Goes on at `path`: what it was begun with means the same place now, but may come to mean another.
    fn stay_at(&mut self, path: &Path);
}

/// Whom a holder excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everybody.
    Exclusive,
    /// Those who want it exclusively: a reader.
    Shared,
}

/// On what terms a contender asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whom it would exclude. A lock that cannot be shared takes every contender for an exclusive one.
    pub mode: Mode,
    /// How it treats those who queue.
    pub manners: Manners,
    /// The age at which a marker counts as abandoned, whoever owns it. Other locks do not age.
    pub lifetime: Option<Duration>,
}

impl From<Manners> for Terms {
    fn from(manners: Manners) -> Self {
        Self { mode: Mode::Exclusive, manners, lifetime: None }
    }
}

/// Whom a lock names as its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process of this machine.
    Here {
        /// Its number.
        pid: u32,
    },
    /// A process of this machine that has ended: the lock is nobody's, and nobody takes it by himself.
    Gone {
        /// Its number.
        pid: u32,
    },
    /// A process of another machine, or of another PID namespace.
    Elsewhere {
        /// Its number there.
        pid: u32,
        /// The machine, as the lock names it.
        host: String,
    },
    /// The lock does not name its holder.
    Unnamed,
}

/// How an attempt treats those who queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Where others queue, count the lock as contended, and queue too.
    Polite,
    /// Take the lock if it is free, whoever queues.
    Hasty,
    /// As `Hasty`, because the line was found not to move; and while the lock is held, let others know.
    PastLine,
    /// As `Hasty`, and past a writer that keeps new readers out: this owner is a reader of the file already, through
    /// another lock object, so who waits for that one to end waits for this one too. Queueing behind would never end.
    Nested,
}

/// An open file description by which a process stands in line for a lock.
///
/// A *line* keeps the order among processes: whoever waits gets to the head of the line first, then waits for
/// the lock, and leaves the line with the lock in hand. Dropping a place leaves the line and gives the lock back.
pub trait Place: Debug + Send + Sync {
    /// The file whose lock is waited for, if it is one that others can see.
    fn file(&self) -> Option<FileId>;

    /// Whether there is a line. Where there is none, a lock that is found free is nobody's turn in particular.
    fn has_line(&self) -> bool {
        true
    }

    /// Whether what was waited for is in the way no longer. Asked where there is no line.
    fn is_outdated(&self) -> bool {
        false
    }

    /// Whether something may have changed that nobody wakes a waiter for: asked at each tick, and cheaper than an
    /// attempt.
    fn is_worth_an_attempt(&self) -> bool {
        true
    }

    /// Waits for the turn of whoever stands here: the head of the line, or where there is none the end of what is in
    /// the way. For about `limit` at the most, or until somebody interrupts the thread; `false`: not yet. Who comes to a
    /// line again stands at its end.
    ///
    /// # Errors
    /// The operating system's; `Unsupported` where it cannot wait with a limit just now.
    fn wait_for_turn(&self, limit: Option<Duration>) -> io::Result<bool>;

    /// Leaves the line.
    fn leave_line(&self);

    /// Whether the lock is held by somebody who found that the line does not move.
    fn is_line_reported_stuck(&self) -> bool;

    /// Lets others know, for as long as this place or its lock is held, that the line does not move.
    fn report_stuck_line(&self);

    /// Waits for the lock, for about `limit` at the most; `false`: not had yet.
    ///
    /// # Errors
    /// As [`Place::wait_for_turn`].
    fn wait_for_lock(&self, limit: Duration) -> io::Result<bool>;

    /// The lock that this place holds, or `None`, and nothing is held any more, if the path no longer leads
    /// to the locked file, or the place is still in other hands.
    ///
    /// # Errors
    /// As [`Mechanism::try_acquire`]; nothing is held then.
    fn into_guard(self: Arc<Self>) -> Result<Option<Box<dyn Guard>>, Error>;
}

/// What becomes of errors of closing the file of a lock that was given back already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseErrors {
    /// The release fails with them.
    Raise,
    /// Nobody hears of them.
    Suppress,
}

/// A held lock. Dropping it gives the lock back as well as it can, without a word.
pub trait Guard: Debug + Send {
    /// The locked file.
    fn file(&self) -> FileId;

    /// What tells whether the lock was taken from its holder; `None` where none ever is.
    fn loss(&self) -> Option<Loss> {
        None
    }

    /// Whether the lock was taken from its holder. Makes no system call: asked with a mutex locked.
    fn is_lost(&self) -> bool {
        self.loss().is_some_and(|loss| loss.has_come())
    }

    /// The file by which it is held, where it is held by an open one; `None` in a forked child.
    fn open_file(&self) -> Option<&File> {
        None
    }

    /// What this one hold is known by, where it has such a name.
    fn token(&self) -> Option<&str> {
        None
    }

    /// Whether giving it back makes no call that may take long: such as only unlocking and closing a file of this machine.
    /// Makes no system call: asked with a mutex locked.
    fn is_released_at_once(&self) -> bool {
        false
    }

    /// Gives the lock back. Does nothing in a forked child: the lock is the parent's.
    ///
    /// # Errors
    /// With the guard where the lock is still held; without it where the lock is free and only tidying up
    /// failed.
    fn release(self: Box<Self>) -> Result<(), ReleaseError>;
}

/// Whether a hold was lost: for its guard, and for whoever keeps a record of it.
#[derive(Debug, Clone, Default)]
pub struct Loss(Arc<LossFlags>);

#[derive(Debug, Default)]
struct LossFlags {
    has_come: AtomicBool,
    is_suspected: AtomicBool,
}

impl Loss {
    /// From now on the hold is lost; gives whether it was already.
    #[must_use]
    pub fn comes(&self) -> bool {
        self.0.has_come.swap(true, Ordering::SeqCst)
    }

    /// Whether it is.
    #[must_use]
    pub fn has_come(&self) -> bool {
        self.0.has_come.load(Ordering::SeqCst)
    }

    /// Says what the latest look at the hold came to, before anybody can be certain.
    pub fn suspect(&self, is_gone: bool) {
        self.0.is_suspected.store(is_gone, Ordering::SeqCst);
    }

    /// Whether the hold is lost, or was seen to be gone: who waits does not wait for that one.
    #[must_use]
    pub fn is_likely(&self) -> bool {
        self.has_come() || self.0.is_suspected.load(Ordering::SeqCst)
    }
}

/// A release that failed.
#[derive(Debug)]
pub struct ReleaseError {
    /// The lock, if it is still held.
    pub guard: Option<Box<dyn Guard>>,
    /// What went wrong.
    pub error: Error,
}
