//! Windows: `LockFileEx` on the bytes that SQLite locks, as SQLite's own Windows part does.
//!
//! Locks belong to the handle, so they exclude threads, and closing another handle gives up nothing. There is no
//! question whether a byte is locked: a reader takes PENDING for a moment, exclusively, as SQLite does here.

use std::fs::File;
use std::io;
use std::os::windows::fs::FileExt;
use std::os::windows::io::AsRawHandle;

use windows_sys::Win32::Foundation::ERROR_NOT_LOCKED;
use windows_sys::Win32::Storage::FileSystem::{
    LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY, LockFileEx, UnlockFileEx,
};
use windows_sys::Win32::System::IO::OVERLAPPED;

use super::Others;
pub(crate) use super::ranges_unsupported::{wait_to_read, wait_to_write};

#[derive(Debug, Clone, Copy)]
struct Range {
    start: u32,
    length: u32,
}

const PENDING: Range = Range { start: 0x4000_0000, length: 1 };
const RESERVED: Range = Range { start: 0x4000_0001, length: 1 };
const SHARED: Range = Range { start: 0x4000_0002, length: 510 };

/// Whether a close of any descriptor of a file gives up the record locks that the process has on it.
pub(crate) const CLOSE_GIVES_UP: bool = false;

/// What a writer that claims the lock step by step has so far: a handle is in its own way here.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    has_reserved: bool,
    has_pending: bool,
}

fn at(range: Range) -> OVERLAPPED {
    let mut start = OVERLAPPED::default();
    start.Anonymous.Anonymous.Offset = range.start;
    start
}

#[expect(unsafe_code, reason = "LockFileEx is a C function")]
fn lock(file: &File, range: Range, is_exclusive: bool) -> io::Result<()> {
    let mut start = at(range);
    let flags = LOCKFILE_FAIL_IMMEDIATELY | if is_exclusive { LOCKFILE_EXCLUSIVE_LOCK } else { 0 };
    // SAFETY: the file outlives the call, so the handle is open; `start` is ours and the call, on a handle opened for
    // synchronous use, is done with it when it returns.
    let locked = unsafe { LockFileEx(file.as_raw_handle(), flags, 0, range.length, 0, &raw mut start) };
    if locked == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(unsafe_code, reason = "UnlockFileEx is a C function")]
fn unlock_range(file: &File, range: Range) -> io::Result<()> {
    let mut start = at(range);
    // SAFETY: as in `lock`.
    let unlocked = unsafe { UnlockFileEx(file.as_raw_handle(), 0, range.length, 0, &raw mut start) };
    if unlocked != 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let code = i32::from_ne_bytes(ERROR_NOT_LOCKED.to_ne_bytes());
    if error.raw_os_error() == Some(code) { Ok(()) } else { Err(error) }
}

/// Makes the handle a reader, unless a writer is inside or waits for readers to end.
pub(crate) fn try_read(file: &File) -> io::Result<()> {
    lock(file, PENDING, true)?;
    let read = lock(file, SHARED, false);
    unlock_range(file, PENDING)?;
    read
}

/// Makes the handle a reader, also where a writer waits for readers to end.
pub(crate) fn try_read_past_writer(file: &File) -> io::Result<()> {
    lock(file, SHARED, false)
}

/// Makes the handle the writer, or takes nothing.
pub(crate) fn try_write(file: &File) -> io::Result<()> {
    let claimed = claim(file, &mut Claim::default());
    if claimed.is_err() {
        unlock(file)?;
    }
    claimed
}

/// Goes as far as it comes towards being the writer, and keeps what it got, in SQLite's order.
pub(crate) fn claim(file: &File, claim: &mut Claim) -> io::Result<()> {
    if !claim.has_reserved {
        lock(file, RESERVED, true)?;
        claim.has_reserved = true;
    }
    if !claim.has_pending {
        lock(file, PENDING, true)?;
        claim.has_pending = true;
    }
    lock(file, SHARED, true)
}

/// Gives back whatever the handle has locked.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    let unlocked = [SHARED, PENDING, RESERVED].map(|range| unlock_range(file, range));
    unlocked.into_iter().collect()
}

/// A close of one handle gives up no locks of another's here.
pub(crate) fn others(_file: &File) -> Others {
    Others::Nobody
}

/// The first bytes of the file, as many as there are.
pub(crate) fn read_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    file.seek_read(buffer, 0)
}
