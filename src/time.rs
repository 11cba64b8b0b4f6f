//! How long a caller is willing to wait, on the monotonic clock.

use std::time::{Duration, Instant};

/// The patience of one acquisition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// One attempt, no waiting.
    Once,
    /// Attempts until this much time has passed since the acquisition began.
    After(Duration),
    /// No limit.
    Never,
}

/// A [`Timeout`] that has begun to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    timeout: Timeout,
    /// `None`: no limit, or one that the clock cannot express (centuries ahead).
    end: Option<Instant>,
}

impl Deadline {
    pub(crate) fn begin(timeout: Timeout) -> Self {
        let end = match timeout {
            Timeout::After(limit) => Instant::now().checked_add(limit),
            Timeout::Once | Timeout::Never => None,
        };
        Self { timeout, end }
    }

    /// The time left: `None` when it is over, [`Duration::MAX`] where there is no limit.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        match (self.timeout, self.end) {
            (Timeout::Once, _) => None,
            (_, None) => Some(Duration::MAX),
            (_, Some(end)) => {
                let left = end.saturating_duration_since(Instant::now());
                (!left.is_zero()).then_some(left)
            }
        }
    }

    /// When it is over, if ever.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.end
    }

    /// Whether one attempt was asked for.
    pub(crate) fn is_once(&self) -> bool {
        self.timeout == Timeout::Once
    }

    /// Whether waiting can go on for ever.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.timeout == Timeout::Never
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends_at_its_time_and_not_before() {
        assert_eq!(Deadline::begin(Timeout::Once).remaining(), None);
        assert_eq!(Deadline::begin(Timeout::After(Duration::ZERO)).remaining(), None);
        assert_eq!(Deadline::begin(Timeout::Never).remaining(), Some(Duration::MAX));
        let minute = Deadline::begin(Timeout::After(Duration::from_secs(60)));
        let left = minute.remaining().unwrap_or_default();
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");
    }

    #[test]
    fn a_limit_beyond_the_clock_is_no_limit() {
        assert_eq!(Deadline::begin(Timeout::After(Duration::MAX)).remaining(), Some(Duration::MAX));
    }
}
