//! What a lock object is constructed with, before it is one.

use std::ffi::OsString;
use std::path::PathBuf;

use ferrolock::mechanism::{KernelLock, MarkerLock, Mechanism, StrictLock};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::lease::{MarkerGiven, MarkerLease};
use crate::options;
use crate::policies::Policies;
use crate::settings::Settings;

/// The mechanism that has options of its own.
pub(crate) const LEASE: &str = "lease_marker";

/// The options as they were passed; `None` is filelock's default.
pub(crate) struct Given<'a, 'py> {
    pub(crate) timeout: &'a Bound<'py, PyAny>,
    pub(crate) mode: &'a Bound<'py, PyAny>,
    pub(crate) thread_local: &'a Bound<'py, PyAny>,
    pub(crate) blocking: Option<&'a Bound<'py, PyAny>>,
    pub(crate) is_singleton: Option<&'a Bound<'py, PyAny>>,
    pub(crate) poll_interval: Option<&'a Bound<'py, PyAny>>,
    pub(crate) lifetime: Option<&'a Bound<'py, PyAny>>,
    pub(crate) policies: Policies,
    /// Whether the class has steps of its own over that mechanism.
    pub(crate) is_backend: bool,
    /// The way in which the lock is represented on disk; `None` is the kernel's.
    pub(crate) mechanism: Option<&'a str>,
    /// Of a lease.
    pub(crate) lease: Option<MarkerGiven<'a, 'py>>,
}

impl Given<'_, '_> {
    pub(crate) fn mechanism(
        &self,
        mode: Option<u32>,
        lease: Option<&MarkerLease>,
    ) -> PyResult<Box<dyn Mechanism>> {
        let marker = match (self.mechanism, lease) {
            (None, _) => {
                let mut lock = KernelLock::new(mode);
                if !self.policies.allow_fallback(self.timeout.py())? {
                    lock = lock.without_fallback();
                }
                if self.policies.removes_file(self.timeout.py())? {
                    lock = lock.removing_file();
                }
                if let Some(close_errors) = self.policies.close_errors() {
                    lock = lock.with_close_errors(close_errors);
                }
                return Ok(Box::new(lock));
            }
            (Some("strict"), _) => return Ok(Box::new(StrictLock::new(mode))),
            (Some("marker"), _) => MarkerLock::new(mode),
            (Some("exclusive_marker"), _) => MarkerLock::exclusive(mode),
            (Some(LEASE), Some(lease)) => lease.mechanism(mode)?,
            (Some(unknown), _) => {
                return Err(PyValueError::new_err(format!("there is no mechanism {unknown}")));
            }
        };
        Ok(Box::new(match self.policies.close_errors() {
            Some(close_errors) => marker.with_close_errors(close_errors),
            None => marker,
        }))
    }

    pub(crate) fn settings(&self) -> PyResult<Settings> {
        let poll_interval = self.poll_interval.map(options::poll_interval).transpose()?;
        Ok(Settings {
            poll_interval_seconds: poll_interval.unwrap_or(options::DEFAULT_POLL_INTERVAL_SECONDS),
            blocking: self.blocking.map_or(Ok(true), options::blocking)?,
            timeout_seconds: options::timeout(self.timeout)?,
            lifetime_seconds: self.lifetime.map_or(Ok(f64::NAN), options::lifetime)?,
        })
    }
}

/// A path that construction takes, as filelock does, and that no acquisition can use.
#[derive(Debug, Clone, Copy)]
pub(crate) enum UnusablePath {
    Bytes,
    HasNul,
}

impl UnusablePath {
    pub(crate) fn error(self) -> PyErr {
        match self {
            Self::Bytes => PyTypeError::new_err("lock_file must be a str or os.PathLike of str, not bytes"),
            Self::HasNul => PyValueError::new_err("embedded null byte in lock_file"),
        }
    }
}

/// The path as `os.fspath` gives it: a str, or bytes.
pub(crate) fn fspath<'py>(lock_file: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if lock_file.is_exact_instance_of::<PyString>() {
        return Ok(lock_file.clone());
    }
    lock_file.py().import("os")?.call_method1("fspath", (lock_file,))
}

/// What the operating system will be given for `lock_file`.
pub(crate) fn usable_path(lock_file: &Bound<'_, PyAny>) -> PyResult<Result<PathBuf, UnusablePath>> {
    if lock_file.is_instance_of::<PyBytes>() {
        return Ok(Err(UnusablePath::Bytes));
    }
    let path = match lock_file.cast::<PyString>().map(|text| text.to_str()) {
        // The same bytes in every file system encoding; anything else takes the way through Python's.
        Ok(Ok(text)) if text.is_ascii() => PathBuf::from(text),
        _ => PathBuf::from(lock_file.extract::<OsString>()?),
    };
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(Err(UnusablePath::HasNul));
    }
    Ok(Ok(path))
}
