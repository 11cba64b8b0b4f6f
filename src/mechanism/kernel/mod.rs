//! The kernel lock: `flock` on Unix, `LockFileEx` on Windows, on a file that stays where it is, unless it is asked to go.
//!
//! How it works: open the file (creating it), lock its open file description, and then look whether the
//! path still leads to this very file. A lock on a file that was removed or replaced meanwhile is no
//! lock, for the next one to come opens another file: close it and start again.
//!
//! What it guarantees: one holder among all open file descriptions of the file, whichever threads,
//! processes or programs have them. The kernel gives the lock back when the last copy of the description
//! is closed, so a crash leaves nothing behind. Content of the file is never read or changed.
//!
//! Who holds the lock may remove the file as it gives the lock back (`removal`): first the name, then the lock.
//!
//! Downsides: (1) advisory: it binds only those who ask. (2) A file that is removed *while it is held*
//! frees the path for the next one, and no one can tell the holder. (3) Some network file systems accept
//! the call and exclude nobody, and some systems do not have it: there a marker takes its place (`honesty`).

mod honesty;
mod leftover;
mod place;
mod removal;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use honesty::{Flaw, Honesty};
pub(super) use leftover::visit as visit_leftover;
use place::KernelPlace;
use removal::Removal;

use super::lock_file::{self, Opened, explained, failed, no_lock_file};
use super::{
    Attempt, CloseErrors, Family, Guard, Holder, Manners, MarkerLock, Mechanism, Place, ReleaseError, Terms,
};
use crate::error::{Error, ErrorKind};
use crate::fork::Tracked;
use crate::sys::{self, FileId, Kind, Stamp, Verdict, names};

/// How often an attempt starts again because the file was replaced under it. filelock 3.29 removes its
/// file at each release, so this happens in earnest; a file that is *never* the one at its path has inode
/// numbers that do not last (some FUSE file systems).
const REPLACEMENTS: usize = 64;

/// An exclusive lock of the operating system on a file.
///
/// Takes part with filelock's `FileLock` of every release and with `flock(1)`.
#[derive(Debug)]
pub struct KernelLock {
    mode: Option<u32>,
    /// Whether a marker takes the place of a lock that does nothing, or is not there.
    falls_back: bool,
    /// Whether the file goes with the hold.
    removes_file: bool,
    /// `None`: as the platform has it.
    close_errors: Option<CloseErrors>,
    /// The owner of the file that was last locked at the path, and one. It was a regular one, so that it need not be
    /// looked at before it is opened again; and who was trusted here is trusted again.
    known_owner: AtomicU64,
    /// Whether that file is one of this machine.
    is_known_local: AtomicBool,
    /// When nobody was last seen to stand in line, in nanoseconds since the machine began.
    unlined_at: AtomicU64,
}

/// For how long it counts that nobody stood in line: the question costs a tenth of a cycle, and who takes the lock again
/// and again with nothing in between need not ask each time. Somebody who waits is overtaken for so long at the most,
/// which is less than it takes to wake him.
const UNLINED_FOR: u64 = 20_000;

impl KernelLock {
    /// A lock whose file, if it has to be created, gets the permission bits `mode` exactly; `None` leaves
    /// them to the umask.
    #[must_use]
    pub fn new(mode: Option<u32>) -> Self {
        Self {
            mode,
            falls_back: true,
            removes_file: false,
            close_errors: None,
            known_owner: AtomicU64::new(0),
            is_known_local: AtomicBool::new(false),
            unlined_at: AtomicU64::new(0),
        }
    }

    /// On a file system where the lock does nothing, or does not exist, fail instead of going by a marker.
    #[must_use]
    pub fn without_fallback(self) -> Self {
        Self { falls_back: false, ..self }
    }

    /// Remove the lock file when the lock is given back and nobody stands in line for it.
    ///
    /// Only an empty regular file without another name goes. One that cannot be removed stays, without an error. Safe
    /// with everybody who looks, with the lock in hand, whether the file is still at its path.
    #[must_use]
    pub fn removing_file(self) -> Self {
        Self { removes_file: true, ..self }
    }

    /// What becomes of errors of closing the file. Unless this says so, nobody hears of them on Unix, and everybody on
    /// Windows.
    #[must_use]
    pub fn with_close_errors(self, close_errors: CloseErrors) -> Self {
        Self { close_errors: Some(close_errors), ..self }
    }

    fn close_errors(&self) -> CloseErrors {
        let platform = if sys::ERRORS_ARE_WIN32 { CloseErrors::Raise } else { CloseErrors::Suppress };
        self.close_errors.unwrap_or(platform)
    }

    /// What takes the place of a lock with a `flaw` on the file system `device`.
    fn fall_back(&self, flaw: Flaw, path: &Path, device: u64, terms: Terms) -> Result<Attempt, Error> {
        if !self.falls_back {
            let explanation = "the lock call succeeds for everybody on this file system, and excludes nobody";
            return Err(Error::new(ErrorKind::Unsupported, sys::MECHANISM, path).because(explanation));
        }
        honesty::tell_of_fallback(flaw, path, device);
        self.marker().try_acquire(&flaw.marker_path(path), terms)
    }

    fn marker(&self) -> MarkerLock {
        let marker = MarkerLock::new(self.mode);
        match self.close_errors {
            Some(close_errors) => marker.with_close_errors(close_errors),
            None => marker,
        }
    }
}

/// Removes the empty file at the path that we have created to lock it, and could not: as a marker it would be held for
/// ever. A contender who finds it in between takes the lock for held, and asks again.
fn remove_placeholder(path: &Path, placeholder: &Tracked) -> Result<(), Error> {
    let is_there = sys::is_at(path, placeholder.stamp().id).map_err(|error| failed("stat", path, error))?;
    if is_there { MarkerLock::remove(path).map_err(|error| failed("unlink", path, error)) } else { Ok(()) }
}

impl Default for KernelLock {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Mechanism for KernelLock {
    fn try_acquire(&self, path: &Path, terms: Terms) -> Result<Attempt, Error> {
        if let Some(device) = self.device_without_call(path) {
            return self.fall_back(Flaw::Missing, path, device, terms);
        }
        let mut removed = false;
        for round in 1..=REPLACEMENTS {
            let locked = match self.lock_whatever_is_there(path, terms.manners) {
                // Another machine has removed the file, maybe between two of the calls that open it.
                Err(error) if round < REPLACEMENTS && error.os_error().is_some_and(is_removal) => {
                    names::forget_path(path);
                    continue;
                }
                locked => locked?,
            };
            match locked {
                Locked::Yes(mut guard) => {
                    if guard.is_there(path).map_err(|error| failed("stat", path, error))? {
                        self.known_owner.store(mark_of(guard.file.stamp()), Ordering::Relaxed);
                        match guard.is_honest(path).map_err(|error| failed("lock", path, error))? {
                            Some(true) => {
                                let is_local = sys::is_device_known_local(guard.id.device);
                                self.is_known_local.store(is_local, Ordering::Relaxed);
                                guard.removal = self.removal(path);
                                return Ok(Attempt::Acquired(Box::new(guard)));
                            }
                            Some(false) => {
                                let device = guard.id.device;
                                drop(guard);
                                return self.fall_back(Flaw::DoesNothing, path, device, terms);
                            }
                            None => {}
                        }
                    }
                    removed = guard.is_removed();
                }
                Locked::NotImplemented(file, is_new) => {
                    honesty::note_missing(file.stamp().id.device);
                    if is_new {
                        remove_placeholder(path, &file)?;
                    }
                    return self.fall_back(Flaw::Missing, path, file.stamp().id.device, terms);
                }
                Locked::Contended(id) => return Ok(Attempt::Contended(id)),
                Locked::Interrupted => return Ok(Attempt::Interrupted),
            }
        }
        if removed {
            // Others keep replacing the file: they are busy with the lock.
            return Ok(Attempt::Contended(None));
        }
        Err(Error::new(ErrorKind::Unsupported, "lock", path)
            .because("the file system gives files no lasting identity"))
    }

    /// To open a file that was there, and to lock it. Where the file went with its last hold a new one has to be created,
    /// for which a file system may have to wait for its journal.
    fn attempts_at_once(&self) -> bool {
        !self.removes_file && self.is_known_local.load(Ordering::Relaxed)
    }

    /// A marker that nobody can lock wakes nobody.
    fn wakes_waiters(&self, path: &Path) -> bool {
        sys::is_path_known_local(path) && self.device_without_call(path).is_none()
    }

    fn holder(&self, path: &Path) -> Option<Holder> {
        self.device_without_call(path).and_then(|_| self.marker().holder(&Flaw::Missing.marker_path(path)))
    }

    fn family(&self) -> Option<Family> {
        let kind = match (self.falls_back, self.removes_file) {
            (true, false) => "kernel lock",
            (false, false) => "kernel lock, no other",
            (true, true) => "kernel lock on a file that goes",
            (false, true) => "kernel lock on a file that goes, no other",
        };
        Some(Family { kind, mode: self.mode })
    }

    fn open_place(&self, path: &Path, _terms: Terms) -> Result<Option<Arc<dyn Place>>, Error> {
        if self.device_without_call(path).is_some() {
            return Ok(None);
        }
        let Opened::Yes((tracked, _)) = self.open(path)? else { return Ok(None) };
        let wakes_waiters = |file| sys::is_known_local(file, tracked.stamp().id);
        if !tracked.file().is_some_and(wakes_waiters) {
            return Ok(None);
        }
        let place = KernelPlace::new(tracked, path, self.removal(path), self.close_errors());
        Ok(Some(Arc::new(place)))
    }
}

enum Locked {
    Yes(KernelGuard),
    Contended(Option<FileId>),
    Interrupted,
    /// There is no lock call, and a marker is to take its place; with whether this attempt created the file.
    NotImplemented(Tracked, bool),
}

impl KernelLock {
    /// The file system of `path`, if it was found to have no lock call, and a marker takes its place.
    fn device_without_call(&self, path: &Path) -> Option<u64> {
        if self.falls_back { honesty::missing_at(path) } else { None }
    }

    fn lock_whatever_is_there(&self, path: &Path, manners: Manners) -> Result<Locked, Error> {
        let (tracked, is_new) = match self.open(path)? {
            Opened::Yes(opened) => opened,
            Opened::Contended => return Ok(Locked::Contended(None)),
            Opened::Interrupted => return Ok(Locked::Interrupted),
        };
        let id = tracked.stamp().id;
        let Some(file) = tracked.file() else { return Ok(Locked::Interrupted) };
        if manners == Manners::Polite && self.is_line_occupied(file, id) {
            return Ok(Locked::Contended(Some(id)));
        }
        match sys::try_lock(file) {
            Ok(()) => {
                if manners == Manners::PastLine {
                    sys::report_stuck_line(file);
                }
                let (path, close_errors) = (path.to_owned(), self.close_errors());
                Ok(Locked::Yes(KernelGuard { id, file: tracked, path, removal: None, close_errors }))
            }
            Err(error) => match sys::classify(&error) {
                Verdict::Contended => Ok(Locked::Contended(Some(id))),
                Verdict::Interrupted => Ok(Locked::Interrupted),
                Verdict::Unsupported if self.falls_back && sys::is_not_implemented(&error) => {
                    Ok(Locked::NotImplemented(tracked, is_new))
                }
                verdict @ (Verdict::Unsupported | Verdict::Missing | Verdict::Failed) => {
                    Err(explained(verdict, sys::MECHANISM, path, error))
                }
            },
        }
    }

    /// Whether somebody stands in line, or hardly stood there a moment ago.
    fn is_line_occupied(&self, file: &File, id: FileId) -> bool {
        let now = u64::try_from(sys::process::since_boot().as_nanos()).unwrap_or(u64::MAX);
        let since = now.checked_sub(self.unlined_at.load(Ordering::Relaxed));
        if since.is_some_and(|since| since < UNLINED_FOR) {
            return false;
        }
        let is_occupied = sys::is_line_occupied(file, id);
        self.unlined_at.store(if is_occupied { 0 } else { now }, Ordering::Relaxed);
        is_occupied
    }

    /// How the file at the path will go, if it is to.
    fn removal(&self, path: &Path) -> Option<Removal> {
        self.removes_file.then(|| Removal::of(path)).flatten()
    }

    /// Opens the file that is at the path, if it is fit to be locked, and says whether it was created.
    fn open(&self, path: &Path) -> Result<Opened<(Tracked, bool)>, Error> {
        let known_owner = self.known_owner.load(Ordering::Relaxed);
        if known_owner == 0 {
            sys::check_kind(path).map_err(|error| no_lock_file(path, error))?;
        }
        let mut is_new = false;
        let mut open = || {
            Tracked::open(|| {
                let (file, created) = sys::open_lock_file(path, self.mode)?;
                is_new = created;
                Ok(file)
            })
        };
        let opened = match open() {
            Err(error) if sys::classify(&error) == Verdict::Missing => {
                sys::create_parents(path).map_err(|error| failed("mkdir", path, error))?;
                open()
            }
            opened => opened,
        };
        let tracked = match lock_file::opened(path, opened)? {
            Opened::Yes(tracked) => tracked,
            Opened::Contended => return Ok(Opened::Contended),
            Opened::Interrupted => return Ok(Opened::Interrupted),
        };
        let stamp = tracked.stamp();
        if stamp.kind != Kind::Regular {
            return Err(no_lock_file(path, sys::special_file_error()));
        }
        let is_trusted = || sys::is_trusted(path, stamp).map_err(|error| failed("stat", path, error));
        if mark_of(stamp) != known_owner && !is_trusted()? {
            let explanation = format!(
                "anybody may create files in this sticky folder, and this one belongs to uid {}",
                stamp.owner
            );
            return Err(
                Error::caused(ErrorKind::Refused, "lock", path, sys::distrust_error()).because(explanation)
            );
        }
        Ok(Opened::Yes((tracked, is_new)))
    }
}

/// The owner as [`KernelLock::known_owner`] has it.
fn mark_of(stamp: &Stamp) -> u64 {
    u64::from(stamp.owner) + 1
}

/// A lock that is held. Its drop closes the file, which gives the lock back as the last copy goes.
#[derive(Debug)]
struct KernelGuard {
    id: FileId,
    file: Tracked,
    path: PathBuf,
    /// The file is to go with the lock.
    removal: Option<Removal>,
    close_errors: CloseErrors,
}

impl KernelGuard {
    /// Unlocks the file, and removes it if it is to go. Does nothing in a forked child: the lock is the parent's.
    ///
    /// A file that cannot be removed stays, which harms nobody.
    ///
    /// # Errors
    /// Those of unlocking; the lock is still held then.
    fn give_back(&mut self) -> io::Result<()> {
        let Some(file) = self.file.file() else { return Ok(()) };
        let removal = self.removal.take();
        let before = removal.as_ref().map(|removal| removal.remove_before_unlock(file, self.id));
        if matches!(before, Some(Ok(true))) {
            // The path is free. A lock that stayed would end with the file.
            drop(sys::unlock(file));
            return Ok(());
        }
        if let Err(error) = sys::unlock(file) {
            self.removal = removal;
            return Err(error);
        }
        if let Some(removal) = removal {
            drop(removal.remove_if_idle(&mut self.file));
        }
        Ok(())
    }

    /// Whether the file that is locked is the one at the path, as the server knows: what was removed stays open.
    fn is_there(&self, path: &Path) -> io::Result<bool> {
        if self.file.file().is_some_and(|file| !sys::is_known_local(file, self.id)) {
            names::forget_path(path);
        }
        sys::is_at(path, self.id)
    }

    /// Whether the lock excludes anybody; `None`: the file at the path was replaced before that was known.
    fn is_honest(&self, path: &Path) -> io::Result<Option<bool>> {
        let Some(file) = self.file.file() else { return Ok(None) };
        let known = honesty::known(file, self.id);
        let honesty = if known.is_none() { honesty::prove(path, self.id)? } else { known };
        Ok(honesty.map(|honesty| honesty == Honesty::Honest))
    }

    /// Whether other hosts lock the file without our noticing.
    fn is_of_this_host_only(&self) -> bool {
        let is_local = self.file.file().is_some_and(|file| sys::is_known_local(file, self.id));
        !is_local && sys::locks_of_this_host_only(self.id).is_some()
    }

    fn is_removed(&self) -> bool {
        let has_no_name = |file: &File| names::stamp_of(file).is_ok_and(|stamp| stamp.links == 0);
        self.file.file().is_some_and(has_no_name)
    }
}

impl Guard for KernelGuard {
    fn file(&self) -> FileId {
        self.id
    }

    fn open_file(&self) -> Option<&File> {
        self.file.file()
    }

    fn is_released_at_once(&self) -> bool {
        self.removal.is_none() && sys::is_device_known_local(self.id.device)
    }

    /// Unlocks before it closes: a copy in a child that was made behind our back would keep the lock.
    fn release(mut self: Box<Self>) -> Result<(), ReleaseError> {
        if let Err(error) = self.give_back() {
            let error = failed("unlock", &self.path, error);
            return Err(ReleaseError { guard: Some(self), error });
        }
        match self.file.close() {
            Err(error) if self.close_errors == CloseErrors::Raise => {
                Err(ReleaseError { guard: None, error: failed("close", &self.path, error) })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for KernelGuard {
    fn drop(&mut self) {
        if self.removal.is_some() {
            // Nobody can be told, and the file is closed now.
            drop(self.give_back());
        }
    }
}

/// Whether it says that another machine has removed the file.
fn is_removal(error: &io::Error) -> bool {
    names::is_stale(error) || error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;

    use super::*;

    /// What an attempt comes to on a file system whose lock does nothing.
    #[test]
    fn a_lock_that_does_nothing_is_replaced_by_a_marker_or_is_an_error() -> Result<(), Box<dyn StdError>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.lock");
        let marker = folder.path().join("x.lock.soft");
        let id = FileId { device: 0, inode: 0 };
        let attempt =
            |lock: KernelLock| lock.fall_back(Flaw::DoesNothing, &path, id.device, Manners::Hasty.into());
        let error = attempt(KernelLock::default().without_fallback()).expect_err("there is no lock");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!marker.exists());
        let held = attempt(KernelLock::default())?;
        assert!(matches!(held, Attempt::Acquired(_)), "{held:?}");
        assert!(marker.exists());
        let refused = attempt(KernelLock::default())?;
        assert!(matches!(refused, Attempt::Contended(_)), "{refused:?}");
        Ok(())
    }

    #[test]
    fn a_file_is_removed_when_its_last_name_is() -> Result<(), Box<dyn StdError>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.lock");
        let locked = KernelLock::default().lock_whatever_is_there(&path, Manners::Hasty)?;
        let Locked::Yes(guard) = locked else { return Err("nobody has it".into()) };
        assert!(!guard.is_removed());
        // Not everywhere can an open file be removed.
        if std::fs::remove_file(&path).is_ok() {
            assert!(guard.is_removed());
        }
        Ok(())
    }
}
