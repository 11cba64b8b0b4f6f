//! The options that only locks by leases have.

use std::sync::Arc;
use std::time::Duration;

use ferrolock::mechanism::{
    LeaseMonitor, LeaseReadWriteLock, LeaseSettings, LeaseTerms, MarkerLock, Mechanism,
};
use ferrolock::record::Seconds;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::compromise::{self, Listener};
use crate::options;

/// filelock's, of a lock of readers and writers.
const DEFAULT_HEARTBEAT_SECONDS: f64 = 30.0;
const DEFAULT_POLL_SECONDS: f64 = 0.25;

/// A threshold of that many heartbeats, where none is given; and a lease of that many.
const BEATS: f64 = 3.0;

/// Longer than any process runs, and within every clock.
const LONGEST: Duration = Duration::from_secs(86_400 * 365 * 10);

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).map_or(LONGEST, |duration| duration.min(LONGEST))
}

/// The options of readers and writers as they were passed; `None` is filelock's default.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a, 'py> {
    pub(crate) heartbeat_interval: Option<&'a Bound<'py, PyAny>>,
    pub(crate) stale_threshold: Option<&'a Bound<'py, PyAny>>,
    pub(crate) poll_interval: Option<&'a Bound<'py, PyAny>>,
    pub(crate) on_compromise: Option<&'a Bound<'py, PyAny>>,
}

/// The same, checked; in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadWriteSeconds {
    pub(crate) heartbeat: f64,
    pub(crate) threshold: f64,
    pub(crate) poll: f64,
}

impl Given<'_, '_> {
    pub(crate) fn check(&self) -> PyResult<ReadWriteSeconds> {
        let positive = |name, value, default| {
            let given: Option<&Bound<'_, PyAny>> = value;
            given.map_or(Ok(default), |value| options::positive_seconds(name, value))
        };
        let heartbeat = positive("heartbeat_interval", self.heartbeat_interval, DEFAULT_HEARTBEAT_SECONDS)?;
        let threshold = |value| options::threshold("stale_threshold", value, heartbeat);
        let threshold = self.stale_threshold.map_or(Ok(heartbeat * BEATS), threshold)?;
        let poll = positive("poll_interval", self.poll_interval, DEFAULT_POLL_SECONDS)?;
        options::check_below("poll_interval", poll, "stale_threshold", threshold)?;
        compromise::check(self.on_compromise)?;
        Ok(ReadWriteSeconds { heartbeat, threshold, poll })
    }
}

/// The lease's side of a lock object of readers and writers.
#[derive(Debug)]
pub(crate) struct ReadWriteLease {
    pub(crate) seconds: ReadWriteSeconds,
    pub(crate) listener: Listener,
}

impl ReadWriteLease {
    /// The lease, and the mechanism that it is one of.
    pub(crate) fn new(
        given: &Given<'_, '_>,
        lock_file: &Bound<'_, PyAny>,
    ) -> PyResult<(Self, Box<dyn Mechanism>)> {
        let seconds = given.check()?;
        let listener = Listener::new(given.on_compromise, lock_file, LeaseMonitor::new)?;
        let settings = LeaseSettings {
            heartbeat_interval: duration(seconds.heartbeat),
            stale_threshold: duration(seconds.threshold),
        };
        let mechanism = LeaseReadWriteLock::new(settings, Arc::clone(&listener.monitor));
        Ok((Self { seconds, listener }, Box::new(mechanism)))
    }

    /// How the hold was lost, as Python's.
    pub(crate) fn compromise<'py>(
        &self,
        lock_file: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let compromise = self.listener.monitor.compromise();
        compromise.map(|compromise| compromise::into_py(lock_file, &compromise)).transpose()
    }
}

/// The options of a marker that is a lease.
#[derive(Clone, Copy)]
pub(crate) struct MarkerGiven<'a, 'py> {
    pub(crate) lease_duration: &'a Bound<'py, PyAny>,
    pub(crate) heartbeat_interval: Option<&'a Bound<'py, PyAny>>,
    pub(crate) on_compromise: Option<&'a Bound<'py, PyAny>>,
}

/// Checks the duration of a lease and the time between its heartbeats, and gives both: None is a third of the duration.
#[pyfunction]
#[pyo3(signature = (lease_duration, heartbeat_interval, on_compromise=None))]
pub(crate) fn check_lease(
    lease_duration: &Bound<'_, PyAny>,
    heartbeat_interval: Option<&Bound<'_, PyAny>>,
    on_compromise: Option<&Bound<'_, PyAny>>,
) -> PyResult<(f64, f64)> {
    let lease = options::lease_seconds("lease_duration", lease_duration)?;
    let heartbeat = match heartbeat_interval {
        Some(value) => options::positive_seconds("heartbeat_interval", value)?,
        None => lease / BEATS,
    };
    options::check_below("heartbeat_interval", heartbeat, "lease_duration", lease)?;
    // The smallest number has no third.
    if heartbeat <= 0.0 {
        return Err(PyValueError::new_err("lease_duration is too short for a heartbeat"));
    }
    compromise::check(on_compromise)?;
    Ok((lease, heartbeat))
}

/// The lease's side of a lock object.
#[derive(Debug)]
pub(crate) struct MarkerLease {
    pub(crate) duration: f64,
    pub(crate) heartbeat: f64,
    pub(crate) listener: Listener,
}

impl MarkerLease {
    pub(crate) fn new(given: &MarkerGiven<'_, '_>, lock_file: &Bound<'_, PyAny>) -> PyResult<Self> {
        let MarkerGiven { lease_duration, heartbeat_interval, on_compromise } = *given;
        let (duration, heartbeat) = check_lease(lease_duration, heartbeat_interval, on_compromise)?;
        let listener = Listener::new(on_compromise, lock_file, LeaseMonitor::per_owner)?;
        Ok(Self { duration, heartbeat, listener })
    }

    /// The mechanism that this is a lease of.
    pub(crate) fn mechanism(&self, mode: Option<u32>) -> PyResult<MarkerLock> {
        let wrong = || PyValueError::new_err("lease_duration must be finite and positive");
        Ok(MarkerLock::lease(
            mode,
            LeaseTerms {
                duration: Seconds::new(self.duration).ok_or_else(wrong)?,
                heartbeat_interval: duration(self.heartbeat),
                monitor: Arc::clone(&self.listener.monitor),
            },
        ))
    }

    /// How the hold that is known by `token` was lost, or without one the last that is over, as Python's.
    pub(crate) fn compromise<'py>(
        &self,
        lock_file: &Bound<'py, PyAny>,
        token: Option<&str>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let compromise = self.listener.monitor.compromise_of(token);
        compromise.map(|compromise| compromise::into_py(lock_file, &compromise)).transpose()
    }
}
