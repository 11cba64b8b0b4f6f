//! Files that are being opened or closed, and forks, which wait until none is.
//!
//! A word counts both, so that who opens a file learns of a fork by the very step that announces it to the fork, and locks
//! nothing as long as there is none. Whoever comes second gives way: a fork waits for those who were counted before
//! it, and who finds a fork counted takes itself back and waits for its end. Otherwise there might never be a moment, with
//! many threads, in which none opens by chance.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::generation;
use super::listing::{self, Entry};

/// Openings and closings under way, and from [`FORK`] on the forks that wait for them or are being made.
static UNDER_WAY: AtomicU64 = AtomicU64::new(0);

/// One fork, as [`UNDER_WAY`] counts it: there are never so many threads.
const FORK: u64 = 1 << 32;

/// How long a fork waits for an `open` or `close` of another thread, e.g. on a frozen NFS mount. A child
/// that did not wait may keep a copy of what was being opened.
const FORK_PATIENCE: Duration = Duration::from_secs(5);

/// Locked while a fork is made; in it are the descriptors for which the [`listing`](super::listing) has no place of their own. A
/// standard mutex: unlike `parking_lot`'s, it can be unlocked by the forking thread in the child, whoever waited for it
/// in the parent.
static GATE: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
/// No opening or closing is under way.
static SETTLED: Condvar = Condvar::new();
/// No fork waits or is being made any more.
static FORKED: Condvar = Condvar::new();

pub(super) fn gate() -> MutexGuard<'static, Vec<Entry>> {
    GATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_unsettled() -> bool {
    UNDER_WAY.load(Ordering::SeqCst) % FORK != 0
}

fn is_forking() -> bool {
    UNDER_WAY.load(Ordering::SeqCst) >= FORK
}

/// An opening or closing under way. It ends also where it panics, or no fork would begin any more.
pub(super) struct Transit {
    generation: u64,
}

impl Transit {
    /// Waits for a fork that has begun.
    pub(super) fn begin() -> Self {
        loop {
            let transit = Self { generation: generation() };
            if UNDER_WAY.fetch_add(1, Ordering::SeqCst) < FORK {
                return transit;
            }
            drop(transit);
            drop(FORKED.wait_while(gate(), |_| is_forking()));
        }
    }
}

impl Drop for Transit {
    fn drop(&mut self) {
        // A child has forgotten what was under way in its parent.
        if self.generation != generation() {
            return;
        }
        let before = UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
        // Waking nobody would still be a system call.
        if before > FORK && before % FORK == 1 {
            // The fork looks with the gate in hand: it has not looked yet, or it sleeps.
            drop(gate());
            SETTLED.notify_all();
        }
    }
}

/// A fork that is counted.
struct Fork;

impl Drop for Fork {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(FORK, Ordering::SeqCst);
        FORKED.notify_all();
    }
}

/// No file is opened or closed as long as this is there, and no other fork is made.
pub(super) struct Still {
    fork: Option<Fork>,
    gate: MutexGuard<'static, Vec<Entry>>,
}

impl Still {
    /// Waits for those that are opened or closed just now, but not for ever.
    pub(super) fn begin() -> Self {
        let gate = gate();
        UNDER_WAY.fetch_add(FORK, Ordering::SeqCst);
        let fork = Some(Fork);
        let settled = SETTLED.wait_timeout_while(gate, FORK_PATIENCE, |_| is_unsettled());
        let (gate, _) = settled.unwrap_or_else(PoisonError::into_inner);
        Self { fork, gate }
    }

    /// In a child that was made without the handlers: nothing moves there, but the gate may have been locked.
    pub(super) fn at_once() -> Option<Self> {
        GATE.try_lock().ok().map(|gate| Self { fork: None, gate })
    }

    /// Closes a child's copies of all that its parent had open; nothing of the parent's is under way there.
    pub(super) fn close_inherited(mut self) {
        listing::close_inherited(&mut self.gate);
        UNDER_WAY.store(0, Ordering::SeqCst);
        mem::forget(self.fork.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);

    #[test]
    fn who_comes_while_a_fork_is_made_waits_for_its_end() {
        let (begun, begins) = mpsc::channel();
        let still = Still::begin();
        thread::scope(|scope| {
            scope.spawn(move || {
                let transit = Transit::begin();
                begun.send(()).expect("the test waits");
                drop(transit);
            });
            assert!(begins.recv_timeout(MOMENT).is_err(), "a fork is being made");
            drop(still);
            assert_eq!(begins.recv_timeout(FORK_PATIENCE), Ok(()));
        });
    }

    #[test]
    fn forks_wait_for_who_was_there_before_them_and_no_longer() {
        let transit = Transit::begin();
        let (made, makes) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..2 {
                let made = made.clone();
                scope.spawn(move || {
                    drop(Still::begin());
                    made.send(()).expect("the test waits");
                });
            }
            while UNDER_WAY.load(Ordering::SeqCst) < 2 * FORK {
                thread::yield_now();
            }
            assert!(makes.recv_timeout(MOMENT).is_err(), "something is being opened");
            let since = Instant::now();
            drop(transit);
            for _ in 0..2 {
                assert_eq!(makes.recv_timeout(FORK_PATIENCE), Ok(()));
            }
            assert!(since.elapsed() < FORK_PATIENCE / 2, "they were woken");
        });
    }
}
