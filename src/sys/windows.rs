//! Windows: `LockFileEx` on one byte at offset 0, as filelock has it, so that both exclude each other.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, IntoRawHandle, RawHandle};
use std::path::Path;
use std::ptr;

use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_ACCESS_DENIED, ERROR_CALL_NOT_IMPLEMENTED, ERROR_FILE_NOT_FOUND,
    ERROR_INVALID_FUNCTION, ERROR_INVALID_PARAMETER, ERROR_LOCK_VIOLATION, ERROR_NOT_LOCKED,
    ERROR_NOT_SUPPORTED, ERROR_PATH_NOT_FOUND, ERROR_SHARING_VIOLATION, WIN32_ERROR,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_READ, FILE_SHARE_WRITE,
    GetFileInformationByHandle, LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY, LockFileEx, UnlockFileEx,
};
use windows_sys::Win32::System::IO::OVERLAPPED;

use super::{FileId, Stamp, Verdict};

/// The lock call of this platform.
pub const MECHANISM: &str = "LockFileEx";

/// Whether the numbers of its errors are Win32's, rather than errno's.
pub const ERRORS_ARE_WIN32: bool = true;

/// A handle's number.
pub type Descriptor = usize;

/// Opens the lock file at `path`, creating it if need be; never says that it was created.
///
/// Nobody may delete or rename it while it is open (no delete sharing), so that what is locked stays at
/// its path. `mode` has no meaning here: access is inherited from the folder.
pub(crate) fn open_lock_file(path: &Path, _mode: Option<u32>) -> io::Result<(File, bool)> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path);
    opened.map(|file| (file, false)).map_err(|error| explain_refusal(path, error))
}

/// "Access denied" also stands for a file whose deletion waits for its last handle: that is contention.
fn explain_refusal(path: &Path, error: io::Error) -> io::Error {
    if !is(&error, ERROR_ACCESS_DENIED) {
        return error;
    }
    match std::fs::symlink_metadata(path) {
        Ok(_) => error,
        Err(_) => win32(ERROR_SHARING_VIOLATION),
    }
}

#[expect(unsafe_code, reason = "GetFileInformationByHandle is a C function")]
fn information(file: &File) -> io::Result<BY_HANDLE_FILE_INFORMATION> {
    let mut information = MaybeUninit::uninit();
    // SAFETY: the file outlives the call, so its handle is open; the buffer is ours and large enough.
    let done = unsafe { GetFileInformationByHandle(file.as_raw_handle(), information.as_mut_ptr()) };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled the buffer.
    Ok(unsafe { information.assume_init() })
}

/// What tells an open file from others, and how many names it has.
pub(super) fn identity(file: &File) -> io::Result<(FileId, u64)> {
    let information = information(file)?;
    let inode = u64::from(information.nFileIndexHigh) << 32 | u64::from(information.nFileIndexLow);
    let id = FileId { device: u64::from(information.dwVolumeSerialNumber), inode };
    Ok((id, u64::from(information.nNumberOfLinks)))
}

/// Asked only for files that were left open, which none is here.
#[expect(clippy::unnecessary_wraps, reason = "other platforms ask the file system, which can fail")]
pub(crate) fn id_at(_path: &Path) -> io::Result<Option<FileId>> {
    Ok(None)
}

/// An open handle without delete sharing keeps the file at its path.
#[expect(clippy::unnecessary_wraps, reason = "other platforms ask the file system, which can fail")]
pub(crate) fn is_at(_path: &Path, _id: FileId) -> io::Result<bool> {
    Ok(true)
}

/// Access lists decide who may create a file in a folder; there are no sticky folders.
#[expect(clippy::unnecessary_wraps, reason = "other platforms ask the file system, which can fail")]
pub(crate) fn is_trusted(_path: &Path, _stamp: &Stamp) -> io::Result<bool> {
    Ok(true)
}

/// There are no permission bits to set.
pub(crate) fn is_own(_stamp: &Stamp) -> bool {
    false
}

/// The error for a file that is not to be trusted.
pub(crate) fn distrust_error() -> io::Error {
    win32(ERROR_ACCESS_DENIED)
}

/// Creating the folders of a path that is too long fails by itself, at the first of them.
#[expect(clippy::unnecessary_wraps, reason = "other platforms can refuse")]
pub(crate) fn check_names(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Refuses a folder or a reparse point (a link or a mount) before it is opened.
pub(crate) fn check_kind(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(special_file_error()),
        _ => Ok(()),
    }
}

/// An `OVERLAPPED` that names offset 0.
fn at_start() -> OVERLAPPED {
    OVERLAPPED::default()
}

/// Takes the exclusive lock on the first byte, without waiting.
#[expect(unsafe_code, reason = "LockFileEx is a C function")]
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    let mut start = at_start();
    let flags = LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY;
    // SAFETY: the file outlives the call, so the handle is open; `start` is ours and the call, on a
    // handle opened for synchronous use, is done with it when it returns.
    let locked = unsafe { LockFileEx(file.as_raw_handle(), flags, 0, 1, 0, &raw mut start) };
    if locked == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the lock on the first byte back.
#[expect(unsafe_code, reason = "UnlockFileEx is a C function")]
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    let mut start = at_start();
    // SAFETY: as in `try_lock`.
    let unlocked = unsafe { UnlockFileEx(file.as_raw_handle(), 0, 1, 0, &raw mut start) };
    if unlocked != 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if is(&error, ERROR_NOT_LOCKED) { Ok(()) } else { Err(error) }
}

/// Makes a call on a file that somebody else has opened, and that stays open.
///
/// # Errors
/// Those of the call, also where there is no such handle.
#[expect(unsafe_code, reason = "the handle is whoever's it is")]
pub(crate) fn with_borrowed<R>(
    descriptor: Descriptor,
    call: impl FnOnce(&File) -> io::Result<R>,
) -> io::Result<R> {
    let handle = ptr::with_exposed_provenance_mut(descriptor);
    // SAFETY: the handle is used for one call and not kept; if it is not open, the call says so. It is never closed here.
    let file = ManuallyDrop::new(unsafe { File::from_raw_handle(handle) });
    call(&file)
}

fn code(error: &io::Error) -> Option<WIN32_ERROR> {
    error.raw_os_error().map(|code| WIN32_ERROR::from_ne_bytes(code.to_ne_bytes()))
}

fn is(error: &io::Error, expected: WIN32_ERROR) -> bool {
    code(error) == Some(expected)
}

fn win32(code: WIN32_ERROR) -> io::Error {
    io::Error::from_raw_os_error(i32::from_ne_bytes(code.to_ne_bytes()))
}

/// What an error of [`open_lock_file`] or [`try_lock`] means.
pub(crate) fn classify(error: &io::Error) -> Verdict {
    match code(error) {
        Some(ERROR_LOCK_VIOLATION | ERROR_SHARING_VIOLATION) => Verdict::Contended,
        Some(ERROR_NOT_SUPPORTED | ERROR_INVALID_FUNCTION | ERROR_CALL_NOT_IMPLEMENTED) => {
            Verdict::Unsupported
        }
        Some(ERROR_FILE_NOT_FOUND | ERROR_PATH_NOT_FOUND) => Verdict::Missing,
        _ => Verdict::Failed,
    }
}

/// The call is there on every Windows.
pub(crate) fn is_not_implemented(_error: &io::Error) -> bool {
    false
}

/// Closes the file. The handle is gone whatever comes of it.
///
/// # Errors
/// What Windows has to say of it.
#[expect(unsafe_code, reason = "the standard library closes without a word")]
pub(crate) fn close(file: File) -> io::Result<()> {
    // SAFETY: the handle is the file's, which has given it up: nobody else closes it.
    let closed = unsafe { CloseHandle(file.into_raw_handle()) };
    if closed == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the answer says nothing for good: the file came or went a moment ago, or somebody has it open.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    const AGAIN: [WIN32_ERROR; 4] =
        [ERROR_ACCESS_DENIED, ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND, ERROR_SHARING_VIOLATION];
    AGAIN.iter().any(|code| is(error, *code))
}

/// Starts a thread.
pub(crate) fn spawn_masked(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(run).map(drop)
}

/// The error for a reparse point (a link or a mount) at the path.
pub(crate) fn special_file_error() -> io::Error {
    win32(ERROR_INVALID_PARAMETER)
}

pub(crate) fn descriptor(file: &File) -> Descriptor {
    let handle: RawHandle = file.as_raw_handle();
    handle.addr()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_number() {
        let table = [
            (ERROR_LOCK_VIOLATION, Verdict::Contended),
            (ERROR_SHARING_VIOLATION, Verdict::Contended),
            (ERROR_NOT_SUPPORTED, Verdict::Unsupported),
            (ERROR_FILE_NOT_FOUND, Verdict::Missing),
            (ERROR_PATH_NOT_FOUND, Verdict::Missing),
            (ERROR_ACCESS_DENIED, Verdict::Failed),
        ];
        for (code, verdict) in table {
            assert_eq!(classify(&win32(code)), verdict, "{code}");
        }
        assert_eq!(classify(&io::Error::other("no number")), Verdict::Failed, "unknown is never acquired");
    }
}
