//! Waiting inside one process: the queue, the place in line, the stand-in, and how a wait ends.
//!
//! The participants are two or three waiters of a process, their stand-ins, and another process that holds the lock
//! or stands in line for it. An action is one section of `wait/queue.rs` or `wait/stand_in.rs` under a mutex, or
//! one system call, and has the name of the function. The kernel is two locks, the `flock` and the turnstile, each
//! with a description that has it and the calls that block for it in order. A free lock goes to the first of them
//! once it has woken up; until then whoever comes may overtake. A description gets a lock that it has again.
//!
//! Two kinds of actions: what *must* happen sooner or later, and what *may* happen, on which nobody can rely: a
//! question falls due, a deadline passes, the other process comes, is stopped or killed. Where nothing must happen any
//! more, everybody is done and nothing is left ([`laws::NOT_IN_VAIN`]). By default the clock stands: no tick comes, so
//! that a lost wake-up shows. Where a tick is allowed ([`Circumstance::Ticks`]) something must happen as long as
//! anybody waits; there the law is that what must happen leads to a good end from every state ([`laws::trap`]).
//!
//! What the model leaves out: errors of the file system, files that are replaced, forks, shared holds (`nest`,
//! `nudge`), spurious wake-ups. What it simplifies: at a tick a lock is given back once and not five times; a waiter
//! asks once, at any pass of its loop, or never; a place is opened when it is first used; opening and closing count
//! with the call beside them; a process goes past lines for any time; the other process has no ticks.
//!
//! The laws are checked for the rules without a [`Flaw`]. Two of the flaws are those of the code as it was when the
//! model was made, and found by it.
//!
//! Bounds: without ticks three waiters, of which two ask or one asks and one times out, or two that may do anything;
//! with ticks two waiters; one other process, which comes back once, or twice. More is in the tests that do not run by
//! default: `cargo test --release --test rust -- --ignored models::queue`, about 5 minutes and 5 GB.

mod head;
mod laws;
mod others;
mod state;
mod tests;
mod waiter;

use stateright::{Model, Property};

use others::{OutsiderStep, ProgramStep, StandInStep};
use state::State;
use waiter::Step;

/// A mistake that the model must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// `Queue::leave` does not wake the next head.
    LeaveWakesNobody,
    /// `Ticket::away` does not wake the next head.
    AwayWakesNobody,
    /// Who comes back from a callback wakes the head, himself, and not the one who was it meanwhile, and who sleeps
    /// while a stand-in keeps a place for him. Found in the code: until his next tick nobody takes the lock.
    BackWakesTheHeadOnly,
    /// `Ticket::sleep` sleeps whatever has happened since `Ticket::look`.
    SleepIgnoresNews,
    StandInWakesNobody,
    /// A waiter that sees that it is no head any more keeps its place.
    FormerHeadKeepsPlace,
    /// A waiter that has timed out does not drop its place.
    TimedOutKeepsPlace,
    /// `into_guard` gives a guard although a stand-in has a share of the place.
    IntoGuardShares,
    /// `into_guard` gives none then, but leaves the lock with the description, which the stand-in keeps open. Found
    /// in the code.
    SharedPlaceKeepsLock,
}

/// The questions of a waiter, each of which takes it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Never,
    Once,
    /// The callback never ends: it takes long, or waits for those behind its waiter.
    ForEver,
    /// The same, but it does not begin once the waiter stands in line.
    ForEverBeforeTheLine,
}

impl Asks {
    fn how_often(self) -> usize {
        usize::from(self != Self::Never)
    }

    fn is_for_ever(self) -> bool {
        matches!(self, Self::ForEver | Self::ForEverBeforeTheLine)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waits {
    asks: Asks,
    /// The answer to a question may end the wait.
    is_cancelled: bool,
    /// The deadline may pass, at any step that looks at it.
    times_out: bool,
}

/// What may become of the other process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    MayBeKilled,
    MayBeStopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outside {
    /// It has the lock when all begins.
    holds: bool,
    /// How often it comes for the lock.
    rounds: usize,
    /// It knows of the line.
    is_polite: bool,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circumstance {
    /// The clock runs: who waits looks up now and then, and tries the lock past the line.
    Ticks,
    NoStandIns,
    /// The program takes the signal that ends system calls for itself, and may give it back.
    SignalIsTaken,
    /// The process learns from elsewhere that lines do not move.
    IsToldToGoPast,
}

#[derive(Debug, Clone)]
struct Config {
    waiters: Vec<Waits>,
    outside: Outside,
    circumstances: Vec<Circumstance>,
    flaw: Option<Flaw>,
}

impl Config {
    fn new(waiters: &[Waits], outside: Outside, circumstances: &[Circumstance]) -> Self {
        Self { waiters: waiters.to_vec(), outside, circumstances: circumstances.to_vec(), flaw: None }
    }

    fn with(self, flaw: Flaw) -> Self {
        Self { flaw: Some(flaw), ..self }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn meets(&self, circumstance: Circumstance) -> bool {
        self.circumstances.contains(&circumstance)
    }

    fn are_alike(&self) -> bool {
        self.waiters.windows(2).all(|pair| pair[0] == pair[1])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Waiter(usize, Step),
    StandIn(usize, StandInStep),
    Outsider(OutsiderStep),
    Program(ProgramStep),
}

/// What can happen next, and whether it must.
#[derive(Debug, Default)]
struct Choices(Vec<(Action, bool)>);

impl Choices {
    fn must(&mut self, action: Action) {
        self.0.push((action, true));
    }

    fn may(&mut self, action: Action) {
        self.0.push((action, false));
    }
}

/// The model.
struct Process {
    config: Config,
    /// What is looked for.
    properties: fn() -> Vec<Property<Self>>,
}

impl Process {
    fn new(config: &Config) -> Self {
        Self { config: config.clone(), properties: laws::laws }
    }

    fn choices(&self, state: &State) -> Choices {
        let mut choices = Choices::default();
        for number in 0..state.waiters.len() {
            state.waiter_choices(&self.config, number, &mut choices);
        }
        state.other_choices(&self.config, &mut choices);
        choices
    }

    /// Nothing must happen any more.
    fn is_quiet(&self, state: &State) -> bool {
        self.choices(state).0.iter().all(|(_, is_due)| !is_due)
    }
}

impl Model for Process {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.config)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.choices(state).0.into_iter().map(|(action, _)| action));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Waiter(number, step) => state.waiter_step(&self.config, number, step),
            Action::StandIn(number, step) => state.stand_in_step(&self.config, number, step),
            Action::Outsider(step) => state.outsider_step(&self.config, step),
            Action::Program(step) => state.program_step(step),
        }
        state.tidy();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        (self.properties)()
    }
}
