//! Who calls: a thread, or a greenlet where gevent or eventlet has patched anything.
//!
//! Many greenlets share one thread. Patched, each is an owner of its own, and waits through its hub so that the
//! others run; the first one of a thread counts as the thread, so that what it took before the patches stays its.
//! Greenlets of programs that patch nothing count as their thread.

use std::sync::Arc;

use ferrolock::OwnerId;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use crate::known::{Known, known};

/// The one who asks for a lock.
pub(crate) struct Caller {
    pub(crate) owner: OwnerId,
    /// The hub's `sleep`, where other greenlets have to run while this one waits.
    pub(crate) hub_sleep: Option<Py<PyAny>>,
}

impl Caller {
    /// Makes a call into the core that may take long, with the interpreter let go. Not for a greenlet: while it sleeps,
    /// others run on this very stack of attachments.
    pub(crate) fn away<T: Send>(&self, py: Python<'_>, call: impl FnOnce() -> T + Send) -> T {
        if self.hub_sleep.is_some() { call() } else { py.detach(call) }
    }
}

/// Finds out who asks for a lock, and sees to it that a thread is known to have ended when it has.
///
/// Not for who only looks or releases: a thread's last finalizers do that, and what they put into a `threading.local`
/// nobody takes out again.
///
/// # Errors
/// Those of [`caller`].
pub(crate) fn acquirer(py: Python<'_>) -> PyResult<Caller> {
    let caller = caller(py)?;
    if !OwnerId::thread_has_token() && caller.owner == OwnerId::current_thread() {
        let alive = Arc::new(());
        OwnerId::thread_lives_as(&Arc::downgrade(&alive));
        known(py)?.thread_tokens.bind(py).setattr("token", ThreadToken { alive })?;
    }
    Ok(caller)
}

/// Finds out who calls.
///
/// # Errors
/// `RuntimeError` where threads are patched by something unknown: waiting for a lock would stop all.
pub(crate) fn caller(py: Python<'_>) -> PyResult<Caller> {
    let known = known(py)?;
    if let Some(greenlet) = known.modules.bind(py).get_item(&known.names.greenlet)? {
        if let Some(hub) = patching_hub(py, known)? {
            let owner = greenlet_owner(&greenlet.call_method0("getcurrent")?)?;
            return Ok(Caller { owner, hub_sleep: Some(hub.getattr("sleep")?.unbind()) });
        }
    }
    Ok(Caller { owner: OwnerId::current_thread(), hub_sleep: None })
}

/// Dies with the Python thread in whose `threading.local` it lies.
#[pyclass(frozen)]
pub(crate) struct ThreadToken {
    #[expect(dead_code, reason = "held, not read")]
    alive: Arc<()>,
}

/// Names the greenlet or task on which it lies.
#[pyclass(frozen)]
pub(crate) struct OwnerName {
    pub(crate) owner: OwnerId,
}

fn greenlet_owner(greenlet: &Bound<'_, PyAny>) -> PyResult<OwnerId> {
    if greenlet.getattr("parent")?.is_none() {
        return Ok(OwnerId::current_thread());
    }
    named_owner(greenlet)
}

/// The owner that `who` is, a greenlet or a task: named when it is first asked for.
pub(crate) fn named_owner(who: &Bound<'_, PyAny>) -> PyResult<OwnerId> {
    let name = &known(who.py())?.names.owner;
    if let Some(named) = who.getattr_opt(name)? {
        if let Ok(named) = named.cast::<OwnerName>() {
            return Ok(named.get().owner);
        }
    }
    let owner = OwnerId::unique();
    who.setattr(name, OwnerName { owner })?;
    Ok(owner)
}

/// The package whose greenlets take turns on this thread, if it has patched something.
fn patching_hub<'py>(py: Python<'py>, known: &Known) -> PyResult<Option<Bound<'py, PyAny>>> {
    let modules = known.modules.bind(py);
    for (patcher, patched, hub) in
        [("gevent.monkey", "saved", "gevent"), ("eventlet.patcher", "already_patched", "eventlet")]
    {
        let patcher = modules.get_item(patcher)?;
        let patched = patcher.and_then(|patcher| patcher.getattr(patched).ok());
        if patched.is_some_and(|patched| patched.is_truthy().unwrap_or(false)) {
            return modules.get_item(hub);
        }
    }
    refuse_unknown_patch(modules)?;
    Ok(None)
}

fn refuse_unknown_patch(modules: &Bound<'_, PyDict>) -> PyResult<()> {
    let Some(threading) = modules.get_item("threading")? else { return Ok(()) };
    let get_ident = threading.getattr("get_ident")?;
    if get_ident.cast_exact::<PyCFunction>().is_ok() {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!(
        "threading.get_ident was replaced by {get_ident}: ferrolock can wait for a lock under gevent and eventlet \
         only"
    )))
}
