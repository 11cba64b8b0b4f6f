//! A place in the kernel's queue: the description on which a process waits.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{KernelGuard, failed};
use crate::error::Error;
use crate::fork::Tracked;
use crate::mechanism::{Guard, Place};
use crate::sys::{self, FileId};

/// The lock file, opened to wait for its lock.
#[derive(Debug)]
pub(super) struct KernelPlace {
    pub(super) file: Tracked,
    pub(super) path: PathBuf,
}

impl Place for KernelPlace {
    fn file(&self) -> Option<FileId> {
        Some(self.file.facts().id)
    }

    fn wait_for_turn(&self, limit: Option<Duration>) -> io::Result<bool> {
        sys::wait_for_head_of_line(self.file.own_file()?, limit)
    }

    fn leave_line(&self) {
        if let Ok(file) = self.file.own_file() {
            sys::leave_line(file);
        }
    }

    fn is_line_reported_stuck(&self) -> bool {
        self.file.own_file().is_ok_and(sys::is_line_reported_stuck)
    }

    fn report_stuck_line(&self) {
        if let Ok(file) = self.file.own_file() {
            sys::report_stuck_line(file);
        }
    }

    fn wait_for_lock(&self, limit: Duration) -> io::Result<bool> {
        sys::wait_for_lock(self.file.own_file()?, Some(limit))
    }

    fn into_guard(self: Arc<Self>) -> Result<Option<Box<dyn Guard>>, Error> {
        let Self { file, path } = match Arc::try_unwrap(self) {
            Ok(place) => place,
            Err(place) => {
                // Who else has it may stand in a line that does not move, and would keep the lock meanwhile.
                let unlocked = place.file.own_file().and_then(sys::unlock);
                return unlocked.map(|()| None).map_err(|error| failed("unlock", &place.path, error));
            }
        };
        let id = file.facts().id;
        let is_current = sys::is_at(&path, id).map_err(|error| failed("stat", &path, error))?;
        Ok(is_current.then(|| Box::new(KernelGuard { id, file, path }) as Box<dyn Guard>))
    }
}
