//! Whether a lease of this process is well, by what its heartbeats find.

#[cfg(test)]
mod model;

use std::io;
use std::time::{Duration, Instant};

use super::monitor::{CompromiseReason, LeaseSettings};
use crate::sys;

/// How often in a row a marker must be found missing: a file system that is distributed can be wrong once, and a contender
/// that took it for another's puts it back.
const SUSPICIONS: u32 = 3;
const LONGEST_SUSPICION: Duration = Duration::from_millis(200);

/// How often a refresh that fails is tried again within an interval, and how soon a late one is followed by the next.
const SHARE: u32 = 8;

/// What one look at the own marker came to.
pub(super) enum Refreshed {
    Fresh,
    Lost(CompromiseReason),
}

/// What comes of it.
pub(super) enum Prognosis {
    /// The next heartbeat is due so long after the *beginning* of this one.
    Beat(Duration),
    /// The lease is lost.
    Over(CompromiseReason, Option<io::Error>),
}

/// What is known of a lease.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    /// When it was last known to be there and fresh, by [`now`].
    pub(super) good: Duration,
    suspicions: u32,
    /// Whether it was stopped for so long that somebody may be about to evict it.
    pub(super) is_doubtful: bool,
}

/// The time since the machine began, which goes on while it sleeps.
pub(super) fn now() -> Duration {
    sys::process::since_boot()
}

impl Health {
    /// That of a marker that is made after `begun`.
    pub(super) fn since(begun: Duration) -> Self {
        Self { good: begun, ..Self::default() }
    }

    /// Notes what a refresh has found that began at `begun` and has ended just `now`.
    pub(super) fn note(
        &mut self,
        refreshed: io::Result<Refreshed>,
        begun: Duration,
        now: Duration,
        settings: LeaseSettings,
    ) -> Prognosis {
        let LeaseSettings { heartbeat_interval: interval, stale_threshold: threshold } = settings;
        match refreshed {
            Ok(Refreshed::Fresh) => {
                let is_late = self.is_late(now, settings);
                *self = Self { good: begun, suspicions: 0, is_doubtful: is_late || self.is_doubtful };
                // Whoever is about to evict it does so soon.
                Prognosis::Beat(if is_late { interval / SHARE } else { interval })
            }
            Ok(Refreshed::Lost(reason)) => {
                self.suspicions += 1;
                // From then on anybody may have taken it for good.
                if self.suspicions >= SUSPICIONS || self.age(now) >= threshold {
                    return Prognosis::Over(reason, None);
                }
                Prognosis::Beat((interval / SHARE).min(LONGEST_SUSPICION))
            }
            Err(error) if self.age(now) + interval > threshold => {
                Prognosis::Over(CompromiseReason::RefreshFailed, Some(error))
            }
            Err(_) => Prognosis::Beat(interval / SHARE),
        }
    }

    /// Whether the last good heartbeat is so long ago that others may count on there being no more.
    pub(super) fn is_late(&self, now: Duration, settings: LeaseSettings) -> bool {
        self.age(now) > (settings.heartbeat_interval + settings.stale_threshold) / 2
    }

    /// When the next refresh is due: an interval after the last good one, or the making of the marker, *began*. A contender
    /// counts from some moment after that, whatever became of this process meanwhile.
    pub(super) fn due(&self, settings: LeaseSettings) -> Duration {
        self.good.saturating_add(settings.heartbeat_interval)
    }

    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.good)
    }
}

/// When that moment comes, by the clock of those who sleep until then.
pub(super) fn as_instant(due: Duration) -> Instant {
    // In this order: whoever is stopped in between is not later for it.
    let at = Instant::now();
    at + due.saturating_sub(now())
}
