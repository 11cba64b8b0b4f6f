//! One lock object of readers and writers: who holds it, how often, and what is refused.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ferrolock::mechanism::{ByteRangeLock, Mode};
use ferrolock::{ErrorKind, OwnerId, ReadWrite, Released, Timeout, Unwatched};

use crate::support::{Checked, LONG, Place, SHORT, greenlet, join, me, patience, telling};

fn object() -> ReadWrite {
    ReadWrite::new(Box::<ByteRangeLock>::default())
}

struct Case {
    place: Place,
    lock: ReadWrite,
}

impl Case {
    fn new() -> Checked<Self> {
        Ok(Self { place: Place::new()?, lock: object() })
    }

    fn acquire(&self, owner: OwnerId, mode: Mode, timeout: Timeout) -> Result<(), ErrorKind> {
        let acquired = self.lock.acquire(owner, mode, &self.place.path, patience(timeout), &mut Unwatched);
        acquired.map_err(|error| error.kind())
    }

    fn release(&self, owner: OwnerId) -> Result<Released, ErrorKind> {
        self.lock.release(owner, false, &self.place.path).map_err(|error| error.kind())
    }

    /// Whether somebody else may write, or else whether he may read.
    fn others_may(&self) -> Checked<Option<Mode>> {
        let other = object();
        for mode in [Mode::Exclusive, Mode::Shared] {
            let patience = patience(Timeout::Once);
            match other.acquire(greenlet(9), mode, &self.place.path, patience, &mut Unwatched) {
                Ok(()) => return Ok(Some(mode)),
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

#[test]
fn a_mode_nests_and_the_last_release_unlocks() -> Checked {
    for (mode, others) in [(Mode::Shared, Some(Mode::Shared)), (Mode::Exclusive, None)] {
        let case = Case::new()?;
        for depth in 1..=3 {
            assert_eq!(case.acquire(me(), mode, Timeout::Never), Ok(()));
            assert_eq!(case.lock.held_by(me()), Some((mode, depth)));
        }
        for _ in 1..3 {
            assert_eq!(case.release(me()), Ok(Released::StillHeld));
            assert_eq!(case.others_may()?, others);
        }
        assert_eq!(case.release(me()), Ok(Released::Unlocked));
        assert_eq!(case.others_may()?, Some(Mode::Exclusive));
        assert_eq!(case.release(me()), Err(ErrorKind::NotHeld));
    }
    Ok(())
}

#[test]
fn neither_upgrade_nor_downgrade_is_waited_for() -> Checked {
    let case = Case::new()?;
    assert_eq!(case.acquire(me(), Mode::Shared, Timeout::Never), Ok(()));
    assert_eq!(case.acquire(me(), Mode::Exclusive, Timeout::Never), Err(ErrorKind::Upgrade));
    assert_eq!(case.release(me()), Ok(Released::Unlocked));
    assert_eq!(case.acquire(me(), Mode::Exclusive, Timeout::Never), Ok(()));
    assert_eq!(case.acquire(me(), Mode::Shared, Timeout::Never), Err(ErrorKind::Downgrade));
    assert_eq!(case.lock.held_by(me()), Some((Mode::Exclusive, 1)), "as before");
    Ok(())
}

#[test]
fn readers_of_one_object_share_a_hold_and_count_for_themselves() -> Checked {
    let case = Case::new()?;
    let (one, two) = (greenlet(1), greenlet(2));
    assert_eq!(case.acquire(one, Mode::Shared, Timeout::Never), Ok(()));
    assert_eq!(case.acquire(two, Mode::Shared, Timeout::Never), Ok(()));
    assert_eq!(case.acquire(two, Mode::Shared, Timeout::Never), Ok(()));
    assert_eq!(case.release(greenlet(3)), Err(ErrorKind::NotTheHolder(Mode::Shared)));
    assert_eq!(case.release(one), Ok(Released::StillHeld));
    assert_eq!(case.release(one), Err(ErrorKind::NotTheHolder(Mode::Shared)));
    assert_eq!(case.release(two), Ok(Released::StillHeld));
    assert_eq!(case.others_may()?, Some(Mode::Shared), "one level is left");
    assert_eq!(case.release(two), Ok(Released::Unlocked));
    assert_eq!(case.others_may()?, Some(Mode::Exclusive));
    Ok(())
}

#[test]
fn what_another_owner_holds_in_another_way_is_refused() -> Checked {
    let case = Case::new()?;
    let (one, two) = (greenlet(1), greenlet(2));
    assert_eq!(case.acquire(one, Mode::Shared, Timeout::Never), Ok(()));
    let refused = Err(ErrorKind::HeldByAnother(Mode::Shared));
    assert_eq!(case.acquire(two, Mode::Exclusive, Timeout::Never), refused);
    assert_eq!(case.release(one), Ok(Released::Unlocked));
    assert_eq!(case.acquire(one, Mode::Exclusive, Timeout::Never), Ok(()));
    for mode in [Mode::Shared, Mode::Exclusive] {
        let refused = Err(ErrorKind::HeldByAnother(Mode::Exclusive));
        assert_eq!(case.acquire(two, mode, Timeout::Never), refused);
    }
    assert_eq!(case.release(two), Err(ErrorKind::NotTheHolder(Mode::Exclusive)));
    assert_eq!(case.lock.release(two, true, &case.place.path)?, Released::Unlocked);
    assert_eq!(case.lock.release(two, true, &case.place.path)?, Released::NotHeld);
    assert_eq!(case.release(one), Err(ErrorKind::NotHeld));
    Ok(())
}

/// Not a file that is held is waited for then, but a lock object that can never be had.
#[test]
fn a_waiter_whose_object_comes_to_be_held_otherwise_is_refused_at_once() -> Checked {
    for (first, second) in [(Mode::Shared, Mode::Exclusive), (Mode::Exclusive, Mode::Shared)] {
        let case = Case::new()?;
        let holder = Case { place: Place::new()?, lock: object() };
        let elsewhere = |mode| {
            holder.lock.acquire(greenlet(1), mode, &case.place.path, patience(Timeout::Never), &mut Unwatched)
        };
        elsewhere(Mode::Exclusive)?;
        thread::scope(|scope| {
            let waits = |mode| {
                let (waiting, waits) = mpsc::channel();
                let case = &case;
                let thread = scope.spawn(move || {
                    let patience = patience(Timeout::After(LONG));
                    let path = &case.place.path;
                    case.lock.acquire(me(), mode, path, patience, &mut telling(waiting)).map(|()| me())
                });
                // Whoever tells wants to be heard as long as it waits.
                waits.recv_timeout(LONG).map(|()| (thread, waits))
            };
            let ((one, _hears_one), (two, _hears_two)) = (waits(first)?, waits(second)?);
            holder.lock.release(greenlet(1), false, &case.place.path)?;
            // Mostly the first; but while one asks its watch, the next may take the lock.
            let owner = match (join(one), join(two)) {
                (Ok(owner), Err(error)) if error.kind() == ErrorKind::HeldByAnother(first) => owner,
                (Err(error), Ok(owner)) if error.kind() == ErrorKind::HeldByAnother(second) => owner,
                other => return Err(format!("{other:?}").into()),
            };
            assert_eq!(case.release(owner), Ok(Released::Unlocked));
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        })?;
    }
    Ok(())
}

#[test]
fn a_closed_object_is_unheld_and_refuses_also_those_who_wait() -> Checked {
    let (case, holder) = (Case::new()?, object());
    assert_eq!(case.acquire(me(), Mode::Shared, Timeout::Never), Ok(()));
    case.lock.close()?;
    case.lock.close()?;
    assert_eq!(case.others_may()?, Some(Mode::Exclusive));
    assert_eq!(case.acquire(me(), Mode::Shared, Timeout::Once), Err(ErrorKind::Closed));
    assert_eq!(case.release(me()), Err(ErrorKind::NotHeld));

    let case = Case::new()?;
    holder.acquire(me(), Mode::Exclusive, &case.place.path, patience(Timeout::Never), &mut Unwatched)?;
    thread::scope(|scope| {
        let (waiting, waits) = mpsc::channel();
        let case = &case;
        let waiter = scope.spawn(move || {
            let patience = patience(Timeout::After(LONG));
            case.lock.acquire(me(), Mode::Shared, &case.place.path, patience, &mut telling(waiting))
        });
        waits.recv_timeout(LONG)?;
        case.lock.close()?;
        match join(waiter) {
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    })
}

#[test]
fn an_owner_that_writes_through_another_object_would_wait_for_itself() -> Checked {
    let (case, other) = (Case::new()?, object());
    other.acquire(me(), Mode::Exclusive, &case.place.path, patience(Timeout::Never), &mut Unwatched)?;
    for mode in [Mode::Shared, Mode::Exclusive] {
        assert_eq!(case.acquire(me(), mode, Timeout::Never), Err(ErrorKind::Deadlock));
        let limited = case.acquire(me(), mode, Timeout::After(Duration::from_millis(20)));
        assert!(matches!(limited, Err(ErrorKind::TimedOut(Some(_)))), "{limited:?}");
    }
    Ok(())
}

/// The writer waits for the first hold, and the second one would wait for the writer.
#[test]
fn a_reader_gets_in_through_another_object_past_a_writer_that_waits() -> Checked {
    let (case, other) = (Case::new()?, object());
    assert_eq!(case.acquire(me(), Mode::Shared, Timeout::Never), Ok(()));
    thread::scope(|scope| {
        let (waiting, waits) = mpsc::channel();
        let path = &case.place.path;
        let writer = scope.spawn(move || {
            object().acquire(me(), Mode::Exclusive, path, patience(Timeout::Never), &mut telling(waiting))
        });
        waits.recv_timeout(LONG)?;
        crate::support::until("the writer claims", || Ok(case.others_may()?.is_none()))?;
        other.acquire(me(), Mode::Shared, path, patience(Timeout::Never), &mut Unwatched)?;
        assert_eq!(case.release(me()), Ok(Released::Unlocked));
        ferrolock::wait::sleep(SHORT);
        assert!(!writer.is_finished(), "the second hold counts");
        other.release(me(), false, path)?;
        Ok(join(writer)?)
    })
}

#[test]
fn an_owner_that_has_left_a_shared_hold_may_wait_for_the_rest_of_it() -> Checked {
    let (case, other) = (Case::new()?, object());
    let (one, two) = (greenlet(1), greenlet(2));
    for owner in [one, two] {
        assert_eq!(case.acquire(owner, Mode::Shared, Timeout::Never), Ok(()));
    }
    assert_eq!(case.release(one), Ok(Released::StillHeld));
    thread::scope(|scope| {
        let (waiting, waits) = mpsc::channel();
        let (path, other) = (&case.place.path, &other);
        let writer = scope.spawn(move || {
            other.acquire(one, Mode::Exclusive, path, patience(Timeout::Never), &mut telling(waiting))
        });
        waits.recv_timeout(LONG)?;
        ferrolock::wait::sleep(SHORT);
        assert_eq!(case.release(two), Ok(Released::Unlocked));
        Ok(join(writer)?)
    })
}

/// SQLite locks such a database in other ways.
#[test]
fn preparing_creates_the_file_and_refuses_a_database_in_wal_mode() -> Checked {
    let place = Place::new()?;
    let lock = ByteRangeLock::default();
    lock.prepare(&place.path)?;
    assert_eq!(fs::read(&place.path)?, b"");
    let database = |versions: [u8; 2]| [b"SQLite format 3\0\x10\x00".as_slice(), &versions].concat();
    fs::write(&place.path, database([1, 1]))?;
    lock.prepare(&place.path)?;
    for versions in [[2, 1], [1, 2], [2, 2]] {
        fs::write(&place.path, database(versions))?;
        let error = lock.prepare(&place.path).expect_err("its locks would say nothing");
        assert_eq!(error.kind(), ErrorKind::Unfit);
        assert_eq!(fs::read(&place.path)?, database(versions));
    }
    Ok(())
}
