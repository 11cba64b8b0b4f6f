//! A place in the kernel's queue: the description on which a process waits.

use std::fs::File;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{KernelGuard, Removal, failed};
use crate::error::Error;
use crate::fork::Tracked;
use crate::mechanism::{CloseErrors, Guard, Place};
use crate::sys::{self, FileId};

/// The lock file, opened to wait for its lock.
#[derive(Debug)]
pub(super) struct KernelPlace {
    id: FileId,
    /// Taken only by [`Place::into_guard`] and `drop`.
    opened: Option<Tracked>,
    path: PathBuf,
    /// The file is to go when nobody has or wants its lock any more.
    removal: Option<Removal>,
    close_errors: CloseErrors,
}

impl KernelPlace {
    pub(super) fn new(
        file: Tracked,
        path: &Path,
        removal: Option<Removal>,
        close_errors: CloseErrors,
    ) -> Self {
        Self { id: file.stamp().id, opened: Some(file), path: path.to_owned(), removal, close_errors }
    }

    /// The file; an error in a forked child, whose parent's it is.
    fn own_file(&self) -> io::Result<&File> {
        self.opened.as_ref().ok_or(io::ErrorKind::NotFound)?.own_file()
    }
}

impl Drop for KernelPlace {
    /// Who gives up may be the one for whose sake the last holder left the file there.
    fn drop(&mut self) {
        let Some(removal) = self.removal.take() else { return };
        self.leave_line();
        if let Some(file) = &mut self.opened {
            drop(removal.remove_if_idle(file));
        }
    }
}

impl Place for KernelPlace {
    fn file(&self) -> Option<FileId> {
        Some(self.id)
    }

    fn wait_for_turn(&self, limit: Option<Duration>) -> io::Result<bool> {
        sys::wait_for_head_of_line(self.own_file()?, limit)
    }

    fn leave_line(&self) {
        if let Ok(file) = self.own_file() {
            sys::leave_line(file);
        }
    }

    fn is_line_reported_stuck(&self) -> bool {
        self.own_file().is_ok_and(sys::is_line_reported_stuck)
    }

    fn report_stuck_line(&self) {
        if let Ok(file) = self.own_file() {
            sys::report_stuck_line(file);
        }
    }

    fn wait_for_lock(&self, limit: Duration) -> io::Result<bool> {
        sys::wait_for_lock(self.own_file()?, Some(limit))
    }

    fn into_guard(self: Arc<Self>) -> Result<Option<Box<dyn Guard>>, Error> {
        let mut place = match Arc::try_unwrap(self) {
            Ok(place) => place,
            Err(place) => {
                // Who else has it may stand in a line that does not move, and would keep the lock meanwhile.
                let unlocked = place.own_file().and_then(sys::unlock);
                return unlocked.map(|()| None).map_err(|error| failed("unlock", &place.path, error));
            }
        };
        let id = place.id;
        let is_current = sys::is_at(&place.path, id).map_err(|error| failed("stat", &place.path, error))?;
        let Some(file) = place.opened.take().filter(|_| is_current) else { return Ok(None) };
        let (path, removal) = (mem::take(&mut place.path), place.removal.take());
        Ok(Some(Box::new(KernelGuard { id, file, path, removal, close_errors: place.close_errors })))
    }
}
