//! Tasks that read and write through doors: who shares, who waits, and what is left of those who gave up.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use ferrolock::mechanism::{
    ByteRangeLock, KernelLock, LeaseMonitor, LeaseReadWriteLock, LeaseSettings, Mechanism, Mode,
};
use ferrolock::{
    Deferred, Door, Error, ErrorKind, News, OwnerId, ReadWrite, Released, Request, Timeout, Unmet,
};

use crate::support::{Checked, LONG, Place, SHORT, patience};

/// A task that asks at a door.
struct Visitor {
    waiter: Deferred,
    owner: OwnerId,
    rung: Receiver<()>,
}

impl Visitor {
    fn new(door: &Arc<Door>, place: &Place, mode: Mode, timeout: Timeout) -> Self {
        Self::of(OwnerId::unique(), door, &place.path, mode, timeout)
    }

    fn of(owner: OwnerId, door: &Arc<Door>, path: &Path, mode: Mode, timeout: Timeout) -> Self {
        let (bell, rung) = mpsc::channel();
        let request = Request { owner, debtor: owner, path, patience: patience(timeout) };
        let waiter = Deferred::for_door(
            Arc::clone(door),
            &request,
            mode,
            false,
            Box::new(move || bell.send(()).is_ok()),
        );
        Self { waiter, owner, rung }
    }

    fn asks(&self) -> Result<bool, Error> {
        self.waiter.attempt().map_err(|unmet: Box<Unmet>| unmet.error)
    }

    fn waits(self) -> Checked<Self> {
        assert!(!self.asks()?, "nothing keeps it out");
        self.waiter.wait().map_err(|unmet| unmet.error)?;
        Ok(self)
    }

    fn enters(&self) -> Checked {
        self.rung.recv_timeout(LONG)?;
        assert!(matches!(self.waiter.news(), News::Granted));
        assert!(self.waiter.accept()?.is_some());
        Ok(())
    }

    fn must_still_wait(&self) {
        assert!(self.rung.recv_timeout(SHORT).is_err(), "it was told {:?}", self.waiter.news());
    }
}

fn inside(door: &Arc<Door>, place: &Place, mode: Mode) -> Checked<OwnerId> {
    let visitor = Visitor::new(door, place, mode, Timeout::Never);
    assert!(visitor.asks()? && visitor.waiter.accept()?.is_some());
    Ok(visitor.owner)
}

/// A lock object of each kind, with its place.
fn locks() -> Checked<Vec<(Place, Arc<ReadWrite>)>> {
    let mut locks = Vec::new();
    for kind in 0..3 {
        let place = Place::new()?;
        let mechanism: Box<dyn Mechanism> = match kind {
            0 => Box::new(KernelLock::default()),
            1 => {
                let mechanism = ByteRangeLock::default();
                mechanism.prepare(&place.path)?;
                Box::new(mechanism)
            }
            _ => {
                Box::new(LeaseReadWriteLock::new(LeaseSettings::default(), Arc::new(LeaseMonitor::new(None))))
            }
        };
        locks.push((place, Arc::new(ReadWrite::new(mechanism))));
    }
    Ok(locks)
}

fn door(lock: &Arc<ReadWrite>) -> Arc<Door> {
    Arc::new(Door::new(Arc::clone(lock)))
}

#[test]
fn readers_share_and_writers_wait_in_the_order_in_which_they_asked() -> Checked {
    for (place, lock) in locks()?.into_iter().skip(1) {
        let (one, other) = (door(&lock), door(&lock));
        let first = inside(&one, &place, Mode::Shared)?;
        let second = inside(&other, &place, Mode::Shared)?;
        let writer = Visitor::new(&one, &place, Mode::Exclusive, Timeout::Never).waits()?;
        let behind = [Mode::Shared, Mode::Shared, Mode::Exclusive]
            .map(|mode| Visitor::new(&other, &place, mode, Timeout::Never).waits());
        let [reader, last_reader, last] = behind;
        let (reader, last_reader, last) = (reader?, last_reader?, last?);
        assert_eq!(one.release(first, false, &place.path)?, Released::StillHeld);
        writer.must_still_wait();
        reader.must_still_wait();
        assert_eq!(other.release(second, false, &place.path)?, Released::Unlocked);
        writer.enters()?;
        assert_eq!(lock.held_by(writer.owner), Some((Mode::Exclusive, 1)));
        reader.must_still_wait();
        one.release(writer.owner, false, &place.path)?;
        reader.enters()?;
        last_reader.enters()?;
        last.must_still_wait();
        for reader in [&reader, &last_reader] {
            other.release(reader.owner, false, &place.path)?;
        }
        last.enters()?;
        other.release(last.owner, false, &place.path)?;
    }
    Ok(())
}

#[test]
fn an_owner_nests_by_any_door_and_goes_out_by_its_own() -> Checked {
    for (place, lock) in locks()?.into_iter().skip(1) {
        let (one, other) = (door(&lock), door(&lock));
        for mode in [Mode::Shared, Mode::Exclusive] {
            let owner = inside(&one, &place, mode)?;
            let again = Visitor::of(owner, &other, &place.path, mode, Timeout::Once);
            assert!(again.asks()? && again.waiter.accept()?.is_some());
            assert_eq!(lock.held_by(owner), Some((mode, 2)));
            assert!(one.unnest(owner));
            assert!(!one.unnest(owner));
            let refused = one.release(owner, false, &place.path).map_err(|error| error.kind());
            assert_eq!(refused, Err(ErrorKind::NotTheHolder(mode)));
            assert_eq!(one.release(owner, true, &place.path)?, Released::NotHeld);
            let (asked, refusal) = match mode {
                Mode::Shared => (Mode::Exclusive, ErrorKind::Upgrade),
                Mode::Exclusive => (Mode::Shared, ErrorKind::Downgrade),
            };
            let other_mode = Visitor::of(owner, &one, &place.path, asked, Timeout::Never);
            assert_eq!(other_mode.asks().map_err(|error| error.kind()), Err(refusal));
            assert!(!other.unnest(owner), "the last level is given back by a system call");
            assert_eq!(other.release(owner, false, &place.path)?, Released::Unlocked);
        }
    }
    Ok(())
}

#[test]
fn a_door_that_closes_ends_what_came_in_by_it_and_nothing_else() -> Checked {
    for (place, lock) in locks()?.into_iter().skip(1) {
        let (closing, other) = (door(&lock), door(&lock));
        let gone = inside(&closing, &place, Mode::Shared)?;
        let stays = inside(&other, &place, Mode::Shared)?;
        let waiter = Visitor::new(&closing, &place, Mode::Exclusive, Timeout::Never).waits()?;
        let next = Visitor::new(&other, &place, Mode::Exclusive, Timeout::Never).waits()?;
        closing.close(&place.path)?;
        waiter.rung.recv_timeout(LONG)?;
        let News::Failed(unmet) = waiter.waiter.news() else { return Err("it was not told".into()) };
        assert_eq!(unmet.error.kind(), ErrorKind::Closed);
        assert_eq!((lock.held_by(gone), lock.held_by(stays)), (None, Some((Mode::Shared, 1))));
        let late = Visitor::new(&closing, &place, Mode::Shared, Timeout::Once);
        assert_eq!(late.asks().map_err(|error| error.kind()), Err(ErrorKind::Closed));
        other.release(stays, false, &place.path)?;
        next.enters()?;
        lock.close()?;
        assert_eq!(lock.held_by(next.owner), None);
    }
    Ok(())
}

#[test]
fn what_was_let_in_and_not_accepted_goes_out_again() -> Checked {
    for (place, lock) in locks()? {
        let door = door(&lock);
        let holder = inside(&door, &place, Mode::Exclusive)?;
        let visitor = Visitor::new(&door, &place, Mode::Exclusive, Timeout::Never).waits()?;
        let next = Visitor::new(&door, &place, Mode::Exclusive, Timeout::Never).waits()?;
        door.release(holder, false, &place.path)?;
        visitor.rung.recv_timeout(LONG)?;
        next.must_still_wait();
        drop(visitor);
        next.enters()?;
        door.release(next.owner, false, &place.path)?;
        assert!(!lock.is_held_by_anyone());
    }
    Ok(())
}

/// Who withdraws last is told when nobody waits in the kernel any more; and whose time is over is told only then.
#[cfg(target_os = "linux")]
#[test]
fn who_gave_up_last_keeps_nobody_out() -> Checked {
    use std::time::{Duration, Instant};

    use crate::support::{descriptors_on, until};

    let place = Place::new()?;
    let byte_range = || -> Checked<Arc<ReadWrite>> {
        let mechanism = ByteRangeLock::default();
        mechanism.prepare(&place.path)?;
        Ok(Arc::new(ReadWrite::new(Box::new(mechanism))))
    };
    let (waiting, stranger) = (door(&byte_range()?), door(&byte_range()?));
    for round in 0..100 {
        let reader = inside(&stranger, &place, Mode::Shared)?;
        let limit = if round % 2 == 0 { Timeout::Never } else { Timeout::After(Duration::from_millis(4)) };
        let writer = Visitor::new(&waiting, &place, Mode::Exclusive, limit).waits()?;
        // It keeps new readers out.
        until("a writer waits in the kernel", || {
            let late = Visitor::new(&stranger, &place, Mode::Shared, Timeout::Once);
            let is_kept_out = late.asks().is_err() || late.waiter.accept()?.is_none();
            if !is_kept_out {
                stranger.release(late.owner, false, &place.path)?;
            }
            Ok(is_kept_out || matches!(writer.waiter.news(), News::Failed(_)))
        })?;
        if limit == Timeout::Never {
            writer.waiter.withdraw();
            let begin = Instant::now();
            while writer.waiter.is_leaving() {
                let _rung = writer.rung.recv_timeout(Duration::from_millis(1));
                writer.waiter.withdraw();
                assert!(begin.elapsed() < LONG, "it never leaves");
            }
        } else if !matches!(writer.waiter.news(), News::Failed(_)) {
            let _rung = writer.rung.recv_timeout(Duration::from_millis(100));
        }
        let late = inside(&stranger, &place, Mode::Shared)?;
        stranger.release(late, false, &place.path)?;
        stranger.release(reader, false, &place.path)?;
    }
    assert!(descriptors_on(&place.path)? <= 2, "one that each lock object keeps");
    Ok(())
}
