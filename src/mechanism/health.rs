//! Whether a lease of this process is well, by what its heartbeats find.

use std::io;
use std::time::Duration;

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
    /// The next heartbeat is due.
    Beat(Duration),
    /// The lease is lost.
    Over(CompromiseReason, Option<io::Error>),
}

/// What is known of a lease.
#[derive(Debug, Default)]
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
    /// Notes what a refresh that began at `begun` has found.
    pub(super) fn note(
        &mut self,
        refreshed: io::Result<Refreshed>,
        begun: Duration,
        settings: LeaseSettings,
    ) -> Prognosis {
        let LeaseSettings { heartbeat_interval: interval, stale_threshold: threshold } = settings;
        match refreshed {
            Ok(Refreshed::Fresh) => {
                let is_late = self.is_late(settings);
                *self = Self { good: begun, suspicions: 0, is_doubtful: is_late || self.is_doubtful };
                // Whoever is about to evict it does so soon.
                Prognosis::Beat(if is_late { interval / SHARE } else { interval })
            }
            Ok(Refreshed::Lost(reason)) => {
                self.suspicions += 1;
                if self.suspicions >= SUSPICIONS {
                    return Prognosis::Over(reason, None);
                }
                Prognosis::Beat((interval / SHARE).min(LONGEST_SUSPICION))
            }
            Err(error) if now().saturating_sub(self.good) + interval > threshold => {
                Prognosis::Over(CompromiseReason::RefreshFailed, Some(error))
            }
            Err(_) => Prognosis::Beat(interval / SHARE),
        }
    }

    /// Whether the last good heartbeat is so long ago that others may count on there being no more.
    pub(super) fn is_late(&self, settings: LeaseSettings) -> bool {
        now().saturating_sub(self.good) > (settings.heartbeat_interval + settings.stale_threshold) / 2
    }
}
