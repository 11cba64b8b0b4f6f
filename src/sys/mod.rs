//! The operating system: the only place with `cfg(target)` and `unsafe`.
//!
//! Every platform file offers the same names:
//!
//! | name | what it is |
//! |---|---|
//! | [`FileId`], [`Facts`], [`Verdict`] | shared types, below |
//! | `MECHANISM` | which call locks a file here: `"flock"`, `"LockFileEx"` or `"none"` |
//! | `ERRORS_ARE_WIN32` | what the numbers of errors are |
//! | `open_lock_file` | opens a lock file without following a link at its end |
//! | `facts` | identity and kind of an open file |
//! | `is_at` | whether a path still leads to a file |
//! | `check_names` | refuses a name that no file can have |
//! | `check_kind` | refuses what is no regular file before it is opened |
//! | `is_trusted`, `distrust_error` | a stranger's file in a folder that anybody may write to |
//! | `try_lock`, `unlock` | the advisory lock of an open file description |
//! | `classify` | what an error of the above means |
//! | `special_file_error` | the error for what is there but is no regular file |
//! | `Descriptor`, `descriptor`, `close_inherited`, `install_fork_handlers`, `process_id` | forks |
//! | `possible_holder` | which process may hold a file |
//! | `wakes_waiters`, `is_line_occupied`, `wait_for_head_of_line`, `leave_line`, `is_line_reported_stuck`, `report_stuck_line`, `wait_for_lock`, `spawn`, `interrupt` | waiting in the kernel, in a file of its own |

use std::path::Path;

#[cfg(all(unix, not(force_unsupported)))]
#[path = "unix.rs"]
mod platform;

#[cfg(all(windows, not(force_unsupported)))]
#[path = "windows.rs"]
mod platform;

#[cfg(any(force_unsupported, not(any(unix, windows))))]
#[path = "unsupported.rs"]
mod platform;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
mod proc_locks;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
mod interrupt;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
#[path = "line_linux.rs"]
mod line;

#[cfg(any(force_unsupported, not(target_os = "linux")))]
#[path = "line_elsewhere.rs"]
mod line;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
pub(crate) use interrupt::{interrupt, spawn};
#[cfg(any(force_unsupported, not(target_os = "linux")))]
pub(crate) use line::{interrupt, spawn};
pub(crate) use line::{
    is_line_occupied, is_line_reported_stuck, leave_line, report_stuck_line, wait_for_head_of_line,
    wait_for_lock, wakes_waiters,
};

pub(crate) use platform::{
    Descriptor, check_kind, check_names, classify, close_inherited, descriptor, distrust_error, facts,
    install_fork_handlers, is_at, is_trusted, open_lock_file, process_id, special_file_error, try_lock,
    unlock,
};
pub use platform::{ERRORS_ARE_WIN32, MECHANISM};

/// A file's identity, for as long as something keeps the file alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The file system (on Windows the volume).
    pub device: u64,
    /// The file on it.
    pub inode: u64,
}

/// What an open file is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) id: FileId,
    /// A regular file, rather than a folder, FIFO, socket or device.
    pub(crate) is_regular: bool,
    /// How many names it has; 0 once it was removed.
    pub(crate) links: u64,
    /// Its owner's uid, where the platform has such.
    pub(crate) owner: u32,
}

/// What an operating system's error means to somebody who wants a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    any(force_unsupported, not(unix)),
    allow(dead_code, reason = "not every platform gives every answer")
)]
pub(crate) enum Verdict {
    /// Somebody else has it.
    Contended,
    /// A signal came; the call says nothing about the lock.
    Interrupted,
    /// This file system or platform does not have the call.
    Unsupported,
    /// Something on the way to the file is missing.
    Missing,
    /// Anything else, known or unknown.
    Failed,
}

/// The process that may hold an advisory lock on `file`, where the platform tells (Linux).
///
/// Only ever "may": the answer can be out of date when it arrives, another process may share the
/// open file description, and a process outside this one's PID namespace has no number here.
#[must_use]
pub fn possible_holder(file: FileId) -> Option<u32> {
    platform::possible_holder(file)
}

/// Creates the folders above `path`, unless there can be no file of that name in them.
pub(crate) fn create_parents(path: &Path) -> std::io::Result<()> {
    check_names(path)?;
    path.parent().map_or(Ok(()), std::fs::create_dir_all)
}
