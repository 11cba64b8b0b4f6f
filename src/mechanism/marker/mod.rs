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
mod guard;
mod occupant;
mod place;
mod reclaim;
mod recover;
mod site;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub(super) use draft::{OwnMarker, create};
pub(super) use occupant::{Found, Occupant, age, is_abandoned, is_past_grace, read};
pub(super) use site::Site;

use guard::MarkerGuard;
use place::MarkerPlace;

use super::{Attempt, CloseErrors, Family, Holder, Manners, Mechanism, Place, Terms};
use crate::error::Error;
use crate::process::{self, Fate};
use crate::record::{Content, Record};
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
}

/// What an attempt found that did not get the lock.
enum Contention {
    By(FileId),
    /// Somebody is about to take it, or has just been faster.
    Unseen,
}

impl MarkerLock {
    /// A lock whose markers get the permission bits `mode`, without those that let others write; `None` leaves them
    /// to the umask.
    #[must_use]
    pub fn new(mode: Option<u32>) -> Self {
        Self { mode, ignores_close_errors: false }
    }

    /// What becomes of errors of closing the file. Unless this says so, the release fails with them.
    #[must_use]
    pub fn with_close_errors(self, close_errors: CloseErrors) -> Self {
        Self { ignores_close_errors: close_errors == CloseErrors::Suppress, ..self }
    }

    fn guard(&self, site: Site, draft: OwnMarker) -> MarkerGuard {
        let close_errors = if self.ignores_close_errors { CloseErrors::Suppress } else { CloseErrors::Raise };
        MarkerGuard::new(site, draft, close_errors)
    }

    /// What the marker at `path` says, if there is one.
    #[must_use]
    pub fn content(path: &Path) -> Option<Content> {
        occupant::content_at(path).map(|occupant| occupant.content)
    }

    /// Whether the marker at `path` names this very process.
    #[must_use]
    pub fn is_held_by_this_process(path: &Path) -> bool {
        match Self::content(path) {
            Some(Content::Owned(record)) => is_own(&record),
            Some(Content::Bare(pid)) => pid == std::process::id(),
            Some(Content::Empty | Content::Released | Content::Strict | Content::Malformed) | None => false,
        }
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

    /// One attempt. `locked` is a marker that the caller has waited for, and whose file it has locked.
    fn attempt(
        &self,
        path: &Path,
        terms: Terms,
        locked: Option<FileId>,
    ) -> Result<Result<MarkerGuard, Contention>, Error> {
        if terms.manners == Manners::Polite && courtesy::due(path.file_name()).is_some() {
            return Ok(Err(Contention::Unseen));
        }
        let site = Site::open(path)?;
        for _ in 0..ROUNDS {
            let Some(stamp) = site.look()? else {
                match draft::create(&site, &site.name, self.mode)? {
                    Some(draft) => return Ok(Ok(self.guard(site, draft))),
                    None => continue,
                }
            };
            let occupant = match occupant::read(&site, &site.name, &stamp)? {
                Found::Nothing => continue,
                Found::Unreadable(file) => return Ok(Err(Contention::By(file))),
                Found::Marker(occupant) => occupant,
            };
            // A lifetime is a request to take the marker of whoever has it, also of one who is stopped as he reclaims.
            if !occupant.is_up_for_reclaim(locked) && !occupant.is_aged(terms.lifetime) {
                return Ok(Err(Contention::By(occupant.stamp.id)));
            }
            return Ok(match reclaim::reclaim(&site, &occupant, self.mode)? {
                Some(draft) => Ok(self.guard(site, draft)),
                None => Err(Contention::By(occupant.stamp.id)),
            });
        }
        Ok(Err(Contention::Unseen))
    }

    /// As [`Mechanism::try_acquire`], for who has waited for the marker `locked` and has its file locked.
    fn try_acquire_after(&self, path: &Path, terms: Terms, locked: Option<FileId>) -> Result<Attempt, Error> {
        match self.attempt(path, terms, locked) {
            Ok(Ok(guard)) => Ok(Attempt::Acquired(Box::new(guard))),
            Ok(Err(Contention::By(file))) => Ok(Attempt::Contended(Some(file))),
            Ok(Err(Contention::Unseen)) => Ok(Attempt::Contended(None)),
            Err(error) if is_interrupted(&error) => Ok(Attempt::Interrupted),
            Err(error) => Err(error),
        }
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

    fn open_place(&self, path: &Path, terms: Terms) -> Result<Option<Arc<dyn Place>>, Error> {
        match MarkerPlace::open(self, path, terms) {
            Ok(place) => Ok(place.map(|place| Arc::new(place) as Arc<dyn Place>)),
            Err(error) if is_interrupted(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn wakes_waiters(&self, path: &Path) -> bool {
        sys::is_path_known_local(path)
    }

    fn family(&self) -> Option<Family> {
        Some(Family { kind: "marker", mode: self.mode })
    }

    fn holder(&self, path: &Path) -> Option<Holder> {
        match Self::content(path)? {
            Content::Owned(record) if process::fate(&record, false) == Fate::Foreign => {
                Some(Holder::Elsewhere { pid: record.pid, host: record.host })
            }
            Content::Owned(Record { pid, .. }) | Content::Bare(pid) => Some(Holder::Here { pid }),
            Content::Empty => Some(Holder::Unnamed),
            Content::Released | Content::Strict | Content::Malformed => None,
        }
    }
}

fn is_interrupted(error: &Error) -> bool {
    error.os_error().is_some_and(|error| error.kind() == io::ErrorKind::Interrupted)
}
