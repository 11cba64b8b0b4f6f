//! A file system in trouble: who waits looks again, who makes one attempt is told.

use std::cell::Cell;
use std::fs;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::seam::{Step, stop_at};
use super::*;

/// Nothing gets stale here.
const SETTINGS: LeaseSettings =
    LeaseSettings { heartbeat_interval: Duration::from_secs(10), stale_threshold: Duration::from_secs(30) };

const MODES: [Mode; 2] = [Mode::Shared, Mode::Exclusive];

struct Case {
    folder: tempfile::TempDir,
    lock: LeaseReadWriteLock,
    /// How often there is trouble yet.
    to_come: Rc<Cell<u32>>,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lock = LeaseReadWriteLock::new(SETTINGS, Arc::new(LeaseMonitor::new(None)));
        Self { folder, lock, to_come: Rc::default() }
    }

    /// Whenever something is about to be published the folder for it goes: an `ENOENT` that does not last.
    fn begin_trouble(&self) {
        self.trouble(u32::MAX);
    }

    fn trouble(&self, times: u32) {
        self.disturb(times, Step::Publishing, |path| fs::remove_dir_all(path.with_extension("lock.readers")));
    }

    /// `x.state` goes when everybody was listed: what was published may have been seen by nobody.
    fn evict(&self, times: u32) {
        self.disturb(times, Step::Listed, |path| fs::remove_file(path.with_extension("lock.state")));
    }

    fn disturb(&self, times: u32, step: Step, disturb: fn(&Path) -> io::Result<()>) {
        self.to_come.set(times);
        disturb_at(step, self.path(), Rc::clone(&self.to_come), disturb);
    }

    fn end_trouble(&self) {
        self.to_come.set(0);
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("x.lock")
    }

    fn terms(mode: Mode, manners: Manners) -> Terms {
        Terms { mode, ..manners.into() }
    }

    fn attempt(&self, mode: Mode, manners: Manners) -> Result<Attempt, Error> {
        self.lock.try_acquire(&self.path(), Self::terms(mode, manners))
    }

    fn bid(&self, mode: Mode, manners: Manners) -> Box<dyn Bid> {
        self.lock.bid(&self.path(), Self::terms(mode, manners)).unwrap()
    }
}

fn disturb_at(step: Step, path: PathBuf, to_come: Rc<Cell<u32>>, disturb: fn(&Path) -> io::Result<()>) {
    stop_at(step, move || {
        if let Some(rest) = to_come.get().checked_sub(1) {
            to_come.set(rest);
            disturb(&path).unwrap();
            disturb_at(step, path, to_come, disturb);
        }
    });
}

/// Whether the attempt found nothing out, and its caller is to look again.
fn is_in_vain(attempt: &Result<Attempt, Error>) -> bool {
    matches!(attempt, Ok(Attempt::Contended(None)))
}

fn is_told(attempt: &Result<Attempt, Error>) -> bool {
    let error = attempt.as_ref().err().and_then(Error::os_error);
    error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

#[test]
fn who_makes_one_attempt_is_told_at_once() {
    for mode in MODES {
        let case = Case::new();
        case.begin_trouble();
        let attempt = case.attempt(mode, Manners::Hasty);
        assert!(is_told(&attempt), "{mode:?}: {attempt:?}");
        case.end_trouble();
        let attempt = case.attempt(mode, Manners::Hasty);
        assert!(matches!(attempt, Ok(Attempt::Acquired(_))), "{mode:?}: {attempt:?}");
    }
}

#[test]
fn one_attempt_looks_eight_times() {
    for mode in MODES {
        for disturb in [Case::trouble, Case::evict] {
            let case = Case::new();
            disturb(&case, ROUNDS - 1);
            let attempt = case.attempt(mode, Manners::Hasty);
            assert!(matches!(attempt, Ok(Attempt::Acquired(_))), "{mode:?}: {attempt:?}");
        }
        let case = Case::new();
        case.trouble(ROUNDS);
        let attempt = case.attempt(mode, Manners::Hasty);
        assert!(is_told(&attempt), "{mode:?}: {attempt:?}");
        let case = Case::new();
        case.evict(ROUNDS);
        let attempt = case.attempt(mode, Manners::Hasty);
        assert!(is_in_vain(&attempt), "{mode:?}: {attempt:?}");
    }
}

#[test]
fn the_first_attempt_of_a_wait_is_not_told() {
    for mode in MODES {
        let case = Case::new();
        case.begin_trouble();
        let attempt = case.attempt(mode, Manners::Polite);
        assert!(is_in_vain(&attempt), "{mode:?}: {attempt:?}");
    }
}

/// The thread that polls for tasks is hasty, and waits for them.
#[test]
fn a_waiter_looks_again_until_the_trouble_is_over() {
    for (mode, manners) in
        MODES.into_iter().flat_map(|mode| [(mode, Manners::Polite), (mode, Manners::Hasty)])
    {
        let case = Case::new();
        let mut bid = case.bid(mode, manners);
        case.begin_trouble();
        for _ in 0..TROUBLES {
            let attempt = bid.attempt();
            assert!(is_in_vain(&attempt), "{mode:?}, {manners:?}: {attempt:?}");
        }
        case.end_trouble();
        let attempt = bid.attempt();
        assert!(matches!(attempt, Ok(Attempt::Acquired(_))), "{mode:?}, {manners:?}: {attempt:?}");
    }
}

#[test]
fn a_waiter_is_told_of_trouble_that_lasts() {
    for mode in MODES {
        let case = Case::new();
        let mut bid = case.bid(mode, Manners::Polite);
        case.begin_trouble();
        for _ in 0..TROUBLES {
            assert!(is_in_vain(&bid.attempt()), "{mode:?}");
        }
        let attempt = bid.attempt();
        assert!(is_told(&attempt), "{mode:?}: {attempt:?}");
    }
}

/// Who has an answer starts to count anew, and nobody counts what others met: a moment of trouble is one for each.
#[test]
fn what_was_over_and_what_others_met_is_not_counted() {
    for mode in MODES {
        let case = Case::new();
        let mut bid = case.bid(mode, Manners::Polite);
        case.begin_trouble();
        for _ in 0..TROUBLES {
            assert!(is_told(&case.attempt(mode, Manners::Hasty)), "{mode:?}");
            assert!(is_in_vain(&bid.attempt()), "{mode:?}");
        }
        assert!(is_told(&bid.attempt()), "{mode:?}");
        assert!(is_in_vain(&case.bid(mode, Manners::Polite).attempt()), "{mode:?}: another wait");
        case.end_trouble();
        let holder = case.attempt(Mode::Exclusive, Manners::Hasty);
        assert!(matches!(holder, Ok(Attempt::Acquired(_))), "{mode:?}: {holder:?}");
        let attempt = bid.attempt();
        assert!(matches!(attempt, Ok(Attempt::Contended(Some(_)))), "{mode:?}: {attempt:?}");
        drop(holder);
        case.begin_trouble();
        let attempt = bid.attempt();
        assert!(is_in_vain(&attempt), "{mode:?}: {attempt:?}");
    }
}
