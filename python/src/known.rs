//! Python objects that every acquisition needs, looked up when the module is imported.
//!
//! Looking them up later would not do: the lock around a first look-up is copied by a fork of another thread at
//! that moment, and the child would wait for it for ever. What is needed rarely goes without.

use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyString};

use crate::lock::NativeLock;

pub(crate) struct Known {
    /// `sys.modules`.
    pub(crate) modules: Py<PyDict>,
    /// A `threading.local` for the tokens of threads.
    pub(crate) thread_tokens: Py<PyAny>,
    /// `os.strerror`.
    pub(crate) strerror: Py<PyAny>,
    /// `errno.ENOTSUP`.
    pub(crate) enotsup: i32,
    /// `errno.ENOENT`.
    pub(crate) enoent: i32,
    /// `logging.DEBUG`.
    pub(crate) debug_level: Py<PyInt>,
    /// The methods of [`NativeLock`], to tell an override from them.
    pub(crate) native_acquire: Py<PyAny>,
    pub(crate) native_release: Py<PyAny>,
    pub(crate) names: Names,
}

/// Names that are looked up in other objects, interned.
pub(crate) struct Names {
    pub(crate) acquire: Py<PyString>,
    pub(crate) release: Py<PyString>,
    pub(crate) greenlet: Py<PyString>,
    pub(crate) owner: Py<PyString>,
    pub(crate) ring: Py<PyString>,
    pub(crate) is_enabled_for: Py<PyString>,
    pub(crate) logging: Py<PyString>,
    pub(crate) settings: Py<PyString>,
    pub(crate) sqlite: Py<PyString>,
}

static KNOWN: PyOnceLock<Known> = PyOnceLock::new();

/// Looks everything up, once and for all.
///
/// # Errors
/// `ImportError` in a second interpreter. What is looked up is one interpreter's, and a wait asks its questions in the
/// interpreter in which its thread began.
pub(crate) fn look_up(py: Python<'_>) -> PyResult<()> {
    let name = |text| PyString::intern(py, text).unbind();
    let lock = py.get_type::<NativeLock>();
    let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
    if KNOWN.get(py).is_some_and(|known| !known.modules.bind(py).is(&modules)) {
        return Err(PyImportError::new_err(
            "ferrolock works in one interpreter of a process, and another one has it",
        ));
    }
    let known = Known {
        modules: modules.unbind(),
        // What `threading.local` is before it is patched; `threading` itself takes long to import.
        thread_tokens: py.import("_thread")?.call_method0("_local")?.unbind(),
        strerror: py.import("os")?.getattr("strerror")?.unbind(),
        enotsup: py.import("errno")?.getattr("ENOTSUP")?.extract()?,
        enoent: py.import("errno")?.getattr("ENOENT")?.extract()?,
        debug_level: PyInt::new(py, 10).unbind(),
        native_acquire: lock.getattr("acquire")?.unbind(),
        native_release: lock.getattr("release")?.unbind(),
        names: Names {
            acquire: name("acquire"),
            release: name("release"),
            greenlet: name("greenlet"),
            owner: name("_ferrolock_name"),
            ring: name("ring"),
            is_enabled_for: name("isEnabledFor"),
            logging: name("logging"),
            settings: name("settings"),
            sqlite: name("_sqlite3"),
        },
    };
    // A second import finds the same.
    let _first_stays = KNOWN.set(py, known);
    Ok(())
}

/// What was looked up at the import.
pub(crate) fn known(py: Python<'_>) -> PyResult<&Known> {
    KNOWN.get(py).ok_or_else(|| PyRuntimeError::new_err("the module was not initialized"))
}
