//! What the whole process knows of its locks: open descriptors, holds, forks.
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

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use crate::fork;
use crate::owner::OwnerId;
use crate::sys::{self, Descriptor, Facts, FileId};

/// How long a fork waits for an `open` or `close` of another thread, e.g. on a frozen NFS mount. A child
/// that did not wait may keep a copy of what was being opened.
const FORK_PATIENCE: Duration = Duration::from_secs(5);

/// Names a lock object in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockId(pub(crate) u64);

impl LockId {
    /// A name that no other lock object has.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A first-level hold of a lock object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) lock: LockId,
    pub(crate) owner: OwnerId,
    pub(crate) file: FileId,
}

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
    held: Vec<Held>,
}

impl Table {
    const fn new() -> Self {
        Self { descriptors: Vec::new(), in_transit: 0, forks_waiting: 0, held: Vec::new() }
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
    /// Taken only by `drop`.
    file: Option<File>,
    facts: Facts,
    generation: u64,
}

impl Tracked {
    pub(crate) fn open(open: impl FnOnce() -> io::Result<File>) -> io::Result<Self> {
        watch_forks();
        let transit = Transit::begin();
        let opened = open().and_then(|file| Ok((sys::facts(&file)?, file)));
        let mut table = transit.end();
        let (facts, file) = opened?;
        table.descriptors.push((sys::descriptor(&file), facts.id));
        Ok(Self { file: Some(file), facts, generation: fork::generation() })
    }

    /// What the file was when it was opened.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The file, unless it belongs to an ancestor of this process.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref().filter(|_| self.generation == fork::generation())
    }

    /// As [`Tracked::file`], where an ancestor's file is an error.
    pub(crate) fn own_file(&self) -> io::Result<&File> {
        self.file().ok_or_else(|| io::Error::other("inherited by a forked process"))
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if self.generation != fork::generation() {
            mem::forget(file);
            return;
        }
        let descriptor = (sys::descriptor(&file), self.facts.id);
        let transit = Transit::begin_with(|table| {
            if let Some(index) = table.descriptors.iter().rposition(|&listed| listed == descriptor) {
                table.descriptors.swap_remove(index);
            }
        });
        drop(file);
        drop(transit);
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

/// Records a hold, until [`forget`].
pub(crate) fn record(held: Held) {
    table().held.push(held);
}

/// Takes a hold of `lock` on `file` off the record.
pub(crate) fn forget(lock: LockId, file: FileId) -> Option<Held> {
    let mut table = table();
    let index = table.held.iter().rposition(|held| held.lock == lock && held.file == file)?;
    Some(table.held.swap_remove(index))
}

/// Takes the hold of `lock` that `owner` has off the record.
pub(crate) fn forget_owner(lock: LockId, owner: OwnerId) {
    table().held.retain(|held| (held.lock, held.owner) != (lock, owner));
}

/// Takes all holds of `lock` off the record.
pub(crate) fn forget_all(lock: LockId) {
    table().held.retain(|held| held.lock != lock);
}

/// Whether `owner` holds `file` through another lock object than `asking`: waiting would never end.
pub(crate) fn would_deadlock(asking: LockId, owner: OwnerId, file: FileId) -> bool {
    table().held.iter().any(|held| held.file == file && held.owner == owner && held.lock != asking)
}

/// Whether any lock object of this process holds `file`.
#[must_use]
pub fn is_held_here(file: FileId) -> bool {
    table().held.iter().any(|held| held.file == file)
}

static HANDLERS: Once = Once::new();

/// Has every later fork of this process noticed.
///
/// The first acquisition does it too. But a fork by another thread at that very moment would leave the child
/// waiting for ever for a thread that it does not have; so a program with threads calls this first.
pub fn watch_forks() {
    HANDLERS.call_once(|| {
        sys::mark_process();
        sys::install_fork_handlers(before_fork, after_fork_in_parent, after_fork_in_child);
    });
}

/// Notices that this process was forked without the handlers (by a bare `clone` or `_Fork`): it has no mark. Asked as
/// an acquisition begins and as a release does.
pub(crate) fn notice_fork() {
    watch_forks();
    if !sys::is_process_marked() && sys::mark_process() {
        become_child(TABLE.try_lock().ok());
    }
}

thread_local! {
    /// The table, locked from just before a fork until just after it.
    static FORKING: RefCell<Option<MutexGuard<'static, Table>>> = const { RefCell::new(None) };
}

extern "C" fn before_fork() {
    let mut table = table();
    table.forks_waiting += 1;
    let settled = SETTLED.wait_timeout_while(table, FORK_PATIENCE, |table| table.in_transit > 0);
    let (mut table, _) = settled.unwrap_or_else(PoisonError::into_inner);
    table.forks_waiting -= 1;
    // Where a thread forks from its very last destructor, the guard is dropped at once instead.
    let _unreachable = FORKING.try_with(|forking| forking.borrow_mut().replace(table));
}

extern "C" fn after_fork_in_parent() {
    drop(take_forking());
    FORKED.notify_all();
}

extern "C" fn after_fork_in_child() {
    sys::mark_process();
    become_child(take_forking());
}

fn take_forking() -> Option<MutexGuard<'static, Table>> {
    FORKING.try_with(|forking| forking.borrow_mut().take()).ok().flatten()
}

fn become_child(table: Option<MutexGuard<'static, Table>>) {
    fork::enter_child();
    let Some(mut table) = table else { return };
    for (descriptor, id) in table.descriptors.drain(..) {
        sys::close_inherited(descriptor, id);
    }
    table.in_transit = 0;
    table.forks_waiting = 0;
    table.held.clear();
}
