//! An open folder, and what has a name in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::fork::Tracked;
use crate::path;
use crate::sys::{self, At, FileId, names};

/// A folder. It stays the same one when the working directory changes or it is renamed.
#[derive(Debug)]
pub(super) struct Folder {
    folder: Tracked,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder `path`; the empty path is the working directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let folder = Tracked::open(|| names::open_folder(path))?;
        let path = path::absolute(path).map_or_else(|_| path.to_owned(), Into::into);
        Ok(Self { folder, path })
    }

    /// Opens the folder `name` in this one, and never through a link.
    pub(super) fn open_inside(&self, name: &OsStr) -> io::Result<Self> {
        let at = self.named(name)?;
        Ok(Self { folder: Tracked::open(|| names::open_folder_at(at))?, path: self.path.join(name) })
    }

    /// Whether it is not a stranger's, in a folder that anybody may write to.
    pub(super) fn is_trusted(&self) -> io::Result<bool> {
        sys::is_trusted(&self.path, self.folder.stamp())
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

    /// Where it was when it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
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
