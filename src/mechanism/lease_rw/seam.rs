//! Where a contender may be stopped or killed: the places between its calls. Tests do it there; nobody else stops.

/// A place in an attempt, a release or an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(all(test, unix)), allow(dead_code, reason = "the tests name all of them"))]
pub(super) enum Step {
    /// `x.state` is made.
    Entered,
    /// There is no `x.write` in the way.
    Cleared,
    /// A reader's marker is about to be made, or a writer's claim.
    Publishing,
    /// A reader's marker is there, or a writer's claim.
    Published,
    /// `x.write` is there.
    Shown,
    /// The number is claimed.
    Numbered,
    /// A writer has listed the others once more.
    Relisted,
    /// The others were looked for.
    Listed,
    /// Everything was found to be one's own.
    Confirmed,
    /// It is a hold, and `x.state` is still there.
    Granted,
    /// `x.state` is about to be removed.
    Leaving,
    /// A stale `x.write` was looked at once more.
    Judged,
    /// Its claim is removed.
    Disowned,
    /// `x.write` was looked at, and is about to be renamed.
    Taking,
    /// It has been renamed.
    Aside,
    /// A stale `x.state` is about to be renamed.
    Evicting,
    /// Of a release: the marker or claim is about to be removed.
    Releasing,
    /// Of a release: it is removed.
    Released,
}

#[cfg(not(all(test, unix)))]
pub(super) fn reach(_step: Step) {}

#[cfg(all(test, unix))]
pub(super) use at::{ALL, reach, stop_at};

#[cfg(all(test, unix))]
mod at {
    use std::cell::RefCell;

    use super::Step;

    pub(in crate::mechanism::lease_rw) const ALL: [Step; 18] = [
        Step::Entered,
        Step::Cleared,
        Step::Publishing,
        Step::Published,
        Step::Shown,
        Step::Numbered,
        Step::Relisted,
        Step::Listed,
        Step::Confirmed,
        Step::Granted,
        Step::Leaving,
        Step::Judged,
        Step::Disowned,
        Step::Taking,
        Step::Aside,
        Step::Evicting,
        Step::Releasing,
        Step::Released,
    ];

    type Stop = (Step, Box<dyn FnOnce()>);

    thread_local! {
        static STOP: RefCell<Option<Stop>> = const { RefCell::new(None) };
    }

    /// Calls `stop` when this thread first reaches `step`.
    pub(in crate::mechanism::lease_rw) fn stop_at(step: Step, stop: impl FnOnce() + 'static) {
        STOP.set(Some((step, Box::new(stop))));
    }

    pub(in crate::mechanism::lease_rw) fn reach(step: Step) {
        let due = STOP.with_borrow_mut(|stop| stop.take_if(|(at, _)| *at == step));
        if let Some((_, stop)) = due {
            stop();
        }
    }
}
