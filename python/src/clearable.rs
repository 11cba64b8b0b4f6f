//! References that a cycle of garbage can be cut at.

use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::PyList;

/// A reference to something of the caller's that may lead back to its owner, a method of the lock object's for example.
///
/// A list, for that is what the garbage collector can empty: neither the native objects nor methods can be cleared, and a
/// cycle of nothing else stays for good.
#[derive(Debug)]
pub(crate) struct Clearable(Py<PyList>);

impl Clearable {
    pub(crate) fn new(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self(PyList::new(value.py(), [value])?.unbind()))
    }

    /// What it refers to; None where that was garbage and was cleared.
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.0.bind(py).get_item(0).ok()
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}
