//! Errors of the core as Python's: `Timeout`, `RuntimeError`, `OSError` with errno, strerror, filename.

use std::ffi::OsStr;
use std::io;

use ferrolock::mechanism::Holder;
use ferrolock::{Error, ErrorKind, FileId};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::backend;
use crate::call;
use crate::known::known;
use crate::lock::NativeLock;

/// The `Timeout` for `lock_file`, which tells about the contended file when it is asked for its text.
fn timeout(
    class: &Bound<'_, PyAny>,
    lock_file: &Bound<'_, PyAny>,
    contended: Option<FileId>,
    holder: Option<Holder>,
) -> PyErr {
    let build = || {
        let py = class.py();
        let timeout = call::call(class, &PyTuple::new(py, [lock_file])?, None)?;
        // An exception that comes as an object is raised without one.
        timeout.setattr("__context__", py.import("sys")?.call_method0("exc_info")?.get_item(1)?)?;
        if let Some(file) = contended {
            timeout.setattr("_is_held_here", ferrolock::is_held_here(file))?;
            timeout.setattr("_contended", (file.device, file.inode))?;
        }
        match holder {
            Some(Holder::Here { pid }) => timeout.setattr("_pid", pid)?,
            Some(Holder::Elsewhere { pid, host }) => {
                timeout.setattr("_holder", format!("pid {pid} on {host}"))?;
            }
            Some(Holder::Gone { pid }) => {
                let hint = format!(
                    " It was left claimed by process {pid}, which has ended: `claims` has its claims, `force_break` removes \
                     them."
                );
                timeout.setattr("_hint", hint)?;
            }
            Some(Holder::Unnamed) => timeout.setattr("_holder", "an owner that recorded no process id")?,
            None => {}
        }
        Ok(PyErr::from_value(timeout))
    };
    build().unwrap_or_else(|error: PyErr| error)
}

/// The `Timeout`, of the kind that `class` is, for a wait that its caller ended.
pub(crate) fn cancelled(class: &Bound<'_, PyAny>, lock_file: &Bound<'_, PyAny>) -> PyErr {
    timeout(class, lock_file, None, None)
}

/// Any error of the core about `lock`, whose class says what its `Timeout` is.
pub(crate) fn from_core_of(
    lock: &Bound<'_, NativeLock>,
    lock_file: &Bound<'_, PyAny>,
    error: &Error,
    holder: Option<Holder>,
) -> PyErr {
    match lock.getattr("_timeout_error") {
        Ok(class) => from_core_as(&class, lock_file, error, holder),
        Err(_) => from_core(lock.py(), lock_file, error, holder),
    }
}

/// Any error of the core about the lock object on `lock_file`.
pub(crate) fn from_core(
    py: Python<'_>,
    lock_file: &Bound<'_, PyAny>,
    error: &Error,
    holder: Option<Holder>,
) -> PyErr {
    let class = py.import("ferrolock._error").and_then(|module| module.getattr("Timeout"));
    class.map_or_else(|error| error, |class| from_core_as(&class, lock_file, error, holder))
}

/// The same with the `Timeout` that `class` is. A package that was imported anew has another one, and who has the older
/// locks catches the older.
pub(crate) fn from_core_as(
    class: &Bound<'_, PyAny>,
    lock_file: &Bound<'_, PyAny>,
    error: &Error,
    holder: Option<Holder>,
) -> PyErr {
    let py = class.py();
    if let Some(raised) = backend::exception(py, error) {
        return raised;
    }
    match error.kind() {
        ErrorKind::TimedOut(file) => timeout(class, lock_file, file, holder),
        ErrorKind::Cancelled => timeout(class, lock_file, None, None),
        ErrorKind::Deadlock => PyRuntimeError::new_err(format!(
            "Deadlock: lock '{lock_file}' is already held by a different FileLock instance in this thread. Use \
             is_singleton=True to enable reentrant locking across instances."
        )),
        ErrorKind::Reentered => PyRuntimeError::new_err(format!(
            "lock '{lock_file}' was asked for by a signal handler or callback that runs while this thread waits \
             for the same lock"
        )),
        ErrorKind::Unfit => PyValueError::new_err(format!(
            "{lock_file}: {}",
            error.explanation().unwrap_or("the file cannot be locked in this way")
        )),
        ErrorKind::Protocol => protocol(py, lock_file, error),
        ErrorKind::Mismatch => mismatch(py, lock_file, error),
        // What a lock object of readers and writers refuses is worded where it is raised.
        ErrorKind::Upgrade
        | ErrorKind::Downgrade
        | ErrorKind::HeldByAnother(_)
        | ErrorKind::NotHeld
        | ErrorKind::NotTheHolder(_)
        | ErrorKind::Closed
        | ErrorKind::Compromised => PyRuntimeError::new_err(error.to_string()),
        ErrorKind::Interrupted | ErrorKind::Unsupported | ErrorKind::Refused | ErrorKind::Io | _ => {
            os_error(py, error)
        }
    }
}

/// One error for two: what went on while the lock was held, and the release of it.
pub(crate) fn both(body: &Bound<'_, PyAny>, release: &PyErr) -> PyErr {
    let py = body.py();
    let both = py.import("ferrolock._error").and_then(|module| module.getattr("both_failed"));
    both.and_then(|both| both.call1((body, release.value(py)))).map_or_else(|error| error, PyErr::from_value)
}

/// What stands where the files of the lock should.
fn protocol(py: Python<'_>, lock_file: &Bound<'_, PyAny>, error: &Error) -> PyErr {
    let build = || {
        let class = py.import("ferrolock._error")?.getattr("SoftFileLockProtocolError")?;
        let raised = class.call1((lock_file, error.name(), error.explanation()))?;
        raised.setattr("__context__", py.import("sys")?.call_method0("exc_info")?.get_item(1)?)?;
        Ok(PyErr::from_value(raised))
    };
    build().unwrap_or_else(|error: PyErr| error)
}

/// The error of an acquisition through a lock object that was closed.
pub(crate) fn closed(py: Python<'_>, lock_file: &Bound<'_, PyAny>) -> PyErr {
    let build = || {
        let closed = py.import("ferrolock._error")?.call_method1("closed", (lock_file,))?;
        Ok(PyErr::from_value(closed))
    };
    build().unwrap_or_else(|error: PyErr| error)
}

/// The error of a contender that goes by other terms than the holder.
fn mismatch(py: Python<'_>, lock_file: &Bound<'_, PyAny>, error: &Error) -> PyErr {
    let build = || {
        let class = py.import("ferrolock._lease")?.getattr("LeaseSettingsMismatch")?;
        let text =
            format!("{lock_file}: {}", error.explanation().unwrap_or("the lease is of another duration"));
        Ok(PyErr::from_value(call::call(&class, &PyTuple::new(py, [text])?, None)?))
    };
    build().unwrap_or_else(|error: PyErr| error)
}

fn os_error(py: Python<'_>, error: &Error) -> PyErr {
    let filename = error.path().as_os_str();
    let Some(cause) = error.os_error() else {
        let unsupported = io::Error::from(io::ErrorKind::Unsupported);
        return explained(py, &unsupported, filename, error.explanation());
    };
    explained(py, cause, filename, error.explanation())
}

/// An `OSError` of the class that its errno asks for.
pub(crate) fn from_io(py: Python<'_>, error: &io::Error, filename: &OsStr) -> PyErr {
    explained(py, error, filename, None)
}

/// The same for a call that was about no path.
pub(crate) fn without_file(py: Python<'_>, error: &io::Error) -> PyErr {
    let error = from_io(py, error, OsStr::new(""));
    let cleared = error.value(py).setattr("filename", py.None());
    cleared.map_or_else(|error| error, |()| error)
}

fn explained(py: Python<'_>, error: &io::Error, filename: &OsStr, explanation: Option<&str>) -> PyErr {
    let build = || {
        let code = match error.raw_os_error() {
            Some(code) => code,
            None => known(py)?.enotsup,
        };
        // On Windows the code is Win32's, and Python finds the errno that fits it.
        let (errno, winerror) = if ferrolock::ERRORS_ARE_WIN32 { (0, Some(code)) } else { (code, None) };
        let mut text: String = if ferrolock::ERRORS_ARE_WIN32 || error.raw_os_error().is_none() {
            error.to_string()
        } else {
            known(py)?.strerror.bind(py).call1((errno,))?.extract()?
        };
        if let Some(explanation) = explanation {
            text = format!("{text}: {explanation}");
        }
        Ok(match winerror {
            Some(_) => PyOSError::new_err((errno, text, filename.to_owned(), winerror)),
            None => PyOSError::new_err((errno, text, filename.to_owned())),
        })
    };
    build().unwrap_or_else(|error: PyErr| error)
}
