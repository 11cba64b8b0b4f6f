//! The marker: a file whose existence is the lock, with a record of who holds it.
//!
//! How it works: a file with the owner's record is made without a name, and then given the lock's name, which fails if
//! anything has it. Releasing removes the name. A contender that finds a marker reads it, and if its owner is proved
//! dead takes its place (`reclaim`).
//!
//! What it guarantees: one holder among all that go by filelock's rules for such files, on any file system with
//! exclusive names. A holder that dies leaves a marker that the next contender of its machine can judge.
//!
//! Downsides: (1) advisory. (2) The marker of a machine that is gone stays until somebody removes it. (3) Who removes
//! a marker, or gives it a `lifetime`, frees the lock whoever holds it. (4) Where two names cannot be exchanged in one
//! step (NFS, BSD), a dead owner's marker stays.

mod aside;
mod courtesy;
mod draft;
mod form;
mod guard;
mod lease;
mod occupant;
mod place;
mod reclaim;
mod recover;
mod site;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) use draft::{OwnMarker, create};
pub(super) use form::Form;
pub use lease::LeaseTerms;
pub(super) use occupant::{Found, Occupant, age, is_abandoned, is_past_grace, read};
pub(super) use site::Site;

use form::Tenure;
use guard::MarkerGuard;
use place::MarkerPlace;

use super::health;
use super::{Attempt, CloseErrors, Family, Holder, Manners, Mechanism, Place, Terms};
use crate::error::Error;
use crate::process;
use crate::record::{Content, Record, Tenancy};
use crate::sys::{self, FileId};

/// How often an attempt starts again because a marker came or went in between.
const ROUNDS: usize = 16;

/// A lock by the existence of a file.
///
/// Takes part with filelock's `SoftFileLock` of releases 3.22 to 4.2.
#[derive(Debug, Clone, Default)]
pub struct MarkerLock {
    mode: Option<u32>,
    ignores_close_errors: bool,
    tenure: Tenure,
    outlook: Outlook,
}

/// Whether the name was free at the last attempt of a lock object, or of this copy of it. Then the next one makes its marker
/// without a look: what stands at the name keeps it from getting it.
#[derive(Debug, Default)]
struct Outlook {
    is_free: AtomicBool,
}

/// A copy is for somebody who waits, and whose success says nothing of the next attempt.
impl Clone for Outlook {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What an attempt does about a marker whose owner does not have its file locked.
#[derive(Debug, Clone, Copy)]
enum Judging {
    /// It finds out whether the owner lives, and takes the place of one who does not.
    Yes {
        /// A marker that the caller has waited for, and whose file it has locked.
        locked: Option<FileId>,
    },
    /// It leaves that to another one: asking is dear, and how long it takes to get the place nobody knows.
    No,
}

impl MarkerLock {
    /// A lock whose markers get the permission bits `mode`, without those that let others write; `None` leaves them
    /// to the umask.
    #[must_use]
    pub fn new(mode: Option<u32>) -> Self {
        Self { mode, ..Self::default() }
    }

    /// The same, with markers that say that they are exclusive: filelock's `MarkerSoftFileLock`. A lease of somebody else
    /// is taken over only if its owner is proved dead.
    #[must_use]
    pub fn exclusive(mode: Option<u32>) -> Self {
        Self { mode, tenure: Tenure::Exclusive, ..Self::default() }
    }

    /// The same, with markers that are kept fresh, and are taken over when they were not: filelock's `SoftFileLease`.
    #[must_use]
    pub fn lease(mode: Option<u32>, terms: LeaseTerms) -> Self {
        Self { mode, tenure: Tenure::Lease(Arc::new(terms)), ..Self::default() }
    }

    /// What becomes of errors of closing the file. Unless this says so, the release fails with them.
    #[must_use]
    pub fn with_close_errors(self, close_errors: CloseErrors) -> Self {
        Self { ignores_close_errors: close_errors == CloseErrors::Suppress, ..self }
    }

    /// What the marker at `path` says, if there is one.
    #[must_use]
    pub fn content(path: &Path) -> Option<Content> {
        occupant::content_at(path).map(|occupant| occupant.content)
    }

    /// Whether the marker at `path` names this very process.
    #[must_use]
    pub fn is_held_by_this_process(path: &Path) -> bool {
        Self::content(path).is_some_and(|content| match content.owner() {
            Some(record) => is_own(record),
            None => content.pid() == Some(std::process::id()),
        })
    }

    /// On what terms the marker at `path` is held, if it says so.
    #[must_use]
    pub fn tenancy(path: &Path) -> Option<Tenancy> {
        match Self::content(path)? {
            Content::Tenant(tenancy) => Some(*tenancy),
            Content::Empty
            | Content::Owned(_)
            | Content::Bare(_)
            | Content::Released
            | Content::Strict
            | Content::Malformed => None,
        }
    }

    /// Whether `owner` is this very process.
    #[must_use]
    pub fn is_own(owner: &Record) -> bool {
        is_own(owner)
    }

    /// Removes what stands at `path`, whoever it belongs to.
    ///
    /// # Errors
    /// The operating system's. Nothing there is fine.
    pub fn remove(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// One attempt; `None`: it came upon what it is not to judge.
    fn attempt(&self, path: &Path, terms: Terms, judging: Judging) -> Result<Option<Attempt>, Error> {
        if terms.manners == Manners::Polite && courtesy::due(path).is_some() {
            return Ok(Some(Attempt::Contended(None)));
        }
        let begun = self.is_lease().then(health::now);
        let site = Site::open(path)?;
        let mut looks = !self.outlook.is_free.swap(false, Ordering::Relaxed);
        for _ in 0..ROUNDS {
            let Some(stamp) = (if looks { site.look()? } else { None }) else {
                let form = Form::new(self.mode, &self.tenure);
                match draft::create(&site, &site.name, &form) {
                    Ok(Some(marker)) => {
                        // Elsewhere a marker is dear to make, and what this machine remembers of the name may be wrong.
                        let is_local = sys::is_device_known_local(marker.id().device);
                        self.outlook.is_free.store(is_local, Ordering::Relaxed);
                        return self.grant(site, marker, form, begun).map(Some);
                    }
                    Err(error) if looks => return Err(error),
                    // Without a look it may be taken, and who waits for it needs no room for a marker yet.
                    Ok(None) | Err(_) => looks = true,
                }
                continue;
            };
            let occupant = match occupant::read(&site, &site.name, &stamp)? {
                Found::Nothing => continue,
                Found::Unreadable(file) => return Ok(Some(Attempt::Contended(Some(file)))),
                Found::Marker(occupant) => occupant,
            };
            let contended = Attempt::Contended(Some(occupant.stamp().id));
            // A lifetime is a request to take the marker of whoever has it, also of one who is stopped as he reclaims.
            let is_aged = occupant.is_aged(terms.lifetime);
            let is_up = match judging {
                Judging::No if is_aged || !occupant.is_kept(None) => return Ok(None),
                Judging::No => false,
                Judging::Yes { locked } => occupant.is_up_for_reclaim(&site, &self.tenure, locked)?,
            };
            if !is_up && !is_aged {
                return Ok(Some(contended));
            }
            let form = Form::new(self.mode, &self.tenure);
            return match reclaim::reclaim(&site, &occupant, &form)? {
                Some(marker) => self.grant(site, marker, form, begun).map(Some),
                None => Ok(Some(contended)),
            };
        }
        // Somebody is about to take it, or has just been faster.
        Ok(Some(Attempt::Contended(None)))
    }

    /// Makes a marker of our own a hold. A lease that took too long to make is none.
    fn grant(
        &self,
        site: Site,
        marker: OwnMarker,
        form: Form,
        begun: Option<Duration>,
    ) -> Result<Attempt, Error> {
        let lease = match &self.tenure {
            Tenure::Lease(terms) => form.token.zip(begun).map(|(token, begun)| (terms, token, begun)),
            Tenure::Unstated | Tenure::Exclusive => None,
        };
        let close_errors = if self.ignores_close_errors { CloseErrors::Suppress } else { CloseErrors::Raise };
        let guard = MarkerGuard::new(site, marker, close_errors, lease.is_some());
        let guard = match lease {
            Some((terms, token, begun)) => guard.begin_lease(terms, token, begun)?,
            None => Some(guard),
        };
        Ok(guard.map_or(Attempt::Contended(None), |guard| Attempt::Acquired(Box::new(guard))))
    }

    /// As [`Mechanism::try_acquire`], for who has waited for the marker `locked` and has its file locked.
    fn try_acquire_after(&self, path: &Path, terms: Terms, locked: Option<FileId>) -> Result<Attempt, Error> {
        let attempted = self.try_acquire_by(path, terms, Judging::Yes { locked })?;
        Ok(attempted.unwrap_or(Attempt::Contended(None)))
    }

    fn try_acquire_by(&self, path: &Path, terms: Terms, judging: Judging) -> Result<Option<Attempt>, Error> {
        match self.attempt(path, terms, judging) {
            Err(error) if is_interrupted(&error) => Ok(Some(Attempt::Interrupted)),
            attempted => attempted,
        }
    }
}

impl MarkerLock {
    fn is_lease(&self) -> bool {
        matches!(self.tenure, Tenure::Lease(_))
    }
}

fn is_own(record: &Record) -> bool {
    let own = process::own_record();
    let same_start = match (record.start, own.start) {
        (Some(recorded), Some(own)) => own.matches(&recorded),
        (None, _) | (_, None) => true,
    };
    record.pid == own.pid && record.host == own.host && same_start
}

impl Mechanism for MarkerLock {
    fn try_acquire(&self, path: &Path, terms: Terms) -> Result<Attempt, Error> {
        self.try_acquire_after(path, terms, None)
    }

    fn try_acquire_briefly(&self, path: &Path, terms: Terms) -> Result<Option<Attempt>, Error> {
        self.try_acquire_by(path, terms, Judging::No)
    }

    fn open_place(&self, path: &Path, terms: Terms) -> Result<Option<Arc<dyn Place>>, Error> {
        if self.is_lease() {
            return Ok(None);
        }
        match MarkerPlace::open(self, path, terms) {
            Ok(place) => Ok(place.map(|place| Arc::new(place) as Arc<dyn Place>)),
            Err(error) if is_interrupted(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn wakes_waiters(&self, path: &Path) -> bool {
        !self.is_lease() && sys::is_path_known_local(path)
    }

    fn family(&self) -> Option<Family> {
        let kind = match self.tenure {
            Tenure::Unstated => "marker",
            Tenure::Exclusive => "exclusive marker",
            // Each lock object is told of its own holds.
            Tenure::Lease(_) => return None,
        };
        Some(Family { kind, mode: self.mode })
    }

    fn holder(&self, path: &Path) -> Option<Holder> {
        let content = Self::content(path)?;
        match content.owner() {
            Some(record @ Record { pid, host, .. }) if process::is_foreign(record, false) => {
                Some(Holder::Elsewhere { pid: *pid, host: host.clone() })
            }
            Some(Record { pid, .. }) => Some(Holder::Here { pid: *pid }),
            None if content == Content::Empty => Some(Holder::Unnamed),
            None => content.pid().map(|pid| Holder::Here { pid }),
        }
    }
}

fn is_interrupted(error: &Error) -> bool {
    error.os_error().is_some_and(|error| error.kind() == io::ErrorKind::Interrupted)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Those who contend would make a marker at each attempt, and throw it away.
    #[test]
    fn only_who_found_the_name_free_makes_a_marker_without_a_look() -> Result<(), Box<dyn std::error::Error>>
    {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.lock");
        let [ours, theirs] = [MarkerLock::default(), MarkerLock::default()];
        let ask = |lock: &MarkerLock| lock.try_acquire(&path, Manners::Hasty.into());
        let trusts = |lock: &MarkerLock| lock.outlook.is_free.load(Ordering::Relaxed);
        assert!(!trusts(&ours));
        let held = ask(&ours)?;
        let is_local = Site::open(&path)?.folder.is_local();
        assert_eq!((trusts(&ours), trusts(&ours.clone())), (is_local, false));
        assert!(matches!(ask(&theirs)?, Attempt::Contended(Some(_))));
        assert!(matches!(ask(&ours)?, Attempt::Contended(Some(_))));
        assert!(!trusts(&theirs) && !trusts(&ours));
        drop(held);
        assert!(matches!(ask(&theirs)?, Attempt::Acquired(_)));
        assert_eq!(trusts(&theirs), is_local);
        Ok(())
    }
}
