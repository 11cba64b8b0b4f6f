//! Python objects that are looked up when they are first needed.

use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// A Python object that is made when it is first asked for.
pub(crate) struct Once<T = PyAny>(PyOnceLock<Py<T>>);

impl<T: PyTypeInfo> Once<T> {
    pub(crate) const fn new() -> Self {
        Self(PyOnceLock::new())
    }

    pub(crate) fn get(&self, py: Python<'_>) -> Option<&Py<T>> {
        self.0.get(py)
    }

    /// The object, made by `make` if there is none yet; of several made at once one stays.
    ///
    /// Not `PyOnceLock::get_or_init`: while that runs, other Python code may run too. A finalizer that comes
    /// here would wait for itself, and a forked child for a thread that it does not have.
    pub(crate) fn get_or_make(
        &self,
        py: Python<'_>,
        make: impl FnOnce() -> PyResult<Py<T>>,
    ) -> PyResult<Py<T>> {
        if let Some(object) = self.0.get(py) {
            return Ok(object.clone_ref(py));
        }
        let object = make()?;
        let _first_stays = self.0.set(py, object.clone_ref(py));
        Ok(self.0.get(py).map_or(object, |first| first.clone_ref(py)))
    }
}
