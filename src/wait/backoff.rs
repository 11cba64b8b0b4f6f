//! How long a polling waiter pauses between two attempts.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(1);

/// Pauses that grow by half each time, from 1 ms to the poll interval, each shortened by up to a quarter
/// at random, so that waiters who began together do not go on together.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    longest: Duration,
    is_steady: bool,
}

impl Backoff {
    pub(super) fn new(poll_interval: Duration) -> Self {
        let longest = poll_interval.max(FIRST);
        Self { next: FIRST, longest, is_steady: false }
    }

    /// Pauses that are all the poll interval, for attempts that are dear.
    pub(super) fn steady(poll_interval: Duration) -> Self {
        Self { next: poll_interval, longest: poll_interval, is_steady: true }
    }

    /// Begins with the shortest pause again.
    pub(super) fn restart(&mut self) {
        self.next = FIRST;
    }

    pub(super) fn next(&mut self) -> Duration {
        if self.is_steady {
            return self.longest;
        }
        let pause = self.next;
        self.next = (pause + pause / 2).min(self.longest);
        pause.mul_f64(1.0 - 0.25 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_a_millisecond_to_the_poll_interval() {
        let longest = Duration::from_millis(50);
        let mut backoff = Backoff::new(longest);
        let pauses: Vec<_> = std::iter::repeat_with(|| backoff.next()).take(20).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST * 3 / 4, "{pauses:?}");
        assert!(pauses[1] <= FIRST * 3 / 2, "by half each time: {pauses:?}");
        assert!(pauses[19] <= longest && pauses[19] >= longest * 3 / 4, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= longest));
    }

    #[test]
    fn steady_pauses_are_the_poll_interval() {
        for interval in [Duration::ZERO, Duration::from_millis(70)] {
            let mut backoff = Backoff::steady(interval);
            assert!((0..5).all(|_| backoff.next() == interval));
        }
    }

    #[test]
    fn a_poll_interval_of_nothing_still_pauses() {
        let mut backoff = Backoff::new(Duration::ZERO);
        assert!((0..10).all(|_| backoff.next() >= FIRST * 3 / 4));
    }

    #[test]
    fn a_long_poll_interval_is_reached_and_not_passed() {
        let longest = Duration::from_secs(86_400 * 365);
        let mut backoff = Backoff::new(longest);
        let last = (0..500).map(|_| backoff.next()).last();
        assert!(last.is_some_and(|last| last <= longest && last >= longest / 2), "{last:?}");
    }
}
