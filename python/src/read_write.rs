//! The native base class of the locks of readers and writers.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ferrolock::mechanism::{ByteRangeLock, Mechanism, Mode, expect_record_locks};
use ferrolock::{Error, ErrorKind, Patience, ReadWrite, Timeout, Watch};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyTuple};

use crate::caller::{acquirer, caller};
use crate::errors;
use crate::given::{UnusablePath, fspath, usable_path};
use crate::known::known;
use crate::lease::{self, ReadWriteLease};
use crate::mode_context::ModeContext;
use crate::options;
use crate::proxy::AcquireReturnProxy;
use crate::watch::{Failure, PythonWatch};

/// A lock object of the core, and what Python wants to know of it.
pub(crate) struct Configured {
    pub(crate) lock: Arc<ReadWrite>,
    pub(crate) lock_file: Py<PyAny>,
    /// Where `lock_file` led to when the lock object was made.
    pub(crate) path: PathBuf,
    timeout_seconds: AtomicU64,
    is_blocking: AtomicBool,
    poll_seconds: AtomicU64,
    pub(crate) lease: Option<ReadWriteLease>,
}

/// The half of `ReadWriteLock` and `SoftReadWriteLock` that touches the core.
///
/// It is constructed empty and filled by `_configure`, which `__init__` calls.
#[pyclass(subclass, frozen, module = "ferrolock._native")]
pub(crate) struct NativeReadWriteLock {
    configured: OnceLock<Configured>,
    /// The finalizer runs. Somebody may still get hold of the object then, through a weak reference; what he acquired
    /// would be released under him.
    is_finalizing: AtomicBool,
}

/// Tells the core where Python's SQLite is in the process: the locks of that one go with any close of its files.
/// Asked at every call, for it may be imported at any time.
pub(crate) fn note_record_locks(py: Python<'_>) -> PyResult<()> {
    let known = known(py)?;
    if known.modules.bind(py).contains(&known.names.sqlite)? {
        expect_record_locks();
    }
    Ok(())
}

fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Shared => "read",
        Mode::Exclusive => "write",
    }
}

/// The patience of one acquisition. There is one number for "no limit", and infinity.
fn patience(timeout_seconds: f64, is_blocking: bool) -> PyResult<Timeout> {
    #[expect(clippy::float_cmp, reason = "this very number")]
    let is_wrong = is_blocking && timeout_seconds < 0.0 && timeout_seconds != -1.0;
    if is_wrong {
        return Err(PyValueError::new_err(format!(
            "timeout must be a non-negative number or -1, not {timeout_seconds:?}"
        )));
    }
    options::patience(timeout_seconds, is_blocking)
}

impl NativeReadWriteLock {
    pub(crate) fn configured(&self) -> PyResult<&Configured> {
        self.configured.get().ok_or_else(|| {
            PyRuntimeError::new_err("the lock is not initialized: __init__ of its base class was not called")
        })
    }

    fn acquire(
        slf: &Bound<'_, Self>,
        mode: Mode,
        timeout: Option<&Bound<'_, PyAny>>,
        blocking: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<AcquireReturnProxy> {
        let py = slf.py();
        let this = slf.get().configured()?;
        if slf.get().is_finalizing.load(Ordering::SeqCst) {
            return Err(PyRuntimeError::new_err("the lock object is being finalized"));
        }
        let patience = this.patience(timeout, blocking)?;
        let caller = acquirer(py)?;
        note_record_locks(py)?;
        let watch = PythonWatch::new(&caller, Some((slf.as_any().as_unbound(), &this.lock_file)), None);
        let acquire =
            |watch: &mut dyn Watch| this.lock.acquire(caller.owner, mode, &this.path, patience, watch);
        match watch.over(py, acquire, |path| this.lock.holder(path)) {
            Ok(()) => {
                Self::keep(slf, this);
                Ok(AcquireReturnProxy::new(slf.clone().into_any().unbind()))
            }
            Err(Failure::Core(error, holder)) => Err(refusal(slf.as_any(), this, mode, &error)
                .unwrap_or_else(|| errors::from_core(py, this.lock_file.bind(py), &error, holder))),
            Err(Failure::Python(error)) => Err(error),
        }
    }

    /// Keeps a lease's lock object until the hold is over.
    ///
    /// Whoever drops what he holds by mistake believes that he holds it, and here the next one is let in on another
    /// machine.
    pub(crate) fn keep(slf: &Bound<'_, Self>, this: &Configured) {
        if let Some(lease) = &this.lease {
            lease.listener.monitor.keep(Box::new(slf.clone().unbind()));
        }
    }

    fn context(
        slf: &Bound<'_, Self>,
        mode: Mode,
        timeout: Option<Py<PyAny>>,
        blocking: Option<Py<PyAny>>,
    ) -> ModeContext {
        ModeContext { lock: slf.clone().into_any().unbind(), mode, timeout, blocking }
    }
}

impl Configured {
    /// The patience of one acquisition, as it was asked for; None takes the lock's own.
    pub(crate) fn patience(
        &self,
        timeout: Option<&Bound<'_, PyAny>>,
        blocking: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Patience> {
        let timeout_seconds = match timeout {
            Some(value) => options::timeout(value)?,
            None => self.timeout_seconds(),
        };
        let is_blocking =
            blocking.map_or_else(|| Ok(self.is_blocking.load(Ordering::Relaxed)), options::blocking)?;
        Ok(Patience {
            timeout: patience(timeout_seconds, is_blocking)?,
            poll_interval: Duration::from_secs_f64(self.poll_seconds()),
            lifetime: None,
        })
    }

    fn timeout_seconds(&self) -> f64 {
        f64::from_bits(self.timeout_seconds.load(Ordering::Relaxed))
    }

    fn poll_seconds(&self) -> f64 {
        f64::from_bits(self.poll_seconds.load(Ordering::Relaxed))
    }

    fn lease(&self) -> PyResult<&ReadWriteLease> {
        self.lease.as_ref().ok_or_else(|| PyRuntimeError::new_err("the lock is not one by leases"))
    }
}

/// What filelock says of what a lock object refuses; `slf` was asked.
pub(crate) fn refusal(slf: &Bound<'_, PyAny>, this: &Configured, mode: Mode, error: &Error) -> Option<PyErr> {
    let (lock_file, id) = (this.lock_file.bind(slf.py()), slf.as_ptr() as usize);
    let cannot = |why: String| {
        PyRuntimeError::new_err(format!(
            "Cannot acquire {} lock on {lock_file} (lock id: {id}){why}",
            name(mode)
        ))
    };
    let cannot_release = |why: String| PyRuntimeError::new_err(format!("Cannot release {why}"));
    Some(match error.kind() {
        ErrorKind::Upgrade => cannot(": already holding a read lock (upgrade not allowed)".into()),
        ErrorKind::Downgrade => cannot(": already holding a write lock (downgrade not allowed)".into()),
        // Said of a lease whoever has the other mode.
        ErrorKind::HeldByAnother(Mode::Shared) if this.lease.is_some() && mode == Mode::Exclusive => {
            cannot(": already holding a read lock (upgrade not allowed)".into())
        }
        ErrorKind::HeldByAnother(Mode::Exclusive) if this.lease.is_some() && mode == Mode::Shared => {
            cannot(": already holding a write lock (downgrade not allowed)".into())
        }
        ErrorKind::Compromised => cannot(
            ": the hold was lost, others may have the lock (see compromise); release it before acquiring again".into(),
        ),
        ErrorKind::HeldByAnother(held) if held == mode => {
            cannot(" while it is held by another thread".into())
        }
        ErrorKind::HeldByAnother(held) => cannot(format!(
            ": another thread holds a {} lock on this instance, which coordinates processes rather than threads; \
             give each thread its own instance with is_singleton=False",
            name(held)
        )),
        ErrorKind::NotHeld => {
            cannot_release(format!("a lock on {lock_file} (lock id: {id}) that is not held"))
        }
        ErrorKind::NotTheHolder(Mode::Shared) => cannot_release(format!(
            "read lock on {lock_file} (lock id: {id}) from a thread which does not hold it"
        )),
        ErrorKind::NotTheHolder(Mode::Exclusive) => cannot_release(format!(
            "write lock on {lock_file} (lock id: {id}) from a thread which does not hold it, while it is held by \
             another thread"
        )),
        ErrorKind::Closed => errors::closed(slf.py(), lock_file),
        ErrorKind::TimedOut(_)
        | ErrorKind::Cancelled
        | ErrorKind::Interrupted
        | ErrorKind::Deadlock
        | ErrorKind::Reentered
        | ErrorKind::Unfit
        | ErrorKind::Unsupported
        | ErrorKind::Refused
        | ErrorKind::Io
        | _ => return None,
    })
}

#[pymethods]
impl NativeReadWriteLock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { configured: OnceLock::new(), is_finalizing: AtomicBool::new(false) }
    }

    /// For the garbage collector. A cycle through here has something in it that can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(configured) = self.configured.get() else { return Ok(()) };
        visit.call(&configured.lock_file)?;
        configured.lease.as_ref().map_or(Ok(()), |lease| lease.listener.traverse(&visit))
    }

    /// Checks the settings of a lock.
    #[staticmethod]
    fn _check(timeout: &Bound<'_, PyAny>, blocking: &Bound<'_, PyAny>) -> PyResult<()> {
        options::timeout(timeout)?;
        options::blocking(blocking).map(drop)
    }

    /// Checks the settings that only a lock by leases has.
    #[staticmethod]
    #[pyo3(signature = (heartbeat_interval=None, stale_threshold=None, poll_interval=None, on_compromise=None))]
    fn _check_lease(
        heartbeat_interval: Option<&Bound<'_, PyAny>>,
        stale_threshold: Option<&Bound<'_, PyAny>>,
        poll_interval: Option<&Bound<'_, PyAny>>,
        on_compromise: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let given = lease::Given { heartbeat_interval, stale_threshold, poll_interval, on_compromise };
        given.check().map(drop)
    }

    /// Makes this a lock, by what `mechanism` names, and creates its file if it needs one.
    #[expect(clippy::too_many_arguments, reason = "the options of a lock")]
    #[pyo3(signature = (
        lock_file, timeout, blocking, *, mechanism, heartbeat_interval=None, stale_threshold=None, poll_interval=None,
        on_compromise=None
    ))]
    fn _configure(
        slf: &Bound<'_, Self>,
        lock_file: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        blocking: &Bound<'_, PyAny>,
        mechanism: &str,
        heartbeat_interval: Option<&Bound<'_, PyAny>>,
        stale_threshold: Option<&Bound<'_, PyAny>>,
        poll_interval: Option<&Bound<'_, PyAny>>,
        on_compromise: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        note_record_locks(py)?;
        let timeout_seconds = options::timeout(timeout)?;
        let is_blocking = options::blocking(blocking)?;
        let lock_file = fspath(lock_file)?;
        let given = usable_path(&lock_file)?.map_err(UnusablePath::error)?;
        let path = py.detach(|| ferrolock::path::canonical(&given));
        let path = path.map_err(|error| errors::from_io(py, &error, given.as_os_str()))?;
        let (mechanism, lease) = match mechanism {
            "lease" => {
                let given =
                    lease::Given { heartbeat_interval, stale_threshold, poll_interval, on_compromise };
                let (lease, mechanism) = ReadWriteLease::new(&given, &lock_file)?;
                (mechanism, Some(lease))
            }
            "byte_range" => {
                let mechanism = ByteRangeLock::default();
                let prepared = py.detach(|| mechanism.prepare(&path));
                prepared.map_err(|error| errors::from_core(py, &lock_file, &error, None))?;
                (Box::new(mechanism) as Box<dyn Mechanism>, None)
            }
            unknown => return Err(PyValueError::new_err(format!("there is no mechanism {unknown}"))),
        };
        let poll_seconds =
            lease.as_ref().map_or(options::DEFAULT_POLL_INTERVAL_SECONDS, |lease| lease.seconds.poll);
        let configured = Configured {
            lock: Arc::new(ReadWrite::new(mechanism)),
            lease,
            lock_file: lock_file.unbind(),
            path,
            timeout_seconds: AtomicU64::new(timeout_seconds.to_bits()),
            is_blocking: AtomicBool::new(is_blocking),
            poll_seconds: AtomicU64::new(poll_seconds.to_bits()),
        };
        let set = slf.get().configured.set(configured);
        set.map_err(|_| PyRuntimeError::new_err("the lock is initialized already"))
    }

    /// Comes in as a reader, or counts one level more if this thread is one.
    #[pyo3(signature = (timeout=None, *, blocking=None))]
    fn acquire_read(
        slf: &Bound<'_, Self>,
        timeout: Option<&Bound<'_, PyAny>>,
        blocking: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<AcquireReturnProxy> {
        Self::acquire(slf, Mode::Shared, timeout, blocking)
    }

    /// Comes in as the writer, or counts one level more if this thread is it.
    #[pyo3(signature = (timeout=None, *, blocking=None))]
    fn acquire_write(
        slf: &Bound<'_, Self>,
        timeout: Option<&Bound<'_, PyAny>>,
        blocking: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<AcquireReturnProxy> {
        Self::acquire(slf, Mode::Exclusive, timeout, blocking)
    }

    /// For a `with`: a reader inside.
    #[pyo3(signature = (timeout=None, *, blocking=None))]
    fn read_lock(
        slf: &Bound<'_, Self>,
        timeout: Option<Py<PyAny>>,
        blocking: Option<Py<PyAny>>,
    ) -> ModeContext {
        Self::context(slf, Mode::Shared, timeout, blocking)
    }

    /// For a `with`: the writer inside.
    #[pyo3(signature = (timeout=None, *, blocking=None))]
    fn write_lock(
        slf: &Bound<'_, Self>,
        timeout: Option<Py<PyAny>>,
        blocking: Option<Py<PyAny>>,
    ) -> ModeContext {
        Self::context(slf, Mode::Exclusive, timeout, blocking)
    }

    /// Releases one level of this thread's; with `force` all levels of all threads.
    #[pyo3(signature = (*, force=None), text_signature = "($self, *, force=False)")]
    fn release(slf: &Bound<'_, Self>, force: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let force = force.map_or(Ok(false), Bound::is_truthy)?;
        let this = slf.get().configured()?;
        let owner = caller(py)?.owner;
        note_record_locks(py)?;
        // Who is told that the hold was lost may release it, on a thread that has no level of it.
        let is_telling = this.lease.as_ref().is_some_and(|lease| lease.listener.is_telling());
        let released = py.detach(|| {
            if is_telling && !force {
                match this.lock.release_lost(&this.path) {
                    // It may have been released and acquired anew, on this thread too.
                    Err(error) if error.kind() == ErrorKind::NotHeld => {}
                    released => return released,
                }
            }
            this.lock.release(owner, force, &this.path)
        });
        match released {
            Ok(_) => Ok(()),
            Err(error) => Err(refusal(slf.as_any(), this, Mode::Exclusive, &error)
                .unwrap_or_else(|| errors::from_core(py, this.lock_file.bind(py), &error, None))),
        }
    }

    /// Releases all levels of all threads, and refuses all acquisitions from now on.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let this = self.configured()?;
        note_record_locks(py)?;
        let closed = py.detach(|| this.lock.close());
        closed.map_err(|error| errors::from_core(py, this.lock_file.bind(py), &error, None))
    }

    /// The path of the lock file, as it was given.
    #[getter]
    fn lock_file(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.configured()?.lock_file.clone_ref(py))
    }

    /// Seconds to wait where nothing else is said; -1 or infinity is no limit.
    #[getter]
    fn get_timeout(&self) -> PyResult<f64> {
        Ok(self.configured()?.timeout_seconds())
    }

    #[setter]
    fn set_timeout(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let timeout_seconds = options::timeout(value)?;
        self.configured()?.timeout_seconds.store(timeout_seconds.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether to wait where nothing else is said.
    #[getter]
    fn get_blocking(&self) -> PyResult<bool> {
        Ok(self.configured()?.is_blocking.load(Ordering::Relaxed))
    }

    #[setter]
    fn set_blocking(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_blocking = options::blocking(value)?;
        self.configured()?.is_blocking.store(is_blocking, Ordering::Relaxed);
        Ok(())
    }

    /// Seconds between two refreshes of a marker.
    #[getter(_heartbeat_interval)]
    fn heartbeat_interval(&self) -> PyResult<f64> {
        Ok(self.configured()?.lease()?.seconds.heartbeat)
    }

    /// Seconds after which a marker that is not refreshed counts as a dead holder's.
    #[getter(_stale_threshold)]
    fn stale_threshold(&self) -> PyResult<f64> {
        Ok(self.configured()?.lease()?.seconds.threshold)
    }

    /// What is called when a hold is lost.
    #[getter(_on_compromise)]
    fn on_compromise(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(self.configured()?.lease()?.listener.on_compromise(py))
    }

    /// The longest pause of a waiter, in seconds.
    #[getter(_poll_interval)]
    fn get_poll_interval(&self) -> PyResult<f64> {
        Ok(self.configured()?.poll_seconds())
    }

    #[setter(_poll_interval)]
    fn set_poll_interval(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let this = self.configured()?;
        let poll_seconds = options::positive_seconds("poll_interval", value)?;
        let threshold_seconds = this.lease()?.seconds.threshold;
        options::check_below("poll_interval", poll_seconds, "stale_threshold", threshold_seconds)?;
        this.poll_seconds.store(poll_seconds.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// The fencing number of the present hold.
    #[getter(_generation)]
    fn generation(&self) -> PyResult<Option<u64>> {
        Ok(self.configured()?.lease()?.listener.monitor.generation())
    }

    /// How the present or the last hold was lost.
    #[getter(_compromise)]
    fn compromise<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let this = self.configured()?;
        this.lease()?.compromise(this.lock_file.bind(py))
    }

    /// The finalizer: releases what all threads hold, for nobody else can any more.
    fn _finalize(&self, py: Python<'_>) {
        if let Some(configured) = self.configured.get() {
            // The object goes after this, and what it keeps goes with it.
            let _without_python_there_is_no_sqlite = note_record_locks(py);
            if !configured.lock.is_held_by_anyone() {
                return;
            }
            self.is_finalizing.store(true, Ordering::SeqCst);
            let _error_has_nobody_to_go_to = py.detach(|| configured.lock.release_all());
            self.is_finalizing.store(false, Ordering::SeqCst);
        }
    }

    /// Whether the lock object is of no use to anybody who asks for it now.
    fn _is_finalizing(&self) -> bool {
        self.is_finalizing.load(Ordering::SeqCst)
            || self.configured.get().is_some_and(|configured| configured.lock.is_closed())
    }

    /// Whether anybody, in whatever thread, holds this lock object.
    fn _is_held_by_anyone(&self) -> bool {
        self.configured.get().is_some_and(|configured| configured.lock.is_held_by_anyone())
    }

    /// Whether this lock object is for the file at `path`: where its path led to when it was made.
    #[expect(clippy::needless_pass_by_value, reason = "Python's str is converted, so the path is ours")]
    fn _is_held_at(&self, path: PathBuf) -> bool {
        self.configured.get().is_some_and(|configured| configured.path == path)
    }
}
