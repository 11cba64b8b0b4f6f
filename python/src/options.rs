//! What callers may pass, and the errors for what they may not.

use std::time::Duration;

use ferrolock::Timeout;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyComplex, PyFloat, PyInt, PyString};

/// `threading.TIMEOUT_MAX` of every platform with 64-bit time.
const LONGEST_POLL_SECONDS: f64 = 9_223_372_036.0;

/// filelock's.
pub(crate) const DEFAULT_POLL_INTERVAL_SECONDS: f64 = 0.05;

/// A mode of -1 leaves the permissions of a new lock file to the umask.
const UNSET_MODE: i64 = -1;

pub(crate) fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string())
}

/// A real number as seconds: also a `Decimal` or `Fraction`, but no `bool` and nothing to be parsed.
fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if let Ok(float) = value.cast_exact::<PyFloat>() {
        return Ok(float.value());
    }
    if let Ok(int) = value.cast_exact::<PyInt>() {
        // Nearly every limit is one of these; the rest takes the long way for its errors.
        if let Ok(small) = int.extract::<i32>() {
            return Ok(f64::from(small));
        }
    }
    let is_no_number = value.is_instance_of::<PyBool>()
        || value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyBytes>()
        || value.is_instance_of::<PyComplex>();
    let wrong =
        || PyTypeError::new_err(format!("{name} must be a number of seconds, not {}", type_name(value)));
    if is_no_number {
        return Err(wrong());
    }
    value.extract::<f64>().map_err(|error| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            PyValueError::new_err(format!("{name} is too large for a number of seconds"))
        } else if error.is_instance_of::<PyTypeError>(value.py()) {
            wrong()
        } else {
            error
        }
    })
}

/// A time limit: any number; negative and infinite ones mean no limit.
pub(crate) fn timeout(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    seconds("timeout", value)
}

/// Whether to wait at all.
pub(crate) fn blocking(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    match value.cast_exact::<PyBool>() {
        Ok(blocking) => Ok(blocking.is_true()),
        Err(_) => Err(PyTypeError::new_err(format!("blocking must be a bool, not {}", type_name(value)))),
    }
}

/// The time between two attempts of a waiter that polls.
pub(crate) fn poll_interval(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let interval = seconds("poll_interval", value)?;
    if !interval.is_finite() || interval < 0.0 {
        return Err(PyValueError::new_err("poll_interval must be finite and non-negative"));
    }
    check_length("poll_interval", interval)?;
    Ok(interval)
}

fn check_length(name: &str, interval: f64) -> PyResult<()> {
    if interval > LONGEST_POLL_SECONDS {
        return Err(PyValueError::new_err(format!(
            "{name} must be at most {LONGEST_POLL_SECONDS:.0} seconds"
        )));
    }
    Ok(())
}

/// An interval in which something is done again and again.
pub(crate) fn positive_seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let interval = seconds(name, value)?;
    if !interval.is_finite() || interval <= 0.0 {
        return Err(PyValueError::new_err(format!("{name} must be finite and positive")));
    }
    check_length(name, interval)?;
    Ok(interval)
}

/// The duration of a lease, however long.
pub(crate) fn lease_seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let duration = seconds(name, value)?;
    if duration.is_finite() && duration > 0.0 {
        return Ok(duration);
    }
    Err(PyValueError::new_err(format!("{name} must be finite and positive")))
}

/// The time for which a lease is good without a heartbeat.
pub(crate) fn threshold(name: &str, value: &Bound<'_, PyAny>, heartbeat_seconds: f64) -> PyResult<f64> {
    let threshold = seconds(name, value)?;
    if !threshold.is_finite() {
        return Err(PyValueError::new_err(format!("{name} must be finite")));
    }
    check_below("heartbeat_interval", heartbeat_seconds, name, threshold)?;
    Ok(threshold)
}

/// Checks that one number is smaller than another.
pub(crate) fn check_below(name: &str, value: f64, other_name: &str, other: f64) -> PyResult<()> {
    if value < other {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "{name} must be less than {other_name}, and {value:?} is not less than {other:?}"
    )))
}

/// The permission bits of a new lock file; `None` leaves them to the umask.
pub(crate) fn mode(value: &Bound<'_, PyAny>) -> PyResult<Option<u32>> {
    if value.cast_exact::<PyInt>().is_err()
        && (value.is_instance_of::<PyBool>() || !value.is_instance_of::<PyInt>())
    {
        return Err(PyTypeError::new_err(format!("mode must be an int, not {}", type_name(value))));
    }
    let mode = value.extract::<i64>().unwrap_or(i64::MAX);
    if mode == UNSET_MODE {
        return Ok(None);
    }
    match u32::try_from(mode) {
        Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => Ok(Some(mode)),
        Ok(mode) if mode <= 0o777 => Err(PyValueError::new_err(format!(
            "mode must grant the owner read and write permission, and 0o{mode:03o} does not"
        ))),
        _ => Err(PyValueError::new_err("mode must be within 0o000-0o777")),
    }
}

/// The age in seconds at which a marker expires; not a number for None.
pub(crate) fn lifetime(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if value.is_none() {
        return Ok(f64::NAN);
    }
    let age = seconds("lifetime", value)?;
    if age.is_finite() && age >= 0.0 {
        return Ok(age);
    }
    Err(PyValueError::new_err("lifetime must be finite and non-negative"))
}

/// Checks the age in seconds at which a marker expires.
#[pyfunction]
pub(crate) fn check_lifetime(lifetime: &Bound<'_, PyAny>) -> PyResult<()> {
    self::lifetime(lifetime).map(drop)
}

/// Checks the options of a lock in the order in which filelock does.
#[pyfunction]
pub(crate) fn check_options(
    lifetime: &Bound<'_, PyAny>,
    poll_interval: &Bound<'_, PyAny>,
    blocking: &Bound<'_, PyAny>,
    timeout: &Bound<'_, PyAny>,
    mode: &Bound<'_, PyAny>,
) -> PyResult<()> {
    check_lifetime(lifetime)?;
    self::poll_interval(poll_interval)?;
    self::blocking(blocking)?;
    self::timeout(timeout)?;
    self::mode(mode).map(drop)
}

/// The patience that a time limit and `blocking` come to.
///
/// # Errors
/// `ValueError` for a time limit that is no number (nan), where it matters.
pub(crate) fn patience(timeout_seconds: f64, blocking: bool) -> PyResult<Timeout> {
    if !blocking {
        return Ok(Timeout::Once);
    }
    if timeout_seconds.is_nan() {
        return Err(PyValueError::new_err("timeout must be a number of seconds, not nan"));
    }
    if timeout_seconds < 0.0 {
        return Ok(Timeout::Never);
    }
    // What is beyond a `Duration` (infinity too) is beyond everybody's patience.
    Ok(Duration::try_from_secs_f64(timeout_seconds).map_or(Timeout::Never, Timeout::After))
}
