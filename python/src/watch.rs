//! What a waiting acquisition asks of Python: signals, `cancel_check`, the log.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use ferrolock::mechanism::Holder;
use ferrolock::{Error, ErrorKind, Stop, WaitsBy, Watch};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::call;
use crate::caller::Caller;
use crate::known::known;
use crate::logging::{self, Log};

/// The longest pause in which no signal handler runs.
const SIGNALS: Duration = Duration::from_millis(50);

/// How often a wait in the kernel looks for signals. One that comes to this very thread ends the wait at once; it
/// is for those that come to another, or just before the wait begins.
const LOOKS: Duration = Duration::from_millis(80);

/// As good as never: a wait is over by then, or looks up for another reason.
const NEVER: Duration = Duration::from_secs(3600);

/// The Python side of one acquisition. It runs detached from the interpreter, except for a greenlet, and
/// attaches for each question.
pub(crate) struct PythonWatch<'a> {
    pub(crate) caller: &'a Caller,
    /// The lock object and its path, where the log is to hear of the wait.
    pub(crate) subject: Option<(&'a Py<PyAny>, &'a Py<PyAny>)>,
    pub(crate) cancel_check: Option<&'a Py<PyAny>>,
    /// What the first question brought to light about the rest of the wait.
    pub(crate) needs: Needs,
    /// How the wait goes on, until the log was told.
    pub(crate) waits_by: Option<WaitsBy>,
    /// Why the wait was interrupted.
    pub(crate) error: Option<PyErr>,
}

/// What a wait has to be interrupted for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    signals: bool,
    questions: bool,
}

impl Default for Needs {
    /// All, as long as nothing is known.
    fn default() -> Self {
        Self { signals: true, questions: true }
    }
}

/// Whether this is the thread on which Python runs signal handlers.
fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let Some(threading) = known(py)?.modules.bind(py).get_item("threading")? else { return Ok(true) };
    let main = call::method0(&threading, "main_thread")?.getattr("ident")?;
    main.eq(call::method0(&threading, "get_ident")?)
}

/// Why an acquisition came to nothing.
pub(crate) enum Failure {
    /// With the holder, where the lock names one.
    Core(Error, Option<Holder>),
    /// A signal handler, `cancel_check` or a logging handler raised.
    Python(PyErr),
}

impl<'a> PythonWatch<'a> {
    /// Runs an acquisition of the core under this watch, and where it was late asks who holds the lock.
    pub(crate) fn over<T: Send>(
        mut self,
        py: Python<'_>,
        acquire: impl FnOnce(&mut dyn Watch) -> Result<T, Error> + Send,
        holder: impl FnOnce(&Path) -> Option<Holder> + Send,
    ) -> Result<T, Failure> {
        let caller = self.caller;
        let acquired = caller.away(py, || {
            acquire(&mut self).map_err(|error| {
                let is_late = matches!(error.kind(), ErrorKind::TimedOut(_));
                let holder = if is_late { holder(error.path()) } else { None };
                (error, holder)
            })
        });
        acquired.map_err(|(error, holder)| match self.error {
            Some(error) => Failure::Python(error),
            None => Failure::Core(error, holder),
        })
    }

    pub(crate) fn new(
        caller: &'a Caller,
        subject: Option<(&'a Py<PyAny>, &'a Py<PyAny>)>,
        cancel_check: Option<&'a Py<PyAny>>,
    ) -> Self {
        Self { caller, subject, cancel_check, needs: Needs::default(), waits_by: None, error: None }
    }

    fn log<'py>(&self, py: Python<'py>) -> PyResult<Option<Log<'py>>> {
        match self.subject {
            Some((lock, lock_file)) => logging::log(lock.bind(py), lock_file),
            None => Ok(None),
        }
    }

    fn run(&mut self, ask: impl FnOnce(Python<'_>, &mut Self) -> PyResult<bool>) -> ControlFlow<Stop> {
        match Python::try_attach(|py| ask(py, self)) {
            // None: the interpreter is shutting down. Nothing can be asked any more, so the wait takes its time.
            Some(Ok(false)) | None => ControlFlow::Continue(()),
            Some(Ok(true)) => ControlFlow::Break(Stop::Cancelled),
            Some(Err(error)) => {
                self.error = Some(error);
                ControlFlow::Break(Stop::Interrupted)
            }
        }
    }
}

impl Watch for PythonWatch<'_> {
    fn begins(&mut self, waits_by: WaitsBy) {
        self.waits_by = Some(waits_by);
    }

    fn may_block(&self) -> bool {
        self.caller.hub_sleep.is_none()
    }

    /// Python runs signal handlers on the main thread only.
    fn look_every(&self) -> Duration {
        if self.needs.signals { LOOKS } else { NEVER }
    }

    fn has_questions(&self) -> bool {
        self.needs.questions
    }

    fn contended(&mut self, pause: Duration) -> ControlFlow<Stop> {
        self.run(|py, watch| {
            watch.needs = Needs {
                signals: is_main_thread(py)?,
                questions: watch.cancel_check.is_some() || watch.log(py)?.is_some(),
            };
            if let Some(cancel_check) = watch.cancel_check {
                if call::call0(cancel_check.bind(py))?.is_truthy()? {
                    if let Some(log) = watch.log(py)? {
                        log.debug("Cancellation requested for lock %s on %s")?;
                    }
                    return Ok(true);
                }
            }
            if !pause.is_zero() {
                if let Some(log) = watch.log(py)? {
                    if let Some(waits_by) = watch.waits_by.take() {
                        log.waits_by(waits_by)?;
                    }
                    log.waiting(pause.as_secs_f64())?;
                }
            }
            Ok(false)
        })
    }

    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
        if self.caller.hub_sleep.is_some() {
            return self.run(|py, watch| {
                if let Some(sleep) = &watch.caller.hub_sleep {
                    call::call(sleep.bind(py), &PyTuple::new(py, [pause.as_secs_f64()])?, None)?;
                }
                py.check_signals().map(|()| false)
            });
        }
        let mut left = pause;
        loop {
            let slice = left.min(SIGNALS);
            ferrolock::wait::sleep(slice);
            self.run(|py, _| py.check_signals().map(|()| false))?;
            left -= slice;
            if left.is_zero() {
                return ControlFlow::Continue(());
            }
        }
    }
}
