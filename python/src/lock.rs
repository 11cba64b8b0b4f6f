//! The native base class of all file locks.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrolock::mechanism::MarkerLock;
use ferrolock::record::Seconds;
use ferrolock::{Descriptor, WaitsBy};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::backend::Finalizing;
use crate::call;
use crate::caller::{acquirer, caller};
use crate::configured::Configured;
use crate::errors;
use crate::given::{Given, LEASE};
use crate::known::known;
use crate::lease::{MarkerGiven, MarkerLease};
use crate::logging;
use crate::options;
use crate::policies::Policies;
use crate::proxy::AcquireReturnProxy;
use crate::settings::Settings;

/// Process, host, terms, token, duration, start, and whether it is this process.
type MarkerOwner = (u32, String, &'static str, Option<String>, Option<f64>, Option<String>, bool);

/// The fast half of `BaseFileLock`: everything that touches the core.
///
/// It is constructed empty and filled by `_configure`, which `BaseFileLock.__init__` calls: a subclass may
/// rewrite the arguments on their way there.
#[pyclass(subclass, frozen, module = "ferrolock._native")]
pub(crate) struct NativeLock {
    configured: OnceLock<Configured>,
    /// `acquire` or `release` was set on the object itself.
    has_own_methods: AtomicBool,
    /// The finalizer runs. Somebody may still get hold of the object then, through a weak reference; what he
    /// acquired would be released under him.
    pub(crate) is_finalizing: AtomicBool,
}

impl NativeLock {
    pub(crate) fn configured(&self) -> PyResult<&Configured> {
        self.configured.get().ok_or_else(|| {
            PyRuntimeError::new_err("the lock is not initialized: __init__ of its base class was not called")
        })
    }

    pub(crate) fn lease(&self) -> PyResult<&MarkerLease> {
        let lease = self.configured()?.lease.as_ref();
        lease.ok_or_else(|| PyRuntimeError::new_err("the lock is not a lease"))
    }

    /// Whether `slf` has the native method `name`, and not one of a subclass or of the object itself.
    pub(crate) fn is_native(
        &self,
        slf: &Bound<'_, Self>,
        name: &Py<PyString>,
        native: &Py<PyAny>,
    ) -> PyResult<bool> {
        Ok(!self.has_own_methods.load(Ordering::Relaxed) && slf.get_type().getattr(name)?.is(native))
    }
}

#[pymethods]
impl NativeLock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            configured: OnceLock::new(),
            has_own_methods: AtomicBool::new(false),
            is_finalizing: AtomicBool::new(false),
        }
    }

    /// For the garbage collector. A cycle through here has something in it that can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.configured.get().map_or(Ok(()), |configured| configured.traverse(&visit))
    }

    /// Makes this a lock: a kernel lock, or what `mechanism` names.
    #[expect(clippy::too_many_arguments, reason = "the options of a lock")]
    #[pyo3(signature = (
        lock_file, timeout, mode, thread_local, blocking=None, is_singleton=None, poll_interval=None, lifetime=None,
        *, mechanism=None, is_backend=false, lease_duration=None, heartbeat_interval=None, on_compromise=None,
        **policies
    ))]
    fn _configure(
        slf: &Bound<'_, Self>,
        lock_file: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        mode: &Bound<'_, PyAny>,
        thread_local: &Bound<'_, PyAny>,
        blocking: Option<&Bound<'_, PyAny>>,
        is_singleton: Option<&Bound<'_, PyAny>>,
        poll_interval: Option<&Bound<'_, PyAny>>,
        lifetime: Option<&Bound<'_, PyAny>>,
        mechanism: Option<&str>,
        is_backend: bool,
        lease_duration: Option<&Bound<'_, PyAny>>,
        heartbeat_interval: Option<&Bound<'_, PyAny>>,
        on_compromise: Option<&Bound<'_, PyAny>>,
        policies: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let none = lock_file.py().None().into_bound(lock_file.py());
        let lease = (mechanism == Some(LEASE)).then(|| MarkerGiven {
            lease_duration: lease_duration.unwrap_or(&none),
            heartbeat_interval,
            on_compromise,
        });
        let given = Given {
            timeout,
            mode,
            thread_local,
            blocking,
            is_singleton,
            poll_interval,
            lifetime,
            policies: Policies::new(policies)?,
            is_backend,
            mechanism,
            lease,
        };
        let configured = Configured::new(slf, lock_file, given)?;
        slf.get()
            .configured
            .set(configured)
            .map_err(|_| PyRuntimeError::new_err("the lock is initialized already"))
    }

    /// Acquires the lock, or counts one level more if this thread holds it.
    ///
    /// Waits for `timeout` seconds (0: one attempt, negative: no limit, None: the lock's own), asking
    /// `cancel_check` every `poll_interval` seconds; `blocking=False` makes one attempt. Returns an object that
    /// releases the lock at the end of a `with`. Raises `Timeout`, `RuntimeError` for a wait that would never end,
    /// or `OSError`.
    #[pyo3(signature = (timeout=None, poll_interval=None, *, poll_intervall=None, blocking=None, cancel_check=None))]
    fn acquire(
        slf: &Bound<'_, Self>,
        timeout: Option<&Bound<'_, PyAny>>,
        poll_interval: Option<&Bound<'_, PyAny>>,
        poll_intervall: Option<&Bound<'_, PyAny>>,
        blocking: Option<&Bound<'_, PyAny>>,
        cancel_check: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<AcquireReturnProxy> {
        let py = slf.py();
        let mut settings = slf.get().configured()?.settings.get(py);
        let mut poll_interval = poll_interval;
        if let Some(misspelt) = poll_intervall {
            let warning = py.get_type::<pyo3::exceptions::PyDeprecationWarning>();
            PyErr::warn(py, &warning, c"use poll_interval instead of poll_intervall", 1)?;
            poll_interval = Some(misspelt);
        }
        if let Some(value) = blocking {
            settings.blocking = options::blocking(value)?;
        }
        if let Some(value) = timeout {
            settings.timeout_seconds = options::timeout(value)?;
        }
        if let Some(value) = poll_interval {
            settings.poll_interval_seconds = options::poll_interval(value)?;
        }
        Self::acquire_for(slf, &acquirer(py)?, settings, cancel_check.map(Bound::as_unbound))?;
        Ok(AcquireReturnProxy::new(slf.clone().into_any().unbind()))
    }

    /// Releases one level of this thread's hold, or with `force` all; the last one gives the lock back.
    ///
    /// Does nothing if unheld. With `force`, holds of threads that have exited are released as well.
    #[pyo3(signature = (force=None), text_signature = "($self, force=False)")]
    fn release(slf: &Bound<'_, Self>, force: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        Self::release_levels(slf, force.map_or(Ok(false), Bound::is_truthy)?)
    }

    /// Acquires the lock as `acquire()` does.
    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let known = known(py)?;
        if slf.get().is_native(slf, &known.names.acquire, &known.native_acquire)? {
            let settings = slf.get().configured()?.settings.get(py);
            Self::acquire_for(slf, &acquirer(py)?, settings, None)?;
        } else {
            call::method0(slf, &known.names.acquire)?;
        }
        Ok(slf.clone())
    }

    /// Releases one level; an exception of the body goes on. Where both fail, the policy says what is raised.
    #[pyo3(signature = (exc_type, exc_value, traceback))]
    fn __exit__(
        slf: &Bound<'_, Self>,
        exc_type: &Bound<'_, PyAny>,
        exc_value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (exc_type, traceback);
        Self::leave(slf, exc_value)
    }

    /// Whether anybody, in whatever thread, holds this lock object.
    fn _is_held_by_anyone(&self) -> bool {
        self.configured.get().is_some_and(|configured| configured.lock.is_held_by_anyone())
    }

    /// The finalizer: releases the holds of all threads, for nobody else can any more.
    ///
    /// It goes through a subclass's `release`. Errors have nobody to go to.
    fn _finalize(slf: &Bound<'_, Self>) {
        let this = slf.get();
        let Some(configured) = this.configured.get() else { return };
        if !configured.lock.is_held_by_anyone() {
            return;
        }
        this.is_finalizing.store(true, Ordering::SeqCst);
        let _found = configured.backend.as_ref().map(|_| Finalizing::begin(slf));
        let py = slf.py();
        let release = |kwargs: Bound<'_, PyDict>| {
            kwargs.set_item("force", true)?;
            call::call(&slf.getattr("release")?, &PyTuple::empty(py), Some(&kwargs)).map(drop)
        };
        let _released = release(PyDict::new(py));
        let _rest = py.detach(|| configured.lock.release_all());
        this.is_finalizing.store(false, Ordering::SeqCst);
    }

    /// Whether the lock object is still there to be given to somebody.
    fn _is_finalizing(&self) -> bool {
        self.is_finalizing.load(Ordering::SeqCst)
    }

    /// Whether anybody holds this lock object on the file that is at `path` now.
    #[expect(clippy::needless_pass_by_value, reason = "Python's str is converted, so the path is ours")]
    fn _is_held_at(&self, py: Python<'_>, path: PathBuf) -> bool {
        py.detach(|| self.configured.get().is_some_and(|configured| configured.lock.is_held_at(&path)))
    }

    /// Has `with` and the proxy use methods that are set on the object itself.
    fn _note_own_methods(&self) {
        self.has_own_methods.store(true, Ordering::Relaxed);
    }

    /// The path of the lock file, as it was given.
    #[getter]
    fn lock_file(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.configured()?.lock_file.clone_ref(py))
    }

    /// How a wait for the lock would go on: `"kernel"` or `"polling"`.
    #[getter]
    fn waits_by(&self, py: Python<'_>) -> PyResult<&'static str> {
        let path = self.configured()?.path()?;
        let is_greenlet = caller(py)?.hub_sleep.is_some();
        let waits_by = py.detach(|| self.configured.get().map(|configured| configured.lock.waits_by(path)));
        Ok(logging::name(waits_by.filter(|_| !is_greenlet).unwrap_or(WaitsBy::Polling)))
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

    /// One attempt, for a class that has steps of its own over it.
    fn _attempt(&self, py: Python<'_>) -> PyResult<()> {
        let this = self.configured()?;
        match &this.backend {
            Some(backend) => backend.attempt_below(py, this.lock_file.bind(py)),
            None => Err(PyRuntimeError::new_err("_acquire() is for acquire() to call")),
        }
    }

    /// Gives back what an attempt got.
    fn _give_back(&self, py: Python<'_>) -> PyResult<()> {
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
