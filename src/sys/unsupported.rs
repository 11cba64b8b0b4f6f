//! A platform without a lock call: everything that would lock says so.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{FileId, Stamp, Verdict};

/// The lock call of this platform: there is none.
pub const MECHANISM: &str = "none";

/// Whether the numbers of its errors are Win32's, rather than errno's.
pub const ERRORS_ARE_WIN32: bool = false;

/// A number for an open file.
pub type Descriptor = u64;

fn unsupported() -> io::Error {
    io::Error::from(io::ErrorKind::Unsupported)
}

pub(crate) fn open_lock_file(_path: &Path, _mode: Option<u32>) -> io::Result<(File, bool)> {
    Err(unsupported())
}

pub(crate) fn id_at(_path: &Path) -> io::Result<Option<FileId>> {
    Err(unsupported())
}

pub(crate) fn is_at(_path: &Path, _id: FileId) -> io::Result<bool> {
    Err(unsupported())
}

pub(crate) fn is_trusted(_path: &Path, _stamp: &Stamp) -> io::Result<bool> {
    Err(unsupported())
}

pub(crate) fn is_own(_stamp: &Stamp) -> bool {
    false
}

pub(crate) fn distrust_error() -> io::Error {
    unsupported()
}

pub(crate) fn check_names(_path: &Path) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn check_kind(_path: &Path) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn try_lock(_file: &File) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn is_not_implemented(_error: &io::Error) -> bool {
    false
}

pub(crate) fn close(_file: File) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn is_transient(_error: &io::Error) -> bool {
    false
}

pub(crate) fn spawn_masked(_name: &str, _run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn with_borrowed<R>(
    _descriptor: Descriptor,
    _call: impl FnOnce(&File) -> io::Result<R>,
) -> io::Result<R> {
    Err(unsupported())
}

pub(crate) fn unlock(_file: &File) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn classify(error: &io::Error) -> Verdict {
    if error.kind() == io::ErrorKind::Unsupported { Verdict::Unsupported } else { Verdict::Failed }
}

pub(crate) fn special_file_error() -> io::Error {
    unsupported()
}

pub(crate) fn descriptor(_file: &File) -> Descriptor {
    0
}

pub(crate) fn close_inherited(_descriptor: Descriptor, _id: FileId) {}

pub(crate) fn install_fork_handlers(
    _before: extern "C" fn(),
    _in_parent: extern "C" fn(),
    _in_child: extern "C" fn(),
) {
}

pub(crate) fn possible_holder(_file: FileId) -> Option<u32> {
    None
}
