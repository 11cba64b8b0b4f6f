//! Locks whose mechanism is Python's: a subclass that has `_acquire` and `_release` of its own.
//!
//! `_acquire` makes one attempt and sets `lock_file_fd` of its context where it got the lock; `_release` gives the lock
//! back and sets it to None. They are a mechanism like any other to the core, which waits, counts and times out. What
//! they cannot do for themselves is seen to here:
//!
//! | slot of a context | means | an attempt |
//! |---|---|---|
//! | (none) | free | calls `_acquire` |
//! | without a descriptor | `_acquire` is running, in some thread | is contended |
//! | with one | the lock is had, or `_release` is running | is contended |
//!
//! So nobody's descriptor is overwritten by another thread that shares the context. A class that adds something to the
//! steps of one of ours finds these in `super()`: they are made with the mechanism that lies below (`inner`).

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrolock::mechanism::{Attempt, Guard, Mechanism, ReleaseError, Terms};
use ferrolock::{Descriptor, Error, ErrorKind, FileId, ForkMutex, Listed, OwnerId, Scope};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::call;
use crate::caller::caller;
use crate::errors;
use crate::lock::NativeLock;

/// Whose hold something is about; `None`: all owners share one.
type Key = Option<OwnerId>;

thread_local! {
    /// The lock objects whose finalizers run on this thread: weak references to them may be dead already.
    static FINALIZED: RefCell<Vec<Py<NativeLock>>> = const { RefCell::new(Vec::new()) };
    /// For which owners somebody on this thread releases, where they are others than himself: those that have ended, or
    /// of a lock object that is finalized. Greenlets begin and end in any order.
    static ACTING: RefCell<Vec<Acting>> = const { RefCell::new(Vec::new()) };
}

/// The state of one lock object's contexts.
pub(crate) struct Backend {
    /// Not a reference: the lock object would never be collected.
    lock: Py<PyWeakrefReference>,
    address: usize,
    scope: Scope,
    inner: Box<dyn Mechanism>,
    /// A child finds all free: what is held is its parent's.
    slots: ForkMutex<Vec<Slot>>,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    /// For what `_acquire` was called.
    path: PathBuf,
    terms: Terms,
    descriptor: Option<Descriptor>,
    /// Who is in one of the steps.
    runner: Option<OwnerId>,
    /// Held through `inner`.
    guard: Option<Box<dyn Guard>>,
    /// What `inner` found to be locked.
    contended: Option<FileId>,
}

/// Lets a finalizer's lock object be found, until it is dropped.
pub(crate) struct Finalizing(usize);

impl Finalizing {
    pub(crate) fn begin(lock: &Bound<'_, NativeLock>) -> Self {
        FINALIZED.with_borrow_mut(|finalized| finalized.push(lock.clone().unbind()));
        Self(lock.as_ptr() as usize)
    }
}

impl Drop for Finalizing {
    fn drop(&mut self) {
        let found = FINALIZED.with_borrow_mut(|finalized| {
            let index = finalized.iter().rposition(|lock| lock.as_ptr() as usize == self.0)?;
            Some(finalized.swap_remove(index))
        });
        // Not inside: it may be the last reference.
        drop(found);
    }
}

/// The exception that went through the core inside of one of its errors.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> Option<PyErr> {
    let inside = error.os_error()?.get_ref()?.downcast_ref::<PyErr>()?;
    Some(inside.clone_ref(py))
}

fn failed(operation: &'static str, path: &Path, raised: PyErr) -> Error {
    Error::caused(ErrorKind::Io, operation, path, io::Error::other(raised))
}

impl Backend {
    pub(crate) fn new(
        lock: &Bound<'_, NativeLock>,
        scope: Scope,
        inner: Box<dyn Mechanism>,
    ) -> PyResult<Arc<Self>> {
        Ok(Arc::new(Self {
            lock: PyWeakrefReference::new(lock)?.unbind(),
            address: lock.as_ptr() as usize,
            scope,
            inner,
            slots: ForkMutex::new(),
        }))
    }

    fn lock<'py>(&self, py: Python<'py>) -> Option<Bound<'py, NativeLock>> {
        let finalized = FINALIZED.with_borrow(|finalized| {
            let is_it = |lock: &&Py<NativeLock>| lock.as_ptr() as usize == self.address;
            finalized.iter().find(is_it).map(|lock| lock.clone_ref(py))
        });
        match finalized {
            Some(lock) => Some(lock.into_bound(py)),
            None => self.lock.bind(py).upgrade_as::<NativeLock>().ok().flatten(),
        }
    }

    /// For whom the calling thread works.
    fn key(&self, py: Python<'_>) -> PyResult<Key> {
        if self.scope == Scope::Shared {
            return Ok(None);
        }
        let owner = caller(py)?.owner;
        let is_it = |acting: &&Acting| (acting.address, acting.actor) == (self.address, owner);
        let acting = ACTING.with_borrow(|all| all.iter().rev().find(is_it).map(|acting| acting.key));
        Ok(acting.unwrap_or(Some(owner)))
    }

    /// `lock_file_fd` of the calling thread's context.
    pub(crate) fn descriptor(&self, py: Python<'_>) -> PyResult<Option<Descriptor>> {
        let key = self.key(py)?;
        Ok(self.with_slot(key, |slot| slot.descriptor).flatten())
    }

    /// Sets it.
    ///
    /// # Errors
    /// `RuntimeError` where nobody acquires or releases: nothing would come of it.
    pub(crate) fn set_descriptor(&self, py: Python<'_>, descriptor: Option<Descriptor>) -> PyResult<()> {
        let key = self.key(py)?;
        if self.with_slot(key, |slot| slot.descriptor = descriptor).is_none() && descriptor.is_some() {
            return Err(PyRuntimeError::new_err("lock_file_fd can be set in _acquire() only"));
        }
        Ok(())
    }

    fn with_slot<R>(&self, key: Key, change: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        self.slots.lock().iter_mut().find(|slot| slot.key == key).map(change)
    }

    /// Takes the slot, if nobody has it.
    ///
    /// # Errors
    /// [`Reentered`](ErrorKind::Reentered), from inside a step of the same owner: it would wait for itself.
    fn enter(&self, key: Key, owner: OwnerId, path: &Path, terms: Terms) -> Result<bool, Error> {
        let slot = Slot {
            key,
            path: path.to_owned(),
            terms,
            descriptor: None,
            runner: Some(owner),
            guard: None,
            contended: None,
        };
        let mut slots = self.slots.lock();
        match slots.iter().find(|slot| slot.key == key).map(|slot| slot.runner) {
            None => {
                slots.push(slot);
                Ok(true)
            }
            Some(runner) if runner == Some(owner) => Err(Error::new(ErrorKind::Reentered, "lock", path)),
            Some(_) => Ok(false),
        }
    }

    fn leave(&self, key: Key) -> Option<Slot> {
        let mut slots = self.slots.lock();
        let index = slots.iter().position(|slot| slot.key == key)?;
        Some(slots.swap_remove(index))
    }

    /// What the operating system knows the file of `lock_file_fd` by.
    fn system_number(&self, py: Python<'_>, key: Key, descriptor: Descriptor) -> PyResult<Descriptor> {
        let is_below = self.with_slot(key, |slot| slot.guard.is_some()) == Some(true);
        if !ferrolock::ERRORS_ARE_WIN32 || is_below {
            return Ok(descriptor);
        }
        let convert = py.import("ferrolock._descriptor")?.getattr("_system_number")?;
        convert.call1((descriptor,))?.extract()
    }

    fn attempt(self: &Arc<Self>, py: Python<'_>, path: &Path, terms: Terms) -> Result<Attempt, Error> {
        let lock = || self.lock(py).ok_or_else(|| PyRuntimeError::new_err("the lock object is gone"));
        let entered = lock().and_then(|lock| Ok((lock, self.key(py)?, caller(py)?.owner)));
        let (lock, key, owner) = entered.map_err(|raised| failed("_acquire", path, raised))?;
        if !self.enter(key, owner, path, terms)? {
            return Ok(Attempt::Contended(py.detach(|| ferrolock::path::file_at(path))));
        }
        // As soon as there is a slot: whatever unwinds from here on leaves none behind.
        let entry = Entry { backend: self, key };
        let made = py.detach(|| path.parent().map_or(Ok(()), std::fs::create_dir_all));
        let made = made.map_err(|error| errors::from_io(py, &error, path.as_os_str()));
        let raised = made.and_then(|()| run(&lock, "_acquire")).err();
        let found = self.with_slot(key, |slot| (slot.descriptor, slot.contended));
        let (descriptor, contended) = found.unwrap_or_default();
        let Some(descriptor) = descriptor else {
            return match raised {
                Some(raised) => Err(failed("_acquire", path, raised)),
                None => {
                    Ok(Attempt::Contended(contended.or_else(|| py.detach(|| ferrolock::path::file_at(path)))))
                }
            };
        };
        let listed = match raised {
            Some(raised) => Err(raised),
            None => self.system_number(py, key, descriptor).and_then(|number| {
                Listed::new(number).map_err(|error| errors::from_io(py, &error, path.as_os_str()))
            }),
        };
        match listed {
            Ok(listed) => {
                std::mem::forget(entry);
                self.with_slot(key, |slot| slot.runner = None);
                let path = path.to_owned();
                Ok(Attempt::Acquired(Box::new(BackendGuard {
                    backend: Arc::clone(self),
                    key,
                    listed,
                    path,
                    is_over: false,
                })))
            }
            Err(raised) => {
                // The caller sees an exception, so it must not have the lock. Of two, the first one tells more.
                drop(run(&lock, "_release"));
                Err(failed("_acquire", path, raised))
            }
        }
    }

    /// One attempt of the mechanism below: what `_acquire` of our classes does.
    pub(crate) fn attempt_below(&self, py: Python<'_>, lock_file: &Bound<'_, PyAny>) -> PyResult<()> {
        let key = self.key(py)?;
        let Some((path, terms)) = self.with_slot(key, |slot| (slot.path.clone(), slot.terms)) else {
            return Err(PyRuntimeError::new_err("_acquire() is for acquire() to call"));
        };
        let attempt = py.detach(|| self.inner.try_acquire(&path, terms));
        let mut attempt = attempt.map_err(|error| errors::from_core(py, lock_file, &error, None))?;
        self.with_slot(key, |slot| match std::mem::replace(&mut attempt, Attempt::Interrupted) {
            Attempt::Acquired(guard) => {
                slot.descriptor = guard.open_file().map(ferrolock::descriptor_of);
                slot.guard = Some(guard);
            }
            Attempt::Contended(file) => slot.contended = file,
            Attempt::Interrupted => {}
        });
        // A child of a fork finds no slot, and the guard knows that it is its parent's.
        drop(attempt);
        py.check_signals()
    }

    /// Whether the calling thread's hold is one of the mechanism below.
    pub(crate) fn is_held_below(&self, py: Python<'_>) -> PyResult<bool> {
        let key = self.key(py)?;
        Ok(self.with_slot(key, |slot| slot.guard.is_some()) == Some(true))
    }

    /// Gives back what the mechanism below has: what `_release` of our classes does.
    pub(crate) fn release_below(&self, py: Python<'_>, lock_file: &Bound<'_, PyAny>) -> PyResult<()> {
        let key = self.key(py)?;
        let Some(guard) = self.with_slot(key, |slot| slot.guard.take()).flatten() else { return Ok(()) };
        let (mut guard, error) = match py.detach(|| guard.release()) {
            Ok(()) => (None, None),
            Err(ReleaseError { guard, error }) => (guard, Some(error)),
        };
        self.with_slot(key, |slot| {
            if guard.is_none() {
                slot.descriptor = None;
            }
            slot.guard = guard.take();
        });
        error.map_or(Ok(()), |error| Err(errors::from_core(py, lock_file, &error, None)))
    }
}

/// A slot that was taken, and is left where nothing comes of it.
struct Entry<'a> {
    backend: &'a Backend,
    key: Key,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        drop(self.backend.leave(self.key));
    }
}

/// Calls a step of the lock object, and sees a coroutine to its end.
fn run(lock: &Bound<'_, NativeLock>, step: &str) -> PyResult<()> {
    let returned = call::method0(lock, step)?;
    if !returned.is_none() && returned.hasattr("__await__")? {
        call::method1(lock, "_finish_step", (returned,))?;
    }
    Ok(())
}

/// The mechanism that a [`Backend`] is to the core.
pub(crate) struct PythonMechanism(pub(crate) Arc<Backend>);

impl std::fmt::Debug for PythonMechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PythonMechanism").field(&self.0.address).finish()
    }
}

impl Mechanism for PythonMechanism {
    fn try_acquire(&self, path: &Path, terms: Terms) -> Result<Attempt, Error> {
        let over = || PyRuntimeError::new_err("the interpreter is shutting down");
        let attempt = Python::try_attach(|py| self.0.attempt(py, path, terms));
        attempt.unwrap_or_else(|| Err(failed("_acquire", path, over())))
    }

    /// An attempt may be a request to a server, and how often that is made is what `poll_interval` was given for.
    fn is_costly(&self) -> bool {
        true
    }
}

/// A lock that `_acquire` got. Its drop calls `_release`.
struct BackendGuard {
    backend: Arc<Backend>,
    key: Key,
    listed: Listed,
    path: PathBuf,
    is_over: bool,
}

impl std::fmt::Debug for BackendGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendGuard")
            .field("path", &self.path)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Has an owner work for another one, until it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acting {
    address: usize,
    actor: OwnerId,
    key: Key,
}

/// Ends it.
struct ActingGuard(Acting);

impl Acting {
    fn begin(backend: &Backend, actor: OwnerId, key: Key) -> ActingGuard {
        let acting = Self { address: backend.address, actor, key };
        ACTING.with_borrow_mut(|all| all.push(acting));
        ActingGuard(acting)
    }
}

impl Drop for ActingGuard {
    fn drop(&mut self) {
        ACTING.with_borrow_mut(|all| {
            let index = all.iter().rposition(|acting| *acting == self.0);
            index.map(|index| all.remove(index))
        });
    }
}

impl BackendGuard {
    /// Calls `_release`, and gives what it raised. Whether the lock is held still is told by the slot.
    fn call_release(&self, py: Python<'_>) -> PyResult<()> {
        let Some(lock) = self.backend.lock(py) else { return Ok(()) };
        let owner = caller(py)?.owner;
        let is_own = self.backend.key(py).is_ok_and(|key| key == self.key);
        let _acting = if is_own { None } else { Some(Acting::begin(&self.backend, owner, self.key)) };
        self.backend.with_slot(self.key, |slot| slot.runner = Some(owner));
        let released = run(&lock, "_release");
        self.backend.with_slot(self.key, |slot| slot.runner = None);
        released
    }

    /// The lock is not held any more.
    fn end(&mut self) {
        self.is_over = true;
        drop(self.backend.leave(self.key));
    }
}

impl Guard for BackendGuard {
    fn file(&self) -> FileId {
        self.listed.file()
    }

    fn release(mut self: Box<Self>) -> Result<(), ReleaseError> {
        if self.listed.is_inherited() {
            return Ok(());
        }
        let released = Python::try_attach(|py| {
            let released = self.call_release(py);
            let is_held = self.backend.with_slot(self.key, |slot| slot.descriptor.is_some()) == Some(true);
            (released, is_held, self.backend.lock(py).is_none())
        });
        let (raised, is_held) = match released {
            Some((released, is_held, is_gone)) => (released.err(), is_held && !is_gone),
            None => (None, false),
        };
        let failed = |raised| failed("_release", &self.path, raised);
        match (raised, is_held) {
            (None, true) => {
                let error = failed(PyRuntimeError::new_err(
                    "_release() has not set self._context.lock_file_fd to None, so the lock counts as held",
                ));
                Err(ReleaseError { guard: Some(self), error })
            }
            (Some(raised), true) => {
                let error = failed(raised);
                Err(ReleaseError { guard: Some(self), error })
            }
            (None, false) => {
                self.end();
                Ok(())
            }
            (Some(raised), false) => {
                let error = failed(raised);
                self.end();
                Err(ReleaseError { guard: None, error })
            }
        }
    }
}

impl Drop for BackendGuard {
    fn drop(&mut self) {
        if self.is_over || self.listed.is_inherited() {
            return;
        }
        // Nobody can be told.
        let _released = Python::try_attach(|py| drop(self.call_release(py)));
        self.end();
    }
}
