//! A name in an open folder: where a marker is or will be.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use crate::mechanism::folder::Folder;
use crate::sys::{self, At, Stamp, Verdict, names};

/// A place for a marker.
#[derive(Debug)]
pub(in crate::mechanism) struct Site {
    pub(in crate::mechanism) folder: Folder,
    pub(in crate::mechanism) name: OsString,
    path: PathBuf,
}

impl Site {
    /// Opens the folder of `path`, which is made if there is none.
    pub(in crate::mechanism) fn open(path: &Path) -> Result<Self, Error> {
        let name = names::file_name(path)
            .map_err(|error| Error::caused(ErrorKind::Refused, "lock", path, error))?
            .to_owned();
        let folder_path = path.parent().unwrap_or(Path::new(""));
        let open = || Folder::open(folder_path);
        let folder = match open() {
            Err(error) if sys::classify(&error) == Verdict::Missing => {
                sys::create_parents(path)
                    .map_err(|error| Error::caused(ErrorKind::Io, "mkdir", path, error))?;
                open()
            }
            opened => opened,
        };
        let folder = folder.map_err(|error| Error::caused(ErrorKind::Io, "open", path, error))?;
        Ok(Self { folder, name, path: path.to_owned() })
    }

    /// As [`Site::open`], for who only asks, which makes no folder; `None`: there is none.
    pub(in crate::mechanism) fn find(path: &Path) -> Result<Option<Self>, Error> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) { Ok(None) } else { Self::open(path).map(Some) }
    }

    /// The marker's name.
    pub(in crate::mechanism) fn at(&self) -> io::Result<At<'_>> {
        self.named(&self.name)
    }

    /// Another name in the folder.
    pub(in crate::mechanism) fn named<'a>(&'a self, name: &'a OsStr) -> io::Result<At<'a>> {
        self.folder.named(name)
    }

    /// What stands at the marker's name.
    pub(in crate::mechanism) fn look(&self) -> Result<Option<Stamp>, Error> {
        self.at().and_then(names::look).map_err(|error| self.failed("stat", error))
    }

    /// Whether the file that was seen as `judged` is still at the marker's name, unchanged.
    pub(super) fn is_still(&self, judged: &Stamp) -> Result<bool, Error> {
        Ok(self.look()?.is_some_and(|stamp| stamp.is_same_content(judged)))
    }

    /// The marker's name with something after it.
    pub(in crate::mechanism) fn beside(&self, end: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(end);
        name
    }

    /// The path, as it was asked for.
    pub(in crate::mechanism) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind, "lock", &self.path)
    }

    pub(in crate::mechanism) fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        let kind =
            if error.kind() == io::ErrorKind::Unsupported { ErrorKind::Unsupported } else { ErrorKind::Io };
        Error::caused(kind, operation, &self.path, error)
    }

    pub(in crate::mechanism) fn refused(&self, error: io::Error) -> Error {
        Error::caused(ErrorKind::Refused, "lock", &self.path, error)
    }
}
