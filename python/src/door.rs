//! The native base class of the locks of readers and writers for tasks: a way to one for threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ferrolock::mechanism::Mode;
use ferrolock::{Door, Error, ErrorKind, Level, OwnerId, Request, Unmet};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyTuple};

use crate::caller::{OwnerName, named_owner};
use crate::deferred::{Asked, Begun, Inline, begin, current_task, deadlock};
use crate::errors;
use crate::logging;
use crate::quickness::Quickness;
use crate::read_write::{Configured, NativeReadWriteLock, note_record_locks, refusal};

/// Where the door leads.
struct Way {
    door: Arc<Door>,
    lock: Py<NativeReadWriteLock>,
    quickness: Quickness,
}

/// The half of `AsyncReadWriteLock` and `AsyncSoftReadWriteLock` that touches the core.
///
/// It is constructed empty and filled by `_lead_to`, which `__init__` calls.
#[pyclass(subclass, frozen, module = "ferrolock._native")]
pub(crate) struct NativeDoor {
    way: OnceLock<Way>,
    /// The finalizer runs.
    is_finalizing: AtomicBool,
}

impl NativeDoor {
    fn way(&self) -> PyResult<(&Way, &Configured)> {
        let way = self.way.get().ok_or_else(|| {
            PyRuntimeError::new_err("the lock is not initialized: __init__ of its base class was not called")
        })?;
        Ok((way, way.lock.get().configured()?))
    }

    /// The error for what the core says of an acquisition, or of a release.
    fn error(slf: &Bound<'_, Self>, this: &Configured, mode: Mode, unmet: Unmet) -> PyErr {
        let (py, lock_file) = (slf.py(), this.lock_file.bind(slf.py()));
        let kind = unmet.error.kind();
        if kind == ErrorKind::Deadlock {
            return deadlock(lock_file, "AsyncReadWriteLock");
        }
        if matches!(kind, ErrorKind::NotHeld | ErrorKind::NotTheHolder(_)) {
            return PyRuntimeError::new_err(format!(
                "Cannot release a lock on {lock_file} (lock id: {}) that is not held by this task through this wrapper",
                slf.as_ptr() as usize
            ));
        }
        refusal(slf, this, mode, &unmet.error)
            .unwrap_or_else(|| errors::from_core(py, lock_file, &unmet.error, unmet.holder))
    }
}

/// The task that asks: it will own the levels.
fn task(py: Python<'_>) -> PyResult<OwnerId> {
    let task = current_task(py)?;
    if task.is_none() {
        return Err(PyRuntimeError::new_err("a read or write lock is a task's, and no task is running"));
    }
    named_owner(&task)
}

/// An acquisition through a door, in a mode.
struct Entering {
    object: Py<NativeDoor>,
    mode: Mode,
}

impl Asked for Entering {
    fn named<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, &Py<PyAny>)> {
        Ok((self.object.bind(py).as_any().clone(), &self.object.get().way()?.1.lock_file))
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)
    }

    fn learn_quickness(&self) {
        if let Ok((way, this)) = self.object.get().way() {
            way.quickness.learn_of(&this.path);
        }
    }

    fn is_held(&self, py: Python<'_>, owner: OwnerId, _level: Level) -> PyResult<bool> {
        let (way, this) = self.object.get().way()?;
        let told = logging::tell_notices(py);
        match told {
            Ok(()) => NativeReadWriteLock::keep(way.lock.bind(py), this),
            // The caller sees an exception, so it must not have the lock.
            Err(_) => drop(py.detach(|| way.door.release(owner, false, &this.path))),
        }
        told.map(|()| false)
    }

    fn refused(&self, py: Python<'_>, reason: Unmet, _is_once: bool) -> PyErr {
        match self.object.get().way() {
            Ok((_, this)) => NativeDoor::error(self.object.bind(py), this, self.mode, reason),
            Err(error) => error,
        }
    }

    fn cancelled(&self, py: Python<'_>) -> PyErr {
        let cancelled = |path| Unmet { error: Error::new(ErrorKind::Cancelled, "lock", path), holder: None };
        match self.object.get().way() {
            Ok((_, this)) => self.refused(py, cancelled(&this.path), false),
            Err(error) => error,
        }
    }
}

#[pymethods]
impl NativeDoor {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { way: OnceLock::new(), is_finalizing: AtomicBool::new(false) }
    }

    /// For the garbage collector. A cycle through here has something in it that can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.way.get().map_or(Ok(()), |way| visit.call(&way.lock))
    }

    /// Makes this a way to `lock`.
    fn _lead_to(&self, lock: &Bound<'_, NativeReadWriteLock>) -> PyResult<()> {
        let door = Arc::new(Door::new(Arc::clone(&lock.get().configured()?.lock)));
        let way = Way { door, lock: lock.clone().unbind(), quickness: Quickness::default() };
        self.way.set(way).map_err(|_| PyRuntimeError::new_err("the lock is initialized already"))
    }

    /// Begins to come in for the running task. False: it is inside now; otherwise there is more to do.
    ///
    /// With `is_inline` an attempt is made on this thread; None makes it where that is known not to take long.
    fn _begin(
        slf: &Bound<'_, Self>,
        is_writer: bool,
        timeout: Option<&Bound<'_, PyAny>>,
        blocking: Option<&Bound<'_, PyAny>>,
        is_inline: Option<bool>,
    ) -> PyResult<Begun> {
        let py = slf.py();
        let (way, this) = slf.get().way()?;
        if slf.get().is_finalizing.load(Ordering::SeqCst) {
            return Err(PyRuntimeError::new_err("the lock object is being finalized"));
        }
        let mode = if is_writer { Mode::Exclusive } else { Mode::Shared };
        let patience = this.patience(timeout, blocking)?;
        let owner = task(py)?;
        note_record_locks(py)?;
        let request = Request { owner, debtor: owner, path: &this.path, patience };
        let has_questions = logging::log(slf.as_any(), &this.lock_file)?.is_some();
        // A level more of what the task has makes no system call, and is had at once wherever that would be made.
        let inline = match Inline::of(is_inline, || way.quickness.is_known_of(&this.path)) {
            Inline::Nothing if way.door.lock().held_by(owner).is_some() => Inline::Brief,
            inline @ (Inline::Nothing | Inline::Brief | Inline::Whole) => inline,
        };
        begin(py, Box::new(Entering { object: slf.clone().unbind(), mode }), inline, |bell| {
            ferrolock::Deferred::for_door(Arc::clone(&way.door), &request, mode, has_questions, bell)
        })
    }

    /// Begins to go out for the running task. None: it is over, for others are inside, or this task on other levels;
    /// otherwise what `_release` is to be called with.
    fn _unnest(&self, py: Python<'_>, force: bool) -> PyResult<Option<OwnerName>> {
        let (way, _) = self.way()?;
        let owner = task(py)?;
        let is_over = !force && way.door.unnest(owner);
        Ok(if is_over { None } else { Some(OwnerName { owner }) })
    }

    /// Releases one level of a task's, or all of them.
    fn _release(slf: &Bound<'_, Self>, owner: &OwnerName, force: bool) -> PyResult<()> {
        let py = slf.py();
        let (way, this) = slf.get().way()?;
        note_record_locks(py)?;
        let released = py.detach(|| way.door.release(owner.owner, force, &this.path));
        released
            .map(drop)
            .map_err(|error| Self::error(slf, this, Mode::Exclusive, Unmet { error, holder: None }))
    }

    /// Releases all that came in through here, and refuses all acquisitions from now on.
    fn _close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (way, this) = slf.get().way()?;
        note_record_locks(py)?;
        let closed = py.detach(|| way.door.close(&this.path));
        closed.map_err(|error| Self::error(slf, this, Mode::Exclusive, Unmet { error, holder: None }))
    }

    /// Whether calls on the path are known to come back soon.
    fn _is_quick(&self) -> PyResult<bool> {
        let (way, this) = self.way()?;
        Ok(way.quickness.is_known_of(&this.path))
    }

    /// Whether anybody who came in through here is inside.
    fn _is_held_by_anyone(&self) -> bool {
        self.way.get().is_some_and(|way| way.door.is_held_by_anyone())
    }

    /// The finalizer: releases what came in through here, for nobody else can any more.
    fn _finalize(&self, py: Python<'_>) {
        let Ok((way, this)) = self.way() else { return };
        // A lease is kept until it is released, or the program ends.
        if this.lease.is_some() || !way.door.is_held_by_anyone() {
            return;
        }
        let _without_python_there_is_no_sqlite = note_record_locks(py);
        self.is_finalizing.store(true, Ordering::SeqCst);
        let _error_has_nobody_to_go_to = py.detach(|| way.door.release_all(&this.path));
        self.is_finalizing.store(false, Ordering::SeqCst);
    }
}
