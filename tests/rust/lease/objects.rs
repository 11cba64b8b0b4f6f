//! Leases through lock objects: owners and their levels, and what a lost hold does to them.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use ferrolock::mechanism::{LeaseMonitor, LeaseReadWriteLock, LeaseSettings, Mode};
use ferrolock::{ErrorKind, OwnerId, ReadWrite, Released, Stop, Timeout, Unwatched, WaitsBy, Watch};

use super::{PATIENT, Site, release, settings};
use crate::support::{Checked, greenlet, patience, until};

struct Object {
    lock: ReadWrite,
    monitor: Arc<LeaseMonitor>,
    path: std::path::PathBuf,
}

impl Object {
    fn new(site: &Site, settings: LeaseSettings) -> Self {
        let monitor = Arc::new(LeaseMonitor::new(None));
        let lock = ReadWrite::new(Box::new(LeaseReadWriteLock::new(settings, Arc::clone(&monitor))));
        Self { lock, monitor, path: site.path.clone() }
    }

    fn acquire(&self, owner: OwnerId, mode: Mode, timeout: Timeout) -> Result<(), ErrorKind> {
        let acquired = self.lock.acquire(owner, mode, &self.path, patience(timeout), &mut Unwatched);
        acquired.map_err(|error| error.kind())
    }

    fn release(&self, owner: OwnerId) -> Result<Released, ErrorKind> {
        self.lock.release(owner, false, &self.path).map_err(|error| error.kind())
    }

    fn release_lost(&self) -> Result<Released, ErrorKind> {
        self.lock.release_lost(&self.path).map_err(|error| error.kind())
    }

    /// Held by owner 1 in two levels, and lost.
    fn lost(site: &Site, mode: Mode) -> Checked<Self> {
        let object = Self::robbed(site, mode, settings(20_000, 30))?;
        until("the loss is seen", || Ok(object.monitor.compromise().is_some()))?;
        Ok(object)
    }

    /// The same before it is told.
    fn robbed(site: &Site, mode: Mode, settings: LeaseSettings) -> Checked<Self> {
        let object = Self::new(site, settings);
        assert_eq!(object.acquire(greenlet(1), mode, Timeout::Never), Ok(()));
        assert_eq!(object.acquire(greenlet(1), mode, Timeout::Never), Ok(()));
        let markers = if mode == Mode::Shared { site.readers()? } else { site.claims()? };
        fs::remove_file(&markers[0])?;
        if mode == Mode::Exclusive {
            fs::remove_file(site.beside(".write"))?;
        }
        Ok(object)
    }
}

#[test]
fn a_reader_of_two_objects_gets_in_past_a_writer_that_waits_for_it() -> Checked {
    let site = Site::new()?;
    let (one, other) = (Object::new(&site, PATIENT), Object::new(&site, PATIENT));
    assert_eq!(one.acquire(greenlet(1), Mode::Shared, Timeout::Never), Ok(()));
    let writer = site.party();
    let mut bid = writer.bid(Mode::Exclusive)?;
    assert!(super::acquired(bid.attempt()?)?.is_none());
    let once = other.acquire(greenlet(2), Mode::Shared, Timeout::Once);
    assert!(matches!(once, Err(ErrorKind::TimedOut(_))), "another owner queues: {once:?}");
    assert_eq!(other.acquire(greenlet(1), Mode::Shared, Timeout::Never), Ok(()));
    assert_eq!(one.release(greenlet(1)), Ok(Released::Unlocked));
    assert!(super::acquired(bid.attempt()?)?.is_none());
    assert_eq!(other.release(greenlet(1)), Ok(Released::Unlocked));
    let writer = super::acquired(bid.attempt()?)?.ok_or("nobody else is there")?;
    let once = other.acquire(greenlet(1), Mode::Shared, Timeout::Once);
    assert!(matches!(once, Err(ErrorKind::TimedOut(_))), "a writer is there: {once:?}");
    release(writer)
}

#[test]
fn it_gets_in_also_where_somebody_is_in_a_transition() -> Checked {
    let site = Site::new()?;
    let (one, other) = (Object::new(&site, PATIENT), Object::new(&site, PATIENT));
    assert_eq!(one.acquire(greenlet(1), Mode::Shared, Timeout::Never), Ok(()));
    fs::write(site.beside(".state"), "4711\nelsewhere\n")?;
    let once = other.acquire(greenlet(2), Mode::Shared, Timeout::Once);
    assert!(matches!(once, Err(ErrorKind::TimedOut(_))), "{once:?}");
    assert_eq!(other.acquire(greenlet(1), Mode::Shared, Timeout::Never), Ok(()));
    Ok(())
}

#[test]
fn what_an_owner_waits_for_itself_for_is_refused() -> Checked {
    let site = Site::new()?;
    let (one, other) = (Object::new(&site, PATIENT), Object::new(&site, PATIENT));
    for (held, wanted) in
        [(Mode::Shared, Mode::Exclusive), (Mode::Exclusive, Mode::Shared), (Mode::Exclusive, Mode::Exclusive)]
    {
        assert_eq!(one.acquire(greenlet(1), held, Timeout::Never), Ok(()));
        assert_eq!(other.acquire(greenlet(1), wanted, Timeout::Never), Err(ErrorKind::Deadlock));
        let late = other.acquire(greenlet(1), wanted, Timeout::After(Duration::from_millis(20)));
        assert!(matches!(late, Err(ErrorKind::TimedOut(_))), "{late:?}");
        assert_eq!(one.release(greenlet(1)), Ok(Released::Unlocked));
        assert_eq!(other.acquire(greenlet(1), wanted, Timeout::Never), Ok(()));
        assert_eq!(other.release(greenlet(1)), Ok(Released::Unlocked));
    }
    Ok(())
}

/// Looks once what is published when an acquisition begins to wait, and gives up.
struct Onlooker<'a> {
    site: &'a Site,
    seen: Option<(usize, bool)>,
}

impl Watch for Onlooker<'_> {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        let claims = self.site.claims().map_or(0, |claims| claims.len());
        self.seen = Some((claims, self.site.beside(".write").exists()));
        ControlFlow::Break(Stop::Cancelled)
    }

    fn pause(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        ControlFlow::Continue(())
    }
}

#[test]
fn the_claim_of_a_writer_that_will_wait_stays_from_its_first_attempt_on() -> Checked {
    let site = Site::new()?;
    let (reader, writer) = (Object::new(&site, PATIENT), Object::new(&site, PATIENT));
    assert_eq!(reader.acquire(greenlet(1), Mode::Shared, Timeout::Never), Ok(()));
    // Who does not wait is asked too, once.
    for (timeout, published) in [
        (Timeout::Never, Some((1, true))),
        (Timeout::After(super::LONG), Some((1, true))),
        (Timeout::After(Duration::ZERO), Some((0, false))),
        (Timeout::Once, None),
    ] {
        let mut onlooker = Onlooker { site: &site, seen: None };
        let acquired =
            writer.lock.acquire(greenlet(2), Mode::Exclusive, &site.path, patience(timeout), &mut onlooker);
        assert!(acquired.is_err());
        assert_eq!(onlooker.seen, published, "{timeout:?}");
        assert!(site.claims()?.is_empty() && !site.beside(".write").exists(), "{timeout:?}");
    }
    Ok(())
}

#[test]
fn a_lost_hold_takes_no_level_until_it_is_released() -> Checked {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let site = Site::new()?;
        let object = Object::lost(&site, mode)?;
        let number = object.monitor.generation();
        for owner in [1, 2] {
            let again = object.acquire(greenlet(owner), mode, Timeout::Never);
            assert_eq!(again, Err(ErrorKind::Compromised));
        }
        assert_eq!(object.monitor.generation(), number);
        assert_eq!(object.release(greenlet(1)), Ok(Released::StillHeld));
        assert_eq!(object.release(greenlet(1)), Ok(Released::Unlocked));
        assert_eq!(object.monitor.generation(), None);
        assert!(object.monitor.compromise().is_some());
        assert_eq!(object.acquire(greenlet(1), mode, Timeout::Never), Ok(()));
        assert!(object.monitor.compromise().is_none());
    }
    Ok(())
}

#[test]
fn an_owner_is_not_in_its_own_way_with_a_hold_that_it_has_lost() -> Checked {
    let both = |mode| [(mode, true), (mode, false)];
    for (mode, is_told) in [Mode::Shared, Mode::Exclusive].into_iter().flat_map(both) {
        let site = Site::new()?;
        let lost = if is_told { Object::lost(&site, mode)? } else { Object::robbed(&site, mode, PATIENT)? };
        let successor = site.party().hold(Mode::Exclusive)?;
        let place = successor.file();
        assert_eq!(ferrolock::is_held_here(place), !is_told);
        let again = Object::new(&site, PATIENT);
        let mut onlooker = Onlooker { site: &site, seen: None };
        let patience = patience(Timeout::Never);
        let waits = again.lock.acquire(greenlet(1), mode, &site.path, patience, &mut onlooker);
        let kind = waits.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::Cancelled), "it waits for the successor, {mode:?}, {is_told}");
        assert!(!ferrolock::is_held_here(place));
        assert_eq!(lost.monitor.compromise().is_some(), is_told);
        release(successor)?;
        assert_eq!(again.acquire(greenlet(1), mode, Timeout::Never), Ok(()));
        assert!(ferrolock::is_held_here(place));
        for expected in [Released::StillHeld, Released::Unlocked] {
            assert_eq!(lost.release(greenlet(1)), Ok(expected));
        }
        assert_eq!(again.lock.held_by(greenlet(1)), Some((mode, 1)));
    }
    Ok(())
}

#[test]
fn only_a_lost_hold_can_be_released_by_who_has_no_level() -> Checked {
    let site = Site::new()?;
    let object = Object::lost(&site, Mode::Exclusive)?;
    assert_eq!(object.release(greenlet(2)), Err(ErrorKind::NotTheHolder(Mode::Exclusive)));
    assert_eq!(object.release_lost(), Ok(Released::StillHeld));
    assert_eq!(object.release_lost(), Ok(Released::Unlocked));
    assert_eq!(object.release_lost(), Err(ErrorKind::NotHeld));
    assert_eq!(object.acquire(greenlet(1), Mode::Exclusive, Timeout::Never), Ok(()));
    assert_eq!(object.release_lost(), Err(ErrorKind::NotHeld), "this one is well");
    assert_eq!(object.lock.held_by(greenlet(1)), Some((Mode::Exclusive, 1)));
    Ok(())
}

#[test]
fn a_second_marker_of_one_object_changes_nothing_that_is_told_of_the_first() -> Checked {
    let site = Site::new()?;
    let party = site.party();
    release(party.hold(Mode::Exclusive)?)?;
    let first = party.hold(Mode::Shared)?;
    let second = party.hold(Mode::Shared)?;
    release(second)?;
    assert_eq!(party.monitor.generation(), Some(1), "the first one is held");
    release(first)?;
    assert_eq!(party.monitor.generation(), None);
    Ok(())
}

#[test]
fn what_is_kept_for_a_hold_goes_with_it() -> Checked {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let site = Site::new()?;
        let party = site.party();
        let kept = Arc::new(());
        let is_kept = || Arc::strong_count(&kept) == 2;
        party.monitor.keep(Box::new(Arc::clone(&kept)));
        assert!(!is_kept(), "nothing is held");
        let guard = party.hold(mode)?;
        party.monitor.keep(Box::new(Arc::clone(&kept)));
        party.monitor.keep(Box::new(Arc::clone(&kept)));
        assert!(is_kept(), "once");
        release(guard)?;
        assert!(!is_kept());
    }
    Ok(())
}

/// There is no file whose lock the kernel would hand on.
#[test]
fn who_waits_for_a_lease_polls_and_says_so() -> Checked {
    let site = Site::new()?;
    let object = Object::new(&site, PATIENT);
    assert_eq!(object.lock.waits_by(&object.path), WaitsBy::Polling);
    Ok(())
}
