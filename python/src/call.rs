//! Calls of the user's code, in which the thread may end.
//!
//! Up to CPython 3.13 a daemon thread that wants the interpreter back while that is finalizing is ended where it is, by
//! `pthread_exit`, and glibc unwinds its stack for that. PyO3 declares the functions of Python as ones that never
//! unwind, and a frame that is unwound in spite of that ends the process: SIGABRT, after a program that ended well. PyO3
//! sees to it where it attaches itself, and holds the thread there. What runs code of the user's (it logs, sleeps, waits
//! for another lock) and so lets go of the interpreter on its own is called through here, with the same result.
#![expect(unsafe_code, reason = "PyO3 has no call that may unwind")]

use std::time::Duration;
use std::{hint, mem, ptr};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{IntoPyObject, ffi};

/// Holds a thread that is being ended, until the process ends. What unwinds further would end that at once.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        loop {
            ferrolock::wait::sleep(Duration::from_secs(3600));
        }
    }
}

/// Calls `callable`.
pub(crate) fn call<'py>(
    callable: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    type Object = *mut ffi::PyObject;
    let declared: unsafe extern "C" fn(Object, Object, Object) -> Object = ffi::PyObject_Call;
    // SAFETY: the same function; the two differ only in the promise not to unwind, which is taken back here.
    let may_unwind: unsafe extern "C-unwind" fn(Object, Object, Object) -> Object =
        unsafe { mem::transmute(declared) };
    // The optimizer would find the declaration, and believe it.
    let may_unwind = hint::black_box(may_unwind);
    let kwargs = kwargs.map_or(ptr::null_mut(), Bound::as_ptr);
    let held = Held;
    // SAFETY: the three outlive the call, are a tuple and a dict or null, and this thread is attached: it has them.
    let result = unsafe { may_unwind(callable.as_ptr(), args.as_ptr(), kwargs) };
    mem::forget(held);
    // SAFETY: a reference of our own, or null with the exception set.
    unsafe { Bound::from_owned_ptr_or_err(callable.py(), result) }
}

/// Calls `callable` with nothing.
pub(crate) fn call0<'py>(callable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    call(callable, &PyTuple::empty(callable.py()), None)
}

/// Calls the method `name` of `object` with nothing.
pub(crate) fn method0<'py>(
    object: &Bound<'py, PyAny>,
    name: impl IntoPyObject<'py, Target = PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    call0(&object.getattr(name)?)
}

/// Calls the method `name` of `object`.
pub(crate) fn method1<'py>(
    object: &Bound<'py, PyAny>,
    name: impl IntoPyObject<'py, Target = PyString>,
    args: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Bound<'py, PyAny>> {
    call(&object.getattr(name)?, &args.into_pyobject(object.py())?, None)
}
