//! Laws of the leases of readers and writers: who is let in, whose files are whose, and who is told what.

mod compromise;
mod files;
#[cfg(unix)]
mod hostile;
mod objects;
mod processes;
mod staleness;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrolock::mechanism::{
    Attempt, Bid, Guard, LeaseMonitor, LeaseReadWriteLock, LeaseSettings, Manners, Mechanism, Mode,
    OnCompromise, Terms,
};
use ferrolock::wait::sleep;

use crate::support::{Checked, LONG};

/// Longer than any pause of a busy machine, where nothing may be stale.
pub(crate) const PATIENT: LeaseSettings = settings(20_000, 5_000);

/// Short, where something has to become stale.
pub(crate) const SHORT_LIVED: LeaseSettings = settings(240, 60);

pub(crate) const fn settings(threshold: u64, interval: u64) -> LeaseSettings {
    LeaseSettings {
        stale_threshold: Duration::from_millis(threshold),
        heartbeat_interval: Duration::from_millis(interval),
    }
}

/// A lock object without the counting.
pub(crate) struct Party {
    pub(crate) lock: LeaseReadWriteLock,
    pub(crate) monitor: Arc<LeaseMonitor>,
    path: PathBuf,
}

impl Party {
    pub(crate) fn new(path: &Path, settings: LeaseSettings) -> Self {
        Self::told(path, settings, None)
    }

    pub(crate) fn told(path: &Path, settings: LeaseSettings, on_compromise: Option<OnCompromise>) -> Self {
        let monitor = Arc::new(LeaseMonitor::new(on_compromise));
        let lock = LeaseReadWriteLock::new(settings, Arc::clone(&monitor));
        Self { lock, monitor, path: path.to_owned() }
    }

    /// One attempt.
    pub(crate) fn once(&self, mode: Mode) -> Checked<Option<Box<dyn Guard>>> {
        let terms = Terms { mode, ..Manners::Hasty.into() };
        acquired(self.lock.try_acquire(&self.path, terms)?)
    }

    pub(crate) fn bid(&self, mode: Mode) -> Checked<Box<dyn Bid>> {
        let terms = Terms { mode, ..Manners::Polite.into() };
        self.lock.bid(&self.path, terms).ok_or_else(|| "there are bids".into())
    }

    /// Waits as the wait loop does.
    pub(crate) fn within(&self, mode: Mode, limit: Duration) -> Checked<Option<Box<dyn Guard>>> {
        let mut bid = self.bid(mode)?;
        let begin = Instant::now();
        loop {
            if let Some(guard) = acquired(bid.attempt()?)? {
                return Ok(Some(guard));
            }
            if begin.elapsed() >= limit {
                return Ok(None);
            }
            sleep(Duration::from_millis(3));
        }
    }

    pub(crate) fn hold(&self, mode: Mode) -> Checked<Box<dyn Guard>> {
        Ok(self.within(mode, LONG)?.ok_or("waited in vain")?)
    }
}

fn acquired(attempt: Attempt) -> Checked<Option<Box<dyn Guard>>> {
    match attempt {
        Attempt::Acquired(guard) => Ok(Some(guard)),
        Attempt::Contended(_) => Ok(None),
        Attempt::Interrupted => Err("nothing interrupts a test".into()),
    }
}

pub(crate) fn release(guard: Box<dyn Guard>) -> Checked {
    guard.release().map_err(|failed| failed.error.into())
}

/// A path in a folder of its own.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Site {
    pub(crate) fn new() -> Checked<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().canonicalize()?.join("x.lock");
        Ok(Self { folder, path })
    }

    pub(crate) fn party(&self) -> Party {
        Party::new(&self.path, PATIENT)
    }

    pub(crate) fn beside(&self, end: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(end);
        path.into()
    }

    /// All names there, sorted: those in the folder of readers with a slash before them.
    pub(crate) fn names(&self) -> Checked<Vec<String>> {
        let list = |folder: &Path, before: &str| -> Checked<Vec<String>> {
            let names = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name()));
            let names = names.collect::<Result<Vec<_>, _>>()?;
            Ok(names.iter().map(|name| format!("{before}{}", name.to_string_lossy())).collect())
        };
        let mut names = list(self.folder.path(), "")?;
        names.extend(list(&self.beside(".readers"), "/")?);
        names.sort();
        Ok(names)
    }

    pub(crate) fn readers(&self) -> Checked<Vec<PathBuf>> {
        let is_reader = |name: &String| name.starts_with('/') && !name.starts_with("/.");
        let names = self.names()?.into_iter().filter(is_reader);
        Ok(names.map(|name| self.beside(".readers").join(&name[1..])).collect())
    }

    /// The names by which writers of ours claim.
    pub(crate) fn claims(&self) -> Checked<Vec<PathBuf>> {
        let names = self.names()?.into_iter().filter(|name| name.starts_with("/.writer."));
        Ok(names.map(|name| self.beside(".readers").join(&name[1..])).collect())
    }
}

#[test]
fn readers_share_and_a_writer_is_alone() -> Checked {
    let site = Site::new()?;
    let parties = [site.party(), site.party(), site.party()];
    let first = parties[0].once(Mode::Shared)?.ok_or("the lock is free")?;
    let second = parties[1].once(Mode::Shared)?.ok_or("readers share")?;
    assert!(parties[2].once(Mode::Exclusive)?.is_none(), "two readers are there");
    release(first)?;
    assert!(parties[2].once(Mode::Exclusive)?.is_none(), "one reader is there");
    release(second)?;
    let writer = parties[2].once(Mode::Exclusive)?.ok_or("the lock is free")?;
    assert!(parties[0].once(Mode::Shared)?.is_none(), "a writer is there");
    assert!(parties[0].once(Mode::Exclusive)?.is_none(), "a writer is there");
    release(writer)?;
    assert!(parties[0].once(Mode::Shared)?.is_some());
    assert!(parties[1].once(Mode::Exclusive)?.is_some(), "a guard that is dropped gives it back");
    Ok(())
}

#[test]
fn a_writer_that_waits_keeps_new_readers_out_until_it_gives_up() -> Checked {
    let site = Site::new()?;
    let parties = [site.party(), site.party(), site.party()];
    let reader = parties[0].hold(Mode::Shared)?;
    let mut bid = parties[1].bid(Mode::Exclusive)?;
    assert!(acquired(bid.attempt()?)?.is_none());
    let claims = site.claims()?;
    assert_eq!(claims.len(), 1);
    assert!(parties[2].once(Mode::Shared)?.is_none(), "a writer waits");
    assert!(acquired(bid.attempt()?)?.is_none());
    assert_eq!(site.claims()?, claims, "the claim stays the one that it was");
    drop(bid);
    assert!(site.claims()?.is_empty());
    assert!(!site.beside(".write").exists());
    let other = parties[2].once(Mode::Shared)?.ok_or("the writer has given up")?;
    let mut bid = parties[1].bid(Mode::Exclusive)?;
    assert!(acquired(bid.attempt()?)?.is_none());
    release(reader)?;
    assert!(acquired(bid.attempt()?)?.is_none(), "one is left");
    release(other)?;
    assert!(acquired(bid.attempt()?)?.is_some());
    Ok(())
}

#[test]
fn an_attempt_that_does_not_wait_leaves_nothing() -> Checked {
    let site = Site::new()?;
    let parties = [site.party(), site.party()];
    let reader = parties[0].hold(Mode::Shared)?;
    assert!(parties[1].once(Mode::Exclusive)?.is_none());
    assert!(site.claims()?.is_empty() && !site.beside(".write").exists() && !site.beside(".state").exists());
    assert_eq!(site.readers()?.len(), 1);
    release(reader)
}

#[test]
fn numbers_grow_with_every_writer_and_readers_have_the_last_one() -> Checked {
    let site = Site::new()?;
    let (one, other) = (site.party(), site.party());
    let mut last = 0;
    for round in 0..5 {
        let party = if round % 2 == 0 { &one } else { &other };
        let guard = party.hold(Mode::Exclusive)?;
        let number = party.monitor.generation().ok_or("a hold has a number")?;
        assert!(number > last, "{number} after {last}");
        last = number;
        release(guard)?;
        assert_eq!(party.monitor.generation(), None);
    }
    let reader = one.hold(Mode::Shared)?;
    assert_eq!(one.monitor.generation(), Some(last));
    assert!(other.once(Mode::Exclusive)?.is_none());
    release(reader)?;
    assert!(other.once(Mode::Exclusive)?.is_some());
    let is_number = |name: &&String| name.starts_with("/.generation.");
    assert_eq!(site.names()?.iter().filter(is_number).count(), 1, "only the last one stays");
    Ok(())
}
