//! The model: where it begins, what can happen next, and what must hold.

use stateright::{Model, Property};

use super::put_back::{give_up, stall};
use super::state::{Actor, At, Content, FRESH, Folder, Ino, Kind, LONG_DEAD, Name, Pid, Sort, State};
use super::steps::{Rules, Step};

pub(super) const ONE_HOLDER: &str = "at most one contender holds";
pub(super) const NAMED: &str = "a holder's marker has a name";
pub(super) const NEVER_EMPTY: &str = "the path is not empty while somebody holds";
pub(super) const FREE: &str = "when all is quiet, who comes gets the lock";
const ALL_HELD: &str = "everybody has held";
const TAKEN_OVER: &str = "a stale marker is taken over";

/// What is in the folder at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Absent,
    /// The marker of an owner that has died.
    Dead,
    /// What is no marker, and has not changed for long.
    Malformed,
    /// The marker of a breaker that has died, and aside the one of the first contender, which holds.
    Stranded,
}

#[derive(Clone, Debug)]
pub(super) struct Marker {
    pub(super) rules: Rules,
    /// The contenders.
    pub(super) kinds: Vec<Kind>,
    /// Whether the first two are one process.
    pub(super) is_shared: bool,
    /// How often each may get the lock.
    pub(super) holds: u8,
    /// How many processes may be killed.
    pub(super) crashes: u8,
    /// How often one may give up putting back.
    pub(super) give_ups: u8,
    /// Whether processes that hold nothing may end.
    pub(super) exits: bool,
    pub(super) starts: Vec<Start>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The contender on this seat makes the system call that it stands before.
    Make(usize, At),
    /// It has found the path free before, and begins to make its marker without a look.
    Trust(usize),
    /// It has seen no change for 10 ms.
    Stall(usize),
    /// It has tried to put back for 2 s.
    GiveUp(usize),
    /// Its process is killed.
    Crash(usize),
    /// Its process ends.
    Exit(usize),
}

impl Marker {
    fn start(&self, start: Start) -> State {
        let process = |seat: usize| Pid::try_from(if self.is_shared && seat == 1 { 0 } else { seat });
        let actor = |seat: usize| {
            let kind = self.kinds.get(seat).copied();
            let holds = if seat == FRESH { 1 } else { self.holds };
            let mut actor = Actor::new(kind.unwrap_or(Kind::Ours), process(seat).expect("few seats"), holds);
            if kind.is_none() && seat != FRESH {
                (actor.at, actor.holds) = (At::Dead, 0);
            }
            actor
        };
        let mut state = State {
            folder: Folder::new(),
            actors: std::array::from_fn(actor),
            crashes: self.crashes,
            give_ups: self.give_ups,
            gave_up: false,
            pins: self.rules.pin,
        };
        let State { folder, actors: [holder, ..], .. } = &mut state;
        match start {
            Start::Absent => {}
            Start::Dead => folder.path = Some(folder.create(Content::Record(LONG_DEAD))),
            Start::Malformed => folder.path = Some(folder.create(Content::Malformed)),
            Start::Stranded => {
                folder.path = Some(folder.create(Content::Record(LONG_DEAD)));
                let held = folder.create(Content::Record(holder.pid));
                folder.link(Name { sort: Sort::Break, pid: LONG_DEAD, tag: 0 }, held);
                (holder.own, holder.at, holder.holds) = (Some(held), At::Held, holder.holds - 1);
            }
        }
        state
    }

    /// Whether a contender that comes now, and is alone, gets the lock.
    fn is_free(&self, state: &State) -> bool {
        let mut state = *state;
        (0..100).any(|_| {
            Step { rules: &self.rules, state: &mut state, seat: FRESH }.make();
            state.actors[FRESH].at == At::Held
        })
    }
}

/// All contenders of the process have gone, and their descriptors are closed.
fn end(state: &mut State, seat: usize) {
    let pid = state.actors[seat].pid;
    for actor in state.actors.iter_mut().filter(|actor| actor.pid == pid) {
        actor.holds = 0;
        actor.rest(At::Dead);
    }
    state.collect();
}

impl Model for Marker {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.starts.iter().map(|start| self.start(*start)).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let alive = || state.contenders().iter().enumerate().filter(|(_, actor)| actor.at != At::Dead);
        for (seat, actor) in alive() {
            if actor.at != At::Idle || actor.holds > 0 {
                actions.push(Action::Make(seat, actor.at));
            }
            // Where the path is free, a look leads there too.
            if (actor.at, actor.kind) == (At::Idle, Kind::Ours)
                && actor.holds > 0
                && state.folder.path.is_some()
            {
                actions.push(Action::Trust(seat));
            }
            if actor.at == At::PutBackWait {
                actions.push(Action::Stall(seat));
                actions.extend((state.give_ups > 0).then_some(Action::GiveUp(seat)));
            }
            let is_idle = alive().all(|(_, other)| other.pid != actor.pid || other.at == At::Idle);
            if is_idle && self.exits {
                actions.push(Action::Exit(seat));
            } else if !is_idle && state.crashes > 0 {
                actions.push(Action::Crash(seat));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        match action {
            Action::Make(seat, _) => Step { rules: &self.rules, state: &mut state, seat }.make(),
            Action::Trust(seat) => state.actors[seat].at = At::Prepare,
            Action::Stall(seat) => stall(&mut state, seat),
            Action::GiveUp(seat) => give_up(&mut state, seat),
            Action::Crash(seat) => {
                state.crashes -= 1;
                end(&mut state, seat);
            }
            Action::Exit(seat) => end(&mut state, seat),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HOLDER, |_, state: &State| holders(state).count() <= 1),
            Property::always(NAMED, |_, state: &State| holders(state).all(|own| state.folder.links(own) > 0)),
            Property::always(NEVER_EMPTY, |_, state: &State| {
                state.folder.path.is_some() || holders(state).next().is_none()
            }),
            Property::always(FREE, |model: &Self, state: &State| {
                !is_quiet(state) || is_excused(state) || model.is_free(state)
            }),
            Property::sometimes(ALL_HELD, |model: &Self, state: &State| {
                let is_done = |actor: &Actor| actor.at == At::Idle && actor.holds == 0;
                state.contenders().iter().take(model.kinds.len()).all(is_done)
            }),
            Property::sometimes(TAKEN_OVER, |_, state: &State| {
                state.contenders().iter().any(|actor| matches!(actor.at, At::TakeUnlink | At::Survey))
            }),
        ]
    }
}

/// The markers of the contenders that believe that they hold.
fn holders(state: &State) -> impl Iterator<Item = Ino> + '_ {
    state.contenders().iter().filter(|actor| actor.at == At::Held).filter_map(|actor| actor.own)
}

/// Nobody holds, attempts or releases.
fn is_quiet(state: &State) -> bool {
    state.contenders().iter().all(|actor| matches!(actor.at, At::Idle | At::Dead))
}

/// What is known to keep the lock from others: a file that filelock created and did not come to write, which is never
/// stale and is put back from aside; and what somebody gave up to put back, as long as anybody lives.
fn is_excused(state: &State) -> bool {
    let is_empty = |ino: Ino| state.folder.content(ino) == Content::Empty;
    let is_unwritten =
        state.folder.path.is_some_and(is_empty) || state.folder.entries().any(|(_, ino)| is_empty(ino));
    is_unwritten || (state.gave_up && state.contenders().iter().any(|actor| actor.at != At::Dead))
}
