//! Threads that keep leases fresh, whatever the threads that hold them do.
//!
//! One worker for each file system: a system call on a frozen mount does not come back, and the leases on other file
//! systems must not wait for it. A worker begins with its first lease and ends when it has had none for a while. A
//! forked child has none: the leases are its parent's.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fork::ForkMutex;
use crate::sys;

/// What is done for a lease now and then. It may block: only those on the same file system wait for it.
pub(crate) trait Beat: Debug + Send + Sync {
    /// Refreshes the lease.
    fn beat(&self) -> Next;
}

/// When the next beat is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    In(Duration),
    /// The lease is over, or lost.
    Never,
}

/// How long a worker stays without a lease: starting a thread costs as much as a whole cycle of a lock.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Worker {
    /// The file system.
    device: u64,
    /// A standard mutex: a forked child finds no workers, so it never touches one that was locked at the fork.
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Debug)]
struct Plan {
    entries: Vec<Entry>,
    /// When the worker looks up by itself; `None` while it is beating.
    wakes: Option<Instant>,
    has_ended: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    beat: Arc<dyn Beat>,
    due: Instant,
}

impl Entry {
    fn is(&self, beat: &Arc<dyn Beat>) -> bool {
        Arc::ptr_eq(&self.beat, beat)
    }
}

static WORKERS: ForkMutex<Vec<Arc<Worker>>> = ForkMutex::new();

/// Has `beat` called after `first`, and then as it says itself, until [`stop`].
///
/// # Errors
/// Those of starting a thread.
pub(crate) fn start(device: u64, beat: &Arc<dyn Beat>, first: Duration) -> io::Result<()> {
    let due = Instant::now() + first;
    let is_ours = |worker: &&Arc<Worker>| worker.device == device;
    let known = WORKERS.lock().iter().find(is_ours).map(Arc::clone);
    let entry = Entry { beat: Arc::clone(beat), due };
    if known.is_some_and(|worker| worker.add(entry.clone())) {
        return Ok(());
    }
    let plan = Plan { entries: vec![entry], wakes: None, has_ended: false };
    let worker = Arc::new(Worker { device, plan: Mutex::new(plan), changed: Condvar::new() });
    let at_work = Arc::clone(&worker);
    sys::spawn_masked("ferrolock-heartbeat", move || at_work.work())?;
    // Two threads may have begun one each; both work, and later leases go to the first.
    let mut workers = WORKERS.lock();
    workers.retain(|other| other.device != device || !other.has_ended());
    workers.push(worker);
    Ok(())
}

/// Has `beat` called no more. A call under way is not waited for.
pub(crate) fn stop(device: u64, beat: &Arc<dyn Beat>) {
    let ours: Vec<_> =
        WORKERS.lock().iter().filter(|worker| worker.device == device).map(Arc::clone).collect();
    for worker in ours {
        worker.plan().entries.retain(|entry| !entry.is(beat));
    }
}

impl Worker {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        self.plan().has_ended
    }

    /// `false`: too late, the worker has ended.
    fn add(&self, entry: Entry) -> bool {
        let mut plan = self.plan();
        if plan.has_ended {
            return false;
        }
        // Waking it is a system call, and mostly it looks up in time.
        let is_late = plan.wakes.is_some_and(|wakes| wakes > entry.due);
        plan.entries.push(entry);
        drop(plan);
        if is_late {
            self.changed.notify_all();
        }
        true
    }

    fn work(&self) {
        let mut idle_since = Instant::now();
        loop {
            let mut plan = self.plan();
            let now = Instant::now();
            let due: Vec<_> = plan.entries.iter().filter(|entry| entry.due <= now).cloned().collect();
            if due.is_empty() {
                if !plan.entries.is_empty() {
                    idle_since = now;
                } else if now - idle_since >= LINGER {
                    plan.has_ended = true;
                    return;
                }
                let first = plan.entries.iter().map(|entry| entry.due).min();
                let wakes = first.unwrap_or(idle_since + LINGER);
                plan.wakes = Some(wakes);
                let woken = self.changed.wait_timeout(plan, wakes - now);
                woken.unwrap_or_else(PoisonError::into_inner).0.wakes = None;
                continue;
            }
            drop(plan);
            for entry in due {
                let next = entry.beat.beat();
                let mut plan = self.plan();
                match next {
                    Next::Never => plan.entries.retain(|other| !other.is(&entry.beat)),
                    Next::In(pause) => {
                        let due = Instant::now() + pause;
                        let same = plan.entries.iter_mut().filter(|other| other.is(&entry.beat));
                        same.for_each(|other| other.due = due);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::wait::sleep;

    const TICK: Duration = Duration::from_millis(5);

    #[derive(Debug, Default)]
    struct Counted {
        beats: AtomicUsize,
        ends_at: usize,
        is_frozen: AtomicBool,
    }

    impl Beat for Counted {
        fn beat(&self) -> Next {
            while self.is_frozen.load(Ordering::SeqCst) {
                sleep(TICK);
            }
            let beats = self.beats.fetch_add(1, Ordering::SeqCst) + 1;
            if beats == self.ends_at { Next::Never } else { Next::In(TICK) }
        }
    }

    impl Counted {
        fn count(&self) -> usize {
            self.beats.load(Ordering::SeqCst)
        }
    }

    fn until(condition: impl Fn() -> bool) {
        let begin = Instant::now();
        while !condition() {
            assert!(begin.elapsed() < Duration::from_secs(10), "waited in vain");
            sleep(Duration::from_millis(1));
        }
    }

    fn begin(device: u64, counted: &Arc<Counted>) -> Arc<dyn Beat> {
        let beat: Arc<dyn Beat> = Arc::clone(counted) as Arc<dyn Beat>;
        start(device, &beat, TICK).expect("a thread can be started");
        beat
    }

    #[test]
    fn a_lease_is_beaten_until_it_is_stopped() {
        let counted = Arc::new(Counted::default());
        let beat = begin(900_001, &counted);
        until(|| counted.count() > 3);
        stop(900_001, &beat);
        sleep(3 * TICK);
        let count = counted.count();
        sleep(6 * TICK);
        assert_eq!(counted.count(), count);
    }

    #[test]
    fn a_lease_that_is_over_is_not_beaten_again() {
        let counted = Arc::new(Counted { ends_at: 2, ..Counted::default() });
        let other = Arc::new(Counted::default());
        let _beats = [begin(900_002, &counted), begin(900_002, &other)];
        until(|| other.count() > 10);
        assert_eq!(counted.count(), 2);
    }

    #[test]
    fn a_frozen_file_system_stops_no_other() {
        let frozen = Arc::new(Counted { is_frozen: AtomicBool::new(true), ..Counted::default() });
        let neighbour = Arc::new(Counted::default());
        let healthy = Arc::new(Counted::default());
        let _beats = [begin(900_003, &frozen), begin(900_003, &neighbour), begin(900_004, &healthy)];
        until(|| healthy.count() > 10);
        assert_eq!(frozen.count(), 0);
        frozen.is_frozen.store(false, Ordering::SeqCst);
        until(|| frozen.count() > 2 && neighbour.count() > 2);
    }

    #[test]
    fn a_lease_that_is_due_sooner_than_the_others_is_not_late() {
        let late = Arc::new(Counted::default());
        let beat: Arc<dyn Beat> = Arc::clone(&late) as Arc<dyn Beat>;
        start(900_005, &beat, Duration::from_secs(3600)).expect("a thread can be started");
        sleep(4 * TICK);
        let soon = Arc::new(Counted::default());
        begin(900_005, &soon);
        until(|| soon.count() > 2);
        assert_eq!(late.count(), 0);
    }
}
