//! How long a lease lasts, and what its holder is told of it.

use std::any::Any;
use std::fmt;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::fork::ForkMutex;
use crate::sys;

/// How often a holder says that it lives, and when others give it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSettings {
    /// How often a marker is refreshed.
    pub heartbeat_interval: Duration,
    /// For how long a contender must have seen a marker unchanged to take it for a dead holder's. The longer of the
    /// contender's and the holder's counts.
    pub stale_threshold: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self { heartbeat_interval: Duration::from_secs(30), stale_threshold: Duration::from_secs(90) }
    }
}

/// How a hold was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompromiseReason {
    /// A contender took the marker for a dead holder's, or somebody removed it.
    Evicted,
    /// The folder of the markers is gone.
    MarkerMissing,
    /// Somebody else's marker stands at the name of ours.
    OwnerChanged,
    /// The marker could not be refreshed for so long that others may have taken it for a dead holder's.
    RefreshFailed,
}

impl CompromiseReason {
    /// The reason's name in filelock.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::MarkerMissing => "marker-missing",
            Self::OwnerChanged => "owner-changed",
            Self::RefreshFailed => "refresh-failed",
        }
    }
}

/// A hold that was lost while its holder believed in it.
#[derive(Debug, Clone)]
pub struct Compromise {
    /// The path that was locked.
    pub lock_file: PathBuf,
    /// The token of the marker.
    pub token: String,
    /// How it was lost.
    pub reason: CompromiseReason,
    /// What the operating system said, where it said anything.
    pub error: Option<Arc<io::Error>>,
}

/// Is told of a lost hold, once, on a thread of its own.
pub type OnCompromise = Arc<dyn Fn(Compromise) + Send + Sync>;

/// What became of the holds of one lock object.
///
/// The holds of a lock of readers and writers are one, that of the first: others are there for moments, for two threads that
/// read through one lock object may both be let in, and the second one's is given back. Elsewhere each owner has its own.
/// In a forked child it knows nothing of the parent's.
pub struct LeaseMonitor {
    told: ForkMutex<Told>,
    on_compromise: Option<OnCompromise>,
    is_per_owner: bool,
}

#[derive(Debug, Default)]
struct Told {
    /// How the last hold that is over was lost.
    last: Option<Compromise>,
    holds: Vec<Granted>,
    kept: Option<Box<dyn Any + Send>>,
}

#[derive(Debug)]
struct Granted {
    token: String,
    generation: u64,
    compromise: Option<Compromise>,
}

impl LeaseMonitor {
    /// A monitor of a lock of readers and writers, that calls `on_compromise` for each hold that is lost.
    #[must_use]
    pub fn new(on_compromise: Option<OnCompromise>) -> Self {
        Self { told: ForkMutex::new(), on_compromise, is_per_owner: false }
    }

    /// The same for a lock whose owners have a hold each.
    #[must_use]
    pub fn per_owner(on_compromise: Option<OnCompromise>) -> Self {
        Self { is_per_owner: true, ..Self::new(on_compromise) }
    }

    /// How the present or the last hold was lost; `None` if it was not. The next hold that is granted forgets the last one.
    #[must_use]
    pub fn compromise(&self) -> Option<Compromise> {
        let told = self.told.lock();
        told.holds.first().map_or_else(|| told.last.clone(), |hold| hold.compromise.clone())
    }

    /// The same of the hold that is known by `token`, or without one of the last that is over.
    #[must_use]
    pub fn compromise_of(&self, token: Option<&str>) -> Option<Compromise> {
        let told = self.told.lock();
        let held = token.and_then(|token| told.holds.iter().find(|hold| hold.token == token));
        held.map_or_else(|| told.last.clone(), |hold| hold.compromise.clone())
    }

    /// The fencing number of the present hold: a writer's own, greater than that of every writer before it; a reader's
    /// is that of the last writer before it. `None`: nothing is held.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.told.lock().holds.first().map(|hold| hold.generation)
    }

    /// Drops `kept` when the hold is over, or at once where there is none.
    ///
    /// A lost hold is over when it is released. Nothing is dropped in a child that is forked meanwhile.
    pub fn keep(&self, kept: Box<dyn Any + Send>) {
        let _dropped_when_unlocked = {
            let mut told = self.told.lock();
            if told.holds.is_empty() { Some(kept) } else { told.kept.replace(kept) }
        };
    }

    pub(super) fn grant(&self, token: &str, generation: u64) {
        let mut told = self.told.lock();
        told.last = None;
        told.holds.push(Granted { token: token.to_owned(), generation, compromise: None });
    }

    pub(super) fn release(&self, token: &str) {
        let _dropped_when_unlocked = {
            let mut told = self.told.lock();
            let Some(place) = told.holds.iter().position(|hold| hold.token == token) else { return };
            let over = told.holds.remove(place);
            if place == 0 || self.is_per_owner {
                told.last = over.compromise;
            }
            if told.holds.is_empty() { mem::take(&mut told.kept) } else { None }
        };
    }

    pub(super) fn report(&self, compromise: Compromise) {
        {
            let mut told = self.told.lock();
            let place = told.holds.iter().position(|hold| hold.token == compromise.token);
            let Some(place) = place.filter(|place| *place == 0 || self.is_per_owner) else { return };
            told.holds[place].compromise = Some(compromise.clone());
        }
        let Some(on_compromise) = self.on_compromise.clone() else { return };
        // A callback may wait for anything, and the heartbeat of other leases must not wait with it. Without a thread
        // the compromise stands to be read all the same.
        drop(sys::spawn_masked("ferrolock-compromise", move || on_compromise(compromise)));
    }
}

impl fmt::Debug for LeaseMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseMonitor").field("told", &self.told).finish_non_exhaustive()
    }
}
