//! Removing the lock file as the lock is given back.
//!
//! The name goes first, then the lock, so that who gets the lock of the removed file finds, when it looks, that this is
//! not the file at the path any more, and who comes to the path finds a file that nobody has locked under another name.
//! Only who has the file at the path locked takes its name away, and so no holder's file loses it.
//!
//! A file for which others stand in line stays: they would all have to move to a new one, and those who come would be
//! there first. Whoever is last removes it, also who gives up waiting and finds it free.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::fork::Tracked;
use crate::mechanism::marker::Site;
use crate::sys::{self, FileId, names};

/// The name of a lock file that is to go. It stays the same one when the working directory changes.
#[derive(Debug)]
pub(super) struct Removal(Box<Site>);

impl Removal {
    /// `None`: the folder cannot be kept in mind, and the file will stay.
    pub(super) fn of(path: &Path) -> Option<Self> {
        Site::open(path).ok().map(Self::at)
    }

    pub(super) fn at(site: Site) -> Self {
        Self(Box::new(site))
    }

    /// Takes the name away from `file`, which the caller has locked, unless others stand in line; `true`: the path is
    /// free, and the lock excludes nobody any more who comes to it.
    ///
    /// # Errors
    /// Those of removing it.
    pub(super) fn remove_before_unlock(&self, file: &File, id: FileId) -> io::Result<bool> {
        Ok(names::REMOVES_OPEN_FILES && !sys::is_line_occupied(file, id) && self.remove(id)?)
    }

    /// Removes a file whose lock the caller has given back, or has waited for and wants no longer, if nobody else has
    /// it or stands in line for it; `true`: it has gone.
    ///
    /// A holder leaves the file to those in line, and the one there may give up at that moment. So the holder looks for
    /// him once more when it has unlocked, and he, when he has left the line, whether the lock is free: one of them
    /// comes after the other.
    ///
    /// A non-blocking attempt is refused if it falls between the lock and the unlocking. Who only looks cannot know that
    /// the lock is free.
    ///
    /// # Errors
    /// Those of removing it.
    pub(super) fn remove_if_idle(self, file: &mut Tracked) -> io::Result<bool> {
        let id = file.stamp().id;
        if !names::REMOVES_OPEN_FILES {
            drop(file.close());
            return self.remove(id);
        }
        let Some(file) = file.file() else { return Ok(false) };
        if sys::is_line_occupied(file, id) || sys::try_lock(file).is_err() {
            return Ok(false);
        }
        let removed = self.remove(id);
        drop(sys::unlock(file));
        removed
    }

    fn remove(&self, id: FileId) -> io::Result<bool> {
        names::remove_lock_file(self.0.at()?, id)
    }
}
