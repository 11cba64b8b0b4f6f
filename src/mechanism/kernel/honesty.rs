//! Whether there is a lock call, and whether one that says yes has locked anything.
//!
//! On some network, FUSE and container mounts the call succeeds for everybody and excludes nobody. A file system
//! that is not known to be one of this machine's has to prove itself once: a second open file description of a file
//! that we have just locked must be refused. On others there is no such call (`ENOSYS`), and it says so.
//!
//! With either flaw the lock is a marker, and where it is depends on where filelock's is. Without the call filelock goes
//! by a marker at the path, and so do we: both exclude each other. Where the call does nothing filelock excludes nobody,
//! and its empty lock file is at the path for ever; a marker that is there is held, so ours has a name beside it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fork::ForkMutex;
use crate::fork::Tracked;
use crate::notice;
use crate::sys::{self, FileId, Verdict};

/// What the locks of a file system have shown to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Honesty {
    /// They exclude, as far as this machine can tell.
    Honest,
    /// They do nothing.
    Dishonest,
    /// There are none.
    Missing,
}

/// Why a marker takes the place of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The lock call succeeds for everybody.
    DoesNothing,
    /// There is no lock call.
    Missing,
}

impl Flaw {
    /// Where the marker is.
    pub(super) fn marker_path(self, path: &Path) -> PathBuf {
        let mut marker = path.as_os_str().to_owned();
        if self == Self::DoesNothing {
            marker.push(".soft");
        }
        marker.into()
    }
}

/// What was found out about a file system.
#[derive(Debug)]
struct Finding {
    device: u64,
    honesty: Honesty,
    is_told: bool,
}

/// Of each file system that was asked. A forked child asks again.
static FINDINGS: ForkMutex<Vec<Finding>> = ForkMutex::new();

/// Whether any file system was found without the call: nearly never, and whoever locks asks. A child that starts with
/// its parent's answer asks once too often.
static IS_ANY_MISSING: AtomicBool = AtomicBool::new(false);

/// Remembers that there is no lock call on a file system.
pub(super) fn note_missing(device: u64) {
    let mut findings = FINDINGS.lock();
    if !findings.iter().any(|finding| finding.device == device) {
        findings.push(Finding { device, honesty: Honesty::Missing, is_told: false });
    }
    drop(findings);
    IS_ANY_MISSING.store(true, Ordering::Relaxed);
}

/// The file system of the folder of `path`, if it was found to have no lock call.
pub(super) fn missing_at(path: &Path) -> Option<u64> {
    if !IS_ANY_MISSING.load(Ordering::Relaxed) {
        return None;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let device = sys::id_at(folder).ok().flatten()?.device;
    let is_missing = |finding: &Finding| finding.device == device && finding.honesty == Honesty::Missing;
    FINDINGS.lock().iter().any(is_missing).then_some(device)
}

/// What is known of the file system of `file`.
pub(super) fn known(file: &File, id: FileId) -> Option<Honesty> {
    if sys::is_known_local(file, id) {
        return Some(Honesty::Honest);
    }
    FINDINGS.lock().iter().find(|finding| finding.device == id.device).map(|finding| finding.honesty)
}

/// Finds out, with the lock on the file `id` at `path` in hand; `None`: another file has come to be there.
///
/// # Errors
/// Those of opening and locking the file a second time: without a proof there is no lock.
pub(super) fn prove(path: &Path, id: FileId) -> io::Result<Option<Honesty>> {
    let Some(honesty) = second_lock(path, id)? else { return Ok(None) };
    {
        let mut findings = FINDINGS.lock();
        if findings.iter().any(|finding| finding.device == id.device) {
            return Ok(Some(honesty));
        }
        findings.push(Finding { device: id.device, honesty, is_told: false });
    }
    if let (Honesty::Honest, Some(mount)) = (honesty, sys::locks_of_this_host_only(id)) {
        notice::post(format!(
            "file locks on {} are honoured on this host only (mount option {}): programs on other hosts are not \
             excluded",
            mount.point, mount.option,
        ));
    }
    Ok(Some(honesty))
}

/// Says, once for each file system, that locks there go by markers.
pub(super) fn tell_of_fallback(flaw: Flaw, path: &Path, device: u64) {
    let mut findings = FINDINGS.lock();
    let finding = findings.iter_mut().find(|finding| finding.device == device && !finding.is_told);
    let Some(finding) = finding else { return };
    finding.is_told = true;
    drop(findings);
    let (call, path) = (sys::MECHANISM, path.display());
    notice::post(match flaw {
        Flaw::DoesNothing => format!(
            "{call} succeeds for everybody on the file system of {path}, and excludes nobody: locks there go by a \
             marker beside the lock file, its name with .soft after it"
        ),
        // The first part is filelock's, and may be what somebody filters by.
        Flaw::Missing => format!(
            "{call} not supported on this filesystem, falling back to SoftFileLock: a marker at {path} is the lock, and \
             so it is on all of that file system"
        ),
    });
}

fn second_lock(path: &Path, id: FileId) -> io::Result<Option<Honesty>> {
    // What is at the path exists, so the mode for a new file does not matter.
    let second = Tracked::open(|| Ok(sys::open_lock_file(path, None)?.0))?;
    let Some(file) = second.file().filter(|_| second.stamp().id == id) else { return Ok(None) };
    match sys::try_lock(file) {
        Ok(()) => Ok(Some(Honesty::Dishonest)),
        Err(error) if sys::classify(&error) == Verdict::Contended => Ok(Some(Honesty::Honest)),
        Err(error) => Err(error),
    }
}
