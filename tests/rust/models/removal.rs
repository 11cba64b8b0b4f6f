//! Removing the lock file as the lock is given back: who holds what, in all interleavings of a few participants.
//!
//! The participants are contenders of ours that remove the file and that do not, filelock's (3.29, which removes it too, and
//! 4.2, which does not), and one who cleans up. An action is one system call. A file is a lock, those who are blocked in
//! it, in order, and whether it is the one at the path; what nobody has open and no path leads to is forgotten, and its
//! number may come again. filelock looks at the number of names, which says the same here: nobody renames or links.
//!
//! A releaser may see that others are in line or may not, for a line looks empty while its head changes.
//!
//! What the model leaves out: the queue inside a process and the turnstile (see `queue`), errors, and outsiders who remove
//! or replace the file: whoever does that frees the path at any time.
//!
//! Bounds: three participants, of which one may be killed, wherever it is, and those of ours may give up waiting.

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::support::Checked;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Removes,
    Stays,
    Filelock3,
    Filelock4,
    Cleans,
    /// Locks what it has opened and believes that, as `flock(1)` does.
    Blind,
}

/// A mistake that the model must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    UnlocksBeforeItRemoves,
    /// What was locked is not compared with what is at the path.
    TrustsWhatItOpened,
    /// It is compared, but before it is locked.
    LooksBeforeItLocks,
    CleansWithoutLocking,
    /// Who has left the file to those in line does not look for them when it has unlocked.
    LooksForThemOnce,
    /// Who gives up leaves the file that was left for him.
    LeavesTheFileWhenItGivesUp,
}

/// What a participant does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pc {
    Open,
    LookFirst,
    TryLock,
    Blocked,
    /// It gives up: is the lock free?
    LastTry,
    Check,
    Inside,
    /// Is anybody in line, and is this the file at the path?
    Look,
    Remove,
    Unlock,
    /// It has left the file to those in line. Are they still there?
    LookAgain,
    /// Only where the order is wrong.
    RemoveLate,
    Done,
    Killed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Participant {
    pc: Pc,
    file: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct File {
    holder: Option<usize>,
    blocked: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    path: Option<usize>,
    files: Vec<File>,
    participants: Vec<Participant>,
    crashes_left: u8,
    /// Somebody took away the name of a file that was not his.
    has_removed_anothers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Step(usize),
    /// The line is seen, and the file left for those in it.
    SeeLine(usize),
    GiveUp(usize),
    Kill(usize),
}

struct Release {
    who: Vec<Who>,
    crashes: u8,
    flaw: Option<Flaw>,
    properties: fn() -> Vec<Property<Release>>,
}

impl State {
    fn close(&mut self, number: usize) {
        let Some(file) = self.participants[number].file.take() else { return };
        let file = &mut self.files[file];
        file.blocked.retain(|&blocked| blocked != number);
        if file.holder == Some(number) {
            file.holder = None;
        }
    }

    fn end(&mut self, number: usize, pc: Pc) {
        self.close(number);
        self.participants[number].pc = pc;
    }

    fn unlock(&mut self, number: usize) {
        if let Some(file) = self.participants[number].file {
            self.files[file].holder = None;
        }
    }

    fn is_at_path(&self, number: usize) -> bool {
        self.path.is_some() && self.path == self.participants[number].file
    }

    fn lock(&mut self, number: usize) -> bool {
        let Some(file) = self.participants[number].file else { return false };
        let is_free = self.files[file].holder.is_none();
        if is_free {
            self.files[file].holder = Some(number);
            self.files[file].blocked.retain(|&blocked| blocked != number);
        }
        is_free
    }

    /// Numbers the files in the order in which they are met, and forgets those that nobody can reach.
    fn tidy(&mut self) {
        let mut order = Vec::new();
        for file in self.path.into_iter().chain(self.participants.iter().filter_map(|one| one.file)) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
        let renamed = |file: usize| order.iter().position(|&old| old == file);
        self.path = self.path.and_then(renamed);
        for participant in &mut self.participants {
            participant.file = participant.file.and_then(renamed);
        }
        self.files = order.iter().map(|&old| self.files[old].clone()).collect();
    }
}

impl Release {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn step(&self, state: &mut State, number: usize) {
        let who = self.who[number];
        let pc = state.participants[number].pc;
        let removes = matches!(who, Who::Removes | Who::Cleans);
        let next = match pc {
            Pc::Open => {
                if state.path.is_none() && who != Who::Cleans {
                    state.files.push(File::default());
                    state.path = Some(state.files.len() - 1);
                }
                state.participants[number].file = state.path;
                match state.path {
                    None => Pc::Done,
                    Some(_) if self.has(Flaw::LooksBeforeItLocks) => Pc::LookFirst,
                    Some(_) if who == Who::Cleans && self.has(Flaw::CleansWithoutLocking) => Pc::Look,
                    Some(_) => Pc::TryLock,
                }
            }
            Pc::LookFirst if state.is_at_path(number) => Pc::TryLock,
            Pc::LookFirst => return self.start_again(state, number),
            Pc::TryLock | Pc::Blocked if state.lock(number) => self.after_lock(number),
            Pc::TryLock => match who {
                Who::Cleans => return state.end(number, Pc::Done),
                Who::Filelock3 | Who::Filelock4 => return self.start_again(state, number),
                Who::Removes | Who::Stays | Who::Blind => {
                    if let Some(file) = state.participants[number].file {
                        state.files[file].blocked.push(number);
                    }
                    Pc::Blocked
                }
            },
            Pc::LookAgain => Pc::LastTry,
            Pc::LastTry if removes && state.lock(number) => Pc::Look,
            Pc::Check if !state.is_at_path(number) => return self.start_again(state, number),
            Pc::Check if who == Who::Cleans => Pc::Look,
            Pc::Check => Pc::Inside,
            Pc::Inside => match who {
                Who::Filelock3 => Pc::Remove,
                Who::Removes if self.has(Flaw::UnlocksBeforeItRemoves) => Pc::Unlock,
                Who::Removes => Pc::Look,
                Who::Stays | Who::Filelock4 | Who::Cleans | Who::Blind => Pc::Unlock,
            },
            Pc::Look => {
                if state.is_at_path(number) {
                    Pc::Remove
                } else {
                    Pc::Unlock
                }
            }
            Pc::Remove | Pc::RemoveLate => {
                let is_late = pc == Pc::RemoveLate;
                // What is removed late was closed already.
                state.has_removed_anothers |= state.path.is_some() && !is_late && !state.is_at_path(number);
                state.path = None;
                if is_late { Pc::Done } else { Pc::Unlock }
            }
            Pc::Unlock => {
                if who == Who::Removes && self.has(Flaw::UnlocksBeforeItRemoves) {
                    return state.end(number, Pc::RemoveLate);
                }
                if !removes || !state.is_at_path(number) || self.has(Flaw::LooksForThemOnce) {
                    return state.end(number, Pc::Done);
                }
                state.unlock(number);
                Pc::LookAgain
            }
            Pc::LastTry | Pc::Blocked => return state.end(number, Pc::Done),
            done @ (Pc::Done | Pc::Killed) => done,
        };
        state.participants[number].pc = next;
    }

    fn start_again(&self, state: &mut State, number: usize) {
        let is_over = self.who[number] == Who::Cleans;
        state.end(number, if is_over { Pc::Done } else { Pc::Open });
    }

    fn after_lock(&self, number: usize) -> Pc {
        let looks = !self.has(Flaw::TrustsWhatItOpened) && !self.has(Flaw::LooksBeforeItLocks);
        match self.who[number] {
            Who::Blind => Pc::Inside,
            Who::Removes | Who::Stays if !looks => Pc::Inside,
            Who::Removes | Who::Stays | Who::Filelock3 | Who::Filelock4 | Who::Cleans => Pc::Check,
        }
    }

    /// Whether the participant has something to do that it need not wait for.
    fn can_step(state: &State, number: usize) -> bool {
        let participant = &state.participants[number];
        match participant.pc {
            Pc::Done | Pc::Killed => false,
            Pc::Blocked => participant.file.is_some_and(|file| {
                state.files[file].holder.is_none() && state.files[file].blocked.first() == Some(&number)
            }),
            Pc::Open
            | Pc::LookFirst
            | Pc::TryLock
            | Pc::LastTry
            | Pc::Check
            | Pc::Inside
            | Pc::Look
            | Pc::Remove
            | Pc::Unlock
            | Pc::LookAgain
            | Pc::RemoveLate => true,
        }
    }
}

const ONE_HOLDER: &str = "nobody but one is inside";
const NOT_ANOTHERS: &str = "nobody removes another's file";
const NOT_IN_VAIN: &str = "nobody waits for a lock that is free";
const NOTHING_LEFT: &str = "the file is gone when all are done who remove it";

fn is_quiet(state: &State) -> bool {
    (0..state.participants.len()).all(|number| !Release::can_step(state, number))
}

fn has(state: &State, pc: Pc) -> bool {
    state.participants.iter().any(|participant| participant.pc == pc)
}

impl Model for Release {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let participants = vec![Participant { pc: Pc::Open, file: None }; self.who.len()];
        // What is cleaned up is there before.
        let is_there = self.who.contains(&Who::Cleans);
        let files = if is_there { vec![File::default()] } else { Vec::new() };
        let path = is_there.then_some(0);
        vec![State { path, files, participants, crashes_left: self.crashes, has_removed_anothers: false }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (number, participant) in state.participants.iter().enumerate() {
            if Self::can_step(state, number) {
                actions.push(Action::Step(number));
            }
            let is_anybody_blocked =
                participant.file.is_some_and(|file| !state.files[file].blocked.is_empty());
            if matches!(participant.pc, Pc::Look | Pc::LookAgain) && is_anybody_blocked {
                actions.push(Action::SeeLine(number));
            }
            if participant.pc == Pc::Blocked {
                actions.push(Action::GiveUp(number));
            }
            if state.crashes_left > 0 && !matches!(participant.pc, Pc::Done | Pc::Killed) {
                actions.push(Action::Kill(number));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Step(number) => self.step(&mut state, number),
            Action::SeeLine(number) if state.participants[number].pc == Pc::LookAgain => {
                state.end(number, Pc::Done);
            }
            Action::SeeLine(number) => state.participants[number].pc = Pc::Unlock,
            Action::GiveUp(number) => {
                let file = state.participants[number].file;
                if let Some(file) = file {
                    state.files[file].blocked.retain(|&blocked| blocked != number);
                }
                if self.has(Flaw::LeavesTheFileWhenItGivesUp) {
                    state.end(number, Pc::Done);
                } else {
                    state.participants[number].pc = Pc::LastTry;
                }
            }
            Action::Kill(number) => {
                state.crashes_left -= 1;
                state.end(number, Pc::Killed);
            }
        }
        state.tidy();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        (self.properties)()
    }
}

fn laws() -> Vec<Property<Release>> {
    vec![
        Property::always(ONE_HOLDER, |_, state: &State| {
            state.participants.iter().filter(|participant| participant.pc == Pc::Inside).count() <= 1
        }),
        Property::always(NOT_ANOTHERS, |_, state: &State| !state.has_removed_anothers),
        Property::always(NOT_IN_VAIN, |_, state| !is_quiet(state) || !has(state, Pc::Blocked)),
        Property::always(NOTHING_LEFT, |release, state| {
            let removes = |who: &Who| matches!(who, Who::Removes | Who::Filelock3 | Who::Cleans);
            let is_over = is_quiet(state) && release.who.iter().all(removes) && !has(state, Pc::Killed);
            !is_over || state.path.is_none()
        }),
    ]
}

fn is_in_removed_file(state: &State, pc: Pc) -> bool {
    let mut numbers = 0..state.participants.len();
    numbers.any(|number| state.participants[number].pc == pc && !state.is_at_path(number))
}

fn sights() -> Vec<Property<Release>> {
    vec![
        Property::sometimes("one is blocked in a file that is gone", |_, state: &State| {
            is_in_removed_file(state, Pc::Blocked)
        }),
        Property::sometimes("one gets the lock of a file that is gone", |_, state| {
            is_in_removed_file(state, Pc::Check)
        }),
        Property::sometimes(
            "one is inside while another is on its way from removing to unlocking",
            |_, state| has(state, Pc::Inside) && has(state, Pc::Unlock),
        ),
        Property::sometimes("one that gave up removes the file", |_, state: &State| {
            state.participants.iter().filter(|participant| participant.pc == Pc::Done).count() == 2
                && has(state, Pc::LastTry)
                && state.path.is_some()
        }),
    ]
}

fn broken_laws(who: &[Who], flaw: Option<Flaw>) -> Vec<&'static str> {
    let release = Release { who: who.to_vec(), crashes: u8::from(flaw.is_none()), flaw, properties: laws };
    let checker = release.checker().finish_when(HasDiscoveries::All).spawn_bfs().join();
    checker.discoveries().into_keys().collect()
}

const MIXTURES: [[Who; 3]; 7] = [
    [Who::Removes, Who::Removes, Who::Removes],
    [Who::Removes, Who::Removes, Who::Stays],
    [Who::Removes, Who::Stays, Who::Filelock4],
    [Who::Removes, Who::Filelock3, Who::Filelock4],
    [Who::Removes, Who::Removes, Who::Filelock3],
    [Who::Removes, Who::Stays, Who::Cleans],
    [Who::Removes, Who::Cleans, Who::Cleans],
];

#[test]
fn who_removes_the_file_lets_nobody_in_beside_a_holder() -> Checked {
    for who in MIXTURES {
        let broken = broken_laws(&who, None);
        if !broken.is_empty() {
            return Err(format!("not so: {broken:?} {who:?}").into());
        }
    }
    Ok(())
}

#[test]
fn each_flaw_breaks_a_law() -> Checked {
    let ours = [Who::Removes, Who::Removes, Who::Removes];
    for (who, flaw, law) in [
        (ours, Flaw::UnlocksBeforeItRemoves, ONE_HOLDER),
        (ours, Flaw::TrustsWhatItOpened, ONE_HOLDER),
        (ours, Flaw::LooksBeforeItLocks, ONE_HOLDER),
        (ours, Flaw::LooksForThemOnce, NOTHING_LEFT),
        (ours, Flaw::LeavesTheFileWhenItGivesUp, NOTHING_LEFT),
        ([Who::Stays, Who::Stays, Who::Cleans], Flaw::CleansWithoutLocking, ONE_HOLDER),
    ] {
        let broken = broken_laws(&who, Some(flaw));
        if !broken.contains(&law) {
            return Err(format!("{flaw:?} breaks {broken:?} and not {law:?}").into());
        }
    }
    Ok(())
}

/// What the laws are about does happen in the model.
#[test]
fn the_model_comes_to_all_that_it_speaks_of() -> Checked {
    let release = Release { who: MIXTURES[0].to_vec(), crashes: 0, flaw: None, properties: sights };
    let checker = release.checker().finish_when(HasDiscoveries::All).spawn_bfs().join();
    let mut missing = sights().into_iter().map(|sight| sight.name);
    missing.find(|sight| checker.discovery(sight).is_none()).map_or(Ok(()), |sight| Err(sight.into()))
}

/// Not promised: it is told in the documentation.
#[test]
fn who_believes_what_it_has_opened_can_end_up_beside_a_holder() -> Checked {
    let broken = broken_laws(&[Who::Removes, Who::Blind, Who::Stays], None);
    if broken == [ONE_HOLDER] { Ok(()) } else { Err(format!("breaks {broken:?}").into()) }
}
