//! A lock file that nobody holds, removed by somebody who does not want the lock.

use std::io;
use std::path::Path;

use super::removal::Removal;
use super::{KernelGuard, failed};
use crate::error::Error;
use crate::fork::Tracked;
use crate::mechanism::marker::Site;
use crate::mechanism::{CloseErrors, Leftover, byte_range};
use crate::sys::{self, FileId, Others, Verdict, names, ranges};

/// Looks whether anybody holds the empty file `id` at the name, and with `removes` removes it if nobody does.
///
/// Also by locks that are not this one's: the bytes that readers and writers lock, and any record lock.
///
/// # Errors
/// Those of the operating system.
pub(in crate::mechanism) fn visit(
    site: Site,
    path: &Path,
    id: FileId,
    removes: bool,
) -> Result<Leftover, Error> {
    let file = match Tracked::open(|| names::open_to_lock(site.at()?)) {
        Ok(file) if file.stamp().id != id => return Ok(Leftover::Gone),
        Ok(file) => file,
        Err(error) => return refusal("open", path, error),
    };
    let found = file.own_file().map(ranges::others).map_err(|error| failed("lock", path, error))?;
    if found != Others::Nobody {
        // The close would give up this process's record locks on the file, some other library's.
        byte_range::put_away_seen(file, found);
        return Ok(Leftover::InUse);
    }
    let mut guard =
        KernelGuard { id, file, path: path.to_owned(), removal: None, close_errors: CloseErrors::Suppress };
    let lock = || -> io::Result<bool> {
        let file = guard.file.own_file()?;
        sys::try_lock(file)?;
        match ranges::try_write(file) {
            // There are no such locks here.
            Err(error) if sys::classify(&error) == Verdict::Unsupported => {}
            locked => locked?,
        }
        // The head of the line has a lock on the turnstile.
        Ok(ranges::others(file) == Others::Nobody)
    };
    match lock() {
        Ok(true) => {}
        Ok(false) => return Ok(Leftover::InUse),
        Err(error) => return refusal("lock", path, error),
    }
    if !guard.is_there(path).map_err(|error| failed("stat", path, error))? {
        return Ok(Leftover::Gone);
    }
    match guard.is_honest(path).map_err(|error| failed("lock", path, error))? {
        Some(true) if !guard.is_of_this_host_only() => {}
        Some(_) => return Ok(Leftover::Unknown),
        None => return Ok(Leftover::Gone),
    }
    if !removes {
        return Ok(Leftover::LockFile);
    }
    let finish = || -> io::Result<bool> {
        let removal = Removal::at(site);
        let file = guard.file.own_file()?;
        if removal.remove_before_unlock(file, id)? {
            return Ok(true);
        }
        sys::unlock(file)?;
        removal.remove_if_idle(&mut guard.file)
    };
    let is_removed = finish().map_err(|error| failed("unlink", path, error))?;
    Ok(if is_removed { Leftover::LockFile } else { Leftover::InUse })
}

fn refusal(operation: &'static str, path: &Path, error: io::Error) -> Result<Leftover, Error> {
    match sys::classify(&error) {
        Verdict::Contended | Verdict::Interrupted => Ok(Leftover::InUse),
        Verdict::Missing => Ok(Leftover::Gone),
        Verdict::Unsupported => Ok(Leftover::Unknown),
        Verdict::Failed => Err(failed(operation, path, error)),
    }
}
