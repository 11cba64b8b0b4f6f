//! What a lock object does about errors, about file systems without locks, and when it has got a lock.

use ferrolock::mechanism::CloseErrors;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::PyDict;

use crate::clearable::Clearable;

/// What a `with` raises whose body and whose release have both failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ContextErrors {
    /// The error of the release, with that of the body as its context.
    #[default]
    Chain,
    /// A group of both.
    Group,
}

/// The options that are rarely given; what was not has filelock's default.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    context_errors: ContextErrors,
    close_errors: Option<CloseErrors>,
    fallback_to_soft: Option<Py<PyAny>>,
    preserve_lock_file: Option<Py<PyAny>>,
    on_acquired: Option<Clearable>,
    unlink_on_release: Option<Py<PyAny>>,
}

fn one_of<T: Copy>(name: &str, value: &Bound<'_, PyAny>, choices: &[(&str, T)]) -> PyResult<T> {
    value.hash()?;
    let chosen = value.extract::<&str>().ok();
    let chosen = chosen.and_then(|chosen| choices.iter().find(|(choice, _)| *choice == chosen));
    chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(choice, _)| format!("'{choice}'")).collect();
        let given = value.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string());
        PyValueError::new_err(format!("{name} must be one of {}, not {given}", names.join(", ")))
    })
}

fn context_errors(value: &Bound<'_, PyAny>) -> PyResult<ContextErrors> {
    let choices = [("chain", ContextErrors::Chain), ("group", ContextErrors::Group)];
    let chosen = one_of("context_error_policy", value, &choices)?;
    if chosen == ContextErrors::Group {
        // It is an error where this Python has no groups.
        value.py().import("ferrolock._error")?.call_method0("group_class")?;
    }
    Ok(chosen)
}

fn close_errors(value: &Bound<'_, PyAny>) -> PyResult<Option<CloseErrors>> {
    let choices =
        [("default", None), ("raise", Some(CloseErrors::Raise)), ("suppress", Some(CloseErrors::Suppress))];
    one_of("close_error_policy", value, &choices)
}

/// Checks the policies about errors in the order in which filelock does.
#[pyfunction]
pub(crate) fn check_policies(
    context_error_policy: &Bound<'_, PyAny>,
    close_error_policy: &Bound<'_, PyAny>,
) -> PyResult<()> {
    context_errors(context_error_policy)?;
    close_errors(close_error_policy).map(drop)
}

impl Policies {
    pub(crate) fn new(given: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut policies = Self::default();
        for (name, value) in given.into_iter().flatten() {
            match name.extract::<&str>()? {
                "context_error_policy" => policies.context_errors = context_errors(&value)?,
                "close_error_policy" => policies.close_errors = close_errors(&value)?,
                "fallback_to_soft" => policies.fallback_to_soft = Some(value.unbind()),
                "preserve_lock_file" => policies.preserve_lock_file = Some(value.unbind()),
                "unlink_on_release" => policies.unlink_on_release = Some(value.unbind()),
                "on_acquired" if value.is_none() => {}
                "on_acquired" => policies.on_acquired = Some(Clearable::new(&value)?),
                unknown => return Err(PyTypeError::new_err(format!("there is no option {unknown}"))),
            }
        }
        Ok(policies)
    }

    /// Shows the garbage collector what was passed by the caller.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.fallback_to_soft)?;
        visit.call(&self.preserve_lock_file)?;
        self.on_acquired.as_ref().map_or(Ok(()), |hook| hook.traverse(visit))?;
        visit.call(&self.unlink_on_release)
    }

    /// Whether a marker may take the place of a kernel lock. It has no file that stays, and no descriptor that somebody
    /// could lock with.
    pub(crate) fn allow_fallback(&self, py: Python<'_>) -> PyResult<bool> {
        let is_asked = |value: &Option<Py<PyAny>>, default| {
            value.as_ref().map_or(Ok(default), |value| value.bind(py).is_truthy())
        };
        let is_kept = is_asked(&self.preserve_lock_file, false)?;
        Ok(self.on_acquired.is_none() && !is_kept && is_asked(&self.fallback_to_soft, true)?)
    }

    /// Whether the lock file goes with the hold.
    ///
    /// # Errors
    /// `ValueError` where it was promised that it stays.
    pub(crate) fn removes_file(&self, py: Python<'_>) -> PyResult<bool> {
        let is_asked =
            |value: &Option<Py<PyAny>>| value.as_ref().map_or(Ok(false), |value| value.bind(py).is_truthy());
        let removes_file = is_asked(&self.unlink_on_release)?;
        if removes_file && is_asked(&self.preserve_lock_file)? {
            return Err(PyValueError::new_err(
                "preserve_lock_file=True and unlink_on_release=True exclude each other: leave one of them out",
            ));
        }
        Ok(removes_file)
    }

    pub(crate) fn close_errors(&self) -> Option<CloseErrors> {
        self.close_errors
    }

    pub(crate) fn has_on_acquired(&self) -> bool {
        self.on_acquired.is_some()
    }

    pub(crate) fn on_acquired<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.on_acquired.as_ref()?.get(py)
    }

    /// Whether two errors become a group.
    pub(crate) fn groups_errors(&self) -> bool {
        self.context_errors == ContextErrors::Group
    }

    /// The option `name` as it was passed, or what it is if nobody passes it.
    pub(crate) fn get(&self, py: Python<'_>, name: &str) -> PyResult<Py<PyAny>> {
        let passed = |value: &Option<Py<PyAny>>| value.as_ref().map(|value| value.clone_ref(py));
        match name {
            "context_error_policy" => match self.context_errors {
                ContextErrors::Chain => "chain",
                ContextErrors::Group => "group",
            }
            .into_py_any(py),
            "close_error_policy" => match self.close_errors {
                None => "default",
                Some(CloseErrors::Raise) => "raise",
                Some(CloseErrors::Suppress) => "suppress",
            }
            .into_py_any(py),
            "fallback_to_soft" => passed(&self.fallback_to_soft).map_or_else(|| true.into_py_any(py), Ok),
            "preserve_lock_file" => {
                passed(&self.preserve_lock_file).map_or_else(|| false.into_py_any(py), Ok)
            }
            "unlink_on_release" => passed(&self.unlink_on_release).map_or_else(|| false.into_py_any(py), Ok),
            _ => Ok(self.on_acquired(py).map_or_else(|| py.None(), Bound::unbind)),
        }
    }
}
