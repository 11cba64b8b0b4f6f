//! Waiting for a marker to go.
//!
//! Its owner has locked the marker's file, which the kernel gives back when the file is closed: after the marker was
//! removed, or when the owner dies. So waiters of the same machine block in that lock, in the kernel's order, and
//! whoever gets it looks what has become of the marker. Those behind find another marker there, the new owner's, and
//! wait for that one, in the same order.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::MarkerLock;
use super::courtesy;
use super::occupant::{self, Found};
use super::site::Site;
use crate::error::Error;
use crate::fork::Tracked;
use crate::mechanism::{Attempt, Guard, Manners, Place, Terms};
use crate::sys::{self, FileId, Verdict};
use crate::wait;

/// How many ticks there are to one full attempt, as long as the marker stays: its owner's end comes without one.
const TICKS: u32 = 5;

/// What a waiter of this process waits for.
#[derive(Debug)]
pub(super) struct MarkerPlace {
    lock: MarkerLock,
    path: PathBuf,
    terms: Terms,
    site: Site,
    until: Until,
    ticks: AtomicU32,
}

#[derive(Debug)]
enum Until {
    /// The owner closes the marker.
    Closed(Tracked),
    /// Nobody has locked the marker, or it is none and not ours to lock: nothing tells when it goes.
    Unknown(Tracked),
    /// The time comes.
    Instant(Instant),
}

impl MarkerPlace {
    /// `None`: nobody is woken here.
    pub(super) fn open(lock: &MarkerLock, path: &Path, terms: Terms) -> Result<Option<Self>, Error> {
        let site = Site::open(path)?;
        let Some(until) = Until::find(&site, terms)? else { return Ok(None) };
        let (lock, path) = (lock.clone(), path.to_owned());
        Ok(Some(Self { lock, path, terms, site, until, ticks: AtomicU32::new(0) }))
    }
}

impl Until {
    fn find(site: &Site, terms: Terms) -> Result<Option<Self>, Error> {
        if !site.folder.is_local() {
            return Ok(None);
        }
        if terms.manners == Manners::Polite {
            if let Some(until) = courtesy::due(Path::new(&site.name)) {
                return Ok(Some(Self::Instant(until)));
            }
        }
        let at_once = || Ok(Some(Self::Instant(Instant::now())));
        let Some(stamp) = site.look()? else { return at_once() };
        let occupant = match occupant::read(site, &site.name, &stamp)? {
            Found::Marker(occupant) => occupant,
            Found::Nothing => return at_once(),
            Found::Unreadable(_) => return Ok(None),
        };
        // What is no marker may be the file of somebody's kernel lock.
        let (true, Some(file)) = (occupant.is_locked_while_held(), occupant.file.file()) else {
            return Ok(Some(Self::Unknown(occupant.file)));
        };
        match sys::try_lock(file) {
            Err(error) if sys::classify(&error) == Verdict::Contended => {
                sys::announce_waiter(file);
                Ok(Some(Self::Closed(occupant.file)))
            }
            // Its owner has just removed it, and then closed it: whoever waits for it must not wait for us.
            Ok(()) if !site.is_still(occupant.stamp())? => at_once(),
            tried => {
                // Who reclaims it needs the lock, and this one may be stopped while it has it.
                if tried.is_ok() {
                    drop(sys::unlock(file));
                }
                Ok(Some(Self::Unknown(occupant.file)))
            }
        }
    }
}

fn unsupported() -> io::Error {
    io::Error::from(io::ErrorKind::Unsupported)
}

impl Place for MarkerPlace {
    fn file(&self) -> Option<FileId> {
        match &self.until {
            Until::Closed(file) | Until::Unknown(file) => Some(file.stamp().id),
            Until::Instant(_) => None,
        }
    }

    /// The kernel's order in the lock of the marker is all there is, and it is another marker each time.
    fn has_line(&self) -> bool {
        false
    }

    fn is_outdated(&self) -> bool {
        let there = self.site.look().ok().flatten();
        there.map(|stamp| stamp.id) != self.file()
    }

    fn is_worth_an_attempt(&self) -> bool {
        let is_due = self.ticks.fetch_add(1, Ordering::Relaxed) % TICKS == TICKS - 1;
        is_due || !matches!(self.until, Until::Closed(_)) || self.is_outdated()
    }

    fn wait_for_turn(&self, limit: Option<Duration>) -> io::Result<bool> {
        match &self.until {
            Until::Closed(file) => sys::wait_for_lock(file.file().ok_or_else(unsupported)?, limit),
            Until::Unknown(_) => Err(unsupported()),
            Until::Instant(until) => {
                let left = until.saturating_duration_since(Instant::now());
                wait::sleep(limit.map_or(left, |limit| left.min(limit)));
                Ok(limit.is_none_or(|limit| left <= limit))
            }
        }
    }

    fn leave_line(&self) {}

    fn is_line_reported_stuck(&self) -> bool {
        false
    }

    fn report_stuck_line(&self) {}

    fn wait_for_lock(&self, limit: Duration) -> io::Result<bool> {
        self.wait_for_turn(Some(limit))
    }

    fn into_guard(self: Arc<Self>) -> Result<Option<Box<dyn Guard>>, Error> {
        let terms = Terms { manners: Manners::Hasty, ..self.terms };
        let locked = if let Until::Closed(file) = &self.until { Some(file.stamp().id) } else { None };
        match self.lock.try_acquire_after(&self.path, terms, locked)? {
            Attempt::Acquired(guard) => Ok(Some(guard)),
            Attempt::Contended(_) | Attempt::Interrupted => Ok(None),
        }
    }
}
