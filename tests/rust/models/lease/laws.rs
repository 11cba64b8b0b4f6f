//! The model: where it begins, what can happen next, and what must hold.

use stateright::{Model, Property};

use super::state::{Actor, At, Folder, Kind, LAG, Role, SEATS, Seat, State, Then};
use super::steps::{Rules, Step};

pub(super) const ALONE: &str = "a writer is alone, apart from holders that were stopped";
pub(super) const NUMBERS: &str = "numbers grow with each writer that is granted";
pub(super) const TOLD: &str = "who has lost its marker can be told, and is";
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
    /// By how many changes a listing may be late. One that is as if there were nobody may come in any case.
    pub(super) lag: usize,
    /// Whether nobody comes between a look at a name and its removal; and then nobody is stopped there.
    pub(super) is_exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Make(Seat),
    /// With a listing from before the last changes, this many; or from before all.
    MakeLate(Seat, usize),
    Beat(Seat),
    /// A process, and so all its threads.
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
            | At::Look
            | At::Evict
            | At::LookAgain
            | At::EvictAgain
            | At::LeaveRemove
            | At::Take
            | At::TakeAside
    )
}

impl Leases {
    fn may_be_late(&self, actor: &Actor) -> bool {
        match (actor.at, actor.role) {
            _ if actor.kind == Kind::Filelock => false,
            (At::List, Role::Writer) => true,
            (At::List | At::ListAgain, _) => !self.rules.fresh_lists,
            _ => false,
        }
    }

    fn actions_of(&self, state: &State, seat: Seat, actions: &mut Vec<Action>) {
        let actor = state.actor(seat);
        let is_thread = actor.role == Role::Nested;
        if actor.at == At::Dead {
            return;
        }
        if actor.is_stopped {
            if !is_thread {
                actions.push(Action::GoOn(seat));
            }
            return;
        }
        if actor.at != At::Idle || actor.left > 0 {
            actions.push(Action::Make(seat));
        }
        if self.may_be_late(actor) {
            actions.extend((1..=self.lag).map(|lag| Action::MakeLate(seat, lag)));
            actions.push(Action::MakeLate(seat, usize::MAX));
        }
        let is_ours = actor.kind == Kind::Ours;
        let is_careful = self.is_exact && is_in_eviction(actor.at);
        let other = state.other_thread(seat).map(|other| state.actor(other));
        let is_idle = [Some(actor), other].iter().flatten().all(|actor| actor.at == At::Idle);
        if !is_thread && !is_idle && !is_careful {
            if state.stops > 0 && is_ours {
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

    fn step<'a>(&self, state: &'a mut State, seat: Seat, remembered: Option<Folder>) -> Step<'a> {
        Step { rules: self.rules, state, seat, is_exact: self.is_exact, remembered }
    }

    /// One state of those that differ in which of two equal contenders is which only.
    fn representative(&self, state: State) -> State {
        let has_thread = |seat: usize| self.cast.get(seat + 1).is_some_and(|(_, role)| *role == Role::Nested);
        let is_equal = |one: usize, other: usize| {
            self.cast[one] == self.cast[other] && !has_thread(one) && !has_thread(other)
        };
        let orders = [[1, 0, 2], [0, 2, 1], [2, 1, 0], [1, 2, 0], [2, 0, 1]];
        let is_allowed =
            |order: &&[Seat; SEATS]| (0..SEATS).all(|seat| is_equal(seat, usize::from(order[seat])));
        let others = orders.iter().filter(is_allowed).map(|order| state.with_seats(*order));
        others.min().filter(|least| *least < state).unwrap_or(state)
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
            judged_state: 0,
            judged: None,
            aside: None,
            listed: 0,
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
            folder: Folder::default(),
            before: [Folder::default(); LAG],
            granted: 0,
            is_number_repeated: false,
            is_untold: false,
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
        let threads =
            |seat: Seat| [Some(seat), last.other_thread(seat)].into_iter().flatten().map(usize::from);
        match action {
            Action::Make(seat) => self.step(&mut state, seat, None).make(),
            Action::MakeLate(seat, lag) => {
                let remembered = lag.checked_sub(1).and_then(|lag| last.before.get(lag)).copied();
                self.step(&mut state, seat, Some(remembered.unwrap_or_default())).make();
            }
            Action::Beat(seat) => self.step(&mut state, seat, None).beat(),
            Action::Stop(seat) => {
                state.stops -= 1;
                for thread in threads(seat) {
                    let actor = &mut state.actors[thread];
                    (actor.is_stopped, actor.was_stopped) = (true, actor.was_stopped || actor.claims);
                }
            }
            Action::GoOn(seat) => threads(seat).for_each(|thread| state.actors[thread].is_stopped = false),
            Action::Die(seat) => {
                state.deaths -= 1;
                for thread in threads(seat) {
                    let Actor { kind, role, .. } = state.actors[thread];
                    // Whatever it remembered is gone with it.
                    let nobody = Actor { kind, role, left: 0, ..self.init_states()[0].actors[thread] };
                    state.actors[thread] = Actor { at: At::Dead, ..nobody };
                }
            }
            Action::GiveUp(seat) => {
                let actor = &mut state.actors[usize::from(seat)];
                (actor.at, actor.then) = (At::RemoveOwn, Then::Rest);
            }
        }
        if self.lag > 0 && state.folder != last.folder {
            state.before.rotate_right(1);
            // What has been removed since is not found any more where it was listed.
            state.before[0] = last.folder;
            state.before[self.lag.min(LAG)..].fill(Folder::default());
        }
        state.normalize();
        (state != *last).then(|| self.representative(state))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ALONE, |_, state: &State| {
                let mut holders = state.actors.iter().filter(|actor| actor.holds && !actor.was_stopped);
                holders.clone().count() < 2 || !holders.any(|actor| actor.role == Role::Writer)
            }),
            Property::always(NUMBERS, |_, state: &State| !state.is_number_repeated),
            Property::always(TOLD, |model: &Self, state: &State| {
                // Who holds without a marker was stopped, and the next heartbeat of its ends that.
                !state.is_untold
                    && (0..3).all(|seat: Seat| {
                        let actor = state.actor(seat);
                        let is_unknown = actor.kind == Kind::Filelock || actor.is_stopped;
                        if is_unknown || !actor.holds || state.folder.has(seat) {
                            return true;
                        }
                        let mut told = state.clone();
                        model.step(&mut told, seat, None).beat();
                        actor.was_stopped && !told.actor(seat).holds
                    })
            }),
            Property::sometimes(ALL_HELD, |model: &Self, state: &State| {
                state.actors.iter().all(|actor| actor.left < model.holds)
            }),
            Property::sometimes(EVICTED, |model: &Self, state: &State| {
                model.is_exact
                    || model.stops == 0
                    || (0..3).any(|seat: Seat| {
                        let actor = state.actor(seat);
                        actor.holds && actor.was_stopped && !state.folder.has(seat)
                    })
            }),
        ]
    }
}
