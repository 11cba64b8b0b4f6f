//! An open file description for the locks of one hold, one place or one attempt; and where it goes after.
//!
//! POSIX: closing *any* descriptor of a file gives up all record locks that the process has on that file, and SQLite's
//! are such. So a description is closed only when nobody has a lock on the file; otherwise it is *parked*, for the next
//! one in this process who needs one for this file, and closed with a later one that finds the file free.
//!
//! Somebody may come between the look and the close. So a lock object does not close at each release, but *keeps* its
//! description for its next hold; and in a process that is known to take record locks nothing is closed that can be
//! parked.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::fork::ForkMutex;
use crate::fork::Tracked;
use crate::sys::{self, FileId, Kind, Others, ranges};

/// The most descriptions that lock objects keep while they hold nothing: a process has no more than 1024 descriptors by
/// default.
const MOST_KEPT: usize = 64;

/// How many files may have parked descriptions before those are closed that nobody has a lock on.
const MANY_PARKED: usize = 64;

/// Something in this process takes record locks.
static TAKES_RECORD_LOCKS: AtomicBool = AtomicBool::new(false);

/// Says that something in this process takes record locks, as SQLite does, on files that may be locked by
/// [`ByteRangeLock`](super::ByteRangeLock) too: from now on their descriptors are parked rather than closed. It is
/// noticed otherwise when such a lock is first seen, which may be too late for that one.
pub fn expect_record_locks() {
    TAKES_RECORD_LOCKS.store(true, Ordering::Relaxed);
}

static KEPT: ForkMutex<usize> = ForkMutex::new();

static PARKED: ForkMutex<HashMap<FileId, Vec<Tracked>>> = ForkMutex::new();
/// How many files have parked descriptions, for those who would look in vain. A child starts with its parent's number,
/// and corrects it at the first look.
static FILES_PARKED: AtomicUsize = AtomicUsize::new(0);

/// Where a lock object keeps the description of its last hold.
#[derive(Debug)]
pub(super) struct Home {
    kept: ForkMutex<Option<Tracked>>,
}

impl Home {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { kept: ForkMutex::new() })
    }

    fn take(&self) -> Option<Tracked> {
        let taken = self.kept.lock().take();
        if taken.is_some() {
            *KEPT.lock() -= 1;
        }
        taken
    }

    /// Keeps it, or gives it back: there is one already, or there are too many.
    fn keep(&self, tracked: Tracked) -> Option<Tracked> {
        // On other file systems nobody knows what keeping a file open means to others.
        if !tracked.file().is_some_and(|file| sys::is_known_local(file, tracked.stamp().id)) {
            return Some(tracked);
        }
        {
            let mut kept = KEPT.lock();
            if *kept >= MOST_KEPT {
                return Some(tracked);
            }
            *kept += 1;
        }
        let before = self.kept.lock().replace(tracked);
        if before.is_some() {
            *KEPT.lock() -= 1;
        }
        before
    }

    /// Keeps nothing any more.
    pub(super) fn give_up(&self) {
        if let Some(tracked) = self.take() {
            put_away(tracked);
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// An open file description. Dropping it gives back what it has locked, and puts it away.
#[derive(Debug)]
pub(super) struct Description {
    /// Taken only by `drop`.
    tracked: Option<Tracked>,
    id: FileId,
    /// `None`: no lock object is to keep it.
    home: Option<Arc<Home>>,
    /// It was opened earlier, when the path may have led elsewhere.
    is_reused: bool,
    /// Nothing is locked.
    is_clean: bool,
}

impl Description {
    fn new(tracked: Tracked, home: &Arc<Home>, is_reused: bool) -> Self {
        let id = tracked.stamp().id;
        Self { tracked: Some(tracked), id, home: Some(Arc::clone(home)), is_reused, is_clean: false }
    }

    /// One of the file at `path` that was opened before, if there is any; it may be of the file that was there then.
    pub(super) fn reuse(home: &Arc<Home>, path: &Path) -> io::Result<Option<Self>> {
        if let Some(tracked) = home.take() {
            return Ok(Some(Self::new(tracked, home, true)));
        }
        if FILES_PARKED.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        let Some(id) = sys::id_at(path)? else { return Ok(None) };
        let parked = take_parked(id, Vec::pop);
        Ok(parked.map(|tracked| Self::new(tracked, home, true)))
    }

    pub(super) fn open(home: &Arc<Home>, path: &Path) -> io::Result<Self> {
        let tracked = Tracked::open(|| Ok(sys::open_lock_file(path, Some(0o600))?.0))?;
        Ok(Self::new(tracked, home, false))
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// The file; an error in a forked child, whose parent's it is.
    pub(super) fn file(&self) -> io::Result<&File> {
        let file = self.tracked.as_ref().and_then(Tracked::file);
        file.ok_or_else(|| io::Error::other("inherited by a forked process"))
    }

    pub(super) fn is_inherited(&self) -> bool {
        self.file().is_err()
    }

    pub(super) fn is_regular(&self) -> bool {
        self.tracked.as_ref().is_some_and(|tracked| tracked.stamp().kind == Kind::Regular)
    }

    /// Whether `path` leads to this file, for a description that was not opened at the path just now.
    pub(super) fn is_outdated(&self, path: &Path) -> io::Result<bool> {
        Ok(self.is_reused && !sys::is_at(path, self.id)?)
    }

    pub(super) fn unlock(&mut self) -> io::Result<()> {
        ranges::unlock(self.file()?)?;
        self.is_clean = true;
        Ok(())
    }

    /// Puts it away, but not where the same lock object would find it again: it is of no use at its path.
    pub(super) fn discard(mut self) {
        self.home = None;
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        if !self.is_clean && self.unlock().is_err() {
            // A forked child's copy is closed already. Otherwise closing is what is left to give the lock back.
            return;
        }
        let Some(tracked) = self.tracked.take() else { return };
        let left = match &self.home {
            Some(home) => home.keep(tracked),
            None => Some(tracked),
        };
        if let Some(tracked) = left {
            put_away(tracked);
        }
    }
}

/// Runs `take` on what is parked for the file `id`.
fn take_parked<R: Default>(id: FileId, take: impl FnOnce(&mut Vec<Tracked>) -> R) -> R {
    let mut table = PARKED.lock();
    let Some(parked) = table.get_mut(&id) else {
        FILES_PARKED.store(table.len(), Ordering::Relaxed);
        return R::default();
    };
    let taken = take(parked);
    if parked.is_empty() {
        table.remove(&id);
    }
    FILES_PARKED.store(table.len(), Ordering::Relaxed);
    taken
}

/// Closes a description that has nothing locked, and all that are parked for its file, or parks it too.
fn put_away(tracked: Tracked) {
    let id = tracked.stamp().id;
    let Some(file) = tracked.file() else { return };
    if is_safe_to_close(file) {
        let parked = if FILES_PARKED.load(Ordering::Relaxed) == 0 {
            Vec::new()
        } else {
            take_parked(id, std::mem::take)
        };
        drop(tracked);
        drop(parked);
        return;
    }
    let crowd = {
        let mut table = PARKED.lock();
        let is_new = !table.contains_key(&id);
        table.entry(id).or_default().push(tracked);
        let is_crowded = is_new && table.len() % MANY_PARKED == 0;
        let crowd = if is_crowded { std::mem::take(&mut *table) } else { HashMap::new() };
        FILES_PARKED.store(table.len(), Ordering::Relaxed);
        crowd
    };
    // Now and then there are too many of them to keep those that need not be kept.
    for (id, parked) in crowd {
        if parked.first().and_then(Tracked::file).is_some_and(|file| ranges::others(file) == Others::Nobody) {
            drop(parked);
        } else {
            let mut table = PARKED.lock();
            table.entry(id).or_default().extend(parked);
            FILES_PARKED.store(table.len(), Ordering::Relaxed);
        }
    }
}

/// Puts away a description that somebody opened only to look, and found `others` to have locks on its file. Where nothing
/// says that this process may be one of them, it is closed: who looks at many files must not keep them all open.
pub(in crate::mechanism) fn put_away_seen(tracked: Tracked, others: Others) {
    if others == Others::ThisProcess || TAKES_RECORD_LOCKS.load(Ordering::Relaxed) {
        put_away(tracked);
    }
}

fn is_safe_to_close(file: &File) -> bool {
    match ranges::others(file) {
        Others::Nobody => !TAKES_RECORD_LOCKS.load(Ordering::Relaxed) || !ranges::CLOSE_GIVES_UP,
        Others::Somebody => false,
        Others::ThisProcess => {
            expect_record_locks();
            false
        }
    }
}
