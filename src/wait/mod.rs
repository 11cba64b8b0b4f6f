//! The one wait loop, for every mechanism.

mod backoff;
mod crew;
mod deferred;
pub(crate) mod desk;
pub(crate) mod past_lines;
mod porter;
pub(crate) mod queue;
mod request;
mod stand_in;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backoff::Backoff;

pub use crew::end_idle_porters;
pub use deferred::{Deferred, News, Unmet};
pub use desk::end_waits;
pub use request::Request;
pub(crate) use request::{Party, Target};

use crate::asking::Nesting;
use crate::error::{Error, ErrorKind};
use crate::mechanism::{Attempt, Bid, Guard, Manners, Mechanism, Mode, Place, Terms};
use crate::owner::OwnerId;
use crate::registry::{self, LockId};
use crate::sys::FileId;
use crate::time::{Deadline, Timeout};

/// As good as for ever, and within every clock.
pub(crate) const FAR: Duration = Duration::from_secs(86_400 * 365);

/// How an acquisition waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    /// When to give up.
    pub timeout: Timeout,
    /// How often [`Watch::contended`] is asked, and the longest pause between two attempts.
    pub poll_interval: Duration,
    /// The age at which a marker counts as abandoned although its owner may live. Other locks do not age.
    pub lifetime: Option<Duration>,
}

/// How a wait goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsBy {
    /// The kernel wakes the waiter.
    Kernel,
    /// The waiter asks again and again.
    Polling,
}

/// Why a [`Watch`] ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The caller wants the lock no longer.
    Cancelled,
    /// A signal handler or a callback failed; the watch keeps the reason.
    Interrupted,
}

/// What a waiter does beside waiting: the caller's side of the loop.
///
/// No mutex is locked and the lock is not held while a watch is called, so it may use any lock, also this one.
pub trait Watch {
    /// Is told once how the wait goes on, before it does.
    fn begins(&mut self, _waits_by: WaitsBy) {}

    /// Is asked at the first failed attempt and then every [`Patience::poll_interval`]; `pause` is the
    /// longest time to the next question.
    fn contended(&mut self, pause: Duration) -> ControlFlow<Stop>;

    /// Lets `pause` pass, or less where something has to be seen to, such as a signal; sees to that also if
    /// there is no time to pass.
    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop>;

    /// Whether the thread may block other than in [`Watch::pause`]. A greenlet's may not.
    fn may_block(&self) -> bool {
        true
    }

    /// Whether [`Watch::contended`] has to be called again, once it was.
    fn has_questions(&self) -> bool {
        true
    }

    /// How often [`Watch::pause`] has to be called at least, if only with nothing to pass; it is called earlier, but not twice
    /// as often, where the waiter is awake anyway.
    fn look_every(&self) -> Duration {
        FAR
    }
}

/// One acquisition that has to wait.
pub(crate) struct Waiter<'a> {
    /// The lock object that asks, and for whom.
    pub(crate) lock: LockId,
    pub(crate) owner: OwnerId,
    pub(crate) mechanism: &'a dyn Mechanism,
    /// The canonical path.
    pub(crate) path: &'a Path,
    pub(crate) mode: Mode,
    pub(crate) deadline: Deadline,
    pub(crate) poll_interval: Duration,
    pub(crate) lifetime: Option<Duration>,
    /// Nests, if the lock object has come to be held by this owner in another way: a shared one, by
    /// another thread. Or says that it has come to be held so that this owner cannot have it.
    pub(crate) nest: &'a dyn Fn() -> Nesting,
}

impl Waiter<'_> {
    fn terms(&self, manners: Manners) -> Terms {
        Terms { mode: self.mode, manners, lifetime: self.lifetime }
    }

    fn try_acquire(&self, manners: Manners) -> Result<Attempt, Error> {
        self.mechanism.try_acquire(self.path, self.terms(manners))
    }

    /// An attempt before the wait.
    pub(crate) fn attempt(&self) -> Result<Attempt, Error> {
        self.try_acquire(Manners::Hasty)
    }

    fn open_place(&self) -> Result<Option<Arc<dyn Place>>, Error> {
        self.mechanism.open_place(self.path, self.terms(past_lines::manners(self.path)))
    }

    /// How the wait ends without an attempt: the hold has come in another way, or never will.
    fn ended_otherwise(&self, file: Option<FileId>) -> Option<Outcome> {
        let is_own = |file| registry::would_deadlock(self.lock, self.owner, file);
        match (self.nest)() {
            Nesting::Nested => Some(Outcome::Nested),
            Nesting::Refused(kind) => Some(Outcome::Refused(kind)),
            Nesting::No if self.deadline.is_unlimited() && file.is_some_and(is_own) => {
                Some(Outcome::Deadlock)
            }
            Nesting::No => None,
        }
    }
}

/// The least time between two questions: a shorter poll interval would be nothing but work.
const SHORTEST_QUESTION: Duration = Duration::from_millis(1);

/// When the watch is asked.
struct Questions {
    next: Instant,
}

impl Questions {
    /// The first one is due at once.
    fn begin() -> Self {
        Self { next: Instant::now() }
    }

    fn are_due(&self) -> bool {
        Instant::now() >= self.next
    }

    fn ask(&mut self, waiter: &Waiter<'_>, watch: &mut dyn Watch) -> ControlFlow<Stop> {
        let now = Instant::now();
        let pause = waiter.deadline.remaining().unwrap_or_default().min(waiter.poll_interval);
        watch.contended(pause)?;
        let interval = if watch.has_questions() { waiter.poll_interval } else { FAR };
        self.next = now + interval.max(SHORTEST_QUESTION);
        ControlFlow::Continue(())
    }
}

/// How a wait ended without an error of its attempts.
#[derive(Debug)]
pub(crate) enum Outcome {
    Acquired(Box<dyn Guard>),
    Nested,
    /// The lock object has come to be held so that this owner cannot have it.
    Refused(ErrorKind),
    TimedOut(Option<FileId>),
    Stopped(Stop),
    /// The owner itself holds the file through another lock object, and the wait has no end.
    Deadlock,
}

/// Goes on after a first attempt that found `file` contended, until the lock is had, an attempt fails, the
/// deadline passes or the watch stops it.
///
/// The kernel wakes the waiter where it can and the watch lets it; elsewhere it polls, by `bid` if the first attempt was
/// one's.
pub(crate) fn wait(
    file: Option<FileId>,
    bid: Option<Box<dyn Bid>>,
    waiter: &Waiter<'_>,
    watch: &mut dyn Watch,
) -> Result<Outcome, Error> {
    let will_wait = waiter.deadline.remaining().is_some();
    if bid.is_none() && will_wait && watch.may_block() && waiter.mechanism.wakes_waiters(waiter.path) {
        watch.begins(WaitsBy::Kernel);
        return queue::wait(file, waiter, watch);
    }
    watch.begins(WaitsBy::Polling);
    let bid = bid.or_else(|| waiter.mechanism.bid(waiter.path, waiter.terms(Manners::Polite)));
    poll(file, bid, waiter, watch)
}

/// Waits by attempts and growing pauses.
///
/// After each failed attempt, in this order: the watch may stop, the deadline may be over, a pause.
///
/// An attempt leaves the lock to those who stand in line; but whoever is first there may be stopped, and the lock be
/// free. So one attempt a tick goes past the line, and the last one.
fn poll(
    mut file: Option<FileId>,
    mut bid: Option<Box<dyn Bid>>,
    waiter: &Waiter<'_>,
    watch: &mut dyn Watch,
) -> Result<Outcome, Error> {
    let mut backoff = if waiter.mechanism.is_costly() {
        Backoff::steady(waiter.poll_interval)
    } else {
        Backoff::new(waiter.poll_interval)
    };
    let mut questions = Questions::begin();
    let tick = queue::tick(waiter.poll_interval);
    let mut next_tick = questions.next + tick;
    loop {
        if let Some(outcome) = waiter.ended_otherwise(file) {
            return Ok(outcome);
        }
        if questions.are_due() {
            if let ControlFlow::Break(stop) = questions.ask(waiter, watch) {
                return Ok(Outcome::Stopped(stop));
            }
        }
        let Some(left) = waiter.deadline.remaining() else { return Ok(Outcome::TimedOut(file)) };
        if let ControlFlow::Break(stop) = watch.pause(backoff.next().min(left)) {
            return Ok(Outcome::Stopped(stop));
        }
        let now = Instant::now();
        let manners = if now >= next_tick || waiter.deadline.remaining().is_none() {
            next_tick = now + tick;
            Manners::Hasty
        } else {
            Manners::Polite
        };
        let attempt = match &mut bid {
            Some(bid) if manners == Manners::Hasty => bid.attempt_past_line(),
            Some(bid) => bid.attempt(),
            None => waiter.try_acquire(manners),
        };
        match attempt? {
            Attempt::Acquired(guard) => return Ok(Outcome::Acquired(guard)),
            Attempt::Contended(seen) => file = seen.or(file),
            Attempt::Interrupted => {}
        }
    }
}

/// Wakes those who wait through the lock object `lock`, which has come to be held.
pub(crate) fn nudge(lock: LockId) {
    queue::nudge(lock);
    desk::nudge(lock);
}

/// A watch that only sleeps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        ControlFlow::Continue(())
    }

    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
        sleep(pause);
        ControlFlow::Continue(())
    }
}

/// Blocks the calling thread: the one place of the crate where a wait sleeps.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn sleep(pause: Duration) {
    std::thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::mechanism::ReleaseError;

    /// Answers from a list, and counts.
    #[derive(Default)]
    struct Script {
        stop_at_question: Option<usize>,
        stop_at_pause: Option<usize>,
        questions: usize,
        pauses: usize,
    }

    fn stop_if(due: bool, stop: Stop) -> ControlFlow<Stop> {
        if due { ControlFlow::Break(stop) } else { ControlFlow::Continue(()) }
    }

    impl Watch for Script {
        fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
            self.questions += 1;
            stop_if(self.stop_at_question == Some(self.questions), Stop::Cancelled)
        }

        fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
            self.pauses += 1;
            sleep(pause);
            stop_if(self.stop_at_pause == Some(self.pauses), Stop::Interrupted)
        }
    }

    /// Succeeds at one attempt, and counts them.
    #[derive(Debug, Default)]
    struct Scripted {
        succeed_at: usize,
        attempts: AtomicUsize,
        bids: Option<Bids>,
    }

    /// Counts the bids that were made and those that are over. Their attempts are all in vain.
    #[derive(Debug, Default)]
    struct Bids {
        begun: AtomicUsize,
        attempts: Arc<AtomicUsize>,
        over: Arc<AtomicUsize>,
    }

    #[derive(Debug)]
    struct VainBid {
        attempts: Arc<AtomicUsize>,
        over: Arc<AtomicUsize>,
    }

    impl Bid for VainBid {
        fn attempt(&mut self) -> Result<Attempt, Error> {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            Ok(Attempt::Contended(None))
        }

        fn stay_at(&mut self, _path: &Path) {}
    }

    impl Drop for VainBid {
        fn drop(&mut self) {
            self.over.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Debug)]
    struct Held;

    impl Guard for Held {
        fn file(&self) -> FileId {
            FileId { device: 0, inode: 0 }
        }

        fn release(self: Box<Self>) -> Result<(), ReleaseError> {
            Ok(())
        }
    }

    impl Mechanism for Scripted {
        fn try_acquire(&self, _path: &Path, _terms: Terms) -> Result<Attempt, Error> {
            let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
            Ok(if attempt == self.succeed_at {
                Attempt::Acquired(Box::new(Held))
            } else {
                Attempt::Contended(None)
            })
        }

        fn bid(&self, _path: &Path, _terms: Terms) -> Option<Box<dyn Bid>> {
            let bids = self.bids.as_ref()?;
            bids.begun.fetch_add(1, Ordering::Relaxed);
            let (attempts, over) = (Arc::clone(&bids.attempts), Arc::clone(&bids.over));
            Some(Box::new(VainBid { attempts, over }))
        }
    }

    fn wait_for(mechanism: &Scripted, script: &mut Script, timeout: Timeout) -> Outcome {
        let waiter = Waiter {
            lock: LockId(0),
            owner: OwnerId::current_thread(),
            mechanism,
            path: Path::new("/x.lock"),
            mode: Mode::Exclusive,
            deadline: Deadline::begin(timeout),
            poll_interval: Duration::from_millis(2),
            lifetime: None,
            nest: &|| Nesting::No,
        };
        wait(None, None, &waiter, script).expect("no attempt fails")
    }

    fn run(script: &mut Script, timeout: Timeout, succeed_at: usize) -> (Outcome, usize) {
        let mechanism = Scripted { succeed_at, ..Scripted::default() };
        let outcome = wait_for(&mechanism, script, timeout);
        (outcome, mechanism.attempts.into_inner())
    }

    #[test]
    fn the_attempt_that_succeeds_ends_the_wait() {
        let (outcome, attempts) = run(&mut Script::default(), Timeout::Never, 3);
        assert!(matches!(outcome, Outcome::Acquired(_)), "{outcome:?}");
        assert_eq!(attempts, 3);
    }

    #[test]
    fn a_timeout_is_not_early_and_follows_a_last_attempt() {
        let begin = Instant::now();
        let limit = Duration::from_millis(20);
        let (outcome, attempts) = run(&mut Script::default(), Timeout::After(limit), usize::MAX);
        assert!(matches!(outcome, Outcome::TimedOut(None)), "{outcome:?}");
        assert!(begin.elapsed() >= limit);
        assert!(attempts > 0);
    }

    #[test]
    fn no_patience_asks_once_and_makes_no_further_attempt() {
        let mut script = Script::default();
        let (outcome, attempts) = run(&mut script, Timeout::After(Duration::ZERO), 1);
        assert!(matches!(outcome, Outcome::TimedOut(None)), "{outcome:?}");
        assert_eq!((script.questions, script.pauses, attempts), (1, 0, 0));
    }

    #[test]
    fn the_watch_can_stop_the_wait_at_a_question_and_in_a_pause() {
        let mut script = Script { stop_at_question: Some(2), ..Script::default() };
        let (outcome, _) = run(&mut script, Timeout::Never, usize::MAX);
        assert!(matches!(outcome, Outcome::Stopped(Stop::Cancelled)), "{outcome:?}");
        let mut script = Script { stop_at_pause: Some(1), ..Script::default() };
        let (outcome, attempts) = run(&mut script, Timeout::Never, usize::MAX);
        assert!(matches!(outcome, Outcome::Stopped(Stop::Interrupted)), "{outcome:?}");
        assert_eq!(attempts, 0);
    }

    #[test]
    fn a_wait_is_one_bid_and_withdraws_it_at_its_end() {
        let mechanism = Scripted { bids: Some(Bids::default()), ..Scripted::default() };
        let mut script = Script { stop_at_pause: Some(4), ..Script::default() };
        let outcome = wait_for(&mechanism, &mut script, Timeout::Never);
        assert!(matches!(outcome, Outcome::Stopped(Stop::Interrupted)), "{outcome:?}");
        let bids = mechanism.bids.unwrap_or_default();
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        assert_eq!((count(&bids.begun), count(&bids.over)), (1, 1));
        assert_eq!(count(&bids.attempts), 3);
        assert_eq!(mechanism.attempts.into_inner(), 0, "each attempt is the bid's");
    }
}
