//! Unix: the names in a folder, each call relative to an open folder, so that neither `chdir` nor a rename of the
//! folder leads elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::platform::{identity, narrow};
use super::{At, FileId, Kind, Stamp};

/// Whether a stale marker is taken out of its place by a plain rename, rather than by an exchange: here never, for
/// between the two calls the path would stand empty.
pub(crate) const MOVES_BY_RENAME: bool = false;

#[cfg(target_os = "linux")]
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What every file is opened with: never through a link at its end, never waiting for a FIFO's other end, never
/// becoming somebody's terminal, never inherited by an executed program.
const OPEN: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Opens the folder `path`; the empty path is the working directory.
pub(crate) fn open_folder(path: &Path) -> io::Result<File> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(rustix::fs::openat(CWD, path, FOLDER, Mode::empty())?.into())
}

/// Makes a folder; one that is there already is fine.
pub(crate) fn make_folder(at: At<'_>, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdirat(at.folder, at.name, Mode::from_raw_mode(narrow(mode))) {
        Err(Errno::EXIST) => Ok(()),
        made => Ok(made?),
    }
}

/// Opens the folder at the name, and never through a link.
pub(crate) fn open_folder_at(at: At<'_>) -> io::Result<File> {
    let flags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
    Ok(rustix::fs::openat(at.folder, at.name, flags, Mode::empty())?.into())
}

/// The last name of `path`, if it has one that a file can have.
pub(crate) fn file_name(path: &Path) -> io::Result<&OsStr> {
    match path.file_name() {
        _ if path.as_os_str().is_empty() => Err(Errno::NOENT.into()),
        Some(name) if !path.as_os_str().as_bytes().ends_with(b"/") => Ok(name),
        _ => Err(Errno::ISDIR.into()),
    }
}

#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    clippy::cast_lossless,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the fields of `stat` have other types on every Unix"
)]
fn stamp(stat: &rustix::fs::Stat) -> Stamp {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::Regular,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Kind::Special,
    };
    Stamp {
        id: identity(stat),
        kind,
        mode: stat.st_mode as u32,
        links: stat.st_nlink as u64,
        owner: stat.st_uid,
        size: stat.st_size as u64,
        modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    }
}

/// What stands at the name; `None`: nothing.
pub(crate) fn look(at: At<'_>) -> io::Result<Option<Stamp>> {
    let stat = || match rustix::fs::statat(at.folder, at.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stamp(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(io::Error::from(errno)),
    };
    match stat() {
        Err(error) if is_stale(&error) => {
            forget(at);
            stat().or_else(|error| if is_stale(&error) { Ok(None) } else { Err(error) })
        }
        looked => looked,
    }
}

/// What the open file is now.
pub(crate) fn stamp_of(file: &File) -> io::Result<Stamp> {
    rustix::fs::fstat(file).map(|stat| stamp(&stat)).map_err(|errno| of_open_file(errno.into()))
}

/// Where an open file is now.
///
/// # Errors
/// `Unsupported` where the system does not tell, and those of asking.
#[cfg(target_os = "linux")]
pub(crate) fn path_of_open(file: &File) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn path_of_open(_file: &File) -> io::Result<PathBuf> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What nobody sets. It is asked for because no client remembers the answer.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
const ATTRIBUTE: &std::ffi::CStr = c"user.ferrolock";

/// Asks the server whether the open file still has a name, past all that this machine remembers.
///
/// For two seconds after another machine has removed a file, a client of `GlusterFS` may still open, stat and read it from
/// memory (its own and the kernel's), and say that its name is taken.
///
/// # Errors
/// `StaleNetworkFileHandle`: another machine has removed it. Other answers tell nothing: a server that has the file open too,
/// for a lock or a write, knows it still.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(crate) fn check_with_server(file: &File) -> io::Result<()> {
    match rustix::fs::fgetxattr(file, ATTRIBUTE, &mut [0_u8; 1][..]) {
        Err(Errno::STALE | Errno::NOENT) => Err(Errno::STALE.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Has this machine ask the server what is at the name, if what it remembers is not there any more.
///
/// After a stale handle: opening and `stat` do not, for as long as it is remembered.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(crate) fn forget(at: At<'_>) {
    // By the path, for there is no such call relative to a folder. If it leads elsewhere by now, nothing is forgotten.
    forget_path(&at.folder_path.join(at.name));
}

/// As [`forget`].
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(crate) fn forget_path(path: &Path) {
    let _answer = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut [0_u8; 1][..]);
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(crate) fn check_with_server(_file: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(crate) fn forget(_at: At<'_>) {}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(crate) fn forget_path(_path: &Path) {}

/// Whether the file, or what was open of it, is known to this machine only: another one has removed it.
pub(crate) fn is_stale(error: &io::Error) -> bool {
    // `GlusterFS` has the other one for what it opened from memory.
    #[cfg(target_os = "linux")]
    if error.raw_os_error() == Some(Errno::BADFD.raw_os_error()) {
        return true;
    }
    error.raw_os_error() == Some(Errno::STALE.raw_os_error())
}

/// The error of a call on a file that is open: that it does not exist means that another machine has removed it, and says
/// nothing of what is at its name.
pub(crate) fn of_open_file(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::NotFound { Errno::STALE.into() } else { error }
}

/// Opens what is at the name for reading.
pub(crate) fn open_to_read(at: At<'_>) -> io::Result<File> {
    Ok(rustix::fs::openat(at.folder, at.name, OPEN.union(OFlags::RDONLY), Mode::empty())?.into())
}

/// Creates a file that has no name yet, and that vanishes if it never gets one.
///
/// # Errors
/// `Unsupported` where there is no such thing.
#[cfg(target_os = "linux")]
pub(crate) fn create_unnamed(folder: &File, mode: u32) -> io::Result<File> {
    let flags = OFlags::TMPFILE.union(OFlags::RDWR).union(OFlags::CLOEXEC);
    match rustix::fs::openat(folder, c".", flags, Mode::from_raw_mode(narrow(mode))) {
        Ok(file) => Ok(file.into()),
        // A kernel that does not know the flag takes it for `O_DIRECTORY`.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
            Err(io::Error::from(io::ErrorKind::Unsupported))
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn create_unnamed(_folder: &File, _mode: u32) -> io::Result<File> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Creates a file at a name that nothing has.
pub(crate) fn create_new(at: At<'_>, mode: u32) -> io::Result<File> {
    let flags = OPEN.union(OFlags::RDWR).union(OFlags::CREATE).union(OFlags::EXCL);
    Ok(rustix::fs::openat(at.folder, at.name, flags, Mode::from_raw_mode(narrow(mode)))?.into())
}

/// Sets the permission bits, as far as the file system has any.
pub(crate) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    match rustix::fs::fchmod(file, Mode::from_raw_mode(narrow(mode))) {
        Err(Errno::PERM) => Ok(()),
        done => Ok(done?),
    }
}

/// Sets the time of the last change to now, as the file system counts it.
pub(crate) fn touch(file: &File) -> io::Result<()> {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    Ok(rustix::fs::futimens(file, &rustix::fs::Timestamps { last_access: now, last_modification: now })?)
}

/// Gives a file that has no name the name `at`, if nothing has it.
#[cfg(target_os = "linux")]
pub(crate) fn name_unnamed(file: &File, at: At<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Naming a descriptor needs a privilege, or a recent kernel; its name in `/proc` needs that mounted.
    static IS_REFUSED: AtomicBool = AtomicBool::new(false);
    if !IS_REFUSED.load(Ordering::Relaxed) {
        match rustix::fs::linkat(file, c"", at.folder, at.name, AtFlags::EMPTY_PATH) {
            Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => IS_REFUSED.store(true, Ordering::Relaxed),
            done => return classified(done),
        }
    }
    let own_name = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(CWD, &*own_name, at.folder, at.name, AtFlags::SYMLINK_FOLLOW) {
        // It is not mounted. Or the folder is gone: then the next way to make a file does not find it either.
        Err(Errno::NOENT) => Err(io::Error::from(io::ErrorKind::Unsupported)),
        done => classified(done),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn name_unnamed(_file: &File, _at: At<'_>) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Gives the file at `old` the second name `new`, if nothing has it.
///
/// # Errors
/// `Unsupported` on a file system without hard links.
pub(crate) fn link(old: At<'_>, new: &OsStr) -> io::Result<()> {
    classified(rustix::fs::linkat(old.folder, old.name, old.folder, new, AtFlags::empty()))
}

/// As [`link`], into another folder.
pub(crate) fn link_across(old: At<'_>, new: At<'_>) -> io::Result<()> {
    classified(rustix::fs::linkat(old.folder, old.name, new.folder, new.name, AtFlags::empty()))
}

/// A refusal that is the file system's way to say that it has no such call.
fn classified(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK | Errno::XDEV) => {
            Err(io::Error::from(io::ErrorKind::Unsupported))
        }
        done => Ok(done?),
    }
}

/// Lets two names swap their files in one step.
///
/// # Errors
/// `Unsupported` where the kernel or the file system has no such call.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(crate) fn exchange(one: At<'_>, other: &OsStr) -> io::Result<()> {
    let folder = one.folder;
    match rustix::fs::renameat_with(folder, one.name, folder, other, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::XDEV | Errno::OPNOTSUPP) => {
            Err(io::Error::from(io::ErrorKind::Unsupported))
        }
        done => Ok(done?),
    }
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(crate) fn exchange(_one: At<'_>, _other: &OsStr) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Gives the file at `old` the name `new` instead.
pub(crate) fn rename(old: At<'_>, new: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::renameat(old.folder, old.name, old.folder, new)?)
}

/// How often a removal is tried that the file system says nothing certain of.
const ROUNDS: u32 = 8;

/// Takes the name away from the file that has it; nothing there is fine.
pub(crate) fn remove(at: At<'_>) -> io::Result<()> {
    for _ in 1..ROUNDS {
        match rustix::fs::unlinkat(at.folder, at.name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            // Either the file is gone, or what this client remembers of the folder is out of date.
            Err(Errno::STALE) if look(at)?.is_none() => return Ok(()),
            Err(Errno::STALE) => {}
            done => return Ok(done?),
        }
    }
    Err(Errno::STALE.into())
}

/// Whether a lock file is removed while it is open and locked. Where it is not, it is removed by who has closed it.
pub(crate) const REMOVES_OPEN_FILES: bool = true;

/// Takes the name away from the lock file `id`, which the caller has locked; `false`: another file is there, or one that
/// is more than a lock file.
pub(crate) fn remove_lock_file(at: At<'_>, id: FileId) -> io::Result<bool> {
    match look(at)? {
        Some(stamp) if stamp.id == id && stamp.is_bare_lock_file() => remove(at).map(|()| true),
        Some(_) | None => Ok(false),
    }
}

/// Opens what is at the name to lock it.
pub(crate) fn open_to_lock(at: At<'_>) -> io::Result<File> {
    Ok(rustix::fs::openat(at.folder, at.name, OPEN.union(OFlags::RDWR), Mode::empty())?.into())
}

/// The names in the folder that begin with `prefix`.
pub(crate) fn names(at: At<'_>, prefix: &OsStr) -> io::Result<Vec<OsString>> {
    let flags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
    let folder = rustix::fs::openat(at.folder, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name.as_bytes().starts_with(prefix.as_bytes()) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Whether this user may write to the file at the name.
pub(crate) fn may_write(at: At<'_>) -> bool {
    rustix::fs::accessat(at.folder, at.name, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// The error for a link at the path.
pub(crate) fn link_error() -> io::Error {
    Errno::LOOP.into()
}

/// The error for a folder at the path.
pub(crate) fn folder_error() -> io::Error {
    Errno::ISDIR.into()
}

/// Whether the name is too long for the file system.
pub(crate) fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error())
}
