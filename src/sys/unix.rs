//! Unix: `flock(2)`, which belongs to the open file description, and `pthread_atfork(3)`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::path::Path;
use std::ptr;
use std::thread;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{FileId, Stamp, Verdict};

/// The lock call of this platform.
pub const MECHANISM: &str = "flock";

/// Whether the numbers of its errors are Win32's, rather than errno's.
pub const ERRORS_ARE_WIN32: bool = false;

/// A descriptor's number.
pub type Descriptor = RawFd;

/// What a lock file is opened with: never through a link at its end, never waiting for a FIFO's other
/// end or a file lease, never becoming somebody's terminal, never inherited by an executed program.
const OPEN: OFlags =
    OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// How often an opening starts again because the file came or went in between.
const ROUNDS: usize = 8;

/// Opens the lock file at `path`, creating it with `mode` (exactly) or with 0666 less the umask. Says whether it was
/// created.
///
/// An existing file keeps its mode and content. It is opened without `O_CREAT`: with it, Linux refuses
/// files of other users in sticky folders (`fs.protected_regular`) before they can be looked at.
///
/// Finding the file missing and then existing, again and again, is contention: others remove and create it.
pub(crate) fn open_lock_file(path: &Path, mode: Option<u32>) -> io::Result<(File, bool)> {
    for _ in 0..ROUNDS {
        match rustix::fs::openat(CWD, path, OPEN, Mode::empty()) {
            Err(Errno::NOENT) => {}
            opened => return Ok((opened?.into(), false)),
        }
        let create = OPEN.union(OFlags::CREATE).union(OFlags::EXCL);
        match rustix::fs::openat(CWD, path, create, Mode::from_raw_mode(narrow(mode.unwrap_or(0o666)))) {
            // Somebody else was faster.
            Err(Errno::EXIST) => {}
            created => {
                let file = File::from(created?);
                if let Some(mode) = mode {
                    set_exact_mode(&file, mode)?;
                }
                return Ok((file, true));
            }
        }
    }
    Err(Errno::AGAIN.into())
}

/// The longest name of a file, in bytes, on every file system of note.
const NAME_MAX: usize = 255;

/// Refuses a path with a name that is too long, before folders are created above it.
pub(crate) fn check_names(path: &Path) -> io::Result<()> {
    let is_too_long = |name: &OsStr| name.as_encoded_bytes().len() > NAME_MAX;
    if path.iter().any(is_too_long) { Err(Errno::NAMETOOLONG.into()) } else { Ok(()) }
}

/// Refuses what is no regular file before it is opened: opening a FIFO or a device has effects of its own.
///
/// Nothing at the path is fine. What is there may change before it is opened, so the stamp of the open file has the last word.
pub(crate) fn check_kind(path: &Path) -> io::Result<()> {
    let Ok(stat) = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => Err(Errno::LOOP.into()),
        FileType::Directory => Err(Errno::ISDIR.into()),
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(special_file_error()),
    }
}

/// The umask may not narrow a mode that was asked for. A file system that has no modes may refuse.
fn set_exact_mode(file: &File, mode: u32) -> io::Result<()> {
    match rustix::fs::fchmod(file, Mode::from_raw_mode(narrow(mode))) {
        Err(Errno::PERM) => Ok(()),
        done => Ok(done?),
    }
}

/// A mode as the platform's `mode_t`, which is 16 bits wide on some.
pub(super) fn narrow(mode: u32) -> rustix::fs::RawMode {
    #[allow(clippy::useless_conversion, reason = "`mode_t` is u32 on Linux and u16 on macOS and BSD")]
    rustix::fs::RawMode::try_from(mode & 0o7777).unwrap_or(0o600)
}

#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    reason = "the fields of `stat` have other types on every Unix"
)]
pub(super) fn identity(stat: &rustix::fs::Stat) -> FileId {
    FileId { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
}

/// The file that `path` leads to; `None` where there is none.
pub(crate) fn id_at(path: &Path) -> io::Result<Option<FileId>> {
    match rustix::fs::stat(path) {
        Ok(stat) => Ok(Some(identity(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether `path` still leads to the file `id`.
pub(crate) fn is_at(path: &Path, id: FileId) -> io::Result<bool> {
    Ok(id_at(path)? == Some(id))
}

/// Whether the file may be locked by this user: not another user's in a sticky folder that is not that
/// user's either.
///
/// Anybody can put a file at a name that others lock in such a folder (`/tmp`), and then hold it for ever.
pub(crate) fn is_trusted(path: &Path, stamp: &Stamp) -> io::Result<bool> {
    if is_own(stamp) {
        return Ok(true);
    }
    let folder = match path.parent() {
        Some(here) if here.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return Ok(true),
    };
    let folder = rustix::fs::stat(folder)?;
    let is_sticky = Mode::from_raw_mode(folder.st_mode).contains(Mode::SVTX);
    Ok(!is_sticky || stamp.owner == folder.st_uid)
}

/// Whether the file belongs to this user, who may then set its permission bits.
pub(crate) fn is_own(stamp: &Stamp) -> bool {
    stamp.owner == rustix::process::geteuid().as_raw()
}

/// The error for a file that is not to be trusted.
pub(crate) fn distrust_error() -> io::Error {
    Errno::ACCESS.into()
}

/// Takes the exclusive lock of the file's open file description, without waiting.
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    match fs4::FileExt::try_lock(file).map_err(io::Error::from) {
        // Some file systems say so of a lock that somebody else has, as POSIX lets them for record locks.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Err(Errno::AGAIN.into()),
        tried => tried,
    }
}

/// Gives the lock back, for all copies of the description.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    fs4::FileExt::unlock(file)
}

/// Makes a call on a file that somebody else has opened, and that stays open.
///
/// # Errors
/// Those of the call; `EBADF` where there is no such descriptor.
#[expect(unsafe_code, reason = "the descriptor is whoever's it is")]
pub(crate) fn with_borrowed<R>(
    descriptor: Descriptor,
    call: impl FnOnce(&File) -> io::Result<R>,
) -> io::Result<R> {
    if descriptor < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the number is used for one call and not kept; if it is not open, the call says so. It is never closed here.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    call(&file)
}

/// What an error of [`open_lock_file`] or [`try_lock`] means.
pub(crate) fn classify(error: &io::Error) -> Verdict {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // From open: somebody holds a lease on the file (fcntl F_SETLEASE).
        Some(Errno::AGAIN) => Verdict::Contended,
        Some(Errno::INTR) => Verdict::Interrupted,
        Some(Errno::NOSYS | Errno::OPNOTSUPP) => Verdict::Unsupported,
        // What was there is not there any more, says another machine.
        Some(Errno::NOENT | Errno::STALE) => Verdict::Missing,
        _ if error.kind() == io::ErrorKind::WouldBlock => Verdict::Contended,
        _ => Verdict::Failed,
    }
}

/// Whether the error says that the call does not exist here: it is not one that was refused.
pub(crate) fn is_not_implemented(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw_os_error) == Some(Errno::NOSYS)
}

/// Closes the file. The descriptor is gone whatever comes of it.
///
/// # Errors
/// What a file system has to say of writes that it had put off. That a signal came is none: Linux has closed it then.
#[expect(unsafe_code, reason = "the standard library closes without a word")]
pub(crate) fn close(file: File) -> io::Result<()> {
    // SAFETY: the number is the file's, which has given it up: nobody else closes it.
    let failed = unsafe { libc::close(file.into_raw_fd()) };
    match io::Error::last_os_error() {
        error if failed != 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Whether a distributed file system answers so about a file that came or went on another machine a moment ago: what it
/// says of the lock is nothing.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    super::names::is_stale(error)
        || matches!(errno, Some(Errno::NOENT | Errno::IO | Errno::BUSY | Errno::INTR))
}

/// Starts a thread that no signal reaches: it must not take those that the program's main thread waits for.
///
/// # Errors
/// Those of starting a thread.
#[expect(unsafe_code, reason = "pthread_sigmask is a C function")]
pub(crate) fn spawn_masked(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours, and the call fills it.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
    }
    // SAFETY: `all` was filled above; `before` is ours, and the call fills it. A new thread inherits the mask.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let spawned = thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(run);
    // SAFETY: `before` was filled by the call above, which fails only where its first argument is wrong.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
    }
    spawned.map(drop)
}

/// The error for a FIFO, a socket or a device at the path; a folder has one of its own.
pub(crate) fn special_file_error() -> io::Error {
    Errno::INVAL.into()
}

pub(crate) fn descriptor(file: &File) -> Descriptor {
    file.as_raw_fd()
}

/// Closes a forked child's copy of an ancestor's descriptor of the file `id`.
///
/// Only for numbers whose `File` will never be dropped here. Somebody may have closed such a number behind
/// our back, and it may stand for another file now: that one stays open.
#[expect(unsafe_code, reason = "the File that owns the number belongs to the ancestor and is leaked here")]
pub(crate) fn close_inherited(descriptor: Descriptor, id: FileId) {
    // SAFETY: the number is used for one call and not kept; if it is not open, the call says so.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    if !rustix::fs::fstat(borrowed).is_ok_and(|stat| identity(&stat) == id) {
        return;
    }
    // SAFETY: the number is open, it stands for the file it was opened for, and no `File` of this process
    // will close it again (`fork::Tracked` forgets files of another generation).
    unsafe {
        rustix::io::close(descriptor);
    }
}

/// Has `before` run ahead of every fork, and the others after it in the parent and in the child.
#[expect(unsafe_code, reason = "pthread_atfork is a C function")]
pub(crate) fn install_fork_handlers(
    before: extern "C" fn(),
    in_parent: extern "C" fn(),
    in_child: extern "C" fn(),
) {
    // SAFETY: the three are functions, so they live as long as the process does; Python never unloads
    // an extension module.
    let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    // ENOMEM is all it can say; the check of the process id still notices a fork then.
    debug_assert_eq!(failed, 0);
}

#[cfg(target_os = "linux")]
pub(crate) use super::proc_locks::possible_holder;

#[cfg(not(target_os = "linux"))]
pub(crate) fn possible_holder(_file: FileId) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_number() {
        let table = [
            (Errno::AGAIN, Verdict::Contended),
            (Errno::WOULDBLOCK, Verdict::Contended),
            (Errno::INTR, Verdict::Interrupted),
            (Errno::NOSYS, Verdict::Unsupported),
            (Errno::OPNOTSUPP, Verdict::Unsupported),
            (Errno::NOENT, Verdict::Missing),
            (Errno::ACCESS, Verdict::Failed),
            (Errno::NOLCK, Verdict::Failed),
            (Errno::IO, Verdict::Failed),
            (Errno::BADF, Verdict::Failed),
        ];
        for (errno, verdict) in table {
            assert_eq!(classify(&io::Error::from(errno)), verdict, "{errno:?}");
        }
        assert_eq!(classify(&io::Error::other("no number")), Verdict::Failed, "unknown is never acquired");
    }

    #[test]
    fn what_says_nothing_for_good_is_looked_at_again() {
        for errno in [Errno::STALE, Errno::NOENT, Errno::IO, Errno::BUSY, Errno::INTR] {
            assert!(is_transient(&errno.into()), "{errno:?}");
        }
        for errno in [Errno::EXIST, Errno::ACCESS, Errno::NOSPC, Errno::ROFS, Errno::NOTDIR, Errno::LOOP] {
            assert!(!is_transient(&errno.into()), "{errno:?}");
        }
        assert!(!is_transient(&io::Error::other("no number")));
    }
}
