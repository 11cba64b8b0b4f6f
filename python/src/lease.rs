//! What a lock by leases has beside the others of readers and writers: its settings, and what is told of a lost hold.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use ferrolock::mechanism::{
    Compromise, LeaseMonitor, LeaseReadWriteLock, LeaseSettings, Mechanism, OnCompromise,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::PyTuple;

use crate::call;
use crate::errors;
use crate::options;

/// filelock's.
const DEFAULT_HEARTBEAT_SECONDS: f64 = 30.0;
const DEFAULT_POLL_SECONDS: f64 = 0.25;

/// A threshold of that many heartbeats, where none is given.
const BEATS: f64 = 3.0;

/// Longer than any process runs, and within every clock.
const LONGEST: Duration = Duration::from_secs(86_400 * 365 * 10);

/// The options of a lease as they were passed; `None` is filelock's default.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a, 'py> {
    pub(crate) heartbeat_interval: Option<&'a Bound<'py, PyAny>>,
    pub(crate) stale_threshold: Option<&'a Bound<'py, PyAny>>,
    pub(crate) poll_interval: Option<&'a Bound<'py, PyAny>>,
    pub(crate) on_compromise: Option<&'a Bound<'py, PyAny>>,
}

/// The same, checked; in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seconds {
    pub(crate) heartbeat: f64,
    pub(crate) threshold: f64,
    pub(crate) poll: f64,
}

impl Given<'_, '_> {
    pub(crate) fn check(&self) -> PyResult<Seconds> {
        let positive = |name, value, default| {
            let given: Option<&Bound<'_, PyAny>> = value;
            given.map_or(Ok(default), |value| options::positive_seconds(name, value))
        };
        let heartbeat = positive("heartbeat_interval", self.heartbeat_interval, DEFAULT_HEARTBEAT_SECONDS)?;
        let threshold = |value| options::threshold("stale_threshold", value, heartbeat);
        let threshold = self.stale_threshold.map_or(Ok(heartbeat * BEATS), threshold)?;
        let poll = positive("poll_interval", self.poll_interval, DEFAULT_POLL_SECONDS)?;
        options::check_below("poll_interval", poll, "stale_threshold", threshold)?;
        match self.on_compromise {
            Some(callback) if !callback.is_callable() => Err(PyTypeError::new_err(format!(
                "on_compromise must be callable or None, not {}",
                options::type_name(callback)
            ))),
            Some(_) | None => Ok(Seconds { heartbeat, threshold, poll }),
        }
    }
}

/// What is called when a hold is lost.
#[derive(Debug)]
struct Callback {
    function: Py<PyAny>,
    lock_file: Py<PyAny>,
}

thread_local! {
    /// The callback that this thread is in.
    static CURRENT: Cell<*const Callback> = const { Cell::new(ptr::null()) };
}

/// The lease's side of a lock object.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) monitor: Arc<LeaseMonitor>,
    pub(crate) seconds: Seconds,
    callback: Option<Arc<Callback>>,
}

impl Lease {
    /// The lease, and the mechanism that it is one of.
    pub(crate) fn new(
        given: &Given<'_, '_>,
        lock_file: &Bound<'_, PyAny>,
    ) -> PyResult<(Self, Box<dyn Mechanism>)> {
        let seconds = given.check()?;
        let callback = given.on_compromise.map(|function| {
            Arc::new(Callback { function: function.clone().unbind(), lock_file: lock_file.clone().unbind() })
        });
        let on_compromise = callback
            .clone()
            .map(|callback| -> OnCompromise { Arc::new(move |compromise| callback.tell(&compromise)) });
        let monitor = Arc::new(LeaseMonitor::new(on_compromise));
        let settings = LeaseSettings {
            heartbeat_interval: duration(seconds.heartbeat),
            stale_threshold: duration(seconds.threshold),
        };
        let mechanism = LeaseReadWriteLock::new(settings, Arc::clone(&monitor));
        Ok((Self { monitor, seconds, callback }, Box::new(mechanism)))
    }

    /// Whether the calling thread is the one that is told of a loss of this lock object's.
    pub(crate) fn is_telling(&self) -> bool {
        self.callback.as_ref().is_some_and(|callback| ptr::eq(Arc::as_ptr(callback), CURRENT.get()))
    }

    /// The callback, as it was passed.
    pub(crate) fn on_compromise(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.callback.as_ref().map(|callback| callback.function.clone_ref(py))
    }

    /// How the hold was lost, as Python's.
    pub(crate) fn compromise<'py>(
        &self,
        lock_file: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.monitor.compromise().map(|compromise| into_py(lock_file, &compromise)).transpose()
    }

    /// Shows the garbage collector what was passed by the caller, and may refer to the lock object.
    ///
    /// The callback is one reference, however many share it: a hold keeps the lock object alive in another way.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(callback) = &self.callback else { return Ok(()) };
        visit.call(&callback.function)?;
        visit.call(&callback.lock_file)
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).map_or(LONGEST, |duration| duration.min(LONGEST))
}

fn into_py<'py>(lock_file: &Bound<'py, PyAny>, compromise: &Compromise) -> PyResult<Bound<'py, PyAny>> {
    let py = lock_file.py();
    let error = compromise.error.as_deref();
    let error = error.map(|error| errors::from_io(py, error, compromise.lock_file.as_os_str()));
    let error = error.map(|error| error.into_value(py));
    let class = py.import("ferrolock._compromise")?.getattr("LeaseCompromise")?;
    let arguments = (lock_file, &compromise.token, compromise.reason.name(), error);
    call::call(&class, &arguments.into_pyobject(py)?, None)
}

impl Callback {
    /// Calls the function, on a thread that is there for nothing else. At the end of the interpreter nobody is told.
    fn tell(&self, compromise: &Compromise) {
        Python::try_attach(|py| {
            CURRENT.set(self);
            let function = self.function.bind(py);
            let told = into_py(self.lock_file.bind(py), compromise)
                .and_then(|compromise| call::call(function, &PyTuple::new(py, [compromise])?, None));
            CURRENT.set(ptr::null());
            if let Err(error) = told {
                error.write_unraisable(py, Some(function));
            }
        });
    }
}
