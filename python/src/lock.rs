//! The native base class of all file locks.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferrolock::{Begun, ErrorKind, Level, Patience, Released, Unnesting};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::backend::Finalizing;
use crate::call;
use crate::caller::{Caller, acquirer, caller};
use crate::configured::Configured;
use crate::errors;
use crate::given::{Given, LEASE};
use crate::known::known;
use crate::lease::{MarkerGiven, MarkerLease};
use crate::logging::{self, Log};
use crate::options;
use crate::policies::Policies;
use crate::proxy::AcquireReturnProxy;
use crate::settings::Settings;
use crate::watch::{Failure, PythonWatch};

/// The fast half of `BaseFileLock`: everything that touches the core.
///
/// It is constructed empty and filled by `_configure`, which `FileLockMeta` or `BaseFileLock.__init__` calls: a subclass may
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

/// Whether any class of this process, or any object, has an `acquire` or `release` of its own.
static ARE_OVERRIDDEN: AtomicBool = AtomicBool::new(false);

/// Says that a class has an `acquire` or `release` of its own, or may come to have one that nobody hears of.
#[pyfunction]
pub(crate) fn note_overrides() {
    ARE_OVERRIDDEN.store(true, Ordering::Relaxed);
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

    /// Whether `slf` has the native method `name`, and not one of a subclass or of the object itself. Looking it up costs a
    /// tenth of a nested `with`, so that nobody looks as long as nothing of this process has methods of its own.
    pub(crate) fn is_native(
        &self,
        slf: &Bound<'_, Self>,
        name: &Py<PyString>,
        native: &Py<PyAny>,
    ) -> PyResult<bool> {
        if !ARE_OVERRIDDEN.load(Ordering::Relaxed) {
            return Ok(true);
        }
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

    /// For the garbage collector. A cycle through here has something in it that can be cleared, if nothing else a `Clearable`.
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
        let release_all = || configured.lock.release_all();
        let _rest = match caller(py) {
            Ok(caller) => configured.away(py, &caller, release_all),
            Err(_) => py.detach(release_all),
        };
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
        note_overrides();
        self.has_own_methods.store(true, Ordering::Relaxed);
    }
}

impl NativeLock {
    /// What `acquire` does, without the object that it returns.
    pub(crate) fn acquire_for(
        slf: &Bound<'_, Self>,
        caller: &Caller,
        settings: Settings,
        cancel_check: Option<&Py<PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get().configured()?;
        if slf.get().is_finalizing.load(Ordering::SeqCst) {
            return Err(PyRuntimeError::new_err("the lock object is being finalized"));
        }
        let timeout = options::patience(settings.timeout_seconds, settings.blocking)?;
        let log = logging::log(slf.as_any(), &this.lock_file)?;
        let level = if this.lock.nest(caller.owner) {
            Level::Nested
        } else {
            let poll_interval = Duration::from_secs_f64(settings.poll_interval_seconds);
            let patience = Patience { timeout, poll_interval, lifetime: settings.lifetime() };
            let path = this.path()?;
            if let Some(log) = &log {
                log.debug("Attempting to acquire lock %s on %s")?;
            }
            Self::acquire_in_core(slf, this, path, caller, patience, cancel_check).map_err(|failure| {
                Self::report(slf, this, failure, log.as_ref().map(|log| (log, settings.blocking)))
            })?
        };
        Self::follow_up(this, py, caller, level, log.as_ref())
            .map_err(|error| this.take_back(py, caller, error))
    }

    /// Acquires what is not held yet: first with the interpreter in hand where that is over at once, as `threading.Lock` does.
    fn acquire_in_core(
        slf: &Bound<'_, Self>,
        this: &Configured,
        path: &Path,
        caller: &Caller,
        patience: Patience,
        cancel_check: Option<&Py<PyAny>>,
    ) -> Result<Level, Failure> {
        let py = slf.py();
        let begin = || this.lock.begin(caller.owner, path, patience);
        let begun = if this.lock.begins_at_once(patience) { begin() } else { caller.away(py, begin) };
        match begun.map_err(|error| Failure::Core(error, None))? {
            Begun::Held(level) => Ok(level),
            Begun::Pending(pending) => {
                let subject = Some((slf.as_any().as_unbound(), &this.lock_file));
                let watch = PythonWatch::new(caller, subject, cancel_check);
                watch.over(py, |watch| pending.go_on(watch), |path| this.lock.holder(path))
            }
        }
    }

    /// What is raised for a `failure`; where the log listens, it is told that an attempt failed, or a wait.
    fn report(
        slf: &Bound<'_, Self>,
        this: &Configured,
        failure: Failure,
        log: Option<(&Log<'_>, bool)>,
    ) -> PyErr {
        let (error, holder) = match failure {
            Failure::Python(error) => return error,
            Failure::Core(error, holder) => (error, holder),
        };
        if let (Some((log, is_blocking)), ErrorKind::TimedOut(_)) = (log, error.kind()) {
            let told = log.debug(if is_blocking {
                "Timeout on acquiring lock %s on %s"
            } else {
                "Failed to immediately acquire lock %s on %s"
            });
            if let Err(error) = told {
                return error;
            }
        }
        errors::from_core_of(slf, this.lock_file.bind(slf.py()), &error, holder)
    }

    /// What may follow an acquisition: warnings, the log, and who wants to hear of a hold.
    fn follow_up(
        this: &Configured,
        py: Python<'_>,
        caller: &Caller,
        level: Level,
        log: Option<&Log<'_>>,
    ) -> PyResult<()> {
        logging::tell_notices(py)?;
        if let Some(log) = log {
            log.debug("Lock %s acquired on %s")?;
        }
        if this.is_news(level) { this.announce(py, caller) } else { Ok(()) }
    }

    /// Releases one level of the caller, or with `force` all.
    pub(crate) fn release_levels(slf: &Bound<'_, Self>, force: bool) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get().configured()?;
        // Who is told that a hold was lost may release it, on a thread that has none.
        if !force && this.lease.as_ref().is_some_and(|lease| lease.listener.is_telling()) {
            let released = py.detach(|| this.lock.release_lost());
            return released.map_err(|error| errors::from_core(py, this.lock_file.bind(py), &error, None));
        }
        let caller = caller(py)?;
        let at_once =
            match if force { Unnesting::Last { at_once: false } } else { this.lock.unnest(caller.owner) } {
                Unnesting::NotHeld | Unnesting::StillHeld => return Ok(()),
                Unnesting::Last { at_once } => at_once,
            };
        // An interrupt or a handler may raise while the log is told: the lock is released all the same.
        let log = logging::log(slf.as_any(), &this.lock_file)
            .map(|log| log.filter(|_| this.lock.depth(caller.owner) > 0));
        let told = match &log {
            Ok(Some(log)) => log.debug("Attempting to release lock %s on %s"),
            _ => Ok(()),
        };
        let released = this.release_for(py, &caller, force, at_once)?;
        told?;
        match (log?, released) {
            (Some(log), Released::Unlocked) => log.debug("Lock %s released on %s"),
            _ => Ok(()),
        }
    }

    /// Calls `release()` as the object's class has it: a subclass may have its own.
    fn release_as_overridden(slf: &Bound<'_, Self>) -> PyResult<()> {
        let known = known(slf.py())?;
        if slf.get().is_native(slf, &known.names.release, &known.native_release)? {
            return Self::release_levels(slf, false);
        }
        call::method0(slf, &known.names.release).map(drop)
    }

    /// Releases at the end of a `with` whose body has raised `error`, or None.
    pub(crate) fn leave(slf: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::release_as_overridden(slf).map_err(|failed| {
            let groups = slf.get().configured().is_ok_and(|this| this.policies.groups_errors());
            if groups && !error.is_none() { errors::both(error, &failed) } else { failed }
        })
    }
}
