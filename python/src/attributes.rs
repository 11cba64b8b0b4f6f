//! What a file lock shows of itself, and the settings that can change: the rest of the native base class.

use ferrolock::mechanism::MarkerLock;
use ferrolock::record::Seconds;
use ferrolock::{Descriptor, WaitsBy};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::caller::caller;
use crate::errors;
use crate::lock::NativeLock;
use crate::logging;
use crate::options;
use crate::settings::Settings;

/// Process, host, terms, token, duration, start, and whether it is this process.
type MarkerOwner = (u32, String, &'static str, Option<String>, Option<f64>, Option<String>, bool);

#[pymethods]
impl NativeLock {
    /// The path of the lock file, as it was given.
    #[getter]
    fn lock_file(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.configured()?.lock_file.clone_ref(py))
    }

    /// How a wait for the lock would go on: `"kernel"` or `"polling"`.
    #[getter]
    fn waits_by(&self, py: Python<'_>) -> PyResult<&'static str> {
        let this = self.configured()?;
        let path = this.path()?;
        if caller(py)?.hub_sleep.is_some() {
            return Ok(logging::name(WaitsBy::Polling));
        }
        let lock = &this.lock;
        Ok(logging::name(py.detach(|| lock.waits_by(path))))
    }

    /// Whether this thread holds the lock.
    #[getter]
    fn is_locked(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.lock_counter(py)? > 0)
    }

    /// How many levels of the hold are left to release; 0 is unheld.
    #[getter]
    fn lock_counter(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.configured()?.lock.depth(caller(py)?.owner))
    }

    /// Whether there is one lock object for each path and class.
    #[getter]
    fn is_singleton(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let passed = self.configured()?.is_singleton.as_ref();
        passed.map_or_else(|| false.into_py_any(py), |value| Ok(value.clone_ref(py)))
    }

    /// One attempt of the mechanism below the steps of a subclass: what their `super()._acquire()` is. Nobody else calls it.
    fn _acquire_below(&self, py: Python<'_>) -> PyResult<()> {
        let this = self.configured()?;
        match &this.backend {
            Some(backend) => backend.attempt_below(py, this.lock_file.bind(py)),
            None => Err(PyRuntimeError::new_err("_acquire() is for acquire() to call")),
        }
    }

    /// Gives back what such an attempt got.
    fn _release_below(&self, py: Python<'_>) -> PyResult<()> {
        let this = self.configured()?;
        match &this.backend {
            Some(backend) => backend.release_below(py, this.lock_file.bind(py)),
            None => Err(PyRuntimeError::new_err("_release() is for release() to call")),
        }
    }

    /// The descriptor by which this thread holds the lock; on Windows the handle, unless the mechanism is Python's.
    #[getter(_descriptor)]
    fn get_descriptor(&self, py: Python<'_>) -> PyResult<Option<Descriptor>> {
        self.configured()?.descriptor(py, caller(py)?.owner)
    }

    #[setter(_descriptor)]
    fn set_descriptor(&self, py: Python<'_>, value: Option<Descriptor>) -> PyResult<()> {
        match &self.configured()?.backend {
            Some(backend) => backend.set_descriptor(py, value),
            None => Err(PyRuntimeError::new_err("lock_file_fd can be set in _acquire() only")),
        }
    }

    /// One of the options that cannot change and are rarely given.
    fn _policy(&self, py: Python<'_>, name: &str) -> PyResult<Py<PyAny>> {
        self.configured()?.policies.get(py, name)
    }

    /// Whether each thread has a hold and a count of its own.
    fn is_thread_local(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.configured()?.thread_local.clone_ref(py))
    }

    /// The permission bits of a lock file that has to be created; 0o644 where none were given.
    #[getter]
    fn mode(&self) -> PyResult<u32> {
        Ok(self.configured()?.mode.unwrap_or(0o644))
    }

    /// Whether a mode was given: then it is set exactly, whatever the umask.
    #[getter]
    fn has_explicit_mode(&self) -> PyResult<bool> {
        Ok(self.configured()?.mode.is_some())
    }

    /// The age in seconds at which a marker counts as abandoned, or None.
    #[getter(_lifetime)]
    fn get_lifetime(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        Ok(self.configured()?.settings.get(py).lifetime().map(|lifetime| lifetime.as_secs_f64()))
    }

    #[setter(_lifetime)]
    fn set_lifetime(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let settings = &self.configured()?.settings;
        settings.set(py, Settings { lifetime_seconds: options::lifetime(value)?, ..settings.get(py) })
    }

    /// The process that the marker at the path names as its owner.
    fn _marker_pid(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        let path = self.configured()?.path()?;
        Ok(py.detach(|| MarkerLock::content(path).and_then(|content| content.pid())))
    }

    /// Whether the marker at the path names this very process.
    fn _is_marker_own(&self, py: Python<'_>) -> PyResult<bool> {
        let path = self.configured()?.path()?;
        Ok(py.detach(|| MarkerLock::is_held_by_this_process(path)))
    }

    /// What the marker at the path says of its owner and its terms, and whether it names this very process: process, host,
    /// terms, token, duration and start.
    fn _marker_owner(&self, py: Python<'_>) -> PyResult<Option<MarkerOwner>> {
        let path = self.configured()?.path()?;
        Ok(py.detach(|| {
            let tenancy = MarkerLock::tenancy(path)?;
            let is_own = MarkerLock::is_own(&tenancy.owner);
            let start = tenancy.owner.start.map(|start| start.to_string());
            let duration = tenancy.duration.map(Seconds::get);
            let (pid, host) = (tenancy.owner.pid, tenancy.owner.host);
            Some((pid, host, tenancy.mode.name(), tenancy.token, duration, start, is_own))
        }))
    }

    /// For how long others must see the marker unchanged to take it, in seconds.
    #[getter(_lease_duration)]
    fn lease_duration(&self) -> PyResult<f64> {
        Ok(self.lease()?.duration)
    }

    /// Seconds between two refreshes of the marker.
    #[getter(_heartbeat_interval)]
    fn heartbeat_interval(&self) -> PyResult<f64> {
        Ok(self.lease()?.heartbeat)
    }

    /// What is called when a hold is lost.
    #[getter(_on_compromise)]
    fn on_compromise(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(self.lease()?.listener.on_compromise(py))
    }

    /// What this thread's hold is known by.
    #[getter(_token)]
    fn token(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(self.configured()?.lock.token(caller(py)?.owner))
    }

    /// How this thread's hold was lost, or the last one.
    #[getter(_compromise)]
    fn compromise<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let token = self.token(py)?;
        self.lease()?.compromise(self.configured()?.lock_file.bind(py), token.as_deref())
    }

    /// Removes the marker at the path, whoever it belongs to.
    fn _remove_marker(&self, py: Python<'_>) -> PyResult<()> {
        let path = self.configured()?.path()?;
        let removed = py.detach(|| MarkerLock::remove(path));
        removed.map_err(|error| errors::from_io(py, &error, path.as_os_str()))
    }

    #[getter(_timeout)]
    fn get_timeout(&self, py: Python<'_>) -> PyResult<f64> {
        Ok(self.configured()?.settings.get(py).timeout_seconds)
    }

    #[setter(_timeout)]
    fn set_timeout(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let settings = &self.configured()?.settings;
        settings.set(py, Settings { timeout_seconds: options::timeout(value)?, ..settings.get(py) })
    }

    /// Whether `acquire` waits.
    #[getter]
    fn get_blocking(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.configured()?.settings.get(py).blocking)
    }

    #[setter]
    fn set_blocking(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let settings = &self.configured()?.settings;
        settings.set(py, Settings { blocking: options::blocking(value)?, ..settings.get(py) })
    }

    /// Seconds between two questions of `cancel_check`, and the longest pause of a waiter that polls.
    #[getter]
    fn get_poll_interval(&self, py: Python<'_>) -> PyResult<f64> {
        Ok(self.configured()?.settings.get(py).poll_interval_seconds)
    }

    #[setter]
    fn set_poll_interval(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let settings = &self.configured()?.settings;
        let poll_interval_seconds = options::poll_interval(value)?;
        settings.set(py, Settings { poll_interval_seconds, ..settings.get(py) })
    }
}
