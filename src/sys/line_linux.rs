//! Linux: the line of those who wait for a `flock`.
//!
//! The kernel wakes the waiters of a `flock` in order, but a releaser that comes straight back can overtake
//! the one just woken. So there is a second lock, the *turnstile*: one byte of the same file, far beyond any
//! content, locked for an open file description (`F_OFD_SETLK`). Whoever waits holds it or waits for it, and
//! gives it up with the `flock` in hand; whoever arrives asks whether somebody has it, and if so waits too.
//! The two kinds of lock do not see each other on Linux, on local file systems; elsewhere they may be one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::{FileId, interrupt};

/// Far beyond what a file can hold on any file system here, and within `off_t`.
const TURNSTILE: libc::off64_t = 0x7eee_0000_0000_0000;

/// Locked, shared, beside the `flock` by a holder who found that the line does not move.
const STUCK: libc::off64_t = TURNSTILE + 1;

/// Locked, shared, by those who wait without a line.
const WAITERS: libc::off64_t = TURNSTILE + 2;

/// File systems whose locks live in this kernel, by their number in `statfs`.
const LOCAL: [i64; 13] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
    0xF2F5_2010, // f2fs
    0x2FC1_2FC1, // zfs
    0x794C_7630, // overlayfs
    0x4D44,      // vfat
    0x2011_BAB0, // exfat
    0x7366_746E, // ntfs3
    0x5265_4973, // reiserfs
    0xCA45_1A4E, // bcachefs
];

/// The device of the file system that was last found to be local: most programs lock on one only.
static LOCAL_DEVICE: AtomicU64 = AtomicU64::new(u64::MAX);

/// Whether the file system of `file` is known to be of this machine: then the kernel wakes those who wait for a lock,
/// queues them apart from record locks, and the lock excludes.
pub(crate) fn is_known_local(file: &File, id: FileId) -> bool {
    if is_device_known_local(id.device) {
        return true;
    }
    let is_local = rustix::fs::fstatfs(file).is_ok_and(|stat| is_local(&stat));
    if is_local {
        LOCAL_DEVICE.store(id.device, Ordering::Relaxed);
    }
    is_local
}

/// Whether the files of `device` were the last that were found to be of this machine. Makes no system call.
pub(crate) fn is_device_known_local(device: u64) -> bool {
    LOCAL_DEVICE.load(Ordering::Relaxed) == device
}

/// As [`is_known_local`], of a folder.
pub(super) fn is_folder_known_local(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|stat| is_local(&stat))
}

#[allow(clippy::cast_lossless, clippy::unnecessary_cast, reason = "`f_type` differs by architecture")]
fn is_local(stat: &rustix::fs::StatFs) -> bool {
    LOCAL.contains(&(stat.f_type as i64))
}

#[expect(clippy::cast_possible_truncation, reason = "small constants in a narrow field")]
fn byte(at: libc::off64_t, kind: libc::c_int) -> libc::flock64 {
    libc::flock64 {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

#[expect(unsafe_code, reason = "no crate wraps the locks of open file descriptions on a range")]
fn control(file: &File, command: libc::c_int, lock: &mut libc::flock64) -> io::Result<()> {
    // SAFETY: the file outlives the call, so the descriptor is open; all three commands take a pointer to
    // a `flock64`, and this one is ours.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether somebody stands in the line for the lock on `file`.
///
/// Only a description's lock of exactly the turnstile means that. Somebody's record lock of the whole file
/// answers the same question, and is none of ours.
pub(crate) fn is_line_occupied(file: &File, id: FileId) -> bool {
    if !is_known_local(file, id) {
        return false;
    }
    is_locked(file, TURNSTILE)
}

/// Whether an open file description, and not a process, has a lock of exactly the byte `at`.
fn is_locked(file: &File, at: libc::off64_t) -> bool {
    let mut lock = byte(at, libc::F_WRLCK);
    control(file, libc::F_OFD_GETLK, &mut lock).is_ok()
        && i32::from(lock.l_type) != libc::F_UNLCK
        && (lock.l_pid, lock.l_start, lock.l_len) == (-1, at, 1)
}

/// Lets others know that the line does not move, until the file is closed.
pub(crate) fn report_stuck_line(file: &File) {
    // Who cannot be told finds out for himself.
    drop(control(file, libc::F_OFD_SETLK, &mut byte(STUCK, libc::F_RDLCK)));
}

/// Whether somebody who holds the lock found that the line does not move.
pub(crate) fn is_line_reported_stuck(file: &File) -> bool {
    is_locked(file, STUCK)
}

/// Lets the holder know, until the file is closed, that somebody waits for the lock. Needs no right to write.
pub(crate) fn announce_waiter(file: &File) {
    // Who cannot be told does not wait for those who wait.
    drop(control(file, libc::F_OFD_SETLK, &mut byte(WAITERS, libc::F_RDLCK)));
}

/// Whether somebody has announced that he waits.
pub(crate) fn has_waiters(file: &File) -> bool {
    is_locked(file, WAITERS)
}

/// Waits for the head of the line, for about `limit` at the most, or until [`interrupt::interrupt`] is called for
/// this thread; `false`: not there yet.
pub(crate) fn wait_for_head_of_line(file: &File, limit: Option<Duration>) -> io::Result<bool> {
    let wait = || control(file, libc::F_OFD_SETLKW, &mut byte(TURNSTILE, libc::F_WRLCK));
    match limit {
        Some(limit) => interrupt::after(limit, wait),
        None => interrupt::false_if_interrupted(wait()),
    }
}

/// Leaves the line.
pub(crate) fn leave_line(file: &File) {
    // Unlocking fails only where locking would have: then there is nothing to leave.
    drop(control(file, libc::F_OFD_SETLK, &mut byte(TURNSTILE, libc::F_UNLCK)));
}

/// Waits for the exclusive lock of the file's description, for about `limit` at the most, or until
/// [`interrupt::interrupt`] is called for this thread; `false`: not had yet. A lock that is had already is had.
pub(crate) fn wait_for_lock(file: &File, limit: Option<Duration>) -> io::Result<bool> {
    let wait = || rustix::fs::flock(file, FlockOperation::LockExclusive).map_err(io::Error::from);
    match limit {
        Some(limit) => interrupt::after(limit, wait),
        None => interrupt::false_if_interrupted(wait()),
    }
}
