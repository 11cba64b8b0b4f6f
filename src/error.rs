//! What can go wrong, with the errno kept to the top.

use std::borrow::Cow;
use std::error;
use std::fmt;
use std::io;
use std::path::Path;

use crate::mechanism::Mode;
use crate::path;
use crate::sys::FileId;

/// Why an acquisition or a release did not happen.
///
/// Contention is not here: it is an answer of [`Attempt`](crate::mechanism::Attempt), and becomes
/// [`TimedOut`](ErrorKind::TimedOut) only when somebody decided to wait no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The lock was held by others until the deadline; `Some` names the file that was contended.
    TimedOut(Option<FileId>),
    /// The caller's [`Watch`](crate::wait::Watch) asked to give up.
    Cancelled,
    /// The caller's [`Watch`](crate::wait::Watch) was interrupted (a signal, an exception of a callback).
    Interrupted,
    /// Waiting would never end: the same thread holds the file through another lock object.
    Deadlock,
    /// The thread asked for a lock object that it is already waiting for, from inside that wait.
    Reentered,
    /// The owner is a reader through this lock object, and asked to be its writer.
    Upgrade,
    /// The owner is the writer through this lock object, and asked to be a reader of it.
    Downgrade,
    /// Another owner holds this lock object in this mode: it tells processes and lock objects apart, not the threads
    /// that share it.
    HeldByAnother(Mode),
    /// Nobody holds the lock object that was to be released.
    NotHeld,
    /// The lock object that was to be released is held in this mode, but not by this owner.
    NotTheHolder(Mode),
    /// The lock object was closed.
    Closed,
    /// The hold of the lock object was lost, and has to be released before it can be acquired again.
    Compromised,
    /// The file is in use in a way in which this kind of lock cannot take part.
    Unfit,
    /// The files of the lock are not what those who take part leave: who goes on could make it worse.
    Protocol,
    /// Whoever holds the lock goes by other terms, and all who contend for it have to agree.
    Mismatch,
    /// The platform or the file system cannot do what the mechanism needs.
    Unsupported,
    /// What stands at the path can never be a lock file, or may not be used as one.
    Refused,
    /// The operating system failed a call.
    Io,
}

/// An error with the operation that failed, the path it was about and its cause.
///
/// It is one word wide, since every result that might have been one is handed up through many calls.
#[derive(Debug)]
pub struct Error(Box<Details>);

#[derive(Debug)]
struct Details {
    kind: ErrorKind,
    operation: &'static str,
    path: Box<Path>,
    source: Option<io::Error>,
    explanation: Option<Box<str>>,
    name: Option<Box<str>>,
}

impl Error {
    /// An error of `operation` on `path`.
    #[must_use]
    pub fn new(kind: ErrorKind, operation: &'static str, path: &Path) -> Self {
        let path = path.into();
        Self(Box::new(Details { kind, operation, path, source: None, explanation: None, name: None }))
    }

    /// An error of `operation` on `path` that the operating system caused.
    #[must_use]
    pub fn caused(
        kind: ErrorKind,
        operation: &'static str,
        path: &Path,
        source: impl Into<io::Error>,
    ) -> Self {
        let mut error = Self::new(kind, operation, path);
        error.0.source = Some(source.into());
        error
    }

    /// Adds what the operating system's error alone does not tell.
    pub(crate) fn because(mut self, explanation: impl Into<String>) -> Self {
        self.0.explanation = Some(explanation.into().into_boxed_str());
        self
    }

    /// Says which of the files beside the lock's it is about.
    pub(crate) fn about(mut self, name: impl Into<String>) -> Self {
        self.0.name = Some(name.into().into_boxed_str());
        self
    }

    /// Names the file in a way that still means something after a change of the working directory.
    pub(crate) fn with_absolute_path(mut self) -> Self {
        if let Ok(path) = path::absolute(&self.0.path).map(Cow::into_owned) {
            self.0.path = path.into_boxed_path();
        }
        self
    }

    /// Which of the answers this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The system call or step that failed, e.g. `"open"`.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The path the operation was about: absolute, as it was used.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The operating system's error, where one caused this.
    #[must_use]
    pub fn os_error(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }

    /// What the operating system's error alone does not tell.
    #[must_use]
    pub fn explanation(&self) -> Option<&str> {
        self.0.explanation.as_deref()
    }

    /// Which of the files beside the lock's it is about, where it is one of them.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// The errno (on Windows the Win32 code), where the operating system gave one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.path.display();
        match self.0.kind {
            ErrorKind::TimedOut(_) => write!(f, "the lock on {path} was not acquired in time"),
            ErrorKind::Cancelled => write!(f, "waiting for the lock on {path} was cancelled"),
            ErrorKind::Interrupted => write!(f, "waiting for the lock on {path} was interrupted"),
            ErrorKind::Deadlock => {
                write!(f, "this thread already holds {path} through another lock object")
            }
            ErrorKind::Reentered => {
                write!(f, "this thread is already waiting for the lock on {path}")
            }
            ErrorKind::Upgrade => write!(f, "this thread is a reader of {path} and cannot become its writer"),
            ErrorKind::Downgrade => {
                write!(f, "this thread is the writer of {path} and cannot become a reader")
            }
            ErrorKind::HeldByAnother(_) => write!(f, "another thread holds the lock object on {path}"),
            ErrorKind::NotHeld => write!(f, "the lock object on {path} is not held"),
            ErrorKind::NotTheHolder(_) => write!(f, "this thread does not hold the lock object on {path}"),
            ErrorKind::Closed => write!(f, "the lock object on {path} is closed"),
            ErrorKind::Compromised => write!(f, "the hold on {path} was lost, and has to be released first"),
            ErrorKind::Unfit
            | ErrorKind::Protocol
            | ErrorKind::Mismatch
            | ErrorKind::Unsupported
            | ErrorKind::Refused
            | ErrorKind::Io => {
                write!(f, "{} {path}", self.0.operation)?;
                if let Some(source) = &self.0.source {
                    write!(f, ": {source}")?;
                }
                if let Some(name) = &self.0.name {
                    write!(f, ": {name}")?;
                }
                self.0.explanation.as_ref().map_or(Ok(()), |explanation| write!(f, " ({explanation})"))
            }
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_operation_and_path_reach_the_top() {
        let error =
            Error::caused(ErrorKind::Io, "open", Path::new("/a/x.lock"), io::Error::from_raw_os_error(13));
        assert_eq!(error.raw_os_error(), Some(13));
        assert_eq!((error.operation(), error.path()), ("open", Path::new("/a/x.lock")));
        assert!(error.to_string().starts_with("open /a/x.lock: "), "{error}");
        assert!(error::Error::source(&error).is_some());
    }

    #[test]
    fn waiting_errors_name_the_file_and_have_no_errno() {
        for kind in [ErrorKind::TimedOut(None), ErrorKind::Cancelled, ErrorKind::Deadlock] {
            let error = Error::new(kind, "wait", Path::new("/a/x.lock"));
            assert!(error.to_string().contains("/a/x.lock"), "{error}");
            assert_eq!(error.raw_os_error(), None);
        }
    }
}
