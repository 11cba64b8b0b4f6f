//! What `read_lock()` and `write_lock()` give.

use ferrolock::mechanism::Mode;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::call;

/// Each `with` acquires and releases. Also a decorator.
#[pyclass(frozen, module = "ferrolock._native")]
pub(crate) struct ModeContext {
    pub(crate) lock: Py<PyAny>,
    pub(crate) mode: Mode,
    pub(crate) timeout: Option<Py<PyAny>>,
    pub(crate) blocking: Option<Py<PyAny>>,
}

#[pymethods]
impl ModeContext {
    /// For the garbage collector: a lock that keeps its context is a cycle. What else is in it can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)?;
        visit.call(&self.timeout)?;
        visit.call(&self.blocking)
    }

    /// Acquires; gives nothing.
    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        // By name, for a subclass may have its own.
        let method = match self.mode {
            Mode::Shared => pyo3::intern!(py, "acquire_read"),
            Mode::Exclusive => pyo3::intern!(py, "acquire_write"),
        };
        let lock = self.lock.bind(py);
        if self.timeout.is_none() && self.blocking.is_none() {
            return call::method0(lock, method).map(drop);
        }
        let blocking = PyDict::new(py);
        blocking.set_item("blocking", &self.blocking)?;
        let timeout = PyTuple::new(py, [&self.timeout])?;
        call::call(&lock.getattr(method)?, &timeout, Some(&blocking)).map(drop)
    }

    /// Releases one level; an exception of the body goes on.
    #[pyo3(signature = (exc_type, exc_value, traceback))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: &Bound<'_, PyAny>,
        exc_value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (exc_type, exc_value, traceback);
        let release: &Bound<'_, PyString> = pyo3::intern!(py, "release");
        call::method0(self.lock.bind(py), release).map(drop)
    }

    /// Decorates a function: each call runs with the lock held in this mode.
    fn __call__<'py>(slf: &Bound<'py, Self>, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("ferrolock._read_write")?.call_method1("_decorated", (slf, function))
    }
}
