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
    /// So long after this one began: the lease counts from there, however long the refresh took.
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

/// Has `beat` called when it is `due`, and then as it says itself, until [`stop`]. One that is called already is due then.
///
/// # Errors
/// Those of starting a thread.
pub(crate) fn start(device: u64, beat: &Arc<dyn Beat>, due: Instant) -> io::Result<()> {
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
        plan.entries.retain(|other| !other.is(&entry.beat));
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
                let begun = Instant::now();
                let next = entry.beat.beat();
                let mut plan = self.plan();
                // What was begun anew meanwhile is due at another time, and this says nothing of it.
                let same = |other: &Entry| other.is(&entry.beat) && other.due == entry.due;
                match next {
                    Next::Never => plan.entries.retain(|other| !same(other)),
                    Next::In(pause) => {
                        let same = plan.entries.iter_mut().filter(|other| same(other));
                        same.for_each(|other| other.due = begun + pause);
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
        begun: AtomicUsize,
        beats: AtomicUsize,
        ends_at: usize,
        is_frozen: AtomicBool,
    }

    impl Beat for Counted {
        fn beat(&self) -> Next {
            self.begun.fetch_add(1, Ordering::SeqCst);
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
        start(device, &beat, Instant::now() + TICK).expect("a thread can be started");
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

    /// When each beat began and ended, of a refresh that takes as long as the pause after it.
    #[derive(Debug, Default)]
    struct Slow(Mutex<Vec<[Instant; 2]>>);

    const SLOW: Duration = Duration::from_millis(100);

    impl Beat for Slow {
        fn beat(&self) -> Next {
            let begun = Instant::now();
            sleep(SLOW);
            self.0.lock().unwrap().push([begun, Instant::now()]);
            Next::In(SLOW)
        }
    }

    #[test]
    fn a_refresh_that_takes_long_shortens_the_pause_after_it() {
        let slow = Arc::new(Slow::default());
        let beat: Arc<dyn Beat> = Arc::<Slow>::clone(&slow);
        start(900_006, &beat, Instant::now()).expect("a thread can be started");
        until(|| slow.0.lock().unwrap().len() > 5);
        stop(900_006, &beat);
        let log = slow.0.lock().unwrap();
        let shortest = log.windows(2).map(|pair| pair[1][0] - pair[0][1]).min();
        assert!(shortest.is_some_and(|pause| pause < SLOW / 2), "{shortest:?}");
    }

    /// A release that fails has it beaten again, perhaps while the last beat before it just finds that it is over.
    #[test]
    fn what_is_begun_anew_is_not_ended_by_a_beat_from_before() {
        let counted =
            Arc::new(Counted { ends_at: 1, is_frozen: AtomicBool::new(true), ..Counted::default() });
        let beat = begin(900_007, &counted);
        until(|| counted.begun.load(Ordering::SeqCst) == 1);
        stop(900_007, &beat);
        start(900_007, &beat, Instant::now() + TICK).expect("a thread can be started");
        counted.is_frozen.store(false, Ordering::SeqCst);
        until(|| counted.count() > 3);
        stop(900_007, &beat);
    }

    /// As a claim is, first by who waits and then by who holds.
    #[test]
    fn what_is_begun_twice_is_beaten_once() {
        let counted = Arc::new(Counted::default());
        let beat = begin(900_008, &counted);
        start(900_008, &beat, Instant::now() + TICK).expect("a thread can be started");
        let workers = WORKERS.lock();
        let ours = workers.iter().filter(|worker| worker.device == 900_008);
        assert_eq!(ours.map(|worker| worker.plan().entries.len()).sum::<usize>(), 1);
        drop(workers);
        stop(900_008, &beat);
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
        start(900_005, &beat, Instant::now() + Duration::from_secs(3600)).expect("a thread can be started");
        sleep(4 * TICK);
        let soon = Arc::new(Counted::default());
        begin(900_005, &soon);
        until(|| soon.count() > 2);
        assert_eq!(late.count(), 0);
    }
}
