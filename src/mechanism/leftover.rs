//! What is left over of locks, and how somebody who holds nothing removes it.
//!
//! A lock file goes in the way in which a holder removes it (`kernel/leftover.rs`), and a marker in that of whoever takes a
//! dead owner's place. Nothing else is touched: what is no regular file, holds data, or has another name is somebody's.
//!
//! An empty file can also be the marker of a program that is about to write into it, or (filelock up to 3.21) never will.
//! So it must have been there for a while; the latter cannot be told from a lock file that nobody holds.

use std::path::Path;
use std::time::Duration;

use super::marker::{self, MarkerLock, Site};
use super::{Attempt, Manners, Mechanism, kernel};
use crate::error::{Error, ErrorKind};
use crate::sys::{Kind, names};

/// What is at a path, to somebody who removes what is left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// A lock file that nobody holds. It was removed, if that was asked for.
    LockFile,
    /// A marker whose owner is proved dead. It was removed, if that was asked for.
    Marker,
    /// Somebody holds it or stands in line for it, or may do so.
    InUse,
    /// It has not been there for long.
    Young,
    /// It holds data, has another name, or is no regular file.
    NoLockFile,
    /// The locks of this file system say nothing of other machines, or nothing at all.
    Unknown,
    /// There is nothing, or something else than a moment before.
    Gone,
}

/// Looks what is at `path`, and with `removes` removes it if it is left over. An empty file must have been there for
/// `min_age`, by the wall clock.
///
/// # Errors
/// Those of the operating system. Nothing is removed then.
pub fn visit_leftover(path: &Path, min_age: Duration, removes: bool) -> Result<Leftover, Error> {
    let Some(site) = Site::find(path)? else { return Ok(Leftover::Gone) };
    let looked = site.at().and_then(names::look).map_err(|error| site.failed("stat", error))?;
    let Some(stamp) = looked else { return Ok(Leftover::Gone) };
    if stamp.kind != Kind::Regular {
        return Ok(Leftover::NoLockFile);
    }
    if stamp.size > 0 {
        return match marker::is_abandoned(&site, &stamp) {
            Ok(Some(true)) if removes => remove_marker(path),
            Ok(Some(true)) => Ok(Leftover::Marker),
            Ok(Some(false)) => Ok(Leftover::InUse),
            Ok(None) => Ok(Leftover::NoLockFile),
            Err(error) if error.kind() == ErrorKind::Refused => Ok(Leftover::NoLockFile),
            Err(error) => Err(error),
        };
    }
    if !stamp.is_bare_lock_file() {
        return Ok(Leftover::NoLockFile);
    }
    if marker::age(&stamp) < min_age {
        return Ok(Leftover::Young);
    }
    kernel::visit_leftover(site, path, stamp.id, removes)
}

/// Takes the dead owner's place, and gives it up.
fn remove_marker(path: &Path) -> Result<Leftover, Error> {
    match MarkerLock::default().try_acquire(path, Manners::Polite.into())? {
        Attempt::Acquired(guard) => guard.release().map(|()| Leftover::Marker).map_err(|failed| failed.error),
        Attempt::Contended(_) | Attempt::Interrupted => Ok(Leftover::InUse),
    }
}
