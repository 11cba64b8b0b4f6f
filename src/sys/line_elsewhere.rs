//! Elsewhere there is no line: the two kinds of lock that it needs are one, or do not exist. Waiters poll.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use super::FileId;

pub(crate) fn is_known_local(_file: &File, _id: FileId) -> bool {
    false
}

pub(crate) fn is_device_known_local(_device: u64) -> bool {
    false
}

pub(super) fn is_folder_known_local(_folder: &Path) -> bool {
    false
}

pub(crate) fn is_line_occupied(_file: &File, _id: FileId) -> bool {
    false
}

fn unsupported() -> io::Error {
    io::Error::from(io::ErrorKind::Unsupported)
}

pub(crate) fn wait_for_head_of_line(_file: &File, _limit: Option<Duration>) -> io::Result<bool> {
    Err(unsupported())
}

pub(crate) fn report_stuck_line(_file: &File) {}

pub(crate) fn is_line_reported_stuck(_file: &File) -> bool {
    false
}

pub(crate) fn announce_waiter(_file: &File) {}

pub(crate) fn has_waiters(_file: &File) -> bool {
    false
}

pub(crate) fn leave_line(_file: &File) {}

pub(crate) fn wait_for_lock(_file: &File, _limit: Option<Duration>) -> io::Result<bool> {
    Err(unsupported())
}

pub(crate) fn spawn<T>(_name: &str, _run: impl FnOnce() -> T) -> io::Result<JoinHandle<T>> {
    Err(unsupported())
}

/// Signals find their handlers on whatever thread they come to, and the waits here sleep on after them.
pub(crate) fn spawn_quiet<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(128 << 10).spawn(run)
}

pub(crate) fn interrupt<T>(_thread: &JoinHandle<T>) -> bool {
    false
}
