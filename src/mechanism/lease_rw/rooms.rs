//! The files beside the lock's path, and the folder of those who hold it.
//!
//! | name | what it is | whose |
//! |---|---|---|
//! | `x.state` | a mutex around each transition | filelock's, as a soft lock's marker |
//! | `x.write` | a writer that claims or holds | filelock's |
//! | `x.readers/` | one file for each reader, and files of ours whose names begin with a dot; it stays | filelock's |
//! | `x.readers/<32 hex>.<pid>` | a reader | filelock's |
//! | `x.readers/.writer.<token>` | a writer of ours, under a name that nobody uses again | ours |
//! | `x.readers/.generation.<number>` | the number of a writer, claimed by making the name | ours |
//! | `x.readers/.seen.<boot>` | what contenders of one machine have seen | ours |
//!
//! filelock passes over names that begin with a dot.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lease;
use crate::error::{Error, ErrorKind};
use crate::fork::Tracked;
use crate::mechanism::folder::Folder;
pub(super) use crate::mechanism::look::{Look, Marker, look};
use crate::mechanism::marker::Site;
use crate::sys::{self, At, FileId, names};

const WRITER: &str = ".writer.";
const GENERATION: &str = ".generation.";

/// The names beside a path, relative to its open folder.
#[derive(Debug)]
pub(super) struct Rooms {
    pub(super) state: Site,
    pub(super) write: OsString,
    readers: OsString,
    pub(super) path: PathBuf,
}

/// The open folder of readers. Opened anew for each attempt: what a distributed file system remembers of a folder it
/// looks up again then.
#[derive(Debug)]
pub(super) struct Readers {
    folder: Folder,
}

/// The names in the folder of readers.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) readers: Vec<OsString>,
    pub(super) writers: Vec<OsString>,
    pub(super) generations: Vec<u64>,
}

impl Rooms {
    /// Opens the folder of `path`, which is made if there is none.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, Error> {
        let beside = |end: &str| {
            let mut name = names::file_name(path)?.to_owned();
            name.push(end);
            Ok::<_, io::Error>(name)
        };
        let refused = |error: io::Error| Error::caused(ErrorKind::Refused, "lock", path, error);
        let write = beside(".write").map_err(refused)?;
        let readers = beside(".readers").map_err(refused)?;
        let mut state = path.as_os_str().to_owned();
        state.push(".state");
        let state = Site::open(Path::new(&state))?;
        Ok(Arc::new(Self { state, write, readers, path: path.to_owned() }))
    }

    pub(super) fn write(&self) -> io::Result<At<'_>> {
        self.state.named(&self.write)
    }

    /// Opens the folder of readers.
    ///
    /// # Errors
    /// `NotFound` where there is none; those of what can never be one.
    pub(super) fn readers(&self) -> io::Result<Readers> {
        let folder = self.state.folder.open_inside(&self.readers)?;
        if folder.is_trusted()? { Ok(Readers { folder }) } else { Err(sys::distrust_error()) }
    }

    /// As [`Rooms::readers`], and makes it if need be.
    pub(super) fn make_readers(&self) -> io::Result<Readers> {
        match self.readers() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                names::make_folder(self.state.named(&self.readers)?, 0o700)?;
                self.readers()
            }
            opened => opened,
        }
    }

    /// Whether the files lie on a file system that is known to be of this machine.
    pub(super) fn is_local(&self) -> bool {
        self.state.folder.is_local()
    }

    pub(super) fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        let is_refusal = error.kind() == io::ErrorKind::NotADirectory
            || [names::link_error(), names::folder_error(), sys::special_file_error(), sys::distrust_error()]
                .iter()
                .any(|known| known.raw_os_error().is_some() && known.raw_os_error() == error.raw_os_error());
        let kind = if is_refusal {
            ErrorKind::Refused
        } else if error.kind() == io::ErrorKind::Unsupported {
            ErrorKind::Unsupported
        } else {
            ErrorKind::Io
        };
        Error::caused(kind, operation, &self.path, error)
    }
}

impl Readers {
    pub(super) fn named<'a>(&'a self, name: &'a OsStr) -> io::Result<At<'a>> {
        self.folder.named(name)
    }

    /// Makes a marker under a name that is nobody else's.
    pub(super) fn create(&self, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
        let at = self.named(name)?;
        let make = || {
            let file = Tracked::open(|| names::create_new(at, 0o600))?;
            file.own_file().and_then(|mut file| file.write_all(bytes))
        };
        // It may be there, whatever failed.
        make().inspect_err(|_| drop(names::remove(at)))
    }

    /// What tells this place from others, to everybody, whoever comes and goes.
    pub(super) fn id(&self) -> FileId {
        self.folder.id()
    }

    pub(super) fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for name in self.folder.names(OsStr::new(""))? {
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(WRITER.as_bytes()) {
                listing.writers.push(name);
            } else if let Some(number) = generation_of(&name) {
                listing.generations.push(number);
            } else if !bytes.starts_with(b".") && !contains(bytes, b".break") {
                listing.readers.push(name);
            }
        }
        Ok(listing)
    }
}

impl Listing {
    /// The greatest number that was ever claimed; the names of smaller ones may be gone.
    pub(super) fn newest(&self) -> u64 {
        self.generations.iter().copied().max().unwrap_or(0)
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The name by which a writer of ours claims.
pub(super) fn writer_name(token: &str) -> OsString {
    OsString::from(format!("{WRITER}{token}"))
}

pub(super) fn generation_name(number: u64) -> OsString {
    OsString::from(format!("{GENERATION}{number}"))
}

fn generation_of(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_prefix(GENERATION)?;
    let number = digits.parse().ok()?;
    // Only as we write it: another spelling would be another name for the same number.
    (digits == format!("{number}")).then_some(number)
}

/// What came of refreshing a marker.
#[derive(Debug)]
pub(super) enum Touched {
    Done,
    Nothing,
    /// Something else stands there, which says this.
    Other(Vec<u8>),
}

/// Sets the time of the file at the name to now, if it says `bytes`: the very file that was read.
pub(super) fn touch_if(at: At<'_>, bytes: &[u8]) -> io::Result<Touched> {
    let file = match Tracked::open(|| names::open_to_read(at)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Touched::Nothing),
        file => file?,
    };
    let file = file.own_file()?;
    let mut found = Vec::with_capacity(bytes.len() + 1);
    file.take(lease::LONGEST as u64 + 1).read_to_end(&mut found)?;
    if found != bytes {
        return Ok(Touched::Other(found));
    }
    names::touch(file).map(|()| Touched::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readers_count_as_readers() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let rooms = Rooms::open(&folder.path().join("x.lock")).expect("the folder is there");
        let readers = rooms.make_readers()?;
        for name in [
            "0123456789abcdef0123456789abcdef.12",
            "foreign",
            ".writer.0123456789abcdef0123456789abcdef",
            ".generation.7",
            ".generation.12",
            ".generation.012",
            ".generation.+9",
            ".generation.99999999999999999999",
            ".seen.1",
            "0123.12.break.5.0123",
        ] {
            std::fs::write(folder.path().join("x.lock.readers").join(name), "")?;
        }
        let mut listing = readers.list()?;
        listing.readers.sort();
        assert_eq!(listing.readers, ["0123456789abcdef0123456789abcdef.12", "foreign"]);
        assert_eq!(listing.writers, [".writer.0123456789abcdef0123456789abcdef"]);
        assert_eq!(listing.newest(), 12);
        Ok(())
    }
}
