//! The model: where it begins, what can happen next, and what must hold.

use stateright::{Model, Property};

use super::state::{Actor, At, Kind, Role, SEATS, Seat, State, Then, bit};
use super::steps::{Rules, Step};

pub(super) const ALONE: &str = "a writer is alone, apart from holders that were stopped";
pub(super) const NUMBERS: &str = "numbers grow with each writer that is granted";
pub(super) const TOLD: &str = "who has lost its marker can be told";
pub(super) const LAWS: [&str; 3] = [ALONE, NUMBERS, TOLD];
const ALL_HELD: &str = "everybody holds at some time";
const EVICTED: &str = "a holder that was stopped loses its hold";

#[derive(Clone, Debug)]
pub(super) struct Leases {
    pub(super) rules: Rules,
    pub(super) cast: [(Kind, Role); SEATS],
    /// How often each may hold.
    pub(super) holds: u8,
    /// How often one of ours may be stopped for longer than its threshold.
    pub(super) stops: u8,
    pub(super) deaths: u8,
    /// Whether nobody comes between a look at a name and its removal; and then nobody is stopped there.
    pub(super) is_exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Make(Seat),
    /// With a listing from before.
    MakeOld(Seat),
    Beat(Seat),
    Stop(Seat),
    GoOn(Seat),
    Die(Seat),
    /// A writer that waits gives up.
    GiveUp(Seat),
}

fn is_in_eviction(at: At) -> bool {
    matches!(
        at,
        At::EvictState
            | At::Judge
            | At::Disown
            | At::EvictLook
            | At::EvictTake
            | At::EvictAside
            | At::Evict
            | At::EvictAgain
            | At::LeaveRemove
            | At::Take
            | At::TakeAside
    )
}

impl Leases {
    fn may_be_old(&self, actor: &Actor) -> bool {
        match (actor.at, actor.role) {
            _ if actor.kind == Kind::Filelock => false,
            (At::List, Role::Writer) => true,
            (At::List | At::ListAgain, _) => !self.rules.fresh_lists,
            _ => false,
        }
    }

    fn actions_of(&self, state: &State, seat: Seat, actions: &mut Vec<Action>) {
        let actor = &state.actors[usize::from(seat)];
        if actor.at == At::Dead {
            return;
        }
        if actor.is_stopped {
            actions.push(Action::GoOn(seat));
            return;
        }
        if actor.at != At::Idle || actor.left > 0 {
            actions.push(Action::Make(seat));
        }
        if self.may_be_old(actor) {
            actions.push(Action::MakeOld(seat));
        }
        let is_ours = actor.kind == Kind::Ours;
        let in_eviction = is_in_eviction(actor.at) && self.is_exact;
        if is_ours && actor.at != At::Idle && !in_eviction {
            if state.stops > 0 {
                actions.push(Action::Stop(seat));
            }
            if state.deaths > 0 {
                actions.push(Action::Die(seat));
            }
        }
        if is_ours && actor.claims && (actor.holds || actor.at == At::Enter) {
            actions.push(Action::Beat(seat));
        }
        if is_ours && actor.claims && actor.at == At::Enter {
            actions.push(Action::GiveUp(seat));
        }
    }
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let actor = |(kind, role)| Actor {
            kind,
            role,
            at: At::Idle,
            then: Then::Rest,
            is_stopped: false,
            state: None,
            judged: 0,
            aside: None,
            claims: false,
            holds: false,
            was_stopped: false,
            number: 0,
            left: self.holds,
        };
        vec![State {
            actors: self.cast.map(actor),
            state: None,
            next_state: 0,
            write: None,
            readers: 0,
            claims: 0,
            numbers: 0,
            last_granted: 0,
            is_number_repeated: false,
            stops: self.stops,
            deaths: self.deaths,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for seat in 0..3 {
            self.actions_of(state, seat, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let (Action::Make(seat)
        | Action::MakeOld(seat)
        | Action::Beat(seat)
        | Action::Stop(seat)
        | Action::GoOn(seat)
        | Action::Die(seat)
        | Action::GiveUp(seat)) = action;
        let index = usize::from(seat);
        let is_old = matches!(action, Action::MakeOld(_));
        let step = Step { rules: self.rules, state: &mut state, seat, is_exact: self.is_exact, is_old };
        match action {
            Action::Make(_) | Action::MakeOld(_) => step.make(),
            Action::Beat(_) => step.beat(),
            Action::Stop(_) => {
                state.stops -= 1;
                let actor = &mut state.actors[index];
                (actor.is_stopped, actor.was_stopped) = (true, actor.was_stopped || actor.claims);
            }
            Action::GoOn(_) => state.actors[index].is_stopped = false,
            Action::Die(_) => {
                state.deaths -= 1;
                let actor = &mut state.actors[index];
                // Whatever it remembered is gone with it.
                *actor = Actor { at: At::Dead, state: None, aside: None, holds: false, ..*actor };
                state.normalize();
            }
            Action::GiveUp(_) => {
                state.actors[index].at = At::RemoveOwn;
                state.actors[index].then = Then::Rest;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ALONE, |_, state: &State| {
                let holders: Vec<_> =
                    state.actors.iter().filter(|actor| actor.holds && !actor.was_stopped).collect();
                let writers = holders.iter().filter(|actor| actor.role == Role::Writer).count();
                writers == 0 || holders.len() == 1
            }),
            Property::always(NUMBERS, |_, state: &State| !state.is_number_repeated),
            Property::always(TOLD, |model: &Self, state: &State| {
                // Who holds without a marker was stopped, and the next heartbeat of its ends that.
                (0..3).all(|seat: Seat| {
                    let actor = &state.actors[usize::from(seat)];
                    let there = (state.readers | state.claims) & bit(seat) != 0;
                    if actor.kind == Kind::Filelock || !actor.holds || there || actor.is_stopped {
                        return true;
                    }
                    let mut told = state.clone();
                    Step {
                        rules: model.rules,
                        state: &mut told,
                        seat,
                        is_exact: model.is_exact,
                        is_old: false,
                    }
                    .beat();
                    actor.was_stopped && !told.actors[usize::from(seat)].holds
                })
            }),
            Property::sometimes(ALL_HELD, |_, state: &State| {
                state.actors.iter().all(|actor| actor.left == 0)
            }),
            Property::sometimes(EVICTED, |model: &Self, state: &State| {
                model.is_exact
                    || state.actors.iter().enumerate().any(|(index, actor)| {
                        let own = 1 << index;
                        actor.holds && actor.was_stopped && (state.readers | state.claims) & own == 0
                    })
            }),
        ]
    }
}
