//! A place in the line for a byte-range lock.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::description::Description;
use super::{ByteRangeGuard, failed, refuse_unfit};
use crate::error::Error;
use crate::mechanism::{Guard, Mode, Place};
use crate::sys::{self, FileId, ranges};

/// A description that stands in line, and then waits for the lock.
///
/// A writer at the head of the line keeps RESERVED and PENDING while it sees to something else; a reader keeps nothing.
/// Dropping it gives everything back.
#[derive(Debug)]
pub(super) struct RangePlace {
    pub(super) description: Description,
    pub(super) path: PathBuf,
    pub(super) mode: Mode,
}

impl Place for RangePlace {
    fn file(&self) -> Option<FileId> {
        Some(self.description.id())
    }

    fn wait_for_turn(&self, limit: Option<Duration>) -> io::Result<bool> {
        sys::wait_for_head_of_line(self.description.file()?, limit)
    }

    fn leave_line(&self) {
        if let Ok(file) = self.description.file() {
            sys::leave_line(file);
        }
    }

    fn is_line_reported_stuck(&self) -> bool {
        self.description.file().is_ok_and(sys::is_line_reported_stuck)
    }

    fn report_stuck_line(&self) {
        if let Ok(file) = self.description.file() {
            sys::report_stuck_line(file);
        }
    }

    fn wait_for_lock(&self, limit: Duration) -> io::Result<bool> {
        let file = self.description.file()?;
        match self.mode {
            Mode::Shared => ranges::wait_to_read(file, limit),
            Mode::Exclusive => ranges::wait_to_write(file, limit),
        }
    }

    fn into_guard(self: Arc<Self>) -> Result<Option<Box<dyn Guard>>, Error> {
        let Some(Self { description, path, .. }) = Arc::into_inner(self) else { return Ok(None) };
        let is_current = sys::is_at(&path, description.id()).map_err(|error| failed("stat", &path, error))?;
        if !is_current {
            description.discard();
            return Ok(None);
        }
        refuse_unfit(&description, &path)?;
        Ok(Some(Box::new(ByteRangeGuard { description, path })))
    }
}
