//! What happens to locks, told: the messages of the logger "filelock", as filelock words them, and warnings.

use std::ffi::CString;

use ferrolock::WaitsBy;
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyTuple};

use crate::call;
use crate::known::{Known, known};
use crate::once::Once;

/// The logger, if it wants to hear about what happens to one lock object.
///
/// It is asked once for each acquisition and each release: that is half of what a nested `with` costs.
pub(crate) struct Log<'py> {
    logger: Bound<'py, PyAny>,
    lock: usize,
    lock_file: Bound<'py, PyAny>,
}

/// The log for `lock`, or `None` where nobody listens.
///
/// A program that never imported `logging` has set no level either; it is not imported for its sake.
pub(crate) fn log<'py>(lock: &Bound<'py, PyAny>, lock_file: &Py<PyAny>) -> PyResult<Option<Log<'py>>> {
    static LOGGER: Once = Once::new();
    static CACHE: Once<PyDict> = Once::new();
    let py = lock.py();
    let known = known(py)?;
    if let Some(cache) = CACHE.get(py) {
        if is_known_deaf(cache.bind(py), known)? {
            return Ok(None);
        }
    }
    if LOGGER.get(py).is_none() {
        let Some(logging) = known.modules.bind(py).get_item(&known.names.logging)? else { return Ok(None) };
        // Another thread may be in the middle of importing it.
        let Ok(get_logger) = logging.getattr("getLogger") else { return Ok(None) };
        let logger = LOGGER.get_or_make(py, || {
            call::call(&get_logger, &PyTuple::new(py, ["filelock"])?, None).map(Bound::unbind)
        })?;
        if let Some(cache) = level_cache(&logging, logger.bind(py)) {
            CACHE.get_or_make(py, || Ok(cache.unbind()))?;
        }
    }
    let Some(logger) = LOGGER.get(py) else { return Ok(None) };
    let logger = logger.bind(py);
    if !call::method1(logger, &known.names.is_enabled_for, (&known.debug_level,))?.is_truthy()? {
        return Ok(None);
    }
    Ok(Some(Log {
        logger: logger.clone(),
        lock: lock.as_ptr() as usize,
        lock_file: lock_file.bind(py).clone(),
    }))
}

/// Where a logger of the standard class remembers what `isEnabledFor` found; it is emptied whenever a level changes.
/// Others, and one that is replaced in an instance, are always asked.
fn level_cache<'py>(logging: &Bound<'py, PyAny>, logger: &Bound<'py, PyAny>) -> Option<Bound<'py, PyDict>> {
    let standard = logging.getattr("Logger").ok()?;
    logger.get_type().is(&standard).then(|| logger.getattr("_cache").ok()?.cast_into().ok()).flatten()
}

/// Whether the cache says that nobody hears what is debugged: a look at it costs a tenth of the question.
fn is_known_deaf(cache: &Bound<'_, PyDict>, known: &Known) -> PyResult<bool> {
    let heard = cache.get_item(&known.debug_level)?;
    Ok(heard.is_some_and(|heard| heard.is(PyBool::new(heard.py(), false))))
}

/// How a wait goes on, in a word.
pub(crate) fn name(waits_by: WaitsBy) -> &'static str {
    match waits_by {
        WaitsBy::Kernel => "kernel",
        WaitsBy::Polling => "polling",
    }
}

impl Log<'_> {
    /// Logs `message`, which has a place for the lock's id and one for its path.
    pub(crate) fn debug(&self, message: &str) -> PyResult<()> {
        let arguments = (message, self.lock, &self.lock_file);
        call::method1(&self.logger, "debug", arguments).map(drop)
    }

    /// The only message that is not filelock's.
    pub(crate) fn waits_by(&self, waits_by: WaitsBy) -> PyResult<()> {
        let arguments = ("Lock %s on %s is waited for by %s", self.lock, &self.lock_file, name(waits_by));
        call::method1(&self.logger, "debug", arguments).map(drop)
    }

    pub(crate) fn waiting(&self, seconds: f64) -> PyResult<()> {
        let message = "Lock %s not acquired on %s, waiting %s seconds ...";
        let arguments = (message, self.lock, &self.lock_file, seconds);
        call::method1(&self.logger, "debug", arguments).map(drop)
    }
}

/// Warns of what the core has noticed about file systems.
pub(crate) fn tell_notices(py: Python<'_>) -> PyResult<()> {
    for notice in ferrolock::take_notices() {
        let text = CString::new(notice).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 1)?;
    }
    Ok(())
}
