//! The queue of those threads of one process that wait for a kernel lock: only the first goes to the kernel.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ferrolock::wait::sleep;
use ferrolock::{ErrorKind, Lock, Scope, Stop, Timeout, Watch};

use crate::support::{
    AskedOnce, Asking, Checked, LATE, LONG, Place, SHORT, acquire, greenlet, guard_on, in_time, join,
    kernel_lock, me, only_woken, patience, telling,
};

fn lock_and_release(lock: &Lock, path: &Path, watch: &mut dyn Watch) -> Checked {
    lock.acquire(me(), path, only_woken(LATE), watch)?;
    lock.release(me(), false)?;
    Ok(())
}

#[test]
fn the_next_one_takes_the_place_of_a_first_one_that_gives_up() -> Checked {
    let place = Place::new()?;
    let (path, holder) = (&place.path, guard_on(&place.path)?);
    let (first, next) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
    let gives_up = AtomicBool::new(false);
    thread::scope(|scope| {
        let holder = holder;
        let (waiting, waits) = mpsc::channel();
        let (first, gives_up) = (&first, &gives_up);
        let giving_up = scope.spawn(move || {
            let mut watch = Asking::new(|question| match question {
                1 => waiting.send(()).map_or(ControlFlow::Break(Stop::Interrupted), ControlFlow::Continue),
                _ if gives_up.load(Ordering::SeqCst) => ControlFlow::Break(Stop::Cancelled),
                _ => ControlFlow::Continue(()),
            });
            first.acquire(me(), path, patience(LATE), &mut watch).map_err(|error| error.kind())
        });
        waits.recv_timeout(LONG)?;
        let (waiting, waits) = mpsc::channel();
        let mut watch = telling(waiting);
        let waiter = scope.spawn(move || lock_and_release(&next, path, &mut watch));
        waits.recv_timeout(LONG)?;
        sleep(SHORT);
        gives_up.store(true, Ordering::SeqCst);
        assert_eq!(join(giving_up), Err(ErrorKind::Cancelled));
        holder.release().map_err(|failed| failed.error)?;
        in_time(|| join(waiter))
    })
}

/// Finds out with its first question that there is nothing to look up for.
struct Learning {
    waiting: mpsc::Sender<()>,
    knows: bool,
    looks: usize,
}

impl Watch for Learning {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        self.knows = true;
        self.waiting.send(()).map_or(ControlFlow::Break(Stop::Interrupted), ControlFlow::Continue)
    }

    fn pause(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        self.looks += 1;
        ControlFlow::Continue(())
    }

    fn has_questions(&self) -> bool {
        false
    }

    fn look_every(&self) -> Duration {
        if self.knows { LONG } else { Duration::from_millis(5) }
    }
}

/// Two hundred threads that each look up once for nothing cost as much as their turns.
#[test]
fn who_has_nothing_to_look_up_for_sleeps_until_its_turn() -> Checked {
    let place = Place::new()?;
    let (path, holder) = (&place.path, guard_on(&place.path)?);
    let (first, next) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
    thread::scope(|scope| {
        let (waiting, waits) = mpsc::channel();
        let mut watch = telling(waiting);
        let first = scope.spawn(move || lock_and_release(&first, path, &mut watch));
        waits.recv_timeout(LONG)?;
        let (waiting, waits) = mpsc::channel();
        let next = scope.spawn(move || -> Checked<usize> {
            let mut watch = Learning { waiting, knows: false, looks: 0 };
            lock_and_release(&next, path, &mut watch)?;
            Ok(watch.looks)
        });
        waits.recv_timeout(LONG)?;
        sleep(SHORT);
        holder.release().map_err(|failed| failed.error)?;
        in_time(|| join(first))?;
        assert_eq!(in_time(|| join(next))?, 0);
        Ok(())
    })
}

/// It may last for ever, or wait for what the next one does with the lock.
#[test]
fn a_callback_of_the_first_one_keeps_nobody_from_the_lock() -> Checked {
    let place = Place::new()?;
    let (path, holder) = (&place.path, guard_on(&place.path)?);
    let (first, next) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
    thread::scope(|scope| {
        let holder = holder;
        let (waiting, waits) = mpsc::channel();
        let (goes, go) = mpsc::channel();
        let (called, calls) = mpsc::channel();
        let (ends, end) = mpsc::channel();
        let called_back = scope.spawn(move || -> Checked {
            let mut has_called = false;
            let mut watch = Asking::new(|question| {
                if question == 1 {
                    waiting.send(()).unwrap_or_default();
                } else if !has_called && go.try_recv().is_ok() {
                    has_called = true;
                    called.send(()).unwrap_or_default();
                    end.recv_timeout(LONG).unwrap_or_default();
                }
                ControlFlow::Continue(())
            });
            first.acquire(me(), path, patience(LATE), &mut watch)?;
            first.release(me(), false)?;
            Ok(())
        });
        waits.recv_timeout(LONG)?;
        let (waiting, waits) = mpsc::channel();
        let mut watch = telling(waiting);
        let (done, dones) = mpsc::channel();
        let waiter = scope.spawn(move || -> Checked {
            lock_and_release(&next, path, &mut watch)?;
            Ok(done.send(())?)
        });
        waits.recv_timeout(LONG)?;
        // It sleeps behind the first one.
        sleep(SHORT);
        goes.send(())?;
        calls.recv_timeout(LONG)?;
        holder.release().map_err(|failed| failed.error)?;
        dones.recv_timeout(LONG / 2)?;
        ends.send(())?;
        join(waiter)?;
        in_time(|| join(called_back))
    })
}

/// When a hold comes that ends a wait through the same lock object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    InACallback,
    WhileItSleeps,
    AfterSomebodyGaveUp,
}

/// Nothing else wakes the waiter: it is not the first in its queue.
fn a_shared_hold_ends_the_wait(comes: Comes) -> Checked {
    let place = Place::new()?;
    let holder = kernel_lock(Scope::PerOwner);
    acquire(&holder, greenlet(7), &place.path, Timeout::Once)?;
    let (first, shared) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::Shared));
    let (waiting, waits) = mpsc::channel();
    let (asked, asks) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    thread::scope(|scope| {
        let (first, shared, path) = (&first, &shared, &place.path);
        let head = scope.spawn(move || {
            lock_and_release(first, path, &mut AskedOnce(|| waiting.send(()).unwrap_or_default()))
        });
        waits.recv_timeout(LONG)?;
        let next = scope.spawn(move || {
            let mut watch = AskedOnce(|| {
                asked.send(()).unwrap_or_default();
                answers.recv_timeout(LONG).unwrap_or_default();
            });
            lock_and_release(shared, path, &mut watch)
        });
        asks.recv_timeout(LONG)?;
        if comes != Comes::InACallback {
            answer.send(())?;
            sleep(SHORT);
        }
        if comes == Comes::AfterSomebodyGaveUp {
            let giving_up = kernel_lock(Scope::PerOwner);
            assert!(
                giving_up
                    .acquire(me(), path, patience(Timeout::After(SHORT)), &mut AskedOnce(|| ()))
                    .is_err()
            );
        }
        // Another file, which the head does not wait for: nobody is in the way.
        std::fs::rename(path, path.with_extension("old"))?;
        acquire(shared, greenlet(1), path, Timeout::Once)?;
        if comes == Comes::InACallback {
            answer.send(())?;
        }
        let nested = in_time(|| join(next));
        shared.release(greenlet(1), false)?;
        in_time(|| join(head))?;
        nested
    })?;
    holder.release(greenlet(7), false)?;
    Ok(())
}

#[test]
fn a_shared_hold_that_comes_during_a_callback_ends_the_wait() -> Checked {
    a_shared_hold_ends_the_wait(Comes::InACallback)
}

#[test]
fn a_shared_hold_wakes_who_waits_for_it() -> Checked {
    a_shared_hold_ends_the_wait(Comes::WhileItSleeps)
}

#[test]
fn a_shared_hold_wakes_who_waits_for_it_also_after_another_gave_up() -> Checked {
    a_shared_hold_ends_the_wait(Comes::AfterSomebodyGaveUp)
}
