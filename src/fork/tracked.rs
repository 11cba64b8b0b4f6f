//! Open files that a forked child closes.
//!
//! A forked child must not keep its parent's locks alive, and a lock lives as long as any copy of its
//! descriptor. So every descriptor of ours is listed here from the moment it is opened to the moment it
//! is closed, and the child closes its copies before it runs anything else:
//!
//! - [`Tracked::open`] announces an opening, opens, and lists the new descriptor. A fork waits until no
//!   opening and no closing is under way, and none begins until the fork is over.
//! - The child closes what is listed, if it is still the file that was opened. Nothing of the parent's is unlocked by
//!   that: `flock` goes with the last copy, and the parent has its own.
//! - A `Tracked` that finds itself in another generation than it was opened in forgets its number, which
//!   may be another file's by now.

use std::fs::File;
use std::io;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{generation, watch_forks};
use crate::sys::{self, Descriptor, FileId, Stamp, names};

/// How long a fork waits for an `open` or `close` of another thread, e.g. on a frozen NFS mount. A child
/// that did not wait may keep a copy of what was being opened.
const FORK_PATIENCE: Duration = Duration::from_secs(5);

/// A standard mutex guards it: unlike `parking_lot`'s, it can be unlocked by the forking thread in the
/// child, whoever waited for it in the parent.
static TABLE: Mutex<Table> = Mutex::new(Table::new());
/// No opening or closing is under way.
static SETTLED: Condvar = Condvar::new();
/// No fork waits any more.
static FORKED: Condvar = Condvar::new();

#[derive(Debug)]
struct Table {
    descriptors: Vec<(Descriptor, FileId)>,
    /// Openings and closings under way.
    in_transit: usize,
    /// Forks that wait for these to end.
    forks_waiting: usize,
}

impl Table {
    const fn new() -> Self {
        Self { descriptors: Vec::new(), in_transit: 0, forks_waiting: 0 }
    }

    fn unlist(&mut self, entry: (Descriptor, FileId)) {
        if let Some(index) = self.descriptors.iter().rposition(|&listed| listed == entry) {
            self.descriptors.swap_remove(index);
        }
    }

    fn arrive(&mut self) {
        // The child of a fork that ran out of patience has already forgotten the departure.
        self.in_transit = self.in_transit.saturating_sub(1);
        // Waking nobody would still be a system call.
        if self.in_transit == 0 && self.forks_waiting > 0 {
            SETTLED.notify_all();
        }
    }
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        let transit = Transit::begin();
        let opened = open().and_then(|file| Ok((names::stamp_of(&file)?, file)));
        let mut table = transit.end();
        let (stamp, file) = opened?;
        table.descriptors.push((sys::descriptor(&file), stamp.id));
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
        let _transit = Transit::begin_with(|table| table.unlist(entry));
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
    entry: (Descriptor, FileId),
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
        table().descriptors.push(entry);
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
            table().unlist(self.entry);
        }
    }
}

/// An opening or closing under way. It ends also where it panics, or no fork would begin any more.
struct Transit;

impl Transit {
    fn begin() -> Self {
        Self::begin_with(|_| {})
    }

    fn begin_with(change: impl FnOnce(&mut Table)) -> Self {
        // Fair to the fork: with many threads there may never be a moment in which none opens by chance.
        let fork_waits = |table: &mut Table| table.forks_waiting > 0;
        let table = FORKED.wait_while(table(), fork_waits);
        let mut table = table.unwrap_or_else(PoisonError::into_inner);
        change(&mut table);
        table.in_transit += 1;
        Self
    }

    /// Ends it, with the table still in hand.
    fn end(self) -> MutexGuard<'static, Table> {
        mem::forget(self);
        let mut table = table();
        table.arrive();
        table
    }
}

impl Drop for Transit {
    fn drop(&mut self) {
        table().arrive();
    }
}

/// No file of ours is opened or closed as long as this is there, and the table is locked.
pub(super) struct Still(MutexGuard<'static, Table>);

impl Still {
    /// Waits for those that are opened or closed just now, but not for ever.
    pub(super) fn begin() -> Self {
        let mut table = table();
        table.forks_waiting += 1;
        let settled = SETTLED.wait_timeout_while(table, FORK_PATIENCE, |table| table.in_transit > 0);
        let (mut table, _) = settled.unwrap_or_else(PoisonError::into_inner);
        table.forks_waiting -= 1;
        Self(table)
    }

    /// In a child that was made without the handlers: nothing moves there, but the table may have been locked.
    pub(super) fn at_once() -> Option<Self> {
        TABLE.try_lock().ok().map(Self)
    }

    /// Lets those go on that have waited for the end of the fork.
    pub(super) fn is_over() {
        FORKED.notify_all();
    }

    /// Closes a child's copies of all that its parent had open.
    pub(super) fn close_inherited(mut self) {
        for (descriptor, id) in self.0.descriptors.drain(..) {
            sys::close_inherited(descriptor, id);
        }
        self.0.in_transit = 0;
        self.0.forks_waiting = 0;
    }
}
