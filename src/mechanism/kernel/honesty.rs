//! Whether a lock call that says yes has locked anything.
//!
//! On some network, FUSE and container mounts the call succeeds for everybody and excludes nobody. A file system
//! that is not known to be one of this machine's has to prove itself once: a second open file description of a file
//! that we have just locked must be refused.

use std::fs::File;
use std::io;
use std::path::Path;

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
pub(super) fn tell_of_fallback(path: &Path, id: FileId) {
    let mut findings = FINDINGS.lock();
    let finding = findings.iter_mut().find(|finding| finding.device == id.device && !finding.is_told);
    let Some(finding) = finding else { return };
    finding.is_told = true;
    drop(findings);
    notice::post(format!(
        "{} succeeds for everybody on the file system of {}, and excludes nobody: locks there go by a marker beside \
         the lock file, its name with .soft after it",
        sys::MECHANISM,
        path.display(),
    ));
}

fn second_lock(path: &Path, id: FileId) -> io::Result<Option<Honesty>> {
    // What is at the path exists, so the mode for a new file does not matter.
    let second = Tracked::open(|| sys::open_lock_file(path, None))?;
    let Some(file) = second.file().filter(|_| second.facts().id == id) else { return Ok(None) };
    match sys::try_lock(file) {
        Ok(()) => Ok(Some(Honesty::Dishonest)),
        Err(error) if sys::classify(&error) == Verdict::Contended => Ok(Some(Honesty::Honest)),
        Err(error) => Err(error),
    }
}
