//! The lease: a marker that its owner keeps fresh, and that others may take when it was not for long enough.
//!
//! Whoever sees it unchanged for its duration, by a clock of its own, takes its owner for dead. The owner looks at each
//! heartbeat whether it still has the name, *after* it has refreshed the marker: a contender that had judged it before
//! finds it changed, and puts it back.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::form::Tenure;
use super::guard::Held;
use super::occupant::{GRACE, Occupant};
use super::site::Site;
use crate::error::{Error, ErrorKind};
use crate::fork::ForkMutex;
use crate::heartbeat::{self, Beat, Next};
use crate::mechanism::Loss;
use crate::mechanism::health::{self, Health, Prognosis};
use crate::mechanism::monitor::{Compromise, CompromiseReason, LeaseMonitor, LeaseSettings};
use crate::record::{Content, OwnerMode, Seconds};

/// What the holders of leases go by. All who contend for a path have to agree on the duration.
#[derive(Debug)]
pub struct LeaseTerms {
    /// For how long a contender must have seen a marker unchanged to take it.
    pub duration: Seconds,
    /// How often a holder refreshes its own.
    pub heartbeat_interval: Duration,
    /// What is told of lost holds.
    pub monitor: Arc<LeaseMonitor>,
}

impl LeaseTerms {
    fn settings(&self) -> LeaseSettings {
        LeaseSettings {
            heartbeat_interval: self.heartbeat_interval.min(LONGEST),
            stale_threshold: as_duration(self.duration),
        }
    }
}

/// Longer than any process runs, and within every clock.
const LONGEST: Duration = Duration::from_secs(86_400 * 365 * 10);

fn as_duration(seconds: Seconds) -> Duration {
    Duration::try_from_secs_f64(seconds.get()).map_or(LONGEST, |duration| duration.min(LONGEST))
}

impl Tenure {
    /// Whether the occupant has a lease that is over, to a contender of this kind. Its owner may live.
    ///
    /// # Errors
    /// `Mismatch`: the lease is of another duration than this contender's.
    pub(super) fn see_expired(&self, site: &Site, occupant: &Occupant) -> Result<bool, Error> {
        let Content::Tenant(tenancy) = &occupant.content else { return Ok(false) };
        let (OwnerMode::Lease, Some(theirs)) = (tenancy.mode, tenancy.duration) else { return Ok(false) };
        let unchanged = occupant.unchanged_for();
        match self {
            // Whoever has not agreed on a duration goes by the owner's.
            Self::Unstated => Ok(unchanged >= as_duration(theirs).max(GRACE)),
            Self::Exclusive => Ok(false),
            Self::Lease(own) if own.duration == theirs => Ok(unchanged >= as_duration(theirs)),
            Self::Lease(own) => Err(site.error(ErrorKind::Mismatch).because(format!(
                "the holder's lease is of {theirs} s and this contender's of {} s: all who contend for a path must agree \
                 on lease_duration",
                own.duration
            ))),
        }
    }
}

/// A lease of this process.
#[derive(Debug)]
pub(super) struct Leasehold {
    held: Weak<Held>,
    device: u64,
    lock_file: PathBuf,
    pub(super) token: String,
    terms: Arc<LeaseTerms>,
    pub(super) loss: Loss,
    health: ForkMutex<Health>,
}

impl Leasehold {
    /// Begins the lease of a marker that was made after `begun`; `None`: that took so long that it may be lost already.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub(super) fn begin(
        held: &Arc<Held>,
        token: String,
        terms: &Arc<LeaseTerms>,
        begun: Duration,
    ) -> Result<Option<Arc<Self>>, Error> {
        let lease = Arc::new(Self {
            held: Arc::downgrade(held),
            device: held.id().device,
            lock_file: held.site.path().to_owned(),
            token,
            terms: Arc::clone(terms),
            loss: Loss::default(),
            health: ForkMutex::new(),
        });
        *lease.health.lock() = Health::since(begun);
        if lease.health.lock().is_late(health::now(), terms.settings()) {
            return Ok(None);
        }
        lease.terms.monitor.grant(&lease.token, 0);
        lease.keep_fresh().inspect_err(|_| lease.terms.monitor.release(&lease.token))?;
        Ok(Some(lease))
    }

    pub(super) fn keep_fresh(self: &Arc<Self>) -> Result<(), Error> {
        let beat: Arc<dyn Beat> = Arc::clone(self) as Arc<dyn Beat>;
        let due = self.health.lock().due(self.terms.settings());
        let started = heartbeat::start(self.device, &beat, health::as_instant(due));
        let failed = |error| Error::caused(ErrorKind::Io, "start a heartbeat for", &self.lock_file, error);
        started.map_err(failed)
    }

    pub(super) fn no_longer_fresh(self: &Arc<Self>) {
        let beat: Arc<dyn Beat> = Arc::clone(self) as Arc<dyn Beat>;
        heartbeat::stop(self.device, &beat);
    }

    /// Notes that the hold was lost, and tells; once.
    pub(super) fn lose(&self, reason: CompromiseReason, error: Option<std::io::Error>) {
        if !self.loss.comes() {
            let (lock_file, token) = (self.lock_file.clone(), self.token.clone());
            self.terms.monitor.report(Compromise { lock_file, token, reason, error: error.map(Arc::new) });
        }
    }

    /// The hold is over.
    pub(super) fn end(&self) {
        self.terms.monitor.release(&self.token);
    }
}

impl Beat for Leasehold {
    fn beat(&self) -> Next {
        let Some(held) = self.held.upgrade() else { return Next::Never };
        let begun = health::now();
        let Some(refreshed) = held.refresh() else { return Next::Never };
        let ended = health::now();
        let prognosis = self.health.lock().note(refreshed, begun, ended, self.terms.settings());
        match prognosis {
            Prognosis::Beat(pause) => Next::In(pause),
            Prognosis::Over(reason, error) => {
                self.lose(reason, error);
                if reason != CompromiseReason::RefreshFailed {
                    held.disown();
                }
                Next::Never
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::mechanism::CloseErrors;
    use crate::mechanism::marker::draft;
    use crate::mechanism::marker::form::Form;
    use crate::mechanism::marker::guard::MarkerGuard;
    use crate::wait::sleep;

    /// A contender may have seen it for as long as it took.
    #[test]
    fn a_marker_that_was_long_in_the_making_is_refreshed_at_once() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.lock");
        let terms = Arc::new(LeaseTerms {
            duration: Seconds::new(40.0).ok_or("a length of time")?,
            heartbeat_interval: Duration::from_secs(30),
            monitor: Arc::new(LeaseMonitor::per_owner(None)),
        });
        let form = Form::new(None, &Tenure::Lease(Arc::clone(&terms)));
        let site = Site::open(&path)?;
        let draft = draft::create(&site, &site.name, &form)?.ok_or("the name is free")?;
        File::options().write(true).open(&path)?.set_modified(SystemTime::UNIX_EPOCH)?;
        let begun = health::now().saturating_sub(Duration::from_secs(31));
        let guard = MarkerGuard::new(site, draft, CloseErrors::Raise, true);
        let guard = guard.begin_lease(&terms, form.token.ok_or("a token")?, begun)?;
        assert!(guard.is_some());
        let granted = Instant::now();
        while fs::metadata(&path)?.modified()? == SystemTime::UNIX_EPOCH {
            assert!(granted.elapsed() < Duration::from_secs(8), "its end is not awaited");
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
