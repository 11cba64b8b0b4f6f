//! Acquisitions and releases by threads and greenlets.

use std::ffi::CString;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrolock::{ErrorKind, Level, Patience, Released};
use pyo3::exceptions::{PyRuntimeError, PyUserWarning};
use pyo3::prelude::*;

use crate::call;
use crate::caller::{Caller, caller};
use crate::configured::{Configured, Failure};
use crate::errors;
use crate::known::known;
use crate::lock::NativeLock;
use crate::logging;
use crate::options;
use crate::settings::Settings;

impl NativeLock {
    /// What `acquire` does, without the object that it returns.
    pub(crate) fn acquire_for(
        slf: &Bound<'_, Self>,
        caller: &Caller,
        settings: Settings,
        cancel_check: Option<&Py<PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get().configured()?;
        if slf.get().is_finalizing.load(Ordering::SeqCst) {
            return Err(PyRuntimeError::new_err("the lock object is being finalized"));
        }
        let timeout = options::patience(settings.timeout_seconds, settings.blocking)?;
        let log = logging::log(slf.as_any(), &this.lock_file)?;
        let mut level = Level::Nested;
        if !this.lock.nest(caller.owner) {
            let path = this.path()?;
            if let Some(log) = &log {
                log.debug("Attempting to acquire lock %s on %s")?;
            }
            let poll_interval = Duration::from_secs_f64(settings.poll_interval_seconds);
            let patience = Patience { timeout, poll_interval, lifetime: settings.lifetime() };
            match this.acquire_detached(slf, caller, path, patience, cancel_check) {
                Ok(acquired) => level = acquired,
                Err(error) => {
                    if let (Some(log), Failure::Core(error, _)) = (&log, &error) {
                        if matches!(error.kind(), ErrorKind::TimedOut(_)) {
                            log.debug(if settings.blocking {
                                "Timeout on acquiring lock %s on %s"
                            } else {
                                "Failed to immediately acquire lock %s on %s"
                            })?;
                        }
                    }
                    return Err(error.into_py(slf, this.lock_file.bind(py)));
                }
            }
        }
        let told = tell_notices(py).and_then(|()| match &log {
            Some(log) => log.debug("Lock %s acquired on %s"),
            None => Ok(()),
        });
        told.and_then(|()| if this.is_news(level) { this.announce(py, caller) } else { Ok(()) })
            .map_err(|error| this.take_back(py, caller, error))
    }

    /// Releases one level of the caller, or with `force` all.
    pub(crate) fn release_levels(slf: &Bound<'_, Self>, force: bool) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get().configured()?;
        // Who is told that a hold was lost may release it, on a thread that has none.
        if !force && this.lease.as_ref().is_some_and(|lease| lease.listener.is_telling()) {
            let released = py.detach(|| this.lock.release_lost());
            return released.map_err(|error| errors::from_core(py, this.lock_file.bind(py), &error, None));
        }
        let caller = caller(py)?;
        if !force && this.lock.unnest(caller.owner) {
            return Ok(());
        }
        // An interrupt or a handler may raise while the log is told: the lock is released all the same.
        let log = logging::log(slf.as_any(), &this.lock_file)
            .map(|log| log.filter(|_| this.lock.depth(caller.owner) > 0));
        let told = match &log {
            Ok(Some(log)) => log.debug("Attempting to release lock %s on %s"),
            _ => Ok(()),
        };
        let released = this.release_detached(py, &caller, force)?;
        told?;
        match (log?, released) {
            (Some(log), Released::Unlocked) => log.debug("Lock %s released on %s"),
            _ => Ok(()),
        }
    }

    /// Calls `release()` as the object's class has it: a subclass may have its own.
    fn release_as_overridden(slf: &Bound<'_, Self>) -> PyResult<()> {
        let known = known(slf.py())?;
        if slf.get().is_native(slf, &known.names.release, &known.native_release)? {
            return Self::release_levels(slf, false);
        }
        call::method0(slf, &known.names.release).map(drop)
    }

    /// Releases at the end of a `with` whose body has raised `error`, or None.
    pub(crate) fn leave(slf: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::release_as_overridden(slf).map_err(|failed| {
            let groups = slf.get().configured().is_ok_and(|this| this.policies.groups_errors());
            if groups && !error.is_none() { errors::both(error, &failed) } else { failed }
        })
    }
}

impl Configured {
    /// Whether `on_acquired` is to hear of it.
    pub(crate) fn is_news(&self, level: Level) -> bool {
        level == Level::First && self.policies.on_acquired().is_some()
    }

    /// Calls `on_acquired` with the descriptor by which the caller has come to hold the lock.
    pub(crate) fn announce(&self, py: Python<'_>, caller: &Caller) -> PyResult<()> {
        let Some(hook) = self.policies.on_acquired() else { return Ok(()) };
        // None: a callback has released it, or forked.
        let Some(descriptor) = self.descriptor(py, caller.owner)? else { return Ok(()) };
        let hook = hook.bind(py);
        let is_native = self.backend.as_ref().map_or(Ok(true), |backend| backend.is_held_below(py))?;
        if ferrolock::ERRORS_ARE_WIN32 && is_native {
            let lend = py.import("ferrolock._descriptor")?.getattr("lend")?;
            return call::call(&lend, &(descriptor, hook).into_pyobject(py)?, None).map(drop);
        }
        call::call(hook, &(descriptor,).into_pyobject(py)?, None).map(drop)
    }

    /// Releases what the caller has just acquired, and will see an `error` instead of.
    fn take_back(&self, py: Python<'_>, caller: &Caller, error: PyErr) -> PyErr {
        match self.release_detached(py, caller, false) {
            Ok(_) => error,
            Err(failed) => errors::both(error.value(py), &failed),
        }
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
