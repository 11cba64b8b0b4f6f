//! Acquisitions of tasks: without a thread that waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrolock::{ErrorKind, Level, News, OwnerId, Patience, Request, Scope, Unmet};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::backend::Finalizing;
use crate::call;
use crate::caller::{acquirer, caller, named_owner};
use crate::configured::Configured;
use crate::errors;
use crate::known::known;
use crate::lock::NativeLock;
use crate::logging;
use crate::once::Once;
use crate::options;

/// The weak reference to the object whose `ring()` wakes the task, from when there is one.
type Bell = Arc<PyOnceLock<Py<PyWeakrefReference>>>;

/// What a task asks for: a lock object, as Python knows it.
pub(crate) trait Asked: Send + Sync {
    /// The lock object, as the log names it, and its path, as it was given.
    fn named<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, &Py<PyAny>)>;

    /// Shows the garbage collector what it leads to.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;

    /// Finds out whether calls on its path come back soon.
    fn learn_quickness(&self);

    /// Sees to what there is to say and to do when `owner` has come to hold it; where that fails, it is released. Says
    /// whether `on_acquired` is to hear of it.
    fn is_held(&self, py: Python<'_>, owner: OwnerId, level: Level) -> PyResult<bool>;

    /// Whether the task has to make all attempts itself: the mechanism is Python's.
    fn is_unattended(&self) -> bool {
        false
    }

    /// The error of an acquisition, where one attempt was all that was asked for or not, and the log told of it.
    fn refused(&self, py: Python<'_>, reason: Unmet, is_once: bool) -> PyErr;

    /// The error of a wait that `cancel_check` has ended.
    fn cancelled(&self, py: Python<'_>) -> PyErr;
}

/// An acquisition of a task that was not over at once.
///
/// It holds nothing that leads back to the task: the bell is a weak reference.
#[pyclass(frozen, module = "ferrolock._native")]
pub(crate) struct Deferred {
    asked: Box<dyn Asked>,
    waiter: ferrolock::Deferred,
    bell: Bell,
    is_attempted: bool,
}

/// What has come of an acquisition that was begun.
#[derive(IntoPyObject)]
pub(crate) enum Begun {
    /// It is over; and whether `on_acquired` is to hear of it.
    Held(bool),
    /// There is more to do.
    Pending(Deferred),
}

/// What is attempted on the thread of the event loop, to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inline {
    /// Nothing: system calls may take long.
    Nothing,
    /// What takes no long time where system calls do not.
    Brief,
    /// All, however long it takes: no other thread may make system calls.
    Whole,
}

impl Inline {
    /// What was asked for; `None`: brief attempts, if calls on the path are known not to take long.
    pub(crate) fn of(asked: Option<bool>, is_known_quick: impl FnOnce() -> bool) -> Self {
        match asked {
            Some(true) => Self::Whole,
            None if is_known_quick() => Self::Brief,
            Some(false) | None => Self::Nothing,
        }
    }
}

/// Begins an acquisition by the waiter that `make` makes, to which the bell belongs.
pub(crate) fn begin(
    py: Python<'_>,
    asked: Box<dyn Asked>,
    inline: Inline,
    make: impl FnOnce(Box<dyn Fn() -> bool + Send + Sync>) -> ferrolock::Deferred,
) -> PyResult<Begun> {
    let bell = Bell::new(PyOnceLock::new());
    let waiter = make(Box::new({
        let bell = Arc::clone(&bell);
        move || ring(&bell)
    }));
    let mut deferred = Deferred { asked, waiter, bell, is_attempted: false };
    let attempted = py.detach(|| match inline {
        Inline::Nothing => Ok(None),
        Inline::Brief => deferred.waiter.attempt_briefly(),
        Inline::Whole => deferred.waiter.attempt().map(Some),
    });
    let attempted = attempted.map_err(|reason| deferred.refused(py, *reason))?;
    deferred.is_attempted = attempted.is_some();
    if attempted == Some(true) {
        if let Some(is_news) = deferred.accept(py)? {
            return Ok(Begun::Held(is_news));
        }
    }
    Ok(Begun::Pending(deferred))
}

fn ring(bell: &Bell) -> bool {
    let rung = Python::try_attach(|py| {
        let bell = bell.get(py)?.bind(py).upgrade()?;
        call::method0(&bell, &known(py).ok()?.names.ring).ok()?.is_truthy().ok()
    });
    rung.flatten().unwrap_or(false)
}

/// The error of a wait of a task for itself.
pub(crate) fn deadlock(lock_file: &Bound<'_, PyAny>, class: &str) -> PyErr {
    PyRuntimeError::new_err(format!(
        "Deadlock: lock '{lock_file}' is already held by a different {class} instance in this task. Use \
         is_singleton=True to enable reentrant locking across instances."
    ))
}

/// The task that is running.
///
/// # Errors
/// `RuntimeError` where there is no event loop of asyncio's kind.
pub(crate) fn current_task(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
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

impl Asked for Py<NativeLock> {
    fn named<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, &Py<PyAny>)> {
        Ok((self.bind(py).as_any().clone(), &self.get().configured()?.lock_file))
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self)
    }

    fn learn_quickness(&self) {
        if let Ok(this) = self.get().configured() {
            this.learn_quickness();
        }
    }

    fn is_unattended(&self) -> bool {
        self.get().configured().is_ok_and(|this| this.backend.is_some())
    }

    fn is_held(&self, py: Python<'_>, owner: OwnerId, level: Level) -> PyResult<bool> {
        let this = self.get().configured()?;
        let told =
            logging::tell_notices(py).and_then(|()| match logging::log(self.bind(py), &this.lock_file)? {
                Some(log) => log.debug("Lock %s acquired on %s"),
                None => Ok(()),
            });
        if told.is_err() {
            // The caller sees an exception, so it must not have the lock.
            drop(py.detach(|| this.lock.release(owner, false)));
        }
        told.map(|()| this.is_news(level))
    }

    fn refused(&self, py: Python<'_>, reason: Unmet, is_once: bool) -> PyErr {
        let this = match self.get().configured() {
            Ok(this) => this,
            Err(error) => return error,
        };
        let (lock, lock_file) = (self.bind(py), this.lock_file.bind(py));
        if reason.error.kind() == ErrorKind::Deadlock {
            return deadlock(lock_file, "BaseAsyncFileLock");
        }
        let is_late = matches!(reason.error.kind(), ErrorKind::TimedOut(_));
        let error = errors::from_core_of(lock, lock_file, &reason.error, reason.holder);
        if !is_late {
            return error;
        }
        let message = if is_once {
            "Failed to immediately acquire lock %s on %s"
        } else {
            "Timeout on acquiring lock %s on %s"
        };
        match logging::log(lock, &this.lock_file) {
            Ok(Some(log)) => log.debug(message).err().unwrap_or(error),
            Ok(None) => error,
            Err(raised) => raised,
        }
    }

    fn cancelled(&self, py: Python<'_>) -> PyErr {
        let build = || {
            let class = self.bind(py).getattr("_timeout_error")?;
            Ok(errors::cancelled(&class, self.get().configured()?.lock_file.bind(py)))
        };
        build().unwrap_or_else(|error: PyErr| error)
    }
}

/// Begins to acquire `lock` for the running task. True: it is held, and is to be announced; False: it is held; otherwise
/// there is more to do.
///
/// With `is_inline` an attempt is made on this thread; None makes one where it is known not to take long.
#[pyfunction]
pub(crate) fn begin_acquire(
    lock: &Bound<'_, NativeLock>,
    timeout: Option<&Bound<'_, PyAny>>,
    poll_interval: Option<&Bound<'_, PyAny>>,
    blocking: Option<&Bound<'_, PyAny>>,
    has_questions: bool,
    is_inline: Option<bool>,
) -> PyResult<Begun> {
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
        return lock.as_unbound().is_held(py, owner, Level::Nested).map(Begun::Held);
    }
    let path = this.path()?;
    let log = logging::log(lock.as_any(), &this.lock_file)?;
    if let Some(log) = &log {
        log.debug("Attempting to acquire lock %s on %s")?;
    }
    let poll_interval = Duration::from_secs_f64(settings.poll_interval_seconds);
    let patience = Patience { timeout, poll_interval, lifetime: settings.lifetime() };
    let request = Request { owner, debtor, path, patience };
    let inline = Inline::of(is_inline, || this.is_known_quick());
    begin(py, Box::new(lock.clone().unbind()), inline, |bell| {
        ferrolock::Deferred::for_lock(Arc::clone(&this.lock), &request, has_questions || log.is_some(), bell)
    })
}

impl Deferred {
    fn refused(&self, py: Python<'_>, reason: Unmet) -> PyErr {
        self.asked.refused(py, reason, self.waiter.is_once())
    }
}

#[pymethods]
impl Deferred {
    /// For the garbage collector: a lock object that keeps the task is a cycle. What else is in it can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.asked.traverse(&visit)
    }

    /// Whether an attempt was made already that could tell.
    #[getter]
    fn is_attempted(&self) -> bool {
        self.is_attempted
    }

    /// Makes one attempt, on a thread that may block: True, there is something to accept.
    fn attempt(&self, py: Python<'_>) -> PyResult<bool> {
        let attempted = py.detach(|| {
            let attempted = self.waiter.attempt();
            self.asked.learn_quickness();
            attempted
        });
        attempted.map_err(|reason| self.refused(py, *reason))
    }

    /// Whether the task has to make all attempts itself.
    #[getter]
    fn is_unattended(&self) -> bool {
        self.asked.is_unattended()
    }

    /// Raises `Timeout` if there is no time for another attempt, and gives the time until that.
    fn check_time(&self, py: Python<'_>) -> PyResult<f64> {
        self.waiter.check_time().map_err(|reason| self.refused(py, *reason))?;
        Ok(self.waiter.pause().as_secs_f64())
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
        let (lock, lock_file) = self.asked.named(py)?;
        let log = || logging::log(&lock, lock_file);
        if let Some(cancel_check) = cancel_check {
            if call::call0(cancel_check)?.is_truthy()? {
                if let Some(log) = log()? {
                    log.debug("Cancellation requested for lock %s on %s")?;
                }
                return Err(self.asked.cancelled(py));
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

    /// Makes a hold of what was granted. None: not yet, for a release through this lock object is not over; True: it is to
    /// be announced.
    fn accept(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        match py.detach(|| self.waiter.accept()) {
            Ok(Some(level)) => self.asked.is_held(py, self.waiter.owner(), level).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(self.refused(py, Unmet { error, holder: None })),
        }
    }

    /// Ends the wait, and gives back what was granted.
    fn withdraw(&self, py: Python<'_>) {
        py.detach(|| self.waiter.withdraw());
    }

    /// Whether a thread is still on its way out of the kernel's queue. The bell rings when that is over.
    #[getter]
    fn is_leaving(&self) -> bool {
        self.waiter.is_leaving()
    }

    /// Whether there is something to accept, or to give back.
    #[getter]
    fn is_granted(&self) -> bool {
        self.waiter.is_granted()
    }
}

/// Calls `on_acquired`, for a lock that the running task or its thread has come to hold.
#[pyfunction]
pub(crate) fn announce(lock: &Bound<'_, NativeLock>) -> PyResult<()> {
    let py = lock.py();
    lock.get().configured()?.announce(py, &caller(py)?)
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
        let _found = this.backend.as_ref().map(|_| Finalizing::begin(lock));
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
