//! What a strict lock has beside the others: who claims it, and what stands in its way.

use ferrolock::Error;
use ferrolock::mechanism::{StrictClaim, StrictLock};
use pyo3::exceptions::{PyFileNotFoundError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors;
use crate::known::known;
use crate::lock::NativeLock;

/// Asks `question` about the path of a lock object.
fn asked<T: Send>(
    lock: &Bound<'_, NativeLock>,
    question: impl FnOnce(&std::path::Path) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let (py, this) = (lock.py(), lock.get().configured()?);
    let path = this.path()?;
    let answer = py.detach(|| question(path));
    answer.map_err(|error| errors::from_core(py, this.lock_file.bind(py), &error, None))
}

/// The claims on the lock, each as the fields of a `StrictSoftFileClaim`.
#[pyfunction]
pub(crate) fn strict_claims<'py>(lock: &Bound<'py, NativeLock>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
    let py = lock.py();
    let fields = |claim: StrictClaim| {
        let StrictClaim { name, state, token, owner } = claim;
        // More bits than any number here has.
        let number = |start: ferrolock::record::StartToken| {
            py.get_type::<pyo3::types::PyInt>().call1((start.to_string(),))
        };
        let start = owner.start.map(number).transpose()?;
        (name, state.name(), token, owner.pid, owner.host, start).into_pyobject(py)
    };
    asked(lock, StrictLock::claims)?.into_iter().map(fields).collect()
}

/// Removes the claim `name`, whoever it belongs to.
#[pyfunction]
pub(crate) fn break_strict_claim(lock: &Bound<'_, NativeLock>, name: &str) -> PyResult<()> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(PyValueError::new_err("claim_name must be the name of one claim, without a folder"));
    }
    if asked(lock, |path| StrictLock::force_break(path, name.as_ref()))? {
        return Ok(());
    }
    let known = known(lock.py())?;
    let text = known.strerror.bind(lock.py()).call1((known.enoent,))?;
    Err(PyFileNotFoundError::new_err((known.enoent, text.unbind(), name.to_owned())))
}

/// What stands at the path instead of the sentinel, in words.
#[pyfunction]
pub(crate) fn strict_occupant(lock: &Bound<'_, NativeLock>) -> PyResult<Option<String>> {
    asked(lock, StrictLock::occupant)
}
