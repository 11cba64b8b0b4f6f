//! The operating system: the only place with `cfg(target)` and `unsafe`.
//!
//! Every platform file offers the same names:
//!
//! | name | what it is |
//! |---|---|
//! | [`FileId`], [`Facts`], [`Stamp`], [`Kind`], [`At`], [`Mount`], [`Others`], [`Verdict`] | shared types, below |
//! | `MECHANISM` | which call locks a file here: `"flock"`, `"LockFileEx"` or `"none"` |
//! | `ERRORS_ARE_WIN32` | what the numbers of errors are |
//! | `open_lock_file` | opens a lock file without following a link at its end, and says whether it was created |
//! | `close` | closes a file and says what came of it |
//! | `is_at`, `id_at` | whether a path still leads to a file; which one it leads to |
//! | `check_names` | refuses a name that no file can have |
//! | `check_kind` | refuses what is no regular file before it is opened |
//! | `is_trusted`, `distrust_error` | a stranger's file in a folder that anybody may write to |
//! | `is_own` | whether this user may set a file's permission bits |
//! | `try_lock`, `unlock` | the advisory lock of an open file description |
//! | `with_borrowed` | a call on an open file that is somebody else's |
//! | `classify` | what an error of the above means |
//! | `is_not_implemented` | whether an error says that there is no such call |
//! | `is_transient` | whether an error says nothing for good: look again |
//! | `spawn_masked` | a thread that takes no signals |
//! | `special_file_error` | the error for what is there but is no regular file |
//! | `Descriptor`, `descriptor`, `close_inherited`, `install_fork_handlers` | forks |
//! | `mark_process`, `is_process_marked`, `own_pid` | whether this is still the same process, and which one; in a file of its own |
//! | [`SpinLock`] | a raw lock that never parks, the same everywhere, in a file of its own |
//! | `possible_holder` | which process may hold a file |
//! | [`names`] | creating, linking, exchanging and removing the names in a folder, in a file of its own |
//! | [`ranges`] | the bytes that SQLite locks, in a file of its own |
//! | [`process`] | this machine's name, and whether a process runs, in a file of its own |
//! | `locks_of_this_host_only` | whether a mount keeps locks from other hosts, in a file of its own |
//! | `announce_waiter`, `has_waiters` | a waiter who stands in no line |
//! | `is_known_local`, `is_device_known_local`, `is_line_occupied`, `wait_for_head_of_line`, `leave_line`, `is_line_reported_stuck`, `report_stuck_line`, `wait_for_lock`, `spawn`, `interrupt` | waiting in the kernel, in a file of its own |

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

mod spin;

#[cfg(all(unix, not(force_unsupported)))]
#[path = "unix.rs"]
mod platform;

#[cfg(all(windows, not(force_unsupported)))]
#[path = "windows.rs"]
mod platform;

#[cfg(any(force_unsupported, not(any(unix, windows))))]
#[path = "unsupported.rs"]
mod platform;

#[cfg(all(unix, not(force_unsupported)))]
#[path = "names_unix.rs"]
pub(crate) mod names;

#[cfg(all(windows, not(force_unsupported)))]
#[path = "names_windows.rs"]
pub(crate) mod names;

#[cfg(any(force_unsupported, not(any(unix, windows))))]
#[path = "names_unsupported.rs"]
pub(crate) mod names;

#[cfg(all(any(target_os = "linux", target_os = "macos"), not(force_unsupported)))]
#[path = "ranges_ofd.rs"]
pub(crate) mod ranges;

#[cfg(all(windows, not(force_unsupported)))]
#[path = "ranges_windows.rs"]
pub(crate) mod ranges;

#[cfg(any(force_unsupported, not(any(target_os = "linux", target_os = "macos", windows))))]
pub(crate) use ranges_unsupported as ranges;

#[cfg(any(force_unsupported, not(target_os = "linux")))]
pub(crate) mod ranges_unsupported;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
#[path = "process_linux.rs"]
pub(crate) mod process;

#[cfg(all(target_os = "macos", not(force_unsupported)))]
#[path = "process_macos.rs"]
pub(crate) mod process;

#[cfg(all(windows, not(force_unsupported)))]
#[path = "process_windows.rs"]
pub(crate) mod process;

#[cfg(any(force_unsupported, not(any(target_os = "linux", target_os = "macos", windows))))]
#[path = "process_elsewhere.rs"]
pub(crate) mod process;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
mod proc_locks;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
#[path = "mounts_linux.rs"]
mod mounts;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
#[path = "mark_linux.rs"]
mod mark;

#[cfg(any(force_unsupported, not(target_os = "linux")))]
#[path = "mark_elsewhere.rs"]
mod mark;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
mod interrupt;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
#[path = "line_linux.rs"]
mod line;

#[cfg(any(force_unsupported, not(target_os = "linux")))]
#[path = "line_elsewhere.rs"]
mod line;

#[cfg(all(target_os = "linux", not(force_unsupported)))]
pub(crate) use interrupt::{interrupt, spawn, spawn_quiet};
#[cfg(all(target_os = "linux", not(force_unsupported)))]
pub(crate) use mounts::locks_of_this_host_only;

pub(crate) use line::{
    announce_waiter, has_waiters, is_device_known_local, is_known_local, is_line_occupied,
    is_line_reported_stuck, leave_line, report_stuck_line, wait_for_head_of_line, wait_for_lock,
};
#[cfg(any(force_unsupported, not(target_os = "linux")))]
pub(crate) use line::{interrupt, spawn, spawn_quiet};

pub(crate) use mark::{is_process_marked, mark_process, own_pid};

pub(crate) use spin::SpinLock;

pub use platform::{Descriptor, ERRORS_ARE_WIN32, MECHANISM};
pub(crate) use platform::{
    check_kind, check_names, classify, close, close_inherited, descriptor, distrust_error, id_at,
    install_fork_handlers, is_at, is_not_implemented, is_own, is_transient, is_trusted, open_lock_file,
    spawn_masked, special_file_error, try_lock, unlock, with_borrowed,
};

/// A file's identity, for as long as something keeps the file alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The file system (on Windows the volume).
    pub device: u64,
    /// The file on it.
    pub inode: u64,
}

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(force_unsupported, allow(dead_code, reason = "nothing stands anywhere"))]
pub(crate) enum Kind {
    Regular,
    Folder,
    Link,
    /// A FIFO, a socket or a device.
    Special,
}

/// What a file was at one moment. Two equal stamps of a file that is kept open mean that nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) id: FileId,
    pub(crate) kind: Kind,
    /// Its permission bits, among others.
    pub(crate) mode: u32,
    /// How many names it has; 0 once it was removed.
    pub(crate) links: u64,
    /// Its owner's uid, where the platform has such.
    pub(crate) owner: u32,
    /// How many bytes are in it.
    pub(crate) size: u64,
    /// When its content last changed, in seconds since 1970 and nanoseconds, by the clock that stamped it.
    pub(crate) modified: (i64, i64),
    /// When anything of it last changed, its number of links too.
    pub(crate) changed: (i64, i64),
}

impl Stamp {
    /// Whether this is the same file with the same content, whatever names it was given or lost meanwhile.
    pub(crate) fn is_same_content(&self, other: &Self) -> bool {
        self.id == other.id && self.modified == other.modified
    }

    /// Whether nothing is lost with it but a lock file: it holds no data, and has no other name under which somebody
    /// might know it.
    pub(crate) fn is_bare_lock_file(&self) -> bool {
        self.kind == Kind::Regular && self.size == 0 && self.links == 1
    }
}

/// A file system that was mounted so that its locks are honoured on this host only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where it was mounted.
    pub(crate) point: String,
    /// The option that says so.
    pub(crate) option: String,
}

/// Elsewhere nobody tells.
#[cfg(any(force_unsupported, not(target_os = "linux")))]
pub(crate) fn locks_of_this_host_only(_file: FileId) -> Option<Mount> {
    None
}

/// A name in an open folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) folder: &'a File,
    /// Where the folder was when it was opened: where names are not relative to open folders, they begin with it.
    #[cfg_attr(
        any(force_unsupported, not(windows)),
        allow(dead_code, reason = "only some platforms need it")
    )]
    pub(crate) folder_path: &'a Path,
    pub(crate) name: &'a OsStr,
}

/// Who has a lock on a file beside an open description of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    any(force_unsupported, not(unix)),
    allow(dead_code, reason = "not every platform gives every answer")
)]
pub(crate) enum Others {
    Nobody,
    /// This process, by a record lock: a close of any descriptor of the file gives it up.
    ThisProcess,
    Somebody,
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

/// Whether a file at `path` would be on a file system that is known to be of this machine. Touches nothing.
pub(crate) fn is_path_known_local(path: &Path) -> bool {
    let folders = path.ancestors().skip(1);
    let here =
        |folder: &Path| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
    let mut existing = folders.map(here).filter(|folder| folder.is_dir());
    existing.next().is_some_and(|folder| line::is_folder_known_local(&folder))
}

/// Creates the folders above `path`, unless there can be no file of that name in them.
pub(crate) fn create_parents(path: &Path) -> std::io::Result<()> {
    check_names(path)?;
    path.parent().map_or(Ok(()), std::fs::create_dir_all)
}
