//! What `acquire` returns.

use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyTuple, PyType};

use crate::call;
use crate::lock::NativeLock;

/// The result of `acquire`: leaves the lock when a `with` on it ends, and does not acquire again.
#[pyclass(frozen, module = "ferrolock")]
pub(crate) struct AcquireReturnProxy {
    /// The lock that was acquired.
    #[pyo3(get)]
    lock: Py<PyAny>,
}

#[pymethods]
impl AcquireReturnProxy {
    #[new]
    pub(crate) fn new(lock: Py<PyAny>) -> Self {
        Self { lock }
    }

    fn __enter__(&self, py: Python<'_>) -> Py<PyAny> {
        self.lock.clone_ref(py)
    }

    #[pyo3(signature = (exc_type, exc_value, traceback))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: Py<PyAny>,
        exc_value: &Bound<'_, PyAny>,
        traceback: Py<PyAny>,
    ) -> PyResult<()> {
        let _ = (exc_type, traceback);
        let lock = self.lock.bind(py);
        match lock.cast::<NativeLock>() {
            Ok(lock) => NativeLock::leave(lock, exc_value),
            Err(_) => call::method0(lock, "release").map(drop),
        }
    }

    /// For the garbage collector: a lock that keeps its proxy is a cycle. Others of it can be cleared, and this need not.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let arguments = PyTuple::new(cls.py(), [cls.as_any(), item])?;
        cls.py().import("types")?.getattr("GenericAlias")?.call1(arguments)
    }
}
