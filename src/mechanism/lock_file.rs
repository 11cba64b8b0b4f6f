//! What the locks that lie on a lock file say of it: the kernel lock and the byte ranges.

use std::io;
use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::sys::{self, Verdict};

/// What opening the file came to.
pub(super) enum Opened<T> {
    Yes(T),
    Contended,
    Interrupted,
}

/// Sorts what opening the file at `path` gave.
pub(super) fn opened<T>(path: &Path, opened: io::Result<T>) -> Result<Opened<T>, Error> {
    let error = match opened {
        Ok(opened) => return Ok(Opened::Yes(opened)),
        Err(error) => error,
    };
    match sys::classify(&error) {
        Verdict::Contended => Ok(Opened::Contended),
        Verdict::Interrupted => Ok(Opened::Interrupted),
        verdict @ (Verdict::Unsupported | Verdict::Missing | Verdict::Failed) => {
            Err(explained(verdict, "open", path, error))
        }
    }
}

/// The error for a call that is not there, or that failed.
pub(super) fn explained(verdict: Verdict, operation: &'static str, path: &Path, error: io::Error) -> Error {
    let kind = if verdict == Verdict::Unsupported { ErrorKind::Unsupported } else { ErrorKind::Io };
    Error::caused(kind, operation, path, error)
}

/// The error for what stands at the path and can never be a lock file.
pub(super) fn no_lock_file(path: &Path, error: io::Error) -> Error {
    Error::caused(ErrorKind::Refused, "lock", path, error).because("a lock file is a regular file")
}

/// The error for a call that failed.
pub(super) fn failed(operation: &'static str, path: &Path, error: io::Error) -> Error {
    Error::caused(ErrorKind::Io, operation, path, error)
}
