//! The settings of a lock object that can change: `timeout`, `blocking`, `poll_interval`, `lifetime`.
//!
//! They are atomics, so that a fork never finds one locked. A thread-local lock gives each thread a set of
//! its own from the first change on; others keep what the lock was constructed with.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pyo3::prelude::*;

use crate::known::known;
use crate::once::Once;

/// One set of settings.
#[pyclass(frozen)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    pub(crate) timeout_seconds: f64,
    pub(crate) blocking: bool,
    pub(crate) poll_interval_seconds: f64,
    /// Not a number where there is none.
    pub(crate) lifetime_seconds: f64,
}

impl Settings {
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        // Longer than a `Duration` is as good as for ever.
        Duration::try_from_secs_f64(self.lifetime_seconds).ok()
    }
}

/// The settings of one lock object.
pub(crate) struct SettingsCell {
    timeout_seconds: AtomicU64,
    blocking: AtomicBool,
    poll_interval_seconds: AtomicU64,
    lifetime_seconds: AtomicU64,
    is_thread_local: bool,
    /// A `threading.local`, made when a thread first sets something: it dies with its threads, follows a
    /// fork, and is greenlet-local where threads are patched.
    own: Once,
}

impl SettingsCell {
    pub(crate) fn new(settings: Settings, is_thread_local: bool) -> Self {
        Self {
            timeout_seconds: AtomicU64::new(settings.timeout_seconds.to_bits()),
            blocking: AtomicBool::new(settings.blocking),
            poll_interval_seconds: AtomicU64::new(settings.poll_interval_seconds.to_bits()),
            lifetime_seconds: AtomicU64::new(settings.lifetime_seconds.to_bits()),
            is_thread_local,
            own: Once::new(),
        }
    }

    /// The settings that the calling thread sees.
    pub(crate) fn get(&self, py: Python<'_>) -> Settings {
        if let Some(own) = self.own.get(py) {
            let set = known(py).and_then(|known| own.bind(py).getattr(&known.names.settings));
            if let Ok(Ok(settings)) = set.map(Bound::cast_into::<Settings>) {
                return *settings.get();
            }
        }
        let seconds = |bits: &AtomicU64| f64::from_bits(bits.load(Ordering::Relaxed));
        Settings {
            timeout_seconds: seconds(&self.timeout_seconds),
            blocking: self.blocking.load(Ordering::Relaxed),
            poll_interval_seconds: seconds(&self.poll_interval_seconds),
            lifetime_seconds: seconds(&self.lifetime_seconds),
        }
    }

    /// Changes what the calling thread sees, or for a shared lock what all see.
    pub(crate) fn set(&self, py: Python<'_>, settings: Settings) -> PyResult<()> {
        if self.is_thread_local {
            let local = || Ok(py.import("threading")?.call_method0("local")?.unbind());
            let own = self.own.get_or_make(py, local)?;
            return own.bind(py).setattr(&known(py)?.names.settings, settings);
        }
        self.timeout_seconds.store(settings.timeout_seconds.to_bits(), Ordering::Relaxed);
        self.blocking.store(settings.blocking, Ordering::Relaxed);
        self.poll_interval_seconds.store(settings.poll_interval_seconds.to_bits(), Ordering::Relaxed);
        self.lifetime_seconds.store(settings.lifetime_seconds.to_bits(), Ordering::Relaxed);
        Ok(())
    }
}
