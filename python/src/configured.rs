//! What a lock object is once it is constructed, its release, and what may follow an acquisition.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrolock::{Descriptor, Level, Lock, OwnerId, Released, Scope};
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};

use crate::backend::{Backend, PythonMechanism};
use crate::call;
use crate::caller::Caller;
use crate::errors;
use crate::given::{Given, UnusablePath, fspath, usable_path};
use crate::lease::MarkerLease;
use crate::lock::NativeLock;
use crate::options;
use crate::policies::Policies;
use crate::quickness::Quickness;
use crate::settings::SettingsCell;

/// A lock object of the core, and what Python wants to know of it.
pub(crate) struct Configured {
    pub(crate) lock: Arc<Lock>,
    pub(crate) scope: Scope,
    pub(crate) lock_file: Py<PyAny>,
    path: Result<PathBuf, UnusablePath>,
    quickness: Quickness,
    pub(crate) mode: Option<u32>,
    pub(crate) settings: SettingsCell,
    pub(crate) thread_local: Py<PyAny>,
    /// As it was passed; False where nothing was.
    pub(crate) is_singleton: Option<Py<PyAny>>,
    pub(crate) policies: Policies,
    /// Where the mechanism is Python's.
    pub(crate) backend: Option<Arc<Backend>>,
    /// Of a lease.
    pub(crate) lease: Option<MarkerLease>,
}

impl Configured {
    pub(crate) fn new(
        object: &Bound<'_, NativeLock>,
        lock_file: &Bound<'_, PyAny>,
        given: Given<'_, '_>,
    ) -> PyResult<Self> {
        let settings = given.settings()?;
        let mode = options::mode(given.mode)?;
        let lock_file = &fspath(lock_file)?;
        let is_thread_local = given.thread_local.is_truthy()?;
        let scope = if is_thread_local { Scope::PerOwner } else { Scope::Shared };
        let lease = given.lease.as_ref().map(|given| MarkerLease::new(given, lock_file)).transpose()?;
        let mut mechanism = given.mechanism(mode, lease.as_ref())?;
        let mut backend = None;
        if given.is_backend {
            let over = Backend::new(object, scope, mechanism)?;
            mechanism = Box::new(PythonMechanism(Arc::clone(&over)));
            backend = Some(over);
        }
        Ok(Self {
            lock: Arc::new(Lock::new(mechanism, scope)),
            scope,
            quickness: Quickness::default(),
            lock_file: lock_file.clone().unbind(),
            path: usable_path(lock_file)?,
            mode,
            settings: SettingsCell::new(settings, is_thread_local),
            thread_local: given.thread_local.clone().unbind(),
            is_singleton: given.is_singleton.map(|value| value.clone().unbind()),
            policies: given.policies,
            backend,
            lease,
        })
    }

    /// Shows the garbage collector what was passed by the caller, and may refer to the lock object.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock_file)?;
        visit.call(&self.thread_local)?;
        visit.call(&self.is_singleton)?;
        self.policies.traverse(visit)?;
        self.lease.as_ref().map_or(Ok(()), |lease| lease.listener.traverse(visit))
    }

    /// The path, if any acquisition can use it.
    pub(crate) fn path(&self) -> PyResult<&Path> {
        self.path.as_deref().map_err(|unusable| unusable.error())
    }

    /// The descriptor by which the owner, whom the calling thread works for, holds the lock.
    pub(crate) fn descriptor(&self, py: Python<'_>, owner: OwnerId) -> PyResult<Option<Descriptor>> {
        match &self.backend {
            Some(backend) => backend.descriptor(py),
            None => Ok(self.lock.descriptor(owner)),
        }
    }

    /// Whether calls on the path come back soon, as far as is known without asking.
    pub(crate) fn is_known_quick(&self) -> bool {
        self.path.as_deref().is_ok_and(|path| self.quickness.is_known_of(path))
    }

    /// Finds out whether they do. That can take any time.
    pub(crate) fn learn_quickness(&self) {
        if let Ok(path) = &self.path {
            self.quickness.learn_of(path);
        }
    }

    /// Makes a call into the core that may end in a step of a backend's, which may let other greenlets run.
    pub(crate) fn away<T: Send>(
        &self,
        py: Python<'_>,
        caller: &Caller,
        call: impl FnOnce() -> T + Send,
    ) -> T {
        if self.backend.is_some() { caller.away(py, call) } else { py.detach(call) }
    }

    /// Releases a level of the caller, or with `force` all. What is over `at_once` is not worth letting go of the interpreter: a
    /// thread that computes would have it for its whole turn.
    pub(crate) fn release_for(
        &self,
        py: Python<'_>,
        caller: &Caller,
        force: bool,
        at_once: bool,
    ) -> PyResult<Released> {
        let release = || self.lock.release(caller.owner, force);
        let released = if at_once { release() } else { self.away(py, caller, release) };
        released.map_err(|error| errors::from_core(py, self.lock_file.bind(py), &error, None))
    }

    /// Whether `on_acquired` is to hear of it.
    pub(crate) fn is_news(&self, level: Level) -> bool {
        level == Level::First && self.policies.has_on_acquired()
    }

    /// Calls `on_acquired` with the descriptor by which the caller has come to hold the lock.
    pub(crate) fn announce(&self, py: Python<'_>, caller: &Caller) -> PyResult<()> {
        let Some(hook) = self.policies.on_acquired(py) else { return Ok(()) };
        // None: a callback has released it, or forked.
        let Some(descriptor) = self.descriptor(py, caller.owner)? else { return Ok(()) };
        let is_native = self.backend.as_ref().map_or(Ok(true), |backend| backend.is_held_below(py))?;
        if ferrolock::ERRORS_ARE_WIN32 && is_native {
            let lend = py.import("ferrolock._descriptor")?.getattr("lend")?;
            return call::call(&lend, &(descriptor, &hook).into_pyobject(py)?, None).map(drop);
        }
        call::call(&hook, &(descriptor,).into_pyobject(py)?, None).map(drop)
    }

    /// Releases what the caller has just acquired, and will see an `error` instead of.
    pub(crate) fn take_back(&self, py: Python<'_>, caller: &Caller, error: PyErr) -> PyErr {
        match self.release_for(py, caller, false, false) {
            Ok(_) => error,
            Err(failed) => errors::both(error.value(py), &failed),
        }
    }
}
