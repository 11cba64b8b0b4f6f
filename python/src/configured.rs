//! What a lock object is once it is constructed, and its calls into the core.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrolock::mechanism::Holder;
use ferrolock::{Descriptor, Error, ErrorKind, Level, Lock, OwnerId, Patience, Released, Scope};
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};

use crate::backend::{Backend, PythonMechanism};
use crate::caller::Caller;
use crate::errors;
use crate::given::{Given, UnusablePath, fspath, usable_path};
use crate::lease::MarkerLease;
use crate::lock::NativeLock;
use crate::options;
use crate::policies::Policies;
use crate::quickness::Quickness;
use crate::settings::SettingsCell;
use crate::watch::PythonWatch;

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

/// Why an acquisition came to nothing.
pub(crate) enum Failure {
    /// With the holder, where the lock names one.
    Core(Box<Error>, Option<Holder>),
    /// A signal handler, `cancel_check` or a logging handler raised.
    Python(PyErr),
}

impl Failure {
    pub(crate) fn into_py(self, lock: &Bound<'_, NativeLock>, lock_file: &Bound<'_, PyAny>) -> PyErr {
        match self {
            Self::Core(error, holder) => match lock.getattr("_timeout_error") {
                Ok(class) => errors::from_core_as(&class, lock_file, &error, holder),
                Err(_) => errors::from_core(lock.py(), lock_file, &error, holder),
            },
            Self::Python(error) => error,
        }
    }
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

    pub(crate) fn acquire_detached(
        &self,
        object: &Bound<'_, NativeLock>,
        caller: &Caller,
        path: &Path,
        patience: Patience,
        cancel_check: Option<&Py<PyAny>>,
    ) -> Result<Level, Failure> {
        let lock = object.as_any().as_unbound();
        let mut watch = PythonWatch::new(caller, Some((lock, &self.lock_file)), cancel_check);
        let mut acquire = || {
            let acquired = self.lock.acquire(caller.owner, path, patience, &mut watch);
            acquired.map_err(|error| {
                let is_late = matches!(error.kind(), ErrorKind::TimedOut(_));
                let holder = if is_late { self.lock.holder(error.path()) } else { None };
                Failure::Core(Box::new(error), holder)
            })
        };
        let acquired = match caller.hub_sleep {
            // While this greenlet sleeps, others run on this very stack of attachments.
            Some(_) => acquire(),
            None => object.py().detach(acquire),
        };
        match (acquired, watch.error) {
            (Err(_), Some(error)) => Err(Failure::Python(error)),
            (acquired, _) => acquired,
        }
    }

    pub(crate) fn release_detached(
        &self,
        py: Python<'_>,
        caller: &Caller,
        force: bool,
    ) -> PyResult<Released> {
        let released = py.detach(|| self.lock.release(caller.owner, force));
        released.map_err(|error| errors::from_core(py, self.lock_file.bind(py), &error, None))
    }
}
