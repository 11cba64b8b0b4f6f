//! What is told of a hold that was lost: by `compromise`, and by `on_compromise`.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;

use ferrolock::mechanism::{Compromise, LeaseMonitor, OnCompromise};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::PyTuple;

use crate::call;
use crate::clearable::Clearable;
use crate::errors;
use crate::options;

/// Checks what is to be called.
pub(crate) fn check(on_compromise: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    match on_compromise {
        Some(callback) if !callback.is_callable() => Err(PyTypeError::new_err(format!(
            "on_compromise must be callable or None, not {}",
            options::type_name(callback)
        ))),
        Some(_) | None => Ok(()),
    }
}

/// What is called when a hold is lost.
#[derive(Debug)]
struct Callback {
    function: Clearable,
    lock_file: Py<PyAny>,
}

thread_local! {
    /// The callback that this thread is in.
    static CURRENT: Cell<*const Callback> = const { Cell::new(ptr::null()) };
}

/// How the holder of a lease hears that it was lost.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) monitor: Arc<LeaseMonitor>,
    callback: Option<Arc<Callback>>,
}

impl Listener {
    /// One for a monitor as `make` makes it.
    pub(crate) fn new(
        on_compromise: Option<&Bound<'_, PyAny>>,
        lock_file: &Bound<'_, PyAny>,
        make: impl FnOnce(Option<OnCompromise>) -> LeaseMonitor,
    ) -> PyResult<Self> {
        let callback = on_compromise.map(|function| {
            let lock_file = lock_file.clone().unbind();
            Ok::<_, PyErr>(Arc::new(Callback { function: Clearable::new(function)?, lock_file }))
        });
        let callback = callback.transpose()?;
        let tell = callback
            .clone()
            .map(|callback| -> OnCompromise { Arc::new(move |compromise| callback.tell(&compromise)) });
        Ok(Self { monitor: Arc::new(make(tell)), callback })
    }

    /// Whether the calling thread is the one that is told of a loss of this lock object's.
    pub(crate) fn is_telling(&self) -> bool {
        self.callback.as_ref().is_some_and(|callback| ptr::eq(Arc::as_ptr(callback), CURRENT.get()))
    }

    /// The callback, as it was passed.
    pub(crate) fn on_compromise(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.callback.as_ref()?.function.get(py).map(Bound::unbind)
    }

    /// Shows the garbage collector what was passed by the caller, and may refer to the lock object.
    ///
    /// The callback is one reference, however many share it: a hold keeps the lock object alive in another way, if at all.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(callback) = &self.callback else { return Ok(()) };
        callback.function.traverse(visit)?;
        visit.call(&callback.lock_file)
    }
}

/// How a hold was lost, as Python's.
pub(crate) fn into_py<'py>(
    lock_file: &Bound<'py, PyAny>,
    compromise: &Compromise,
) -> PyResult<Bound<'py, PyAny>> {
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
            let Some(function) = self.function.get(py) else { return };
            CURRENT.set(self);
            let told = into_py(self.lock_file.bind(py), compromise)
                .and_then(|compromise| call::call(&function, &PyTuple::new(py, [compromise])?, None));
            CURRENT.set(ptr::null());
            if let Err(error) = told {
                error.write_unraisable(py, Some(&function));
            }
        });
    }
}
