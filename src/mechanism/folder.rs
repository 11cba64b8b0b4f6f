//! An open folder, and what has a name in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::fork::Tracked;
use crate::path;
use crate::sys::{self, At, FileId, names};

/// `path` as it is now; as it is spelt, where that cannot be known.
fn absolute(path: &Path) -> PathBuf {
    path::absolute(path).map_or_else(|_| path.to_owned(), Into::into)
}

/// A folder. It stays the same one when the working directory changes or it is renamed.
#[derive(Debug)]
pub(super) struct Folder {
    folder: Tracked,
    /// As it was given, where the open folder is enough to go by; otherwise absolute.
    path: PathBuf,
}

impl Folder {
    /// Opens the folder `path`; the empty path is the working directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let folder = Tracked::open(|| names::open_folder(path))?;
        // On a file system of this machine nobody goes by the path but `Folder::path`, and asking what the working directory is
        // would cost as much as opening it.
        let path = if sys::is_device_known_local(folder.stamp().id.device) {
            path.to_owned()
        } else {
            absolute(path)
        };
        Ok(Self { folder, path })
    }

    /// Opens the folder `name` in this one, and never through a link.
    pub(super) fn open_inside(&self, name: &OsStr) -> io::Result<Self> {
        let at = self.named(name)?;
        Ok(Self { folder: Tracked::open(|| names::open_folder_at(at))?, path: self.path.join(name) })
    }

    /// Whether it is not a stranger's, in a folder that anybody may write to.
    pub(super) fn is_trusted(&self) -> io::Result<bool> {
        // Where it is has to be found out only for a stranger's.
        Ok(self.is_own() || sys::is_trusted(&self.path(), self.folder.stamp())?)
    }

    /// A name in the folder. A forked child has no part in what its parent opened.
    pub(super) fn named<'a>(&'a self, name: &'a OsStr) -> io::Result<At<'a>> {
        Ok(At { folder: self.file()?, folder_path: &self.path, name })
    }

    /// The names that begin with `prefix`. By opening the folder anew: what a distributed file system remembers of it
    /// is looked up again then.
    pub(super) fn names(&self, prefix: &OsStr) -> io::Result<Vec<OsString>> {
        names::names(self.named(OsStr::new("."))?, prefix)
    }

    /// Where it was when it was opened, or is now.
    pub(super) fn path(&self) -> PathBuf {
        if self.path.is_absolute() {
            return self.path.clone();
        }
        self.file().and_then(names::path_of_open).unwrap_or_else(|_| absolute(&self.path))
    }

    /// What tells this folder from others.
    pub(super) fn id(&self) -> FileId {
        self.folder.stamp().id
    }

    /// The folder, unless it is an ancestor's of this process.
    pub(super) fn file(&self) -> io::Result<&File> {
        self.folder.own_file()
    }

    /// Whether this user may set its permission bits.
    pub(super) fn is_own(&self) -> bool {
        sys::is_own(self.folder.stamp())
    }

    /// Whether it lies on a file system that is known to be of this machine.
    pub(super) fn is_local(&self) -> bool {
        self.folder.file().is_some_and(|file| sys::is_known_local(file, self.id()))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The working directory may have changed since, and the folder may have been renamed.
    #[test]
    fn a_folder_that_was_given_by_a_relative_path_says_where_it_is() -> io::Result<()> {
        let temporary = tempfile::tempdir()?;
        let (before, after) = (temporary.path().join("before"), temporary.path().join("after"));
        std::fs::create_dir(&before)?;
        let folder = Folder { path: PathBuf::from("before"), ..Folder::open(&before)? };
        std::fs::rename(&before, &after)?;
        assert_eq!(folder.path(), after.canonicalize()?);
        Ok(())
    }

    #[test]
    fn the_folder_of_a_relative_path_is_opened_where_it_is_now() -> io::Result<()> {
        let here = std::env::current_dir()?.canonicalize()?;
        for path in ["", ".", "src"] {
            assert_eq!(Folder::open(Path::new(path))?.path(), here.join(path).canonicalize()?);
        }
        Ok(())
    }
}
