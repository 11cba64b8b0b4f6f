//! The kernel lock among files that come and go, other programs and executed children.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use ferrolock::mechanism::KernelLock;
use ferrolock::{ErrorKind, FileId, Lock, Released, Scope, Timeout, is_held_here};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::alone::alone;
use crate::support::{
    Checked, LATE, LONG, Place, SHORT, acquire, in_time, join, kernel_lock, me, patience, telling,
};

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Locks as another program does, `flock(1)` for one; `None` where somebody else has it.
fn foreign_lock(path: &Path) -> io::Result<Option<File>> {
    let file = open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn id_at(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|file| FileId { device: file.dev(), inode: file.ino() })
}

#[test]
fn other_programs_exclude_us_and_are_excluded() -> Checked {
    let place = Place::new()?;
    let lock = kernel_lock(Scope::PerOwner);
    let theirs = foreign_lock(&place.path)?.ok_or("nobody has it")?;
    let error = acquire(&lock, me(), &place.path, Timeout::Once).expect_err("it is theirs");
    assert_eq!(error.kind(), ErrorKind::TimedOut(Some(id_at(&place.path)?)));
    drop(theirs);
    // A process that is being started elsewhere has a copy until it is executed.
    acquire(&lock, me(), &place.path, Timeout::After(LONG))?;
    assert!(foreign_lock(&place.path)?.is_none());
    lock.release(me(), false)?;
    assert!(foreign_lock(&place.path)?.is_some());
    Ok(())
}

/// The waiter ends up with the file that is at the path, and not with the one it began to wait for.
fn follow(change: impl FnOnce(&Place) -> Checked) -> Checked {
    let place = Place::new()?;
    let theirs = foreign_lock(&place.path)?.ok_or("nobody has it")?;
    let old = id_at(&place.path)?;
    let lock = kernel_lock(Scope::PerOwner);
    let (waiting, waits) = mpsc::channel();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| -> Checked<FileId> {
            let mut watch = telling(waiting);
            lock.acquire(me(), &place.path, patience(LATE), &mut watch)?;
            let new = id_at(&place.path)?;
            assert!(is_held_here(new) && !is_held_here(old));
            assert!(foreign_lock(&place.path)?.is_none());
            lock.release(me(), false)?;
            Ok(new)
        });
        waits.recv_timeout(LONG)?;
        ferrolock::wait::sleep(SHORT);
        change(&place)?;
        let new = in_time(|| join(waiter))?;
        assert_ne!(new, old, "the old file still exists, as it is open here");
        drop(theirs);
        Ok(())
    })
}

#[test]
fn who_waits_for_a_file_that_is_removed_gets_the_next_one_at_its_path() -> Checked {
    follow(|place| Ok(fs::remove_file(&place.path)?))
}

#[test]
fn who_waits_for_a_file_that_is_replaced_gets_its_replacement() -> Checked {
    follow(|place| {
        let replacement = place.folder().join("replacement");
        fs::write(&replacement, "another file")?;
        fs::rename(replacement, &place.path)?;
        assert_eq!(fs::read_to_string(&place.path)?, "another file");
        Ok(())
    })
}

#[test]
fn a_hold_whose_file_was_removed_still_nests_and_keeps_nobody_from_the_next_file() -> Checked {
    for scope in [Scope::PerOwner, Scope::Shared] {
        let place = Place::new()?;
        let lock = kernel_lock(scope);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        let held = id_at(&place.path)?;
        fs::remove_file(&place.path)?;
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        assert_eq!(lock.depth(me()), 2);
        assert!(is_held_here(held) && !lock.is_held_at(&place.path));
        assert!(foreign_lock(&place.path)?.is_some(), "only the hold on the old file counts");
        assert_eq!(lock.release(me(), false)?, Released::StillHeld);
        assert_eq!(lock.release(me(), false)?, Released::Unlocked);
        assert!(!is_held_here(held));
    }
    Ok(())
}

/// Two ways to find two inside at once.
#[derive(Default)]
struct Watched {
    inside: AtomicUsize,
    overlaps: AtomicUsize,
    count: AtomicUsize,
}

impl Watched {
    fn work(&self) {
        if self.inside.fetch_add(1, Ordering::SeqCst) != 0 {
            self.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        let seen = self.count.load(Ordering::SeqCst);
        thread::yield_now();
        self.count.store(seen + 1, Ordering::SeqCst);
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One round of a program that removes its lock file as it releases it, as filelock 3.29 does.
/// It looks whether the file it locked is still the one at the path, or it is wrong.
fn remove_at_release(path: &Path, watched: &Watched, checks: bool) -> Checked {
    loop {
        let file = open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        if checks {
            let own = file.metadata()?;
            match id_at(path) {
                Ok(id) if id == (FileId { device: own.dev(), inode: own.ino() }) => {}
                _ => continue,
            }
        }
        watched.work();
        // The blind peer of the control may find it gone.
        let _removed = fs::remove_file(path);
        return Ok(());
    }
}

/// How many overlaps were seen, and how many counts lost, among two of ours and two that remove the file.
fn contend_with_removers(rounds: usize, checks: bool) -> Checked<(usize, usize)> {
    let place = Place::new()?;
    let watched = Watched::default();
    thread::scope(|scope| {
        let ours = |mechanism: KernelLock| -> Checked {
            let lock = Lock::new(Box::new(mechanism), Scope::PerOwner);
            for _ in 0..rounds {
                // Without pauses: an attempt is to fall between another's removal and release.
                while let Err(error) = acquire(&lock, me(), &place.path, Timeout::Once) {
                    if !matches!(error.kind(), ErrorKind::TimedOut(_)) {
                        return Err(error.into());
                    }
                    thread::yield_now();
                }
                watched.work();
                lock.release(me(), false)?;
            }
            Ok(())
        };
        let theirs = || (0..rounds).try_for_each(|_| remove_at_release(&place.path, &watched, checks));
        let keeping = move || ours(KernelLock::default());
        let removing = move || ours(KernelLock::default().removing_file());
        let threads = [scope.spawn(keeping), scope.spawn(theirs), scope.spawn(removing), scope.spawn(theirs)];
        threads.into_iter().try_for_each(join)
    })?;
    Ok((watched.overlaps.into_inner(), 4 * rounds - watched.count.into_inner()))
}

#[test]
fn a_file_that_is_removed_at_every_release_excludes_all_the_same() -> Checked {
    alone(|| {
        assert_eq!(contend_with_removers(4000, true)?, (0, 0));
        Ok(())
    })
}

#[test]
fn and_the_overlaps_of_a_program_that_does_not_look_would_be_seen() -> Checked {
    alone(|| {
        let (overlaps, lost) = contend_with_removers(1000, false)?;
        assert!(overlaps > 0 && lost > 0, "{overlaps} overlaps, {lost} counts lost");
        Ok(())
    })
}

#[cfg(target_os = "linux")]
#[test]
fn attempts_leave_no_descriptors_behind() -> Checked {
    use crate::support::descriptors_on;

    let place = Place::new()?;
    let (holder, lock) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
    acquire(&holder, me(), &place.path, Timeout::Once)?;
    for _ in 0..1000 {
        let refused = acquire(&lock, me(), &place.path, Timeout::Once).expect_err("it is held");
        assert!(matches!(refused.kind(), ErrorKind::TimedOut(Some(_))), "{refused}");
    }
    assert_eq!(descriptors_on(&place.path)?, 1, "the holder's");
    holder.release(me(), false)?;
    for _ in 0..1000 {
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        lock.release(me(), false)?;
    }
    assert_eq!(descriptors_on(&place.path)?, 0);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn an_executed_child_inherits_no_descriptor() -> Checked {
    use crate::contender::{Cast, How, Kind};

    let cast = Cast::new(Kind::Processes, How::Kernel)?;
    let lock = kernel_lock(Scope::PerOwner);
    acquire(&lock, me(), &cast.place.path, Timeout::Once)?;
    let mut child = cast.contender()?;
    child.must("descriptors", "0")?;
    lock.release(me(), false)?;
    child.must("acquire once", "acquired")?;
    child.must("descriptors", "1")
}

/// A child made behind the library's back keeps copies of the descriptors: closing alone would not do.
#[cfg(target_os = "linux")]
#[test]
fn a_release_unlocks_whoever_else_has_a_copy_of_the_descriptor() -> Checked {
    use crate::forking::fork_past_the_handlers;
    use crate::support::{descriptors_on, is_free};

    alone(|| {
        let place = Place::new()?;
        let lock = kernel_lock(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        let mut child = fork_past_the_handlers(|line| {
            line.say(&descriptors_on(&place.path)?.to_string())?;
            line.must_hear("released")
        })?;
        child.line.must_hear("1")?;
        lock.release(me(), false)?;
        assert!(is_free(&place.path)?);
        child.line.say("released")?;
        child.finish()
    })
}
