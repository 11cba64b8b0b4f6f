//! A held marker, and how it is given back: only one's own is removed.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::courtesy;
use super::draft::OwnMarker;
use super::site::Site;
use crate::error::Error;
use crate::mechanism::at_exit::{self, Leftover};
use crate::mechanism::{CloseErrors, Guard, ReleaseError};
use crate::record::RELEASED;
use crate::sys::{self, At, FileId, names};

/// A marker of this process, at its name.
#[derive(Debug)]
struct Held {
    /// Closed first: that wakes the next one.
    draft: OwnMarker,
    site: Site,
    /// It was withdrawn, or somebody is about to.
    is_withdrawn: AtomicBool,
}

impl Held {
    /// Takes the marker away from its name, or sees to it that it holds nothing wherever it is.
    ///
    /// Does nothing in a forked child: the marker is the parent's.
    fn withdraw(&self) -> io::Result<()> {
        let (Some(file), Ok(at)) = (self.draft.file.file(), self.site.at()) else { return Ok(()) };
        // Two that do it at once, a release and the end of the process, would both find the marker at its name, and
        // the slower one remove the next holder's.
        if self.is_withdrawn.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        if sys::has_waiters(file) {
            courtesy::owe(&self.site.name);
        }
        self.remove_or_disown(file, at).inspect_err(|_| self.is_withdrawn.store(false, Ordering::Relaxed))
    }

    fn remove_or_disown(&self, file: &File, at: At<'_>) -> io::Result<()> {
        match names::look(at)? {
            Some(stamp) if stamp.id == self.draft.id() => names::remove(at),
            // A contender may have it aside, and put it back after this.
            Some(_) | None if names::stamp_of(file)?.links > 0 => write_released(file),
            Some(_) | None => Ok(()),
        }
    }
}

impl Leftover for Held {
    fn clear_away(self: Arc<Self>) {
        drop(self.withdraw());
    }
}

fn write_released(mut file: &File) -> io::Result<()> {
    file.rewind()?;
    file.write_all(RELEASED)?;
    file.set_len(RELEASED.len() as u64)
}

/// The lock of a marker. Its drop gives the lock back.
#[derive(Debug)]
pub(super) struct MarkerGuard {
    /// Taken only when it is given back.
    held: Option<Arc<Held>>,
    id: FileId,
    close_errors: CloseErrors,
}

impl MarkerGuard {
    pub(super) fn new(site: Site, draft: OwnMarker, close_errors: CloseErrors) -> Self {
        let id = draft.id();
        let held = Arc::new(Held { draft, site, is_withdrawn: AtomicBool::new(false) });
        at_exit::note(&held);
        Self { held: Some(held), id, close_errors }
    }

    /// Closes the marker's file, which has left its name; one who removes markers at the end of the process may do it
    /// instead, if he has it in hand just now.
    fn close(&mut self) -> Result<(), Error> {
        let Some(held) = self.held.take() else { return Ok(()) };
        match Arc::try_unwrap(held) {
            Ok(Held { mut draft, site, .. }) => {
                draft.file.close().map_err(|error| site.failed("close", error))
            }
            Err(_) => Ok(()),
        }
    }
}

impl Guard for MarkerGuard {
    fn file(&self) -> FileId {
        self.id
    }

    fn open_file(&self) -> Option<&File> {
        self.held.as_ref().and_then(|held| held.draft.file.file())
    }

    fn release(mut self: Box<Self>) -> Result<(), ReleaseError> {
        let Some(held) = &self.held else { return Ok(()) };
        if let Err(error) = held.withdraw() {
            let error = held.site.failed("unlink", error);
            return Err(ReleaseError { guard: Some(self), error });
        }
        match self.close() {
            Err(error) if self.close_errors == CloseErrors::Raise => Err(ReleaseError { guard: None, error }),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for MarkerGuard {
    fn drop(&mut self) {
        // Nobody can be told. A marker that stays is judged by its record when this process has ended.
        if let Some(held) = &self.held {
            drop(held.withdraw());
        }
        drop(self.close());
    }
}
