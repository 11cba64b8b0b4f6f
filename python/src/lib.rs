//! The binding: convert, detach from the interpreter, call the core, map the error.
//!
//! Locking logic is in the crate `ferrolock`; classes with docstrings and Python's own rules (singletons,
//! options of subclasses, decorators) are in the Python package. No Python code runs while a mutex of the
//! core is held.

mod attributes;
mod backend;
mod call;
mod caller;
mod clearable;
mod compromise;
mod configured;
mod deferred;
mod descriptor;
mod door;
mod errors;
mod given;
mod known;
mod lease;
mod lock;
mod logging;
mod mode_context;
mod once;
mod options;
mod policies;
mod proxy;
mod quickness;
mod read_write;
mod settings;
mod strict;
mod watch;

use pyo3::prelude::*;

/// The process that may hold the lock on the file `inode` of `device`, where that can be known.
#[pyfunction]
fn possible_holder(py: Python<'_>, device: u64, inode: u64) -> Option<u32> {
    py.detach(|| ferrolock::possible_holder(ferrolock::FileId { device, inode }))
}

/// Removes the markers that this process leaves behind at its end.
#[pyfunction]
fn remove_markers_at_exit(py: Python<'_>) {
    py.detach(ferrolock::mechanism::remove_markers_at_exit);
}

/// The same, at the end of a process that does end.
#[pyfunction]
fn end_holds_at_exit(py: Python<'_>) {
    py.detach(ferrolock::mechanism::end_holds_at_exit);
}

/// The path with the links of its folder followed, but not one at its end.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "Python's str is converted, so the path is ours")]
fn canonical_path(py: Python<'_>, path: std::path::PathBuf) -> PyResult<std::ffi::OsString> {
    let canonical = py.detach(|| ferrolock::path::canonical(&path));
    canonical.map(Into::into).map_err(|error| errors::from_io(py, &error, path.as_os_str()))
}

/// Looks whether the file at the path is left over of a lock, and with `removes` removes it.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "Python's str is converted, so the path is ours")]
fn visit_leftover(
    py: Python<'_>,
    path: std::path::PathBuf,
    min_age_seconds: f64,
    removes: bool,
) -> PyResult<&'static str> {
    // Longer than a `Duration` is longer than anything has been there.
    let min_age = std::time::Duration::try_from_secs_f64(min_age_seconds).unwrap_or(std::time::Duration::MAX);
    let found = py.detach(|| ferrolock::mechanism::visit_leftover(&path, min_age, removes));
    let name = path.as_os_str().into_pyobject(py)?;
    found.map(leftover_name).map_err(|error| errors::from_core(py, name.as_any(), &error, None))
}

fn leftover_name(leftover: ferrolock::mechanism::Leftover) -> &'static str {
    use ferrolock::mechanism::Leftover;

    match leftover {
        Leftover::LockFile => "lock file",
        Leftover::Marker => "marker",
        Leftover::InUse => "in use",
        Leftover::Young => "young",
        Leftover::NoLockFile => "no lock file",
        Leftover::Unknown => "unknown",
        Leftover::Gone => "gone",
    }
}

/// The native half of the package `ferrolock`: not an interface of its own.
#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    use super::caller::{OwnerName, ThreadToken};
    use super::settings::Settings;

    #[pymodule_export]
    use super::deferred::{
        Deferred, announce, begin_acquire, end_idle_porters, end_waits, is_quick, release_all,
    };
    #[pymodule_export]
    use super::descriptor::{lock_descriptor, unlock_descriptor};
    #[pymodule_export]
    use super::door::NativeDoor;
    #[pymodule_export]
    use super::lease::check_lease;
    #[pymodule_export]
    use super::lock::{NativeLock, note_overrides};
    #[pymodule_export]
    use super::mode_context::ModeContext;
    #[pymodule_export]
    use super::options::{check_lifetime, check_options};
    #[pymodule_export]
    use super::policies::check_policies;
    #[pymodule_export]
    use super::proxy::AcquireReturnProxy;
    #[pymodule_export]
    use super::read_write::NativeReadWriteLock;
    #[pymodule_export]
    use super::strict::{break_strict_claim, strict_claims, strict_occupant};
    #[pymodule_export]
    use super::{canonical_path, end_holds_at_exit, possible_holder, remove_markers_at_exit, visit_leftover};

    /// The lock call of this platform: `"flock"`, `"LockFileEx"` or `"none"`.
    #[pymodule_export]
    const MECHANISM: &str = ferrolock::MECHANISM;

    /// The version of the package.
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// Has forks noticed, makes the types that are first needed in the middle of an acquisition, and looks up
    /// the objects: later, another thread may fork at that very moment.
    #[pymodule_init]
    fn prepare(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        ferrolock::watch_forks();
        let _types = (py.get_type::<ThreadToken>(), py.get_type::<OwnerName>(), py.get_type::<Settings>());
        let _more = (py.get_type::<ModeContext>(), py.get_type::<NativeReadWriteLock>());
        crate::known::look_up(py)
    }
}
