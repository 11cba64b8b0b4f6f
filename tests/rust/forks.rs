//! A forked child never owns its parent's locks, and can use every lock object it inherits.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use ferrolock::mechanism::Mode;
use ferrolock::{Error, ErrorKind, Lock, Released, Scope, Stop, Timeout, Unnesting, Unwatched};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::alone::alone;
use crate::contender::{How, Overlap, Subject};
use crate::forking::{Line, fork};
use crate::support::{
    Asking, Checked, Place, SHORT, acquire, greenlet, guard_on, is_free, kernel_lock, me, patience,
};
use crate::worker::{counted, work_alone};

const NONBLOCKING: FlockOperation = FlockOperation::NonBlockingLockExclusive;

fn is_contended(result: Result<(), Error>) -> Checked<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut(Some(_))) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn a_child_starts_unheld_and_its_release_is_nothing_to_its_parent() -> Checked {
    alone(|| {
        for scope in [Scope::PerOwner, Scope::Shared] {
            let place = Place::new()?;
            let lock = kernel_lock(scope);
            acquire(&lock, me(), &place.path, Timeout::Once)?;
            acquire(&lock, me(), &place.path, Timeout::Once)?;
            let child = fork(|_| {
                assert_eq!(lock.depth(me()), 0);
                assert!(!lock.is_held_by_anyone());
                assert!(!lock.nest(me()));
                assert_eq!(lock.unnest(me()), Unnesting::NotHeld);
                assert_eq!(lock.release(me(), false)?, Released::NotHeld);
                assert_eq!(lock.release(me(), true)?, Released::NotHeld);
                lock.release_all()?;
                assert!(is_contended(acquire(&lock, me(), &place.path, Timeout::Once))?);
                Ok(())
            })?;
            child.finish()?;
            assert_eq!(lock.depth(me()), 2);
            assert!(!is_free(&place.path)?, "the parent keeps it");
            assert_eq!(lock.release(me(), true)?, Released::Unlocked);
            assert!(is_free(&place.path)?);
        }
        Ok(())
    })
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_has_no_descriptor_of_its_parents_lock_files() -> Checked {
    use crate::support::descriptors_on;

    alone(|| {
        let places = [Place::new()?, Place::new()?, Place::new()?];
        let lock = kernel_lock(Scope::PerOwner);
        for (place, number) in places.iter().zip(1..) {
            acquire(&lock, greenlet(number), &place.path, Timeout::Once)?;
            assert!(!is_free(&place.path)?);
        }
        lock.release(greenlet(2), false)?;
        let child = fork(|_| {
            for place in &places {
                assert_eq!(descriptors_on(&place.path)?, 0);
            }
            Ok(())
        })?;
        child.finish()?;
        for (place, descriptors) in places.iter().zip([1, 0, 1]) {
            assert_eq!(descriptors_on(&place.path)?, descriptors, "the parent has its own");
        }
        Ok(())
    })
}

/// A number that was given back may be somebody else's, also of the same file.
#[cfg(unix)]
#[test]
fn a_child_keeps_its_copies_of_what_others_have_opened() -> Checked {
    use std::os::fd::AsRawFd;

    use ferrolock::{Listed, descriptor_of};

    alone(|| {
        let place = Place::new()?;
        let lock = kernel_lock(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        let number = lock.descriptor(me()).ok_or("it is held by a descriptor")?;
        lock.release(me(), false)?;
        let (reused, listed, unlisted) =
            (File::open(&place.path)?, File::open(&place.path)?, File::open(&place.path)?);
        assert_eq!(reused.as_raw_fd(), number, "the lowest number that is free");
        let _listed = Listed::new(descriptor_of(&listed))?;
        drop(Listed::new(descriptor_of(&unlisted))?);
        let child = fork(|_| {
            let is_open = |file: &File| file.metadata().is_ok();
            assert_eq!([&reused, &listed, &unlisted].map(is_open), [true, false, true]);
            // The standard library ends a process that closes what is closed already.
            std::mem::forget(listed);
            Ok(())
        })?;
        child.finish()
    })
}

/// The child waits with `lock` for what its parent holds with `held`.
fn hand_over(held: &Lock, lock: &Lock, path: &Path) -> Checked {
    acquire(held, me(), path, Timeout::Once)?;
    let mut child = fork(|line| {
        let mut watch = Asking::new(|question| match question {
            1 => line.say("waiting").map_or(ControlFlow::Break(Stop::Interrupted), ControlFlow::Continue),
            _ => ControlFlow::Continue(()),
        });
        // Without limit: what its parent's thread of this name holds is no deadlock.
        lock.acquire(me(), path, patience(Timeout::Never), &mut watch)?;
        line.say("acquired")?;
        line.must_hear("release")?;
        assert_eq!(lock.depth(me()), 1);
        assert_eq!(lock.release(me(), false)?, Released::Unlocked);
        Ok(())
    })?;
    child.line.must_hear("waiting")?;
    ferrolock::wait::sleep(SHORT);
    assert_eq!(held.release(me(), false)?, Released::Unlocked);
    child.line.must_hear("acquired")?;
    assert!(is_contended(acquire(held, me(), path, Timeout::Once))?, "it is the child's now");
    child.line.say("release")?;
    child.finish()?;
    acquire(held, me(), path, Timeout::Once)?;
    assert_eq!(held.release(me(), false)?, Released::Unlocked);
    Ok(())
}

#[test]
fn a_child_acquires_what_its_parent_has_released() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let (lock, another) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
        hand_over(&lock, &lock, &place.path)?;
        hand_over(&lock, &another, &place.path)?;
        let shared = kernel_lock(Scope::Shared);
        hand_over(&shared, &shared, &place.path)
    })
}

/// The grandchild lives on, and says so after its parent was killed.
#[test]
fn a_parent_that_dies_frees_its_lock_though_its_child_lives() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let (mut far, mut near) = Line::pair()?;
        // Whom the parent leaves behind becomes this process's child, to be reaped.
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut parent = fork(|line| {
            let lock = kernel_lock(Scope::PerOwner);
            acquire(&lock, me(), &place.path, Timeout::Once)?;
            let _child = fork(|_| {
                far.say("born")?;
                far.must_hear("are you there?")?;
                far.say("yes")
            })?;
            line.say("forked")?;
            line.must_hear("(never said)")
        })?;
        parent.line.must_hear("forked")?;
        near.must_hear("born")?;
        assert!(!is_free(&place.path)?);
        parent.kill()?;
        let lock = kernel_lock(Scope::PerOwner);
        let acquired = acquire(&lock, me(), &place.path, Timeout::After(crate::support::LONG / 2));
        near.say("are you there?")?;
        near.must_hear("yes")?;
        #[cfg(target_os = "linux")]
        rustix::process::wait(rustix::process::WaitOptions::empty())?;
        Ok(acquired?)
    })
}

#[test]
fn a_grandchild_starts_unheld_whatever_its_ancestors_hold() -> Checked {
    alone(|| {
        let (place, childs) = (Place::new()?, Place::new()?);
        let lock = kernel_lock(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        let child = fork(|_| {
            acquire(&lock, me(), &childs.path, Timeout::Once)?;
            let mut grandchild = fork(|line| {
                assert_eq!(lock.depth(me()), 0);
                assert_eq!(lock.release(me(), true)?, Released::NotHeld);
                for path in [&place.path, &childs.path] {
                    assert!(is_contended(acquire(&lock, me(), path, Timeout::Once))?);
                }
                line.say("ready")?;
                line.must_hear("released")?;
                acquire(&lock, me(), &childs.path, Timeout::Once)?;
                assert_eq!(lock.release(me(), false)?, Released::Unlocked);
                Ok(())
            })?;
            grandchild.line.must_hear("ready")?;
            assert_eq!(lock.depth(me()), 1);
            assert!(!is_free(&childs.path)?);
            assert_eq!(lock.release(me(), false)?, Released::Unlocked);
            grandchild.line.say("released")?;
            grandchild.finish()
        })?;
        child.finish()?;
        assert_eq!(lock.depth(me()), 1);
        assert!(!is_free(&place.path)?);
        Ok(())
    })
}

#[test]
fn a_lock_object_dropped_in_the_child_gives_back_the_childs_hold_only() -> Checked {
    alone(|| {
        let (place, childs) = (Place::new()?, Place::new()?);
        let mut lock = Some(kernel_lock(Scope::PerOwner));
        lock.as_ref().map_or(Ok(()), |lock| acquire(lock, me(), &place.path, Timeout::Once))?;
        let child = fork(|_| {
            let inherited = lock.take().ok_or("it was there before the fork")?;
            acquire(&inherited, me(), &childs.path, Timeout::Once)?;
            drop(inherited);
            assert!(is_free(&childs.path)?);
            assert!(!is_free(&place.path)?);
            Ok(())
        })?;
        child.finish()?;
        assert!(!is_free(&place.path)?);
        assert_eq!(lock.as_ref().map(|lock| lock.depth(me())), Some(1));
        drop(lock);
        assert!(is_free(&place.path)?);
        Ok(())
    })
}

/// A child's copy of a number may name another file of its own by now.
#[test]
fn a_guard_released_or_dropped_in_the_child_touches_neither_the_lock_nor_other_files() -> Checked {
    alone(|| {
        let (place, another) = (Place::new()?, Place::new()?);
        let mut guards = [Some(guard_on(&place.path)?), Some(guard_on(&another.path)?)];
        let child = fork(|_| {
            let mut files = (0..8)
                .map(|number| File::create_new(place.folder().join(number.to_string())))
                .collect::<Result<Vec<_>, _>>()?;
            for file in &files {
                flock(file, NONBLOCKING)?;
            }
            let [released, dropped] = [guards[0].take(), guards[1].take()];
            released.ok_or("still there")?.release().map_err(|failed| failed.error)?;
            drop(dropped);
            for (number, file) in files.iter_mut().enumerate() {
                writeln!(file, "still open")?;
                let again = File::open(place.folder().join(number.to_string()))?;
                assert_eq!(flock(&again, NONBLOCKING), Err(Errno::WOULDBLOCK), "still locked");
            }
            // Closing these must not find any of them closed already: the library would abort.
            drop(files);
            assert!(!is_free(&place.path)? && !is_free(&another.path)?);
            Ok(())
        })?;
        child.finish()?;
        assert!(!is_free(&place.path)? && !is_free(&another.path)?);
        drop(guards);
        assert!(is_free(&place.path)? && is_free(&another.path)?);
        Ok(())
    })
}

#[test]
fn a_child_forked_in_a_wait_does_not_wait() -> Checked {
    alone(|| {
        let place = Place::new()?;
        let (holder, lock) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
        acquire(&holder, greenlet(1), &place.path, Timeout::Once)?;
        let mut finished = Err("never forked".into());
        let mut watch = Asking::new(|_| {
            finished = fork(|_| {
                assert_eq!(lock.depth(me()), 0);
                // An acquisition of its own, not one from inside the parent's.
                assert!(is_contended(acquire(&lock, me(), &place.path, Timeout::Once))?);
                Ok(())
            })
            .and_then(crate::forking::Forked::finish);
            match holder.release(greenlet(1), false) {
                Ok(_) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(Stop::Interrupted),
            }
        });
        lock.acquire(me(), &place.path, patience(Timeout::Never), &mut watch)?;
        assert_eq!(lock.depth(me()), 1, "the parent waited on");
        finished
    })
}

/// The child has none of the threads that its parent queued behind.
#[cfg(target_os = "linux")]
#[test]
fn a_child_that_goes_on_with_the_wait_waits_for_nobody_who_is_its_parents() -> Checked {
    use std::thread;

    use crate::forking::{Side, be_child, split};
    use crate::lines::is_line_free;
    use crate::support::{AskedOnce, LATE, join, only_woken, until};

    alone(|| {
        let place = Place::new()?;
        let (path, holder) = (&place.path, kernel_lock(Scope::PerOwner));
        acquire(&holder, greenlet(1), path, Timeout::Once)?;
        let (first, lock) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
        thread::scope(|scope| {
            let first = scope.spawn(move || -> Checked {
                first.acquire(me(), path, only_woken(LATE), &mut Unwatched)?;
                first.release(me(), false)?;
                Ok(())
            });
            until("it has gone to the kernel", || Ok(!is_line_free(path)?))?;
            let mut side = Err("never forked".into());
            let mut watch = AskedOnce(|| {
                side = split();
                if matches!(side, Ok(Side::Parent(_))) {
                    drop(holder.release(greenlet(1), false));
                }
            });
            let acquired = lock.acquire(me(), path, only_woken(LATE), &mut watch);
            match side? {
                Side::Parent(child) => {
                    acquired?;
                    lock.release(me(), false)?;
                    join(first)?;
                    child.finish()
                }
                Side::Child(line) => be_child(
                    |_| {
                        acquired?;
                        assert_eq!(lock.release(me(), false)?, Released::Unlocked);
                        Ok(())
                    },
                    line,
                ),
            }
        })
    })
}

/// A child of a bare `clone` has its own process id and nothing else to tell it by.
#[cfg(target_os = "linux")]
#[test]
fn a_child_made_past_the_fork_handlers_is_noticed_when_it_acquires_or_releases() -> Checked {
    use crate::forking::fork_past_the_handlers;
    use crate::support::descriptors_on;

    alone(|| {
        let (place, elsewhere) = (Place::new()?, Place::new()?);
        let lock = kernel_lock(Scope::PerOwner);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        let acquiring = fork_past_the_handlers(|_| {
            assert!(is_contended(acquire(&lock, me(), &place.path, Timeout::Once))?);
            assert_eq!((lock.depth(me()), descriptors_on(&place.path)?), (0, 0));
            Ok(())
        })?;
        acquiring.finish()?;
        let releasing = fork_past_the_handlers(|_| {
            assert_eq!(lock.release(me(), true)?, Released::NotHeld);
            acquire(&lock, me(), &elsewhere.path, Timeout::Once)?;
            Ok(())
        })?;
        releasing.finish()?;
        assert!(!is_free(&place.path)?);
        assert_eq!(lock.release(me(), false)?, Released::Unlocked);
        Ok(())
    })
}

fn take(lock: &Subject, path: &Path, timeout: Timeout) -> Result<(), ferrolock::Error> {
    lock.acquire(me(), Mode::Exclusive, path, patience(timeout), &mut Unwatched)
}

/// A pool of workers that use the lock object of the module they were forked from.
fn pool(how: How) -> Checked {
    const ROUNDS: usize = 15;
    let place = Place::new()?;
    let lock = how.subject();
    take(&lock, &place.path, Timeout::Once)?;
    let mut children = Vec::new();
    for _ in 0..3 {
        children.push(fork(|line| {
            let mut overlaps = 0;
            for _ in 0..ROUNDS {
                take(&lock, &place.path, Timeout::Never)?;
                overlaps += usize::from(!work_alone(&place.path)?);
                lock.release(me(), false, &place.path)?;
            }
            line.say(&overlaps.to_string())
        })?);
    }
    lock.release(me(), false, &place.path)?;
    let mut marks = 0;
    for mut child in children {
        marks += child.line.hear()?.parse::<usize>()?;
        child.finish()?;
    }
    match (marks, counted(&place.path)?.abs_diff(3 * ROUNDS)) {
        (0, 0) => Ok(()),
        (marks, wrong) => Err(Overlap(format!("{marks} marks found, {wrong} counts wrong")).into()),
    }
}

#[test]
fn children_exclude_each_other_through_the_object_they_inherited() -> Checked {
    alone(|| {
        pool(How::Kernel)?;
        pool(How::ByteRange)?;
        match pool(How::NoLock) {
            Err(error) if error.is::<Overlap>() => Ok(()),
            other => Err(format!("with a lock that does not lock: {other:?}").into()),
        }
    })
}
