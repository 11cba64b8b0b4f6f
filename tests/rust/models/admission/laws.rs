//! What must hold in every state, and what must stay possible.

use stateright::{Model, Property};

use super::super::trap::trap;
use super::state::{Pc, Seat, State};
use super::{Action, Admission, Config};

pub(super) const ALONE: &str = "one writer, or readers";
pub(super) const PREFERRED: &str = "nobody comes in to read before a writer that it found waiting";
pub(super) const WOKEN: &str = "who waits in the kernel is woken without a poll";
pub(super) const IN_TIME: &str = "nobody waits in vain for longer than one poll";
pub(super) const ENDS: &str = "there is a way on which all come to an end";

impl Model for Admission {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.config)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.choices(&self.config).into_iter().map(|(action, _)| action));
    }

    fn next_state(&self, state: &State, Action(seat, step): Action) -> Option<State> {
        let mut after = state.clone();
        after.step(&self.config, seat, step);
        (after != *state).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        (self.properties)()
    }
}

pub(super) fn laws() -> Vec<Property<Admission>> {
    vec![
        Property::always(ALONE, |Admission { config, .. }, state| is_alone(config, state)),
        Property::always(PREFERRED, |Admission { config, .. }, state| is_preferred(config, state)),
        Property::always(WOKEN, |Admission { config, .. }, state: &State| {
            state.stopped.is_some()
                || waiting(state).any(|seat| !config.who(seat).blocks() || state.pc(seat) == Pc::Nap)
                || !waits_in_vain(config, state)
        }),
        Property::always(IN_TIME, |Admission { config, .. }, state: &State| {
            !waits_in_vain(config, state)
                || orders(&waiting(state).collect::<Vec<_>>())
                    .iter()
                    .all(|order| is_helped(config, state, order))
        }),
    ]
}

fn is_alone(config: &Config, state: &State) -> bool {
    let inside = || state.seats().filter(|seat| state.is_inside(*seat));
    inside().count() < 2 || !inside().any(|seat| config.who(seat).writes())
}

/// A second hold of who reads already is let in, or that writer would wait for ever.
fn is_preferred(config: &Config, state: &State) -> bool {
    let Some(writer) = state.claimant(config) else { return true };
    state.seats().filter(|seat| state.is_inside(*seat)).all(|reader| !state.is_late_for(reader, writer))
}

fn waiting(state: &State) -> impl Iterator<Item = Seat> {
    state.seats().filter(|seat| state.waits(*seat))
}

/// All sleep, and the lock is free for one of them.
fn waits_in_vain(config: &Config, state: &State) -> bool {
    waiting(state).any(|seat| state.is_free_for(config, seat))
        && state.seats().all(|seat| state.sleeps(config, seat))
}

/// Whether one poll of each, in this order, lets somebody in, or lets somebody claim for whom the others have to wait.
fn is_helped(config: &Config, state: &State, order: &[Seat]) -> bool {
    let mut after = state.clone();
    for seat in order {
        after.poll_once(config, *seat);
        if order.iter().any(|seat| after.is_inside(*seat)) {
            return true;
        }
    }
    !waits_in_vain(config, &after)
}

fn orders(seats: &[Seat]) -> Vec<Vec<Seat>> {
    if seats.is_empty() {
        return vec![Vec::new()];
    }
    let first_of = |first: usize| {
        let mut rest = seats.to_vec();
        let first = rest.remove(first);
        orders(&rest).into_iter().map(move |order| [&[first], &order[..]].concat())
    };
    (0..seats.len()).flat_map(first_of).collect()
}

/// The way to a state from which nobody's doing leads to an end.
pub(super) fn way_to_trap(admission: &Admission) -> Option<Vec<Action>> {
    let config = &admission.config;
    trap(admission, |state| state.choices(config), |state| has_ended(config, state))
}

/// All are done, or stopped: who is stopped with anything locked may be waited for, as by SQLite's protocol it is.
fn has_ended(config: &Config, state: &State) -> bool {
    let excuses = |seat| config.excuses_stopped && state.has_any_lock(seat);
    state.stopped.is_some_and(excuses)
        || state.seats().all(|seat| state.pc(seat) == Pc::Done || state.is_stopped(seat))
}
