//! Waiting by asking again and again, where nobody wakes the waiter.

use std::ops::ControlFlow;
use std::time::Instant;

use super::backoff::Backoff;
use super::{Contender, Outcome, Questions, Watch, queue};
use crate::error::Error;
use crate::mechanism::{Attempt, Bid, Manners};
use crate::sys::FileId;

/// Waits by attempts and growing pauses.
///
/// After each failed attempt, in this order: the watch may stop, the deadline may be over, a pause.
///
/// An attempt leaves the lock to those who stand in line; but whoever is first there may be stopped, and the lock be
/// free. So one attempt a tick goes past the line, and the last one.
pub(super) fn wait(
    mut file: Option<FileId>,
    mut bid: Option<Box<dyn Bid>>,
    contender: &Contender<'_>,
    watch: &mut dyn Watch,
) -> Result<Outcome, Error> {
    let mut backoff = if contender.mechanism.is_costly() {
        Backoff::steady(contender.poll_interval)
    } else {
        Backoff::new(contender.poll_interval)
    };
    let mut questions = Questions::begin();
    let tick = queue::tick(contender.poll_interval);
    let mut next_tick = questions.next + tick;
    loop {
        if let Some(outcome) = contender.ended_otherwise(file) {
            return Ok(outcome);
        }
        if questions.are_due() {
            if let ControlFlow::Break(stop) = questions.ask(contender, watch) {
                return Ok(Outcome::Stopped(stop));
            }
        }
        let Some(left) = contender.deadline.remaining() else { return Ok(Outcome::TimedOut(file)) };
        if let ControlFlow::Break(stop) = watch.pause(backoff.next().min(left)) {
            return Ok(Outcome::Stopped(stop));
        }
        let now = Instant::now();
        let manners = if now >= next_tick || contender.deadline.remaining().is_none() {
            next_tick = now + tick;
            Manners::Hasty
        } else {
            Manners::Polite
        };
        let attempt = match &mut bid {
            Some(bid) if manners == Manners::Hasty => bid.attempt_past_line(),
            Some(bid) => bid.attempt(),
            None => contender.try_acquire(manners),
        };
        match attempt? {
            Attempt::Acquired(guard) => return Ok(Outcome::Acquired(guard)),
            Attempt::Contended(seen) => file = seen.or(file),
            Attempt::Interrupted => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::mechanism::{Guard, Mechanism, Mode, ReleaseError, Terms};
    use crate::owner::OwnerId;
    use crate::registry::LockId;
    use crate::time::{Deadline, Timeout};
    use crate::wait::{Nesting, Stop, sleep};

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
        let contender = Contender {
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
        contender.wait(None, None, script).expect("no attempt fails")
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
