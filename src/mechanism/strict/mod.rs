//! The strict lock: a marker that nobody takes over, and claims of which the smallest wins.
//!
//! How it works: the lock's path is occupied for good by the *sentinel*, which soft locks take for somebody's marker. Who
//! wants the lock publishes a *claim*, a file under a random token, in a folder beside the path, and looks who else has
//! one. Who has won keeps its claim until the release.
//!
//! | step of an attempt | what is done | contended if |
//! |---|---|---|
//! | *sentinel* | it is read, or made | a soft lock is held there |
//! | *glance* | the claims are read | there is one |
//! | *publish* | `intent-v1-<token>.claim` appears, whole | |
//! | *doorway* | the claims are read | one is held, or has a smaller token, or the own one is gone |
//! | *hold* | the claim gets its second name, `held-v1-<token>.claim` | |
//! | *verify* | the claims are read | one has a smaller token, or an own name is gone |
//! | *confirm* | the path still leads to this sentinel and folder | not so |
//!
//! The protocol is filelock's (3.30 and later), which takes part.
//!
//! What it guarantees: one holder among all who go by such claims, on any file system where creating a name is exclusive
//! and a listing has all names that were there all the while. No clock decides, nor what became of a process: whoever was
//! stopped, for however long and at whatever step, finds nothing changed.
//!
//! Downsides: (1) advisory. (2) The claim of a process that was killed stays, and keeps everybody out until somebody
//! removes it ([`StrictLock::force_break`]). (3) A file in the folder that is no claim stops everybody: it may be a
//! claim of a later version. (4) Nobody is served in turn: contenders poll. (5) It needs hard links.

mod claim;
mod record;
mod rooms;
mod sentinel;

use std::ffi::OsStr;
use std::io;
use std::path::Path;

pub use record::{ClaimState, StrictClaim};

use claim::{Claim, StrictGuard};
use rooms::{Rooms, protocol_error};

use super::marker::{MarkerLock, Site};
use super::{Attempt, Family, Holder, Mechanism, Terms};
use crate::error::Error;
use crate::process::{self, Fate};
use crate::record::Content;
use crate::sys::{self, FileId, names};

/// How often an attempt begins again because the file system said something that does not last.
const ROUNDS: usize = 8;

/// A lock that is never taken from anybody.
///
/// Takes part with filelock's `StrictSoftFileLock`, and excludes soft locks of the same path.
#[derive(Debug, Clone, Default)]
pub struct StrictLock {
    mode: Option<u32>,
}

/// What an attempt found that did not get the lock.
enum Contention {
    By(FileId),
    /// Somebody has just been faster.
    Unseen,
}

/// The permission bits of a new file, of which the umask takes some.
fn bits(mode: Option<u32>) -> u32 {
    mode.unwrap_or(0o666)
}

/// An error of making a file or giving it its second name.
fn publication_error(site: &Site, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::Unsupported {
        return protocol_error(site, "the file system has no hard links, by which claims are published");
    }
    site.failed("link", error)
}

impl StrictLock {
    /// A lock whose files get the permission bits `mode`, of which the umask takes some; `None` leaves them to the umask.
    #[must_use]
    pub fn new(mode: Option<u32>) -> Self {
        Self { mode }
    }

    /// The claims on `path`, by name: those that are held come first. A holder has two.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) for a file among them that is no claim, with its name; the operating system's.
    pub fn claims(path: &Path) -> Result<Vec<StrictClaim>, Error> {
        Rooms::find(path)?.map_or(Ok(Vec::new()), |rooms| Ok(rooms.scan()?.claims))
    }

    /// Removes one file from among the claims on `path`, whoever it belongs to, and says whether it was there. Its owner is
    /// not told.
    ///
    /// # Errors
    /// As [`StrictLock::claims`].
    pub fn force_break(path: &Path, name: &OsStr) -> Result<bool, Error> {
        let Some(rooms) = Rooms::find(path)? else { return Ok(false) };
        let remove = || {
            let at = rooms.claims.named(name)?;
            let is_there = names::look(at)?.is_some();
            names::remove(at).map(|()| is_there)
        };
        remove().map_err(|error| rooms.site.failed("unlink", error))
    }

    /// What stands at `path` where the sentinel should; `None`: that, or nothing.
    ///
    /// # Errors
    /// The operating system's.
    pub fn occupant(path: &Path) -> Result<Option<String>, Error> {
        sentinel::stranger_at(path)
    }

    fn attempt(&self, path: &Path) -> Result<Result<StrictGuard, Contention>, Error> {
        let rooms = Rooms::open(path, self.mode)?;
        let sentinel = match sentinel::open(&rooms, self.mode)? {
            Ok(sentinel) => sentinel,
            Err(contention) => return Ok(Err(contention)),
        };
        let id = sentinel.stamp().id;
        let contended = || Ok(Err(Contention::By(id)));
        claim::settle(&rooms);
        if !rooms.scan()?.claims.is_empty() {
            return contended();
        }
        let Some(claim) = Claim::publish(&rooms, self.mode)? else { return contended() };
        if !may_hold(&rooms.scan()?.claims, claim.token()) {
            return contended();
        }
        claim.hold(&rooms)?;
        let listing = rooms.scan()?;
        if !has_won(&listing.claims, claim.token()) || !rooms.are_still(id)? {
            return contended();
        }
        rooms.sweep_claims(&listing, &claim.file);
        Ok(Ok(claim.into_guard(sentinel)))
    }
}

/// Whether the claim `token` may get its second name. Who has his already saw no smaller claim when he was here.
fn may_hold(claims: &[StrictClaim], token: &str) -> bool {
    let is_held = claims.iter().any(|claim| claim.state == ClaimState::Held);
    !is_held && is_smallest(claims, token)
}

/// Whether the claim `token` is the lock. Who comes later with a smaller one sees that this is held, in [`may_hold`].
fn has_won(claims: &[StrictClaim], token: &str) -> bool {
    let has_both = claims.iter().filter(|claim| claim.token == token).count() == 2;
    has_both && is_smallest(claims, token)
}

fn is_smallest(claims: &[StrictClaim], token: &str) -> bool {
    claims.iter().map(|claim| claim.token.as_str()).min() == Some(token)
}

impl Mechanism for StrictLock {
    fn try_acquire(&self, path: &Path, _terms: Terms) -> Result<Attempt, Error> {
        let mut round = 0;
        loop {
            round += 1;
            let error = match self.attempt(path) {
                Ok(Ok(guard)) => return Ok(Attempt::Acquired(Box::new(guard))),
                Ok(Err(Contention::By(file))) => return Ok(Attempt::Contended(Some(file))),
                Ok(Err(Contention::Unseen)) => return Ok(Attempt::Contended(None)),
                Err(error) => error,
            };
            match error.os_error() {
                Some(cause) if cause.kind() == io::ErrorKind::Interrupted => return Ok(Attempt::Interrupted),
                Some(cause) if round < ROUNDS && sys::is_transient(cause) => {}
                Some(_) | None => return Err(error),
            }
        }
    }

    fn family(&self) -> Option<Family> {
        Some(Family { kind: "strict", mode: self.mode })
    }

    fn holder(&self, path: &Path) -> Option<Holder> {
        if MarkerLock::content(path) != Some(Content::Strict) {
            return MarkerLock::default().holder(path);
        }
        let owner = Self::claims(path).ok()?.into_iter().next()?.owner;
        let is_local = Site::find(path).ok()??.folder.is_local();
        Some(match process::fate(&owner, is_local) {
            Fate::Foreign => Holder::Elsewhere { pid: owner.pid, host: owner.host },
            Fate::Alive => Holder::Here { pid: owner.pid },
            Fate::Dead => Holder::Gone { pid: owner.pid },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(names: &[&str]) -> Vec<StrictClaim> {
        let claim = |name: &&str| {
            let (state, token) = name.split_once('-').expect("state and token");
            let state = if state == "held" { ClaimState::Held } else { ClaimState::Intent };
            let (token, owner) = (token.to_owned(), process::own_record());
            StrictClaim { name: state.claim(&token), state, token, owner }
        };
        names.iter().map(claim).collect()
    }

    #[test]
    fn the_smallest_claim_may_be_held_if_none_is() {
        assert!(may_hold(&claims(&["intent-5"]), "5"));
        assert!(may_hold(&claims(&["intent-5", "intent-7"]), "5"));
        for others in [&[][..], &["intent-4", "intent-5"], &["held-7", "intent-5", "intent-7"], &["intent-7"]]
        {
            assert!(!may_hold(&claims(others), "5"), "{others:?}");
        }
    }

    #[test]
    fn the_smallest_claim_wins_that_has_both_names() {
        assert!(has_won(&claims(&["held-5", "intent-5"]), "5"));
        assert!(has_won(&claims(&["held-5", "held-7", "intent-5", "intent-7"]), "5"));
        for others in [
            &["held-5"][..],
            &["intent-5"],
            &["held-5", "intent-4", "intent-5"],
            &["held-4", "held-5", "intent-5"],
        ] {
            assert!(!has_won(&claims(others), "5"), "{others:?}");
        }
    }
}
