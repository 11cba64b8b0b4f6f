//! Acquisitions of tasks: without a thread that waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrolock::{Contended, ErrorKind, News, OwnerId, Patience, Request, Scope, Unmet};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::call;
use crate::caller::{acquirer, named_owner};
use crate::configured::{Configured, Failure};
use crate::errors;
use crate::known::known;
use crate::lock::{NativeLock, tell_notices};
use crate::logging;
use crate::once::Once;
use crate::options;

/// The weak reference to the object whose `ring()` wakes the task, from when there is one.
type Bell = Arc<PyOnceLock<Py<PyWeakrefReference>>>;

/// An acquisition of a task that was not over at once.
///
/// It holds nothing that leads back to the task: the bell is a weak reference.
#[pyclass(frozen, module = "ferrolock._native")]
pub(crate) struct Deferred {
    lock: Py<NativeLock>,
    waiter: ferrolock::Deferred,
    bell: Bell,
    is_attempted: bool,
}

fn ring(bell: &Bell) -> bool {
    let rung = Python::try_attach(|py| {
        let bell = bell.get(py)?.bind(py).upgrade()?;
        call::method0(&bell, &known(py).ok()?.names.ring).ok()?.is_truthy().ok()
    });
    rung.flatten().unwrap_or(false)
}

/// The error of an acquisition by a task.
fn unmet(lock: &Bound<'_, NativeLock>, this: &Configured, unmet: Unmet) -> PyErr {
    let lock_file = this.lock_file.bind(lock.py());
    if unmet.error.kind() == ErrorKind::Deadlock {
        return PyRuntimeError::new_err(format!(
            "Deadlock: lock '{lock_file}' is already held by a different BaseAsyncFileLock instance in this task. Use \
             is_singleton=True to enable reentrant locking across instances."
        ));
    }
    Failure::Core(Box::new(unmet.error), unmet.holder).into_py(lock, lock_file)
}

/// The task that is running.
///
/// # Errors
/// `RuntimeError` where there is no event loop of asyncio's kind.
fn current_task(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static CURRENT_TASK: Once = Once::new();
    let look_up = || Ok(py.import("asyncio.tasks")?.getattr("current_task")?.unbind());
    let current_task = CURRENT_TASK.get_or_make(py, look_up)?;
    current_task.bind(py).call0().map_err(|error| {
        if !error.is_instance_of::<PyRuntimeError>(py) {
            return error;
        }
        PyRuntimeError::new_err(
            "no running asyncio event loop: async locks work under asyncio, uvloop, and anyio with its asyncio backend, \
             not under trio",
        )
    })
}

/// Who acquires, and who would wait for himself.
fn parties(py: Python<'_>, this: &Configured) -> PyResult<(OwnerId, OwnerId)> {
    let task = current_task(py)?;
    // A coroutine may be driven from a callback, and a task of somebody's own kind may take no attribute.
    let debtor = if task.is_none() {
        OwnerId::unique()
    } else {
        named_owner(&task).unwrap_or_else(|_| OwnerId::unique())
    };
    let owner = match this.scope {
        Scope::Shared => debtor,
        Scope::PerOwner => acquirer(py)?.owner,
    };
    Ok((owner, debtor))
}

/// Says what there is to say after an acquisition; where that fails, the lock is released.
fn tell(lock: &Bound<'_, NativeLock>, this: &Configured, owner: OwnerId) -> PyResult<()> {
    let py = lock.py();
    let told = tell_notices(py).and_then(|()| match logging::log(lock.as_any(), &this.lock_file)? {
        Some(log) => log.debug("Lock %s acquired on %s"),
        None => Ok(()),
    });
    if told.is_err() {
        // The caller sees an exception, so it must not have the lock.
        drop(py.detach(|| this.lock.release(owner, false)));
    }
    told
}

/// Begins to acquire `lock` for the running task. None: it is held now; otherwise there is more to do.
///
/// With `is_inline` an attempt is made on this thread; None makes it where that is known not to take long.
#[pyfunction]
pub(crate) fn begin_acquire(
    lock: &Bound<'_, NativeLock>,
    timeout: Option<&Bound<'_, PyAny>>,
    poll_interval: Option<&Bound<'_, PyAny>>,
    blocking: Option<&Bound<'_, PyAny>>,
    has_questions: bool,
    is_inline: Option<bool>,
) -> PyResult<Option<Deferred>> {
    let py = lock.py();
    let this = lock.get().configured()?;
    let mut settings = this.settings.get(py);
    if let Some(value) = blocking {
        settings.blocking = options::blocking(value)?;
    }
    if let Some(value) = timeout {
        settings.timeout_seconds = options::timeout(value)?;
    }
    if let Some(value) = poll_interval {
        settings.poll_interval_seconds = options::poll_interval(value)?;
    }
    if lock.get().is_finalizing.load(Ordering::SeqCst) {
        return Err(PyRuntimeError::new_err("the lock object is being finalized"));
    }
    let timeout = options::patience(settings.timeout_seconds, settings.blocking)?;
    let (owner, debtor) = parties(py, this)?;
    if this.lock.nest(owner) {
        return tell(lock, this, owner).map(|()| None);
    }
    let path = this.path()?;
    let log = logging::log(lock.as_any(), &this.lock_file)?;
    if let Some(log) = &log {
        log.debug("Attempting to acquire lock %s on %s")?;
    }
    let poll_interval = Duration::from_secs_f64(settings.poll_interval_seconds);
    let patience = Patience { timeout, poll_interval, lifetime: settings.lifetime() };
    let request = Request { owner, debtor, path, patience };
    let is_attempted = is_inline.unwrap_or_else(|| this.is_known_quick());
    let contended = if is_attempted {
        match py.detach(|| attempt_at_once(this, &request)) {
            Ok(None) => return tell(lock, this, owner).map(|()| None),
            Ok(Some(contended)) => Some(contended),
            Err(error) => return Err(refused(lock, this, settings.blocking, *error)),
        }
    } else {
        None
    };
    let bell = Bell::new(PyOnceLock::new());
    let waiter = ferrolock::Deferred::for_lock(
        Arc::clone(&this.lock),
        &request,
        contended,
        has_questions || log.is_some(),
        Box::new({
            let bell = Arc::clone(&bell);
            move || ring(&bell)
        }),
    );
    Ok(Some(Deferred { lock: lock.clone().unbind(), waiter, bell, is_attempted }))
}

fn attempt_at_once(this: &Configured, request: &Request<'_>) -> Result<Option<Contended>, Box<Unmet>> {
    this.lock.acquire_at_once(request).map_err(|error| {
        let is_late = matches!(error.kind(), ErrorKind::TimedOut(_));
        let holder = if is_late { this.lock.holder(error.path()) } else { None };
        Box::new(Unmet { error, holder })
    })
}

/// The error of an acquisition, and the log told of it.
fn refused(lock: &Bound<'_, NativeLock>, this: &Configured, blocking: bool, reason: Unmet) -> PyErr {
    let is_late = matches!(reason.error.kind(), ErrorKind::TimedOut(_));
    let error = unmet(lock, this, reason);
    if !is_late {
        return error;
    }
    let message = if blocking {
        "Timeout on acquiring lock %s on %s"
    } else {
        "Failed to immediately acquire lock %s on %s"
    };
    match logging::log(lock.as_any(), &this.lock_file) {
        Ok(Some(log)) => log.debug(message).err().unwrap_or(error),
        Ok(None) => error,
        Err(raised) => raised,
    }
}

impl Deferred {
    fn refused(&self, py: Python<'_>, reason: Unmet) -> PyErr {
        let lock = self.lock.bind(py);
        match lock.get().configured() {
            Ok(this) => refused(lock, this, !self.waiter.is_once(), reason),
            Err(error) => error,
        }
    }
}

#[pymethods]
impl Deferred {
    /// Whether an attempt was made already.
    #[getter]
    fn is_attempted(&self) -> bool {
        self.is_attempted
    }

    /// Makes one attempt, on a thread that may block: True, there is something to accept.
    fn attempt(&self, py: Python<'_>) -> PyResult<bool> {
        let this = self.lock.get().configured()?;
        let attempted = py.detach(|| {
            let attempted = self.waiter.attempt();
            this.learn_quickness();
            attempted
        });
        attempted.map_err(|reason| self.refused(py, *reason))
    }

    /// Joins the queue. `bell.ring()` will be called, from any thread, when there are news; `bell` is held weakly.
    fn wait(&self, py: Python<'_>, bell: &Bound<'_, PyAny>) -> PyResult<()> {
        let weak = PyWeakrefReference::new(bell)?.unbind();
        let _first_stays = self.bell.set(py, weak);
        py.detach(|| self.waiter.wait()).map_err(|reason| self.refused(py, *reason))
    }

    /// What has come: True, there is something to accept; False, questions may be asked; None, nothing.
    fn news(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        match self.waiter.news() {
            News::Granted => Ok(Some(true)),
            News::Question => Ok(Some(false)),
            News::Nothing => Ok(None),
            News::Failed(reason) => Err(self.refused(py, *reason)),
        }
    }

    /// Asks `cancel_check`, and raises `Timeout` if it is true; tells the log that the wait goes on.
    #[pyo3(signature = (cancel_check, *, is_first=false))]
    fn ask(&self, py: Python<'_>, cancel_check: Option<&Bound<'_, PyAny>>, is_first: bool) -> PyResult<()> {
        let lock = self.lock.bind(py);
        let this = lock.get().configured()?;
        let log = || logging::log(lock.as_any(), &this.lock_file);
        if let Some(cancel_check) = cancel_check {
            if call::call0(cancel_check)?.is_truthy()? {
                if let Some(log) = log()? {
                    log.debug("Cancellation requested for lock %s on %s")?;
                }
                return Err(errors::cancelled(&lock.getattr("_timeout_error")?, this.lock_file.bind(py)));
            }
        }
        let pause = self.waiter.pause();
        if let (false, Some(log)) = (pause.is_zero(), log()?) {
            if is_first {
                log.waits_by(self.waiter.waits_by())?;
            }
            log.waiting(pause.as_secs_f64())?;
        }
        Ok(())
    }

    /// Makes a hold of what was granted. False: not yet, for a release through this lock object is not over.
    fn accept(&self, py: Python<'_>) -> PyResult<bool> {
        let lock = self.lock.bind(py);
        let this = lock.get().configured()?;
        match py.detach(|| self.waiter.accept()) {
            Ok(true) => tell(lock, this, self.waiter.owner()).map(|()| true),
            Ok(false) => Ok(false),
            Err(error) => Err(self.refused(py, Unmet { error, holder: None })),
        }
    }

    /// Ends the wait, and gives back what was granted.
    fn withdraw(&self, py: Python<'_>) {
        py.detach(|| self.waiter.withdraw());
    }

    /// Whether there is something to accept, or to give back.
    #[getter]
    fn is_granted(&self) -> bool {
        self.waiter.is_granted()
    }
}

/// Whether the lock object's calls on its path are known to come back soon.
#[pyfunction]
pub(crate) fn is_quick(lock: &Bound<'_, NativeLock>) -> PyResult<bool> {
    Ok(lock.get().configured()?.is_known_quick())
}

/// Releases all that is held through a lock object that nobody can reach any more.
#[pyfunction]
pub(crate) fn release_all(lock: &Bound<'_, NativeLock>) {
    let native = lock.get();
    let Ok(this) = native.configured() else { return };
    if this.lock.is_held_by_anyone() {
        native.is_finalizing.store(true, Ordering::SeqCst);
        let _nobody_to_tell = lock.py().detach(|| this.lock.release_all());
        native.is_finalizing.store(false, Ordering::SeqCst);
    }
}

/// Ends the threads that wait for nobody.
#[pyfunction]
pub(crate) fn end_idle_porters(py: Python<'_>) {
    py.detach(ferrolock::wait::end_idle_porters);
}

/// Ends all waits of tasks, at the end of the process.
#[pyfunction]
pub(crate) fn end_waits(py: Python<'_>) {
    py.detach(ferrolock::wait::end_waits);
}
