//! Waiters without a thread: the stages of a waiter, its line, the porter, and the lock that goes from hand to hand.
//!
//! An action is one section of `wait/deferred.rs`, `wait/desk.rs` or `wait/porter.rs` under a mutex, or one call, and has
//! the name of the function. A waiter begins after an attempt in vain. It may withdraw at any moment, its deadline may
//! pass at any moment, and its bell may be one that nobody hears. The lock is somebody else's at first, who gives it back
//! once. Where nothing must happen any more, nobody waits, nobody but a holder has the lock, and no line is left.
//!
//! What the model leaves out: waiting in the kernel (that is the model of the queue), the thread that polls, nesting,
//! questions, forks. The porter looks whether it is still wanted at any time: a wake-up that is lost costs a moment.

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::support::Checked;

/// A mistake that the model must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// `Entry::settle` does not look whether the wait is over.
    SettleOverwrites,
    /// `offer` takes a bell that nobody hears for one that was heard.
    OfferTrustsTheBell,
    /// `Entry::take` leaves the guard where it is.
    TakeCopies,
    /// `withdraw` gives nothing back.
    WithdrawForgets,
    /// `first` unlists the line after it has looked, in a section of its own.
    UnlistsLater,
    /// `next_task` ends the thread without a look at the lines.
    EndsBlindly,
    /// `enqueue` gets nobody for a new line.
    HiresNobody,
    /// `offer` keeps a lock that nobody wants.
    OfferKeeps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Idle,
    Waiting,
    Offered,
    Failed,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Task {
    Begins,
    /// Its stage says that it waits; it is in no line yet.
    Enqueues,
    Hires,
    Waits,
    Holds,
    /// Withdrawn while it waited: to be taken out of the line.
    Leaves,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Waiter {
    stage: Stage,
    task: Task,
    is_rung: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Porter {
    Ended,
    Idle,
    First,
    /// Only with a flaw.
    Unlists,
    Waits,
    Expired(usize),
    /// The deadline's news are told.
    TellsLate(usize),
    Has,
    Popped(usize),
    Rings(usize),
    Takes(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lock {
    Free,
    Outsider,
    Porter,
    Waiter(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    waiters: Vec<Waiter>,
    /// `None`: not listed.
    line: Option<Vec<usize>>,
    is_unserved: bool,
    porter: Porter,
    lock: Lock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    OutsiderReleases,
    Wait(usize),
    Enqueue(usize),
    Hire(usize),
    Accept(usize),
    Release(usize),
    Look(usize),
    Withdraw(usize),
    Leave(usize),
    NextTask,
    LingerIsOver,
    First,
    Unlist,
    Acquire,
    IsUnwanted,
    DeadlineIsOver(usize),
    Expire,
    NextFor,
    Settle,
    Ring,
    Take,
}

struct Desk {
    /// For each waiter whether it hears its bell.
    hears: Vec<bool>,
    flaw: Option<Flaw>,
}

impl Desk {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// What may happen, on which nobody can rely.
    fn is_chance(action: Action) -> bool {
        matches!(action, Action::Withdraw(_) | Action::DeadlineIsOver(_))
    }

    fn is_quiet(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.into_iter().all(Self::is_chance)
    }

    fn settle(&self, waiter: &mut Waiter, outcome: Stage) -> bool {
        let may = waiter.stage == Stage::Waiting || self.has(Flaw::SettleOverwrites);
        if may {
            waiter.stage = outcome;
        }
        may
    }

    /// What waiters and the outsider do.
    fn waiter_step(&self, mut state: State, action: Action) -> Option<State> {
        match action {
            Action::OutsiderReleases => state.lock = Lock::Free,
            Action::Wait(number) => {
                state.waiters[number] =
                    Waiter { stage: Stage::Waiting, task: Task::Enqueues, ..state.waiters[number] };
            }
            Action::Enqueue(number) => {
                let is_new = state.line.is_none();
                state.line.get_or_insert_default().push(number);
                state.is_unserved |= is_new;
                let hires = is_new && !self.has(Flaw::HiresNobody);
                state.waiters[number].task = if hires { Task::Hires } else { Task::Waits };
            }
            Action::Hire(number) => {
                if state.porter == Porter::Ended && state.is_unserved {
                    state.porter = Porter::Idle;
                }
                state.waiters[number].task = Task::Waits;
            }
            Action::Accept(number) => {
                state.waiters[number].stage = Stage::Over;
                state.waiters[number].task = Task::Holds;
            }
            Action::Release(number) => {
                state.lock = Lock::Free;
                state.waiters[number].task = Task::Done;
            }
            Action::Look(number) => {
                state.waiters[number].stage = Stage::Over;
                state.waiters[number].task = Task::Done;
            }
            Action::Withdraw(number) => {
                let waiter = &mut state.waiters[number];
                let stage = std::mem::replace(&mut waiter.stage, Stage::Over);
                waiter.task = if stage == Stage::Waiting { Task::Leaves } else { Task::Done };
                if stage == Stage::Offered && !self.has(Flaw::WithdrawForgets) {
                    state.lock = Lock::Free;
                }
            }
            Action::Leave(number) => {
                if let Some(line) = &mut state.line {
                    line.retain(|&other| other != number);
                }
                state.waiters[number].task = Task::Done;
            }
            Action::NextTask
            | Action::LingerIsOver
            | Action::First
            | Action::Unlist
            | Action::Acquire
            | Action::IsUnwanted
            | Action::DeadlineIsOver(_)
            | Action::Expire
            | Action::NextFor
            | Action::Settle
            | Action::Ring
            | Action::Take => return None,
        }
        Some(state)
    }

    /// What the porter does.
    fn porter_step(&self, mut state: State, action: Action) -> Option<State> {
        match action {
            Action::NextTask => {
                if state.first().is_some() {
                    state.is_unserved = false;
                    state.porter = Porter::First;
                } else {
                    state.unlist();
                }
            }
            Action::LingerIsOver => state.porter = Porter::Ended,
            Action::First => {
                state.porter = match state.first() {
                    Some(_) => Porter::Waits,
                    None if self.has(Flaw::UnlistsLater) => Porter::Unlists,
                    None => {
                        state.unlist();
                        Porter::Idle
                    }
                };
            }
            Action::Unlist => {
                state.unlist();
                state.porter = Porter::Idle;
            }
            Action::Acquire => {
                state.lock = Lock::Porter;
                state.porter = Porter::Has;
            }
            Action::IsUnwanted => state.porter = Porter::First,
            Action::DeadlineIsOver(number) => {
                if let Some(line) = &mut state.line {
                    line.retain(|&other| other != number);
                }
                state.porter = Porter::Expired(number);
            }
            Action::Expire => {
                let Porter::Expired(number) = state.porter else { return None };
                let is_late = self.settle(&mut state.waiters[number], Stage::Failed);
                state.porter = if is_late { Porter::TellsLate(number) } else { Porter::Waits };
            }
            Action::NextFor => {
                let next = state.line.as_mut().and_then(|line| (!line.is_empty()).then(|| line.remove(0)));
                state.porter = next.map_or(Porter::First, Porter::Popped);
                if next.is_none() && !self.has(Flaw::OfferKeeps) {
                    state.lock = Lock::Free;
                }
            }
            Action::Settle => {
                let Porter::Popped(number) = state.porter else { return None };
                if self.settle(&mut state.waiters[number], Stage::Offered) {
                    state.lock = Lock::Waiter(number);
                    state.porter = Porter::Rings(number);
                } else {
                    state.porter = Porter::Has;
                }
            }
            Action::Ring => match state.porter {
                Porter::TellsLate(number) => {
                    state.waiters[number].is_rung = self.hears[number];
                    state.porter = Porter::Waits;
                }
                Porter::Rings(number) => {
                    state.waiters[number].is_rung = self.hears[number];
                    let is_heard = self.hears[number] || self.has(Flaw::OfferTrustsTheBell);
                    state.porter = if is_heard { Porter::First } else { Porter::Takes(number) };
                }
                Porter::Ended
                | Porter::Idle
                | Porter::First
                | Porter::Unlists
                | Porter::Waits
                | Porter::Expired(_)
                | Porter::Has
                | Porter::Popped(_)
                | Porter::Takes(_) => return None,
            },
            Action::Take => {
                let Porter::Takes(number) = state.porter else { return None };
                state.porter = if state.waiters[number].stage == Stage::Offered {
                    if !self.has(Flaw::TakeCopies) {
                        state.waiters[number].stage = Stage::Over;
                    }
                    state.lock = Lock::Porter;
                    Porter::Has
                } else {
                    Porter::First
                };
            }
            Action::OutsiderReleases
            | Action::Wait(_)
            | Action::Enqueue(_)
            | Action::Hire(_)
            | Action::Accept(_)
            | Action::Release(_)
            | Action::Look(_)
            | Action::Withdraw(_)
            | Action::Leave(_) => return None,
        }
        Some(state)
    }
}

impl State {
    fn waiter_actions(&self, number: usize, actions: &mut Vec<Action>) {
        let waiter = &self.waiters[number];
        actions.extend(match (waiter.task, waiter.stage) {
            (Task::Begins, _) => Some(Action::Wait(number)),
            (Task::Enqueues, _) => Some(Action::Enqueue(number)),
            (Task::Hires, _) => Some(Action::Hire(number)),
            (Task::Waits, Stage::Offered) if waiter.is_rung => Some(Action::Accept(number)),
            (Task::Waits, Stage::Failed) if waiter.is_rung => Some(Action::Look(number)),
            (Task::Holds, _) => Some(Action::Release(number)),
            (Task::Leaves, _) => Some(Action::Leave(number)),
            (Task::Waits | Task::Done, _) => None,
        });
        if waiter.task == Task::Waits {
            actions.push(Action::Withdraw(number));
        }
    }

    fn first(&self) -> Option<usize> {
        self.line.as_ref()?.first().copied()
    }

    fn porter_actions(&self, actions: &mut Vec<Action>) {
        match self.porter {
            Porter::Ended => {}
            Porter::Idle => actions.extend([Action::NextTask, Action::LingerIsOver]),
            Porter::First => actions.push(Action::First),
            Porter::Unlists => actions.push(Action::Unlist),
            Porter::Waits => {
                if self.lock == Lock::Free {
                    actions.push(Action::Acquire);
                }
                if self.first().is_none() {
                    actions.push(Action::IsUnwanted);
                }
                actions.extend(self.line.iter().flatten().map(|&number| Action::DeadlineIsOver(number)));
            }
            Porter::Expired(_) => actions.push(Action::Expire),
            Porter::TellsLate(_) | Porter::Rings(_) => actions.push(Action::Ring),
            Porter::Has => actions.push(Action::NextFor),
            Porter::Popped(_) => actions.push(Action::Settle),
            Porter::Takes(_) => actions.push(Action::Take),
        }
    }

    fn unlist(&mut self) {
        self.line = None;
        self.is_unserved = false;
    }

    /// Who believes to have the lock.
    fn believers(&self) -> usize {
        let porter = matches!(self.porter, Porter::Has | Porter::Popped(_));
        let has = |waiter: &&Waiter| waiter.stage == Stage::Offered || waiter.task == Task::Holds;
        usize::from(porter)
            + self.waiters.iter().filter(has).count()
            + usize::from(self.lock == Lock::Outsider)
    }

    fn is_as_it_should_be(&self) -> bool {
        let is_done = |waiter: &Waiter| waiter.task == Task::Done;
        self.waiters.iter().all(is_done)
            && self.line.is_none()
            && self.lock == Lock::Free
            && self.porter == Porter::Ended
    }
}

const ONE_HOLDER: &str = "nobody but one has the lock";
const NOT_IN_VAIN: &str = "nobody waits in vain, and nothing is left";

impl Model for Desk {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let waiter = Waiter { stage: Stage::Idle, task: Task::Begins, is_rung: false };
        vec![State {
            waiters: vec![waiter; self.hears.len()],
            line: None,
            is_unserved: false,
            porter: Porter::Ended,
            lock: Lock::Outsider,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.lock == Lock::Outsider {
            actions.push(Action::OutsiderReleases);
        }
        for number in 0..state.waiters.len() {
            state.waiter_actions(number, actions);
            // A waiter that nobody can tell anything is dropped one day.
            let is_forgotten = !self.hears[number] && state.waiters[number].task == Task::Waits;
            if is_forgotten && matches!(state.waiters[number].stage, Stage::Failed | Stage::Over) {
                actions.push(Action::Look(number));
            }
        }
        state.porter_actions(actions);
        // An idle thread has nothing to do but to end: that it must, one day, and not at once.
        if state.porter == Porter::Idle && !state.is_unserved {
            actions.retain(|action| *action != Action::NextTask);
        } else {
            actions.retain(|action| *action != Action::LingerIsOver || self.has(Flaw::EndsBlindly));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.waiter_step(last.clone(), action).or_else(|| self.porter_step(last.clone(), action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HOLDER, |_, state: &State| state.believers() <= 1),
            Property::always(NOT_IN_VAIN, |desk: &Desk, state| {
                !desk.is_quiet(state) || state.is_as_it_should_be()
            }),
        ]
    }
}

/// The laws that do not hold; one flaw can break both.
fn broken_laws(hears: &[bool], flaw: Option<Flaw>) -> Vec<&'static str> {
    let until = HasDiscoveries::All;
    let checker = Desk { hears: hears.to_vec(), flaw }.checker().finish_when(until).spawn_bfs().join();
    checker.discoveries().into_keys().collect()
}

#[test]
fn a_lock_is_never_lost_and_never_given_to_two() -> Checked {
    for hears in [[true, true, true], [false, true, true], [true, false, true], [true, false, false]] {
        let broken = broken_laws(&hears, None);
        if !broken.is_empty() {
            return Err(format!("not so: {broken:?} {hears:?}").into());
        }
    }
    Ok(())
}

#[test]
fn each_flaw_breaks_a_law() -> Checked {
    for (flaw, law) in [
        (Flaw::SettleOverwrites, NOT_IN_VAIN),
        (Flaw::OfferTrustsTheBell, NOT_IN_VAIN),
        (Flaw::TakeCopies, ONE_HOLDER),
        (Flaw::WithdrawForgets, NOT_IN_VAIN),
        (Flaw::UnlistsLater, NOT_IN_VAIN),
        (Flaw::EndsBlindly, NOT_IN_VAIN),
        (Flaw::HiresNobody, NOT_IN_VAIN),
        (Flaw::OfferKeeps, NOT_IN_VAIN),
    ] {
        let broken = broken_laws(&[false, true, true], Some(flaw));
        if !broken.contains(&law) {
            return Err(format!("{flaw:?} breaks {broken:?} and not {law:?}").into());
        }
    }
    Ok(())
}
