//! Open files that a forked child closes.
//!
//! A forked child must not keep its parent's locks alive, and a lock lives as long as any copy of its
//! descriptor. So every descriptor of ours is listed (`listing`) from the moment it is opened to the moment it
//! is closed, and the child closes its copies before it runs anything else:
//!
//! - [`Tracked::open`] announces an opening (`transit`), opens, and lists the new descriptor. A fork waits until no
//!   opening and no closing is under way, and none begins until the fork is over.
//! - The child closes what is listed, if it is still the file that was opened. Nothing of the parent's is unlocked by
//!   that: `flock` goes with the last copy, and the parent has its own.
//! - A `Tracked` that finds itself in another generation than it was opened in forgets its number, which
//!   may be another file's by now.

use std::fs::File;
use std::io;
use std::mem;

use super::listing::{self, Entry};
use super::transit::Transit;
use super::{generation, watch_forks};
use crate::sys::{self, Descriptor, FileId, Stamp, names};

/// An open file that a forked child closes.
#[derive(Debug)]
pub(crate) struct Tracked {
    /// Taken only when it is closed.
    file: Option<File>,
    stamp: Stamp,
    generation: u64,
}

impl Tracked {
    pub(crate) fn open(open: impl FnOnce() -> io::Result<File>) -> io::Result<Self> {
        watch_forks();
        let _transit = Transit::begin();
        let file = open()?;
        let stamp = names::stamp_of(&file)?;
        listing::list((sys::descriptor(&file), stamp.id));
        Ok(Self { file: Some(file), stamp, generation: generation() })
    }

    /// What the file was when it was opened.
    pub(crate) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The file, unless it belongs to an ancestor of this process.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref().filter(|_| self.generation == generation())
    }

    /// Closes the file.
    ///
    /// # Errors
    /// The operating system's, which a drop keeps to itself. It is closed all the same.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        if self.generation != generation() {
            mem::forget(file);
            return Ok(());
        }
        let entry = (sys::descriptor(&file), self.stamp.id);
        let _transit = Transit::begin();
        listing::unlist(entry);
        sys::close(file)
    }

    /// As [`Tracked::file`], where an ancestor's file is an error.
    pub(crate) fn own_file(&self) -> io::Result<&File> {
        self.file().ok_or_else(|| io::Error::other("inherited by a forked process"))
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// An open file of somebody else's, of which a forked child closes its copy: who opened it closes it here.
///
/// It may be closed before this is dropped: a child looks what the number stands for.
#[derive(Debug)]
pub struct Listed {
    entry: Entry,
    generation: u64,
}

impl Listed {
    /// Lists the file of an open descriptor, on Windows a handle.
    ///
    /// # Errors
    /// The operating system's, where there is no such descriptor.
    pub fn new(descriptor: Descriptor) -> io::Result<Self> {
        watch_forks();
        let entry = (descriptor, sys::with_borrowed(descriptor, names::stamp_of)?.id);
        listing::list_others(entry);
        Ok(Self { entry, generation: generation() })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> FileId {
        self.entry.1
    }

    /// Whether it was listed by an ancestor of this process.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.generation != generation()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if !self.is_inherited() {
            listing::unlist_others(self.entry);
        }
    }
}
