//! Windows: the names in a folder, each call by its full path.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};

use windows_sys::Win32::Foundation::{
    ERROR_ALREADY_EXISTS, ERROR_DIRECTORY_NOT_SUPPORTED, ERROR_FILE_NOT_FOUND, ERROR_FILENAME_EXCED_RANGE,
    ERROR_PATH_NOT_FOUND, ERROR_REPARSE_POINT_ENCOUNTERED, ERROR_SHARING_VIOLATION, WIN32_ERROR,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_ATTRIBUTE_REPARSE_POINT, FILE_DISPOSITION_INFO, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES, FILE_SHARE_READ, FILE_SHARE_WRITE,
    FileDispositionInfo, SetFileInformationByHandle,
};

use super::platform::identity;
use super::{At, FileId, Kind, Stamp};

/// Whether a stale marker is taken out of its place by a plain rename: there is no exchange here, and a marker
/// whose owner lives cannot be renamed by filelock, nor is it judged dead.
pub(crate) const MOVES_BY_RENAME: bool = true;

/// How often a removal is tried again while somebody has the file open in a way that forbids it.
const ROUNDS: u32 = 10;

impl<'a> At<'a> {
    fn named(self, name: &'a OsStr) -> Self {
        Self { name, ..self }
    }

    fn path(self) -> PathBuf {
        self.folder_path.join(self.name)
    }
}

fn win32(code: WIN32_ERROR) -> io::Error {
    io::Error::from_raw_os_error(i32::from_ne_bytes(code.to_ne_bytes()))
}

/// Opens the folder `path`; the empty path is the working directory.
pub(crate) fn open_folder(path: &Path) -> io::Result<File> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    OpenOptions::new().read(true).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)
}

/// Makes a folder; one that is there already is fine. Access is inherited.
pub(crate) fn make_folder(at: At<'_>, _mode: u32) -> io::Result<()> {
    match fs::create_dir(at.path()) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Opens the folder at the name, and never through a link.
pub(crate) fn open_folder_at(at: At<'_>) -> io::Result<File> {
    let flags = FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS;
    let folder = OpenOptions::new().read(true).custom_flags(flags).open(at.path())?;
    if stamp_of(&folder)?.kind == Kind::Folder {
        Ok(folder)
    } else {
        Err(io::ErrorKind::NotADirectory.into())
    }
}

/// The last name of `path`, if it has one that a file can have.
pub(crate) fn file_name(path: &Path) -> io::Result<&OsStr> {
    let ends_with_separator =
        path.as_os_str().encode_wide().last().is_some_and(|unit| unit == 0x2F || unit == 0x5C);
    match path.file_name() {
        _ if path.as_os_str().is_empty() => Err(win32(ERROR_FILE_NOT_FOUND)),
        Some(name) if !ends_with_separator => Ok(name),
        _ => Err(folder_error()),
    }
}

#[expect(clippy::cast_possible_wrap, reason = "times in units of 100 ns fit for tens of thousands of years")]
fn stamp(metadata: &Metadata, file: &File) -> io::Result<Stamp> {
    let kind = metadata.file_type();
    let kind = if kind.is_symlink() || kind.is_symlink_file() || kind.is_symlink_dir() {
        Kind::Link
    } else if kind.is_dir() {
        Kind::Folder
    } else if metadata.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT == 0 {
        Kind::Regular
    } else {
        Kind::Special
    };
    // From units of 100 ns since 1601 to seconds since 1970.
    let written = metadata.last_write_time() as i64;
    let modified = (written / 10_000_000 - 11_644_473_600, written % 10_000_000 * 100);
    let mode = if metadata.permissions().readonly() { 0o444 } else { 0o666 };
    let (id, links) = identity(file)?;
    Ok(Stamp { id, kind, mode, links, owner: 0, size: metadata.len(), modified, changed: modified })
}

/// What stands at the name; `None`: nothing.
pub(crate) fn look(at: At<'_>) -> io::Result<Option<Stamp>> {
    let flags = FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS;
    match OpenOptions::new().access_mode(0).custom_flags(flags).open(at.path()) {
        Ok(file) => stamp_of(&file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn path_of_open(_file: &File) -> io::Result<PathBuf> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What the open file is now.
pub(crate) fn stamp_of(file: &File) -> io::Result<Stamp> {
    stamp(&file.metadata()?, file)
}

/// Asks the server whether the open file still has a name: here nobody removes what is open.
#[expect(clippy::unnecessary_wraps, reason = "other platforms can fail")]
pub(crate) fn check_with_server(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Has this machine ask the server what is at the name: it does so anyway.
pub(crate) fn forget(_at: At<'_>) {}

/// As [`forget`].
pub(crate) fn forget_path(_path: &Path) {}

/// Whether the file is known to this machine only: another one has removed it.
pub(crate) fn is_stale(_error: &io::Error) -> bool {
    false
}

/// The error of a call on a file that is open: it is what it says.
pub(crate) fn of_open_file(error: io::Error) -> io::Error {
    error
}

/// Opens what is at the name for reading.
pub(crate) fn open_to_read(at: At<'_>) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(at.path())
}

/// There are no files without a name here.
pub(crate) fn create_unnamed(_folder: &File, _mode: u32) -> io::Result<File> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Creates a file at a name that nothing has. Access is inherited from the folder.
pub(crate) fn create_new(at: At<'_>, _mode: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(at.path())
}

#[expect(clippy::unnecessary_wraps, reason = "other platforms can fail")]
pub(crate) fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Sets the time of the last change to now.
#[expect(clippy::disallowed_methods, reason = "other programs judge the age of a marker by the wall clock")]
pub(crate) fn touch(file: &File) -> io::Result<()> {
    file.set_modified(std::time::SystemTime::now())
}

pub(crate) fn name_unnamed(_file: &File, _at: At<'_>) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Gives the file at `old` the second name `new`, if nothing has it.
pub(crate) fn link(old: At<'_>, new: &OsStr) -> io::Result<()> {
    link_paths(&old.path(), &old.named(new).path())
}

fn link_paths(old: &Path, new: &Path) -> io::Result<()> {
    match fs::hard_link(old, new) {
        Err(error) if error.raw_os_error() == win32(ERROR_ALREADY_EXISTS).raw_os_error() => {
            Err(io::Error::from(io::ErrorKind::AlreadyExists))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
            Err(error)
        }
        Err(_) => Err(io::Error::from(io::ErrorKind::Unsupported)),
        Ok(()) => Ok(()),
    }
}

/// As [`link`], into another folder.
pub(crate) fn link_across(old: At<'_>, new: At<'_>) -> io::Result<()> {
    link_paths(&old.path(), &new.path())
}

pub(crate) fn exchange(_one: At<'_>, _other: &OsStr) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Gives the file at `old` the name `new` instead.
pub(crate) fn rename(old: At<'_>, new: &OsStr) -> io::Result<()> {
    fs::rename(old.path(), old.named(new).path())
}

/// Takes the name away from the file that has it; nothing there is fine.
pub(crate) fn remove(at: At<'_>) -> io::Result<()> {
    let path = at.path();
    let mut round = 0;
    loop {
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if round < ROUNDS => {
                crate::wait::sleep(std::time::Duration::from_millis(1 << round.min(6)));
                round += 1;
            }
            done => return done,
        }
    }
}

/// Whether a lock file is removed while it is open and locked: here it is removed by who has closed it.
pub(crate) const REMOVES_OPEN_FILES: bool = false;

/// Removes the lock file `id`, if nobody has it open; `false`: somebody has, another file is there, or one that is more
/// than a lock file.
///
/// Lock files are opened without delete sharing: who has one open cannot lose it, and who comes while it goes finds it
/// in use.
#[expect(unsafe_code, reason = "SetFileInformationByHandle is a C function")]
pub(crate) fn remove_lock_file(at: At<'_>, id: FileId) -> io::Result<bool> {
    let opened = OpenOptions::new()
        .access_mode(DELETE | FILE_READ_ATTRIBUTES)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
        .open(at.path());
    let file = match opened {
        Ok(file) => file,
        Err(error) if is_in_use_or_gone(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let stamp = stamp_of(&file)?;
    if stamp.id != id || !stamp.is_bare_lock_file() {
        return Ok(false);
    }
    let disposition = FILE_DISPOSITION_INFO { DeleteFile: true };
    let size = u32::try_from(size_of::<FILE_DISPOSITION_INFO>()).unwrap_or(u32::MAX);
    // SAFETY: the file outlives the call, so its handle is open; the structure is ours, and its size is given.
    let done = unsafe {
        SetFileInformationByHandle(
            file.as_raw_handle(),
            FileDispositionInfo,
            (&raw const disposition).cast(),
            size,
        )
    };
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(true) }
}

fn is_in_use_or_gone(error: &io::Error) -> bool {
    let codes = [ERROR_SHARING_VIOLATION, ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND];
    codes.iter().any(|code| error.raw_os_error() == win32(*code).raw_os_error())
}

/// Opens what is at the name to lock it.
pub(crate) fn open_to_lock(at: At<'_>) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
        .open(at.path())
}

/// The names in the folder that begin with `prefix`.
pub(crate) fn names(at: At<'_>, prefix: &OsStr) -> io::Result<Vec<OsString>> {
    let begins = |name: &OsString| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
    let entries = fs::read_dir(at.folder_path)?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().filter(begins).collect())
}

/// Whether this user may write to the file at the name.
pub(crate) fn may_write(at: At<'_>) -> bool {
    OpenOptions::new().write(true).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(at.path()).is_ok()
}

/// The error for a link at the path.
pub(crate) fn link_error() -> io::Error {
    win32(ERROR_REPARSE_POINT_ENCOUNTERED)
}

/// The error for a folder at the path.
pub(crate) fn folder_error() -> io::Error {
    win32(ERROR_DIRECTORY_NOT_SUPPORTED)
}

/// Whether the name is too long for the file system.
pub(crate) fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == win32(ERROR_FILENAME_EXCED_RANGE).raw_os_error()
}
