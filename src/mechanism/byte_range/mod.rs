//! Readers and writers by the locks that SQLite takes, on the same bytes of the same file, without SQLite.
//!
//! How it works: three ranges far beyond the content of a small database. SHARED decides: readers have it shared, the
//! writer exclusively. RESERVED is the one writer's from when it means to write, and PENDING keeps new readers out
//! while it waits for those that are inside. The locks are those of an open file description (`F_OFD_SETLK`; on
//! Windows `LockFileEx`), so they exclude threads too.
//!
//! What it guarantees: any number of readers or one writer, among all descriptions, processes and programs that lock as
//! SQLite does: filelock's `ReadWriteLock`, and SQLite itself with the file as its database. The kernel gives the lock
//! back when the description goes. The file is never written to, and only its first bytes are read.
//!
//! Downsides: (1) advisory. (2) A file that is removed *while it is held* frees the path, and no one can tell the
//! holder. (3) A writer that is stopped while it waits keeps new readers out. (4) A database in WAL mode is locked in
//! other ways, and is refused. (5) Some systems have no such locks.
//!
//! | a description has | it is | others may |
//! |---|---|---|
//! | nothing | | anything |
//! | SHARED shared | a reader | read; claim to write |
//! | RESERVED | claims to write (SQLite also: writes to its cache) | read |
//! | RESERVED, PENDING | waits for the readers inside to end | go on reading; not come in |
//! | all, exclusively | the writer | nothing |

mod description;
mod place;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use description::expect_record_locks;
pub(super) use description::put_away_seen;
use description::{Description, Home};
use place::RangePlace;

use super::lock_file::{self, Opened, explained, failed, no_lock_file};
use super::{Attempt, Bid, Family, Guard, Manners, Mechanism, Mode, Place, ReleaseError, Terms};
use crate::error::{Error, ErrorKind};
use crate::sys::{self, FileId, Verdict, ranges};

/// How often an attempt starts again because the file was replaced under it.
const REPLACEMENTS: usize = 64;

/// What a SQLite database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Behind it the versions of the format for writing and reading; 2 is the write-ahead log.
const VERSIONS: std::ops::Range<usize> = 18..20;
const WRITE_AHEAD_LOG: u8 = 2;

/// A lock of readers and writers on a file that may be a SQLite database.
#[derive(Debug)]
pub struct ByteRangeLock {
    home: Arc<Home>,
    /// The file at the path was a regular one when it was last locked.
    was_regular: AtomicBool,
}

impl Default for ByteRangeLock {
    fn default() -> Self {
        Self { home: Home::new(), was_regular: AtomicBool::new(false) }
    }
}

impl ByteRangeLock {
    /// Creates the file at `path` if there is none, and says whether it is fit to be locked. Folders are not created.
    ///
    /// # Errors
    /// As [`Mechanism::try_acquire`]; [`Unfit`](ErrorKind::Unfit) for a database that SQLite locks in other ways.
    pub fn prepare(&self, path: &Path) -> Result<(), Error> {
        match self.open(path)? {
            Opened::Yes(description) => refuse_unfit(&description, path),
            // There is a file: somebody has it open in a way that will pass.
            Opened::Contended | Opened::Interrupted => Ok(()),
        }
    }

    fn open(&self, path: &Path) -> Result<Opened<Description>, Error> {
        let reused = Description::reuse(&self.home, path).map_err(|error| failed("stat", path, error))?;
        if let Some(description) = reused {
            return Ok(Opened::Yes(description));
        }
        self.open_anew(path)
    }

    fn open_anew(&self, path: &Path) -> Result<Opened<Description>, Error> {
        if !self.was_regular.load(Ordering::Relaxed) {
            sys::check_kind(path).map_err(|error| no_lock_file(path, error))?;
        }
        let description = match lock_file::opened(path, Description::open(&self.home, path))? {
            Opened::Yes(description) => description,
            other @ (Opened::Contended | Opened::Interrupted) => return Ok(other),
        };
        if !description.is_regular() {
            description.discard();
            return Err(no_lock_file(path, sys::special_file_error()));
        }
        self.was_regular.store(true, Ordering::Relaxed);
        Ok(Opened::Yes(description))
    }

    /// A description of the very file that is at the path now.
    fn open_current(&self, path: &Path) -> Result<Opened<Description>, Error> {
        match self.open(path)? {
            Opened::Yes(description)
                if description.is_outdated(path).map_err(|error| failed("stat", path, error))? =>
            {
                description.discard();
                self.open_anew(path)
            }
            opened @ (Opened::Yes(_) | Opened::Contended | Opened::Interrupted) => Ok(opened),
        }
    }
}

impl Mechanism for ByteRangeLock {
    fn try_acquire(&self, path: &Path, terms: Terms) -> Result<Attempt, Error> {
        for _ in 0..REPLACEMENTS {
            let description = match self.open(path)? {
                Opened::Yes(description) => description,
                Opened::Contended => return Ok(Attempt::Contended(None)),
                Opened::Interrupted => return Ok(Attempt::Interrupted),
            };
            let id = description.id();
            let locked = attempt(&description, terms).map(Some).or_else(|error| answer(path, error));
            match locked? {
                Some(true) => {
                    if sys::is_at(path, id).map_err(|error| failed("stat", path, error))? {
                        refuse_unfit(&description, path)?;
                        let guard = ByteRangeGuard { description, path: path.to_owned() };
                        return Ok(Attempt::Acquired(Box::new(guard)));
                    }
                }
                Some(false) => {
                    if !description.is_outdated(path).map_err(|error| failed("stat", path, error))? {
                        refuse_unfit(&description, path)?;
                        return Ok(Attempt::Contended(Some(id)));
                    }
                }
                None => return Ok(Attempt::Interrupted),
            }
            description.discard();
        }
        Err(Error::new(ErrorKind::Unsupported, "lock", path)
            .because("the file is replaced again and again, or has no lasting identity"))
    }

    fn wakes_waiters(&self, path: &Path) -> bool {
        sys::is_path_known_local(path)
    }

    fn open_place(&self, path: &Path, terms: Terms) -> Result<Option<Arc<dyn Place>>, Error> {
        let Opened::Yes(description) = self.open_current(path)? else { return Ok(None) };
        let wakes_waiters = |file| sys::is_known_local(file, description.id());
        if !description.file().is_ok_and(wakes_waiters) {
            return Ok(None);
        }
        Ok(Some(Arc::new(RangePlace { description, path: path.to_owned(), mode: terms.mode })))
    }

    /// A writer that polls goes on from what it has: RESERVED and PENDING keep new readers out.
    fn bid(&self, path: &Path, terms: Terms) -> Option<Box<dyn Bid>> {
        (terms.mode == Mode::Exclusive).then(|| {
            let lock = Self { home: Arc::clone(&self.home), was_regular: AtomicBool::new(false) };
            Box::new(RangeBid { lock, path: path.to_owned(), terms, begun: None }) as Box<dyn Bid>
        })
    }

    fn family(&self) -> Option<Family> {
        Some(Family { kind: "byte range", mode: None })
    }

    fn retire(&self) {
        self.home.give_up();
    }
}

/// Makes one attempt on the file of `description`, and takes nothing if that fails.
fn attempt(description: &Description, terms: Terms) -> io::Result<bool> {
    let file = description.file()?;
    if terms.manners == Manners::Polite && sys::is_line_occupied(file, description.id()) {
        return Ok(false);
    }
    let attempted = match (terms.mode, terms.manners) {
        (Mode::Shared, Manners::Nested) => ranges::try_read_past_writer(file),
        (Mode::Shared, Manners::Polite | Manners::Hasty | Manners::PastLine) => ranges::try_read(file),
        (Mode::Exclusive, _) => ranges::try_write(file),
    };
    match attempted {
        Ok(()) => {
            if terms.manners == Manners::PastLine {
                sys::report_stuck_line(file);
            }
            Ok(true)
        }
        Err(error) if sys::classify(&error) == Verdict::Contended => Ok(false),
        Err(error) => Err(error),
    }
}

/// What an error of a lock call means: `None` where a signal cut it short.
fn answer(path: &Path, error: io::Error) -> Result<Option<bool>, Error> {
    match sys::classify(&error) {
        Verdict::Contended => Ok(Some(false)),
        Verdict::Interrupted => Ok(None),
        verdict @ (Verdict::Unsupported | Verdict::Missing | Verdict::Failed) => {
            Err(explained(verdict, "lock", path, error))
        }
    }
}

/// A writer's attempts from one description.
#[derive(Debug)]
struct RangeBid {
    lock: ByteRangeLock,
    path: PathBuf,
    terms: Terms,
    begun: Option<(Description, ranges::Claim)>,
}

impl Bid for RangeBid {
    fn attempt(&mut self) -> Result<Attempt, Error> {
        self.attempt_with(self.terms.manners)
    }

    fn attempt_past_line(&mut self) -> Result<Attempt, Error> {
        self.attempt_with(Manners::Hasty)
    }

    fn stay_at(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
    }
}

impl RangeBid {
    fn attempt_with(&mut self, manners: Manners) -> Result<Attempt, Error> {
        let stat = |error| failed("stat", &self.path, error);
        let (description, mut claim) = match self.begun.take() {
            Some((description, claim))
                if !description.is_inherited()
                    && sys::is_at(&self.path, description.id()).map_err(stat)? =>
            {
                (description, claim)
            }
            outdated => {
                if let Some((description, _)) = outdated {
                    description.discard();
                }
                match self.lock.open_current(&self.path)? {
                    Opened::Yes(description) => {
                        let id = description.id();
                        let file = description.file();
                        if manners == Manners::Polite
                            && file.is_ok_and(|file| sys::is_line_occupied(file, id))
                        {
                            return Ok(Attempt::Contended(Some(id)));
                        }
                        (description, ranges::Claim::default())
                    }
                    Opened::Contended => return Ok(Attempt::Contended(None)),
                    Opened::Interrupted => return Ok(Attempt::Interrupted),
                }
            }
        };
        let id = description.id();
        let claimed = description.file().and_then(|file| ranges::claim(file, &mut claim));
        let answer = claimed.map_or_else(|error| answer(&self.path, error), |()| Ok(Some(true)))?;
        if answer == Some(true) {
            if sys::is_at(&self.path, id).map_err(stat)? {
                refuse_unfit(&description, &self.path)?;
                let guard = ByteRangeGuard { description, path: self.path.clone() };
                return Ok(Attempt::Acquired(Box::new(guard)));
            }
            description.discard();
            return Ok(Attempt::Contended(None));
        }
        self.begun = Some((description, claim));
        Ok(if answer.is_none() { Attempt::Interrupted } else { Attempt::Contended(Some(id)) })
    }
}

/// Refuses a database that SQLite locks in another way: what we lock would say nothing about it.
fn refuse_unfit(description: &Description, path: &Path) -> Result<(), Error> {
    let mut start = [0; VERSIONS.end];
    let read = description.file().and_then(|file| ranges::read_start(file, &mut start));
    let length = read.map_err(|error| failed("read", path, error))?;
    if length == start.len() && start.starts_with(MAGIC) && start[VERSIONS].contains(&WRITE_AHEAD_LOG) {
        let explanation =
            "a SQLite database in WAL mode is not locked by the bytes that this lock is made of";
        return Err(Error::new(ErrorKind::Unfit, "lock", path).because(explanation));
    }
    Ok(())
}

/// A lock that is held, as a reader or as the writer.
#[derive(Debug)]
struct ByteRangeGuard {
    description: Description,
    path: PathBuf,
}

impl Guard for ByteRangeGuard {
    fn file(&self) -> FileId {
        self.description.id()
    }

    fn release(mut self: Box<Self>) -> Result<(), ReleaseError> {
        if self.description.is_inherited() {
            return Ok(());
        }
        match self.description.unlock() {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = failed("unlock", &self.path, error);
                Err(ReleaseError { guard: Some(self), error })
            }
        }
    }
}
