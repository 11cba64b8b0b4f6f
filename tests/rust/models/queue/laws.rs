//! What must hold in every state, and what must stay possible.

use stateright::Property;

use super::super::trap::trap;
use super::state::{KernelLock, OutsiderPc, Pc, State, Waiter};
use super::{Action, Process};

pub(super) const ONE_HOLDER: &str = "nobody but one holds the lock";
pub(super) const NO_ORPHAN: &str = "whose lock it is knows";
pub(super) const ALONE: &str = "a guard's description is nobody else's";
pub(super) const NOT_IN_VAIN: &str = "nobody waits for a lock that is free, and nothing is left behind";

pub(super) fn laws() -> Vec<Property<Process>> {
    vec![
        Property::always(ONE_HOLDER, |_, state| has_one_holder(state)),
        Property::always(NO_ORPHAN, |_, state| has_no_orphan(state)),
        Property::always(ALONE, |_, state| has_guards_alone(state)),
        Property::always(NOT_IN_VAIN, |process, state| !process.is_quiet(state) || is_as_it_should_be(state)),
    ]
}

/// Whoever believes to have the lock has it, so it is one at the most.
fn has_one_holder(state: &State) -> bool {
    let outside = if state.outsider.pc == OutsiderPc::Holding { state.outsider.desc } else { None };
    let mut believers = state.waiters.iter().filter_map(|waiter| waiter.guard).chain(outside);
    let only = believers.next();
    believers.next().is_none() && (only.is_none() || only == state.flock.holder)
}

/// The lock is free, or somebody's who holds it or is about to find out.
fn has_no_orphan(state: &State) -> bool {
    let knows = |waiter: &Waiter| {
        let is_about_to = matches!(waiter.pc, Pc::LeaveLine | Pc::IntoGuard);
        let own = if is_about_to { waiter.head.place } else { waiter.guard };
        own == state.flock.holder
    };
    state.flock.holder.is_none()
        || state.outsider.desc == state.flock.holder
        || state.waiters.iter().any(knows)
}

fn has_guards_alone(state: &State) -> bool {
    let mut guards = state.waiters.iter().filter_map(|waiter| waiter.guard);
    guards.all(|guard| state.open[guard.0] == 1)
}

/// In a state where nothing need happen any more: everybody is done, but for those whose callback takes long, who
/// keep others from nothing, and for what a stopped process has; and nothing is left over.
fn is_as_it_should_be(state: &State) -> bool {
    let stopped = if state.outsider.pc == OutsiderPc::Stopped { state.outsider.desc } else { None };
    let is_unused = |lock: &KernelLock| lock.is_unused() || (stopped.is_some() && lock.holder == stopped);
    let is_asking = |waiter: &Waiter| waiter.pc == Pc::Asking;
    let is_settled = |waiter: &Waiter| waiter.pc == Pc::Done || is_asking(waiter);
    if !matches!(state.outsider.pc, OutsiderPc::Idle | OutsiderPc::Done | OutsiderPc::Stopped)
        || !is_unused(&state.flock)
        || !state.waiters.iter().all(is_settled)
    {
        return false;
    }
    state.waiters.iter().any(is_asking)
        || (is_unused(&state.turnstile)
            && state.open.iter().sum::<usize>() == usize::from(stopped.is_some())
            && state.listed.is_none()
            && state.queues.is_empty()
            && state.stand_ins.is_empty())
}

/// Everybody is done, or waits with good reason: for a lock that a stopped process has.
fn is_good_end(process: &Process, state: &State) -> bool {
    let is_for_ever = |number: usize| process.config.waiters[number].asks.is_for_ever();
    let is_stopped = state.outsider.pc == OutsiderPc::Stopped && state.outsider.desc == state.flock.holder;
    let mut waiters = state.waiters.iter().enumerate();
    is_stopped
        || waiters
            .all(|(number, waiter)| waiter.pc == Pc::Done || (waiter.pc == Pc::Asking && is_for_ever(number)))
}

/// The way to a state from which what must happen does not lead to a good end.
pub(super) fn way_to_trap(process: &Process) -> Option<Vec<Action>> {
    trap(process, |state| process.choices(state).0, |state| is_good_end(process, state))
}
