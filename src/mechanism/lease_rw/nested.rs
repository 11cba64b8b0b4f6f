//! A reader that comes in once more, through another lock object, while a writer waits for the first one to go.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::seam::{Step, stop_at};
use super::*;
use crate::mechanism::Guard;

/// Nothing gets stale here.
const SETTINGS: LeaseSettings =
    LeaseSettings { heartbeat_interval: Duration::from_secs(10), stale_threshold: Duration::from_secs(30) };

struct Case {
    folder: tempfile::TempDir,
    path: PathBuf,
}

fn lock() -> LeaseReadWriteLock {
    LeaseReadWriteLock::new(SETTINGS, Arc::new(LeaseMonitor::new(None)))
}

fn attempt(path: &Path, mode: Mode, manners: Manners) -> Option<Box<dyn Guard>> {
    match lock().try_acquire(path, Terms { mode, ..manners.into() }) {
        Ok(Attempt::Acquired(guard)) => Some(guard),
        Ok(Attempt::Contended(_) | Attempt::Interrupted) => None,
        Err(error) => panic!("{error}"),
    }
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        Self { folder, path }
    }

    fn attempt(&self, mode: Mode, manners: Manners) -> Option<Box<dyn Guard>> {
        attempt(&self.path, mode, manners)
    }

    fn readers(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(self.folder.path().join("x.lock.readers")).unwrap();
        let names = names.map(|entry| entry.unwrap().path());
        names.filter(|path| !path.file_name().unwrap().as_encoded_bytes().starts_with(b".")).collect()
    }
}

#[test]
fn it_gets_in_past_a_writer_that_waits_and_keeps_it_waiting() {
    let case = Case::new();
    let first = case.attempt(Mode::Shared, Manners::Hasty).unwrap();
    let waiting = lock();
    let mut bid = waiting.bid(&case.path, Terms { mode: Mode::Exclusive, ..Manners::Polite.into() }).unwrap();
    let mut is_let_in = || matches!(bid.attempt(), Ok(Attempt::Acquired(_)));
    assert!(!is_let_in());
    assert!(case.attempt(Mode::Shared, Manners::Hasty).is_none(), "a writer keeps new readers out");
    let second = case.attempt(Mode::Shared, Manners::Nested).unwrap();
    first.release().unwrap();
    assert!(!is_let_in(), "the second one is there");
    second.release().unwrap();
    assert!(case.attempt(Mode::Shared, Manners::Nested).is_none(), "nobody reads here any more");
    assert!(is_let_in());
}

#[test]
fn it_does_not_get_in_beside_a_writer_that_was_granted_over_what_it_lost() {
    let case = Case::new();
    let _lost_and_not_told = case.attempt(Mode::Shared, Manners::Hasty).unwrap();
    fs::remove_file(&case.readers()[0]).unwrap();
    let writer = case.attempt(Mode::Exclusive, Manners::Hasty).unwrap();
    assert!(case.attempt(Mode::Shared, Manners::Nested).is_none());
    assert!(case.readers().is_empty(), "it leaves nothing");
    writer.release().unwrap();
}

#[test]
fn a_writer_that_evicts_the_first_one_meanwhile_finds_the_second_or_keeps_it_out() {
    for step in [Step::Publishing, Step::Published, Step::Confirmed] {
        let case = Case::new();
        let first = case.attempt(Mode::Shared, Manners::Hasty).unwrap();
        let marker = case.readers().remove(0);
        let writer = Rc::new(std::cell::RefCell::new(None));
        let (path, granted) = (case.path.clone(), Rc::clone(&writer));
        stop_at(step, move || {
            fs::remove_file(marker).unwrap();
            *granted.borrow_mut() = attempt(&path, Mode::Exclusive, Manners::Hasty);
        });
        let second = case.attempt(Mode::Shared, Manners::Nested);
        let is_beside = second.is_some() && writer.borrow().is_some();
        assert!(!is_beside, "at {step:?}");
        assert_eq!(case.readers().len(), usize::from(second.is_some()), "at {step:?}");
        drop(first);
    }
}

/// Another thread may release the first one by force meanwhile.
#[test]
fn a_writer_that_has_listed_the_first_one_and_finds_it_gone_finds_the_second() {
    let case = Case::new();
    let first = case.attempt(Mode::Shared, Manners::Hasty).unwrap();
    // A client may list late, but for what it has just made there.
    let marker = case.readers().remove(0);
    let unlisted = marker.with_file_name(".unlisted");
    fs::rename(&marker, &unlisted).unwrap();
    let second = Rc::new(std::cell::RefCell::new(None));
    let (path, joined) = (case.path.clone(), Rc::clone(&second));
    stop_at(Step::Numbered, move || {
        fs::rename(unlisted, marker).unwrap();
        stop_at(Step::Relisted, move || {
            *joined.borrow_mut() = attempt(&path, Mode::Shared, Manners::Nested);
            first.release().unwrap();
        });
    });
    let writer = case.attempt(Mode::Exclusive, Manners::Hasty);
    assert!(second.borrow().is_some(), "the first one was there");
    assert!(writer.is_none(), "it is beside a reader");
}
