//! Locks of open file descriptions on the bytes that SQLite locks: Linux and macOS.
//!
//! They exclude each other between descriptions, also of one process, and they and SQLite's record locks
//! (`F_SETLK`) exclude each other too, also inside one process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

#[cfg(target_os = "linux")]
use std::time::Duration;

#[cfg(not(target_os = "linux"))]
use libc::flock as Flock;
#[cfg(target_os = "linux")]
use libc::flock64 as Flock;

use super::Others;

#[derive(Debug, Clone, Copy)]
struct Range {
    start: i64,
    length: i64,
}

/// A writer that waits for readers to end has it, and readers that come look at it.
const PENDING: Range = Range { start: 0x4000_0000, length: 1 };
/// A writer has it from when it means to write: there is only one.
const RESERVED: Range = Range { start: 0x4000_0001, length: 1 };
/// What readers share and a writer has for itself. Who is inside is decided here.
const SHARED: Range = Range { start: 0x4000_0002, length: 510 };
/// The three of them, which lie side by side.
const ALL: Range = Range { start: 0x4000_0000, length: 512 };
const WHOLE_FILE: Range = Range { start: 0, length: 0 };

/// Whether a close of any descriptor of a file gives up the record locks that the process has on it.
pub(crate) const CLOSE_GIVES_UP: bool = true;

/// What a writer that claims the lock step by step has so far. Locking again what is had already does nothing here.
#[derive(Debug, Default)]
pub(crate) struct Claim(());

#[derive(Debug, Clone, Copy)]
enum Kind {
    Shared,
    Exclusive,
    None,
}

impl Kind {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::unnecessary_cast,
        reason = "small constants, of another type than their field on some systems"
    )]
    fn number(self) -> libc::c_short {
        match self {
            Self::Shared => libc::F_RDLCK as libc::c_short,
            Self::Exclusive => libc::F_WRLCK as libc::c_short,
            Self::None => libc::F_UNLCK as libc::c_short,
        }
    }
}

fn lock_of(range: Range, kind: Kind) -> Flock {
    #[allow(clippy::cast_possible_truncation, reason = "a small constant in a narrow field")]
    Flock {
        l_type: kind.number(),
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range.start,
        l_len: range.length,
        l_pid: 0,
    }
}

#[expect(unsafe_code, reason = "no crate wraps the locks of open file descriptions on a range")]
fn control(file: &File, command: libc::c_int, lock: &mut Flock) -> io::Result<()> {
    // SAFETY: the file outlives the call, so the descriptor is open; all three commands take a pointer to such a
    // structure, and this one is ours.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes or gives back a lock without waiting; "would block" is contention.
fn set(file: &File, range: Range, kind: Kind) -> io::Result<()> {
    match control(file, libc::F_OFD_SETLK, &mut lock_of(range, kind)) {
        // POSIX lets a file system say so of a lock that somebody else has.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            Err(io::Error::from_raw_os_error(libc::EAGAIN))
        }
        done => done,
    }
}

/// A lock of somebody else that stands in the way of one.
fn in_the_way(file: &File, range: Range, kind: Kind) -> io::Result<Option<Flock>> {
    let mut lock = lock_of(range, kind);
    control(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok((lock.l_type != Kind::None.number()).then_some(lock))
}

/// Makes the file's description a reader, unless a writer is inside or waits for readers to end.
///
/// SQLite takes PENDING for a moment to find that out. Asking is enough, for SHARED decides who is inside, and keeps no
/// writer from PENDING in that moment.
pub(crate) fn try_read(file: &File) -> io::Result<()> {
    if in_the_way(file, PENDING, Kind::Shared)?.is_some() {
        return Err(io::Error::from_raw_os_error(libc::EAGAIN));
    }
    set(file, SHARED, Kind::Shared)
}

/// Makes the file's description a reader, also where a writer waits for readers to end.
pub(crate) fn try_read_past_writer(file: &File) -> io::Result<()> {
    set(file, SHARED, Kind::Shared)
}

/// Makes the file's description the writer in one step, or takes nothing.
pub(crate) fn try_write(file: &File) -> io::Result<()> {
    set(file, ALL, Kind::Exclusive)
}

/// Goes as far as it comes towards being the writer, and keeps what it got. In SQLite's order: who has PENDING first
/// and waits for RESERVED waits for ever for a writer that has RESERVED and waits for PENDING.
pub(crate) fn claim(file: &File, _claim: &mut Claim) -> io::Result<()> {
    set(file, RESERVED, Kind::Exclusive)?;
    set(file, PENDING, Kind::Exclusive)?;
    set(file, SHARED, Kind::Exclusive)
}

/// Gives back whatever the file's description has locked, wherever in the file.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    set(file, WHOLE_FILE, Kind::None)
}

/// Who else has a lock on any byte of the file. One answer of possibly many: a lock of this process may be behind
/// somebody else's.
pub(crate) fn others(file: &File) -> Others {
    match in_the_way(file, WHOLE_FILE, Kind::Exclusive) {
        Ok(None) => Others::Nobody,
        // A record lock names its process, and that of a description none.
        Ok(Some(lock)) if u32::try_from(lock.l_pid) == Ok(std::process::id()) => Others::ThisProcess,
        Ok(Some(_)) | Err(_) => Others::Somebody,
    }
}

/// The first bytes of the file, as many as there are.
pub(crate) fn read_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    file.read_at(buffer, 0)
}

/// Waits until the file's description is a reader, for about `limit` at the most, or until
/// [`super::interrupt()`] is called for this thread; `false`: not yet, and nothing is had.
#[cfg(target_os = "linux")]
pub(crate) fn wait_to_read(file: &File, limit: Duration) -> io::Result<bool> {
    let wait = |range, kind| control(file, libc::F_OFD_SETLKW, &mut lock_of(range, kind));
    let is_had = super::interrupt::after(limit, || {
        // Held while waiting for SHARED: no other writer comes in between.
        wait(PENDING, Kind::Shared)?;
        wait(SHARED, Kind::Shared)
    });
    set(file, PENDING, Kind::None)?;
    is_had
}

/// Waits until the file's description is the writer, in the order of [`claim`]. `false`: not yet, and it keeps what it
/// got, so that no new reader comes in while it sees to something else. An error gives everything back but the place
/// in the line.
#[cfg(target_os = "linux")]
pub(crate) fn wait_to_write(file: &File, limit: Duration) -> io::Result<bool> {
    let wait = |range| control(file, libc::F_OFD_SETLKW, &mut lock_of(range, Kind::Exclusive));
    let is_had = super::interrupt::after(limit, || {
        wait(RESERVED)?;
        wait(PENDING)?;
        wait(SHARED)
    });
    if is_had.is_err() {
        // Attempts on other descriptions are made now, and these would be in their way for ever.
        set(file, ALL, Kind::None)?;
    }
    is_had
}

/// Nobody wakes who waits here: waiters poll.
#[cfg(not(target_os = "linux"))]
pub(crate) use super::ranges_unsupported::{wait_to_read, wait_to_write};
