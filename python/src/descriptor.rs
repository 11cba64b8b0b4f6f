//! The lock of a file that somebody else has opened.

use std::time::Duration;

use ferrolock::{Descriptor, Watch};
use pyo3::prelude::*;

use crate::caller::caller;
use crate::errors;
use crate::options;
use crate::watch::{Failure, PythonWatch};

/// Locks the file of an open descriptor (on Windows a handle). False: somebody else has it, and it is not to be waited for.
#[pyfunction]
#[pyo3(signature = (descriptor, *, blocking, poll_interval))]
pub(crate) fn lock_descriptor(
    py: Python<'_>,
    descriptor: Descriptor,
    blocking: bool,
    poll_interval: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let poll_interval =
        if blocking { Some(options::positive_seconds("poll_interval", poll_interval)?) } else { None };
    let poll_interval = poll_interval.map(Duration::from_secs_f64);
    let caller = caller(py)?;
    let lock = |watch: &mut dyn Watch| ferrolock::lock_descriptor(descriptor, poll_interval, watch);
    match PythonWatch::new(&caller, None, None).over(py, lock, |_| None) {
        Ok(locked) => Ok(locked),
        Err(Failure::Python(error)) => Err(error),
        Err(Failure::Core(error, _)) => Err(match error.os_error() {
            Some(cause) => errors::without_file(py, cause),
            None => errors::from_io(py, &std::io::ErrorKind::Unsupported.into(), error.path().as_os_str()),
        }),
    }
}

/// Gives back the lock of the file of an open descriptor (on Windows a handle).
#[pyfunction]
pub(crate) fn unlock_descriptor(py: Python<'_>, descriptor: Descriptor) -> PyResult<()> {
    let unlocked = py.detach(|| ferrolock::unlock_descriptor(descriptor));
    unlocked.map_err(|error| errors::without_file(py, &error))
}
