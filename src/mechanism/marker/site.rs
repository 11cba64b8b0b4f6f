//! A name in an open folder: where a marker is or will be.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use crate::fork::Tracked;
use crate::path;
use crate::sys::{self, At, Facts, Stamp, Verdict, names};

/// A place for a marker. It stays the same place when the working directory changes or the folder is renamed.
#[derive(Debug)]
pub(in crate::mechanism) struct Site {
    folder: Tracked,
    folder_path: PathBuf,
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
        let open = || Tracked::open(|| names::open_folder(folder_path));
        let folder = match open() {
            Err(error) if sys::classify(&error) == Verdict::Missing => {
                sys::create_parents(path)
                    .map_err(|error| Error::caused(ErrorKind::Io, "mkdir", path, error))?;
                open()
            }
            opened => opened,
        };
        let folder = folder.map_err(|error| Error::caused(ErrorKind::Io, "open", path, error))?;
        let folder_path = path::absolute(folder_path).map_or_else(|_| folder_path.to_owned(), Into::into);
        Ok(Self { folder, folder_path, name, path: path.to_owned() })
    }

    /// The marker's name.
    pub(in crate::mechanism) fn at(&self) -> io::Result<At<'_>> {
        self.named(&self.name)
    }

    /// Another name in the folder. A forked child has no part in what its parent opened.
    pub(in crate::mechanism) fn named<'a>(&'a self, name: &'a OsStr) -> io::Result<At<'a>> {
        Ok(At { folder: self.folder.own_file()?, folder_path: &self.folder_path, name })
    }

    /// What stands at the marker's name.
    pub(super) fn look(&self) -> Result<Option<Stamp>, Error> {
        self.at().and_then(names::look).map_err(|error| self.failed("stat", error))
    }

    /// Whether the file that was seen as `judged` is still at the marker's name, unchanged.
    pub(super) fn is_still(&self, judged: &Stamp) -> Result<bool, Error> {
        Ok(self.look()?.is_some_and(|stamp| stamp.is_same_content(judged)))
    }

    /// The marker's name with something after it.
    pub(super) fn beside(&self, end: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(end);
        name
    }

    pub(in crate::mechanism) fn folder(&self) -> Option<(&File, &Facts)> {
        self.folder.file().map(|file| (file, self.folder.facts()))
    }

    /// Where the folder was when it was opened.
    pub(in crate::mechanism) fn folder_path(&self) -> &Path {
        &self.folder_path
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
