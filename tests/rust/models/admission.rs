//! Readers and writers on the three ranges of bytes: who is admitted, in all interleavings of a few participants.
//!
//! The participants are readers and writers of ours, who make one attempt and then wait in line, or do not wait, and
//! SQLite's (and so filelock's), who know of no line and try again and again. An action is one system call. The kernel is the
//! turnstile, which is had in order of arrival, and the three locks, each of which has either any number of sharers or
//! one owner; a call that blocks happens when it can. A try that fails changes nothing, so polling is a loop.
//!
//! Two laws are about states, *alone* and *preferred*; the third is that from every state there is a way on which
//! everybody comes to an end who is not stopped or killed ([`trap`]): nobody waits for ever for somebody who waits for
//! him.
//!
//! What the model leaves out: files that are replaced, errors, the queue inside a process (see `queue`). What it
//! simplifies: a look past the line is made once, and only when the head of the line is stopped.
//!
//! Bounds: three participants, one turn each; four in the test that does not run by default.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::support::Checked;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Reader,
    Writer,
    /// Makes one attempt, and never asks for the line.
    HastyReader,
    SqliteReader,
    SqliteWriter,
}

/// A mistake that the model must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// A writer takes PENDING before RESERVED, as filelock would seem to.
    PendingFirst,
    /// A writer has SHARED as a reader while it waits for RESERVED.
    SharedWhileItWaits,
    /// A reader does not look at PENDING.
    ReaderIgnoresPending,
    /// A writer that gives up leaves RESERVED and PENDING with its description, which stays open.
    KeepsItsClaim,
    /// Nobody looks past a line that does not move.
    StaysBehind,
}

#[derive(Debug, Clone, Default)]
struct Config {
    who: Vec<Who>,
    /// Who waits may give up.
    gives_up: bool,
    /// Any may be killed, wherever it is.
    is_killed: bool,
    /// The first may be stopped, where it is as this says.
    is_stopped: Option<fn(Pc) -> bool>,
    flaw: Option<Flaw>,
}

/// What a participant does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pc {
    /// The first attempt: is there a line?
    Come,
    /// A reader asks whether somebody has PENDING, past the line or where there is none.
    Ask,
    /// It takes what it asked for, or goes to the line.
    Take,
    Line,
    Reserved,
    Pending,
    Shared,
    /// SQLite lets go of PENDING when it has SHARED as a reader.
    Unpend,
    Inside,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Lock {
    owner: Option<usize>,
    sharers: Vec<usize>,
}

impl Lock {
    fn share(&mut self, me: usize) -> bool {
        if self.owner.is_some_and(|owner| owner != me) {
            return false;
        }
        self.free(me);
        self.sharers.push(me);
        self.sharers.sort_unstable();
        true
    }

    fn own(&mut self, me: usize) -> bool {
        if self.owner.is_some_and(|owner| owner != me) || self.sharers.iter().any(|&sharer| sharer != me) {
            return false;
        }
        self.sharers.clear();
        self.owner = Some(me);
        true
    }

    fn free(&mut self, me: usize) {
        self.owner = self.owner.filter(|&owner| owner != me);
        self.sharers.retain(|&sharer| sharer != me);
    }

    fn is_owned_by_another(&self, me: usize) -> bool {
        self.owner.is_some_and(|owner| owner != me)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    at: Vec<Pc>,
    stopped: Option<usize>,
    /// The first has the turnstile.
    line: Vec<usize>,
    reserved: Lock,
    pending: Lock,
    shared: Lock,
    /// Who came when a writer of ours had PENDING, and that writer.
    late: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Go,
    LookPastLine,
    GiveUp,
    Kill,
    Stop,
}

impl State {
    fn new(config: &Config) -> Self {
        Self {
            at: vec![Pc::Come; config.who.len()],
            stopped: None,
            line: Vec::new(),
            reserved: Lock::default(),
            pending: Lock::default(),
            shared: Lock::default(),
            late: Vec::new(),
        }
    }

    fn leave(&mut self, me: usize) {
        self.line.retain(|&other| other != me);
        self.reserved.free(me);
        self.pending.free(me);
        self.shared.free(me);
        self.late.retain(|&(late, writer)| late != me && writer != me);
    }

    fn come_in(&mut self, me: usize) {
        self.line.retain(|&other| other != me);
        self.at[me] = Pc::Inside;
    }

    fn note_arrival(&mut self, config: &Config, me: usize) {
        if let Some(writer) = self.pending.owner.filter(|&owner| config.who[owner] == Who::Writer) {
            self.late.push((me, writer));
            self.late.sort_unstable();
        }
    }

    /// Makes the next call, if it is not one that blocks.
    fn go(&mut self, config: &Config, me: usize) {
        let has = |flaw| config.flaw == Some(flaw);
        match (config.who[me], self.at[me]) {
            (_, Pc::Inside) => {
                self.leave(me);
                self.at[me] = Pc::Done;
            }
            (Who::Reader | Who::Writer | Who::HastyReader, Pc::Come) => {
                self.note_arrival(config, me);
                let is_line_occupied = !self.line.is_empty() && config.who[me] != Who::HastyReader;
                self.at[me] = if is_line_occupied {
                    Pc::Line
                } else if config.who[me] == Who::Writer {
                    Pc::Take
                } else {
                    Pc::Ask
                };
            }
            (Who::Reader | Who::HastyReader, Pc::Ask) => {
                let is_kept_out = self.pending.is_owned_by_another(me) && !has(Flaw::ReaderIgnoresPending);
                self.at[me] = if is_kept_out { Self::refused(config, me) } else { Pc::Take };
            }
            (Who::Reader | Who::HastyReader, Pc::Take) if self.shared.share(me) => self.come_in(me),
            (Who::Writer, Pc::Take) if self.take_all(me) => self.come_in(me),
            (Who::Reader | Who::Writer | Who::HastyReader, Pc::Take) => {
                self.at[me] = Self::refused(config, me);
            }
            (Who::Reader | Who::Writer, Pc::Line) => {
                if !self.line.contains(&me) {
                    self.line.push(me);
                }
                if self.line[0] == me {
                    let is_reserving = config.who[me] == Who::Writer && !has(Flaw::PendingFirst);
                    self.at[me] = if is_reserving { Pc::Reserved } else { Pc::Pending };
                }
            }
            (Who::Writer, Pc::Reserved) => {
                let is_ready = !has(Flaw::SharedWhileItWaits) || self.shared.share(me);
                if is_ready && self.reserved.own(me) {
                    self.at[me] = if has(Flaw::PendingFirst) { Pc::Shared } else { Pc::Pending };
                }
            }
            (Who::Writer, Pc::Pending) if self.pending.own(me) => {
                self.at[me] = if has(Flaw::PendingFirst) { Pc::Reserved } else { Pc::Shared };
            }
            (Who::Writer, Pc::Shared) if self.shared.own(me) => self.come_in(me),
            (Who::Reader, Pc::Pending) => {
                if has(Flaw::ReaderIgnoresPending) || self.pending.share(me) {
                    self.at[me] = Pc::Shared;
                }
            }
            (Who::Reader, Pc::Shared) if self.shared.share(me) => {
                self.pending.free(me);
                self.come_in(me);
            }
            (Who::SqliteReader | Who::SqliteWriter, Pc::Come) => {
                self.note_arrival(config, me);
                self.at[me] = Pc::Ask;
            }
            (Who::SqliteReader | Who::SqliteWriter, Pc::Ask) if self.pending.share(me) => {
                self.at[me] = Pc::Take;
            }
            (Who::SqliteReader | Who::SqliteWriter, Pc::Take) => {
                if self.shared.share(me) {
                    self.at[me] = Pc::Unpend;
                } else {
                    self.pending.free(me);
                    self.at[me] = Pc::Ask;
                }
            }
            (Who::SqliteReader, Pc::Unpend) => {
                self.pending.free(me);
                self.at[me] = Pc::Inside;
            }
            (Who::SqliteWriter, Pc::Unpend) => {
                self.pending.free(me);
                self.at[me] = Pc::Reserved;
            }
            (Who::SqliteWriter, Pc::Reserved) => {
                if self.reserved.own(me) {
                    self.at[me] = Pc::Pending;
                } else {
                    self.shared.free(me);
                    self.at[me] = Pc::Ask;
                }
            }
            (Who::SqliteWriter, Pc::Pending) if self.pending.own(me) => self.at[me] = Pc::Shared,
            (Who::SqliteWriter, Pc::Shared) if self.shared.own(me) => self.at[me] = Pc::Inside,
            // A call that blocks, or a try that fails.
            (_, Pc::Ask | Pc::Line | Pc::Pending | Pc::Shared | Pc::Reserved | Pc::Unpend | Pc::Done) => {}
        }
    }

    /// What comes after a first attempt in vain.
    fn refused(config: &Config, me: usize) -> Pc {
        if config.who[me] == Who::HastyReader { Pc::Done } else { Pc::Line }
    }

    /// One call over the three ranges takes all or nothing.
    fn take_all(&mut self, me: usize) -> bool {
        let mut after = self.clone();
        let taken = after.reserved.own(me) && after.pending.own(me) && after.shared.own(me);
        if taken {
            *self = after;
        }
        taken
    }

    fn look_past_line(&mut self, config: &Config, me: usize) {
        let taken = match config.who[me] {
            Who::Reader => !self.pending.is_owned_by_another(me) && self.shared.share(me),
            Who::Writer => self.take_all(me),
            Who::HastyReader | Who::SqliteReader | Who::SqliteWriter => false,
        };
        if taken {
            self.come_in(me);
        }
    }

    fn steps(&self, config: &Config) -> Vec<(usize, Step)> {
        let mut steps = Vec::new();
        for (me, &pc) in self.at.iter().enumerate() {
            if pc == Pc::Done || self.stopped == Some(me) {
                continue;
            }
            steps.push((me, Step::Go));
            let waits = matches!(pc, Pc::Line | Pc::Reserved | Pc::Pending | Pc::Shared);
            let is_ours = matches!(config.who[me], Who::Reader | Who::Writer);
            if is_ours && config.gives_up && waits {
                steps.push((me, Step::GiveUp));
            }
            let is_stuck = self.line.first().is_some_and(|&head| self.stopped == Some(head));
            if is_ours && pc == Pc::Line && is_stuck && config.flaw != Some(Flaw::StaysBehind) {
                steps.push((me, Step::LookPastLine));
            }
            if config.is_killed {
                steps.push((me, Step::Kill));
            }
            if me == 0 && config.is_stopped.is_some_and(|is_stopped| is_stopped(pc)) {
                steps.push((me, Step::Stop));
            }
        }
        steps
    }

    fn after(&self, config: &Config, me: usize, step: Step) -> Self {
        let mut next = self.clone();
        match step {
            Step::Go => next.go(config, me),
            Step::LookPastLine => next.look_past_line(config, me),
            Step::GiveUp if config.flaw == Some(Flaw::KeepsItsClaim) => {
                next.line.retain(|&other| other != me);
                next.at[me] = Pc::Done;
            }
            Step::GiveUp | Step::Kill => {
                next.leave(me);
                next.at[me] = Pc::Done;
            }
            Step::Stop => next.stopped = Some(me),
        }
        next
    }

    fn is_writer_inside(&self, config: &Config) -> bool {
        self.inside().any(|me| matches!(config.who[me], Who::Writer | Who::SqliteWriter))
    }

    fn inside(&self) -> impl Iterator<Item = usize> {
        self.at.iter().enumerate().filter(|(_, pc)| **pc == Pc::Inside).map(|(me, _)| me)
    }

    fn is_over(&self) -> bool {
        self.at.iter().enumerate().all(|(me, pc)| *pc == Pc::Done || self.stopped == Some(me))
    }
}

/// One writer, or any number of readers.
fn alone(config: &Config, state: &State) -> bool {
    !state.is_writer_inside(config) || state.inside().count() == 1
}

/// Who comes while a writer of ours waits for readers to end is not let in before it.
fn preferred(config: &Config, state: &State) -> bool {
    let is_waiting = |writer: usize| state.pending.owner == Some(writer) && state.at[writer] == Pc::Shared;
    let reads = |me: usize| !matches!(config.who[me], Who::Writer | Who::SqliteWriter);
    !state
        .inside()
        .any(|me| reads(me) && state.late.iter().any(|&(late, writer)| late == me && is_waiting(writer)))
}

/// A law that is broken, and the way there.
struct Broken {
    law: &'static str,
    way: Vec<(usize, Step)>,
}

const ALONE: &str = "one writer or readers";
const PREFERRED: &str = "nobody is let in before a writer that waits";
const ENDS: &str = "there is a way on which all come to an end";

/// The state before each, and the step that was taken there.
type Origins = HashMap<State, Option<(State, (usize, Step))>>;

/// Visits all states, and looks for one that breaks a law.
fn explore(config: &Config) -> Option<Broken> {
    let begin = State::new(config);
    let mut came_from: Origins = HashMap::from([(begin.clone(), None)]);
    let mut before: HashMap<State, Vec<State>> = HashMap::new();
    let mut over = VecDeque::new();
    let mut open = VecDeque::from([begin]);
    let way_to = |state: &State, came_from: &Origins| {
        let (mut way, mut state) = (Vec::new(), state.clone());
        while let Some((previous, step)) = came_from.get(&state).cloned().flatten() {
            way.push(step);
            state = previous;
        }
        way.reverse();
        way
    };
    while let Some(state) = open.pop_front() {
        for (law, holds) in [(ALONE, alone(config, &state)), (PREFERRED, preferred(config, &state))] {
            if !holds {
                return Some(Broken { law, way: way_to(&state, &came_from) });
            }
        }
        if state.is_over() {
            over.push_back(state.clone());
        }
        for (me, step) in state.steps(config) {
            let next = state.after(config, me, step);
            // That somebody dies, is stopped or gives up is nothing to rely on.
            if matches!(step, Step::Go | Step::LookPastLine) {
                before.entry(next.clone()).or_default().push(state.clone());
            }
            if !came_from.contains_key(&next) {
                came_from.insert(next.clone(), Some((state.clone(), (me, step))));
                open.push_back(next);
            }
        }
    }
    let mut ends: HashSet<State> = over.iter().cloned().collect();
    while let Some(state) = over.pop_front() {
        for previous in before.get(&state).into_iter().flatten() {
            if ends.insert(previous.clone()) {
                over.push_back(previous.clone());
            }
        }
    }
    let trapped = came_from.keys().find(|state| !ends.contains(*state))?;
    Some(Broken { law: ENDS, way: way_to(trapped, &came_from) })
}

const ALL: [Who; 5] = [Who::Reader, Who::Writer, Who::HastyReader, Who::SqliteReader, Who::SqliteWriter];

/// All crews of this size in which ours and SQLite's take any part.
fn crews(size: usize) -> Vec<Vec<Who>> {
    let mut crews = vec![Vec::new()];
    for _ in 0..size {
        crews = crews
            .iter()
            .flat_map(|crew| ALL.iter().map(|&who| crew.iter().copied().chain([who]).collect()))
            .collect();
    }
    crews
}

fn holds(config: &Config) -> Checked {
    explore(config)
        .map_or(Ok(()), |Broken { law, way }| Err(format!("not so: {law}\n{config:?}\n{way:?}").into()))
}

/// Some crew of three breaks the law.
fn breaks(law: &str, config: &Config) -> Checked {
    let mut found = Vec::new();
    for who in crews(3) {
        let broken = explore(&Config { who, ..config.clone() });
        match broken.map(|broken| broken.law) {
            Some(broken) if broken == law => return Ok(()),
            other => found.extend(other),
        }
    }
    Err(format!("it holds: {law}\n{config:?}\n{found:?}").into())
}

#[test]
fn readers_and_writers_are_admitted_in_all_interleavings_and_all_come_to_an_end() -> Checked {
    for who in crews(3) {
        holds(&Config { who, gives_up: true, is_killed: true, ..Config::default() })?;
    }
    Ok(())
}

#[test]
#[ignore = "a quarter of a minute in release mode"]
fn the_same_of_four() -> Checked {
    for who in crews(4) {
        holds(&Config { who, gives_up: true, ..Config::default() })?;
    }
    Ok(())
}

/// It has nothing but the turnstile there.
fn has_claimed_nothing(pc: Pc) -> bool {
    matches!(pc, Pc::Come | Pc::Ask | Pc::Take | Pc::Line | Pc::Reserved)
}

#[test]
fn who_is_stopped_before_it_has_claimed_holds_nobody_up() -> Checked {
    for who in crews(3) {
        if matches!(who[0], Who::Reader | Who::Writer) {
            holds(&Config { who, is_stopped: Some(has_claimed_nothing), ..Config::default() })?;
        }
    }
    let is_stopped: Option<fn(Pc) -> bool> = Some(has_claimed_nothing);
    breaks(ENDS, &Config { is_stopped, flaw: Some(Flaw::StaysBehind), ..Config::default() })
}

/// As SQLite's does: there is nothing in its protocol against it.
#[test]
fn a_writer_that_is_stopped_after_it_has_claimed_keeps_others_out() -> Checked {
    let is_stopped: Option<fn(Pc) -> bool> = Some(|pc| pc == Pc::Shared);
    for other in ALL.into_iter().filter(|other| *other != Who::HastyReader) {
        let who = vec![Who::Writer, other, Who::Reader];
        match explore(&Config { who, is_stopped, ..Config::default() }) {
            Some(Broken { law: ENDS, .. }) => {}
            found => return Err(format!("{other:?}: {:?}", found.map(|found| found.law)).into()),
        }
    }
    Ok(())
}

#[test]
fn the_model_finds_each_mistake() -> Checked {
    for (flaw, law) in [
        (Flaw::PendingFirst, ENDS),
        (Flaw::SharedWhileItWaits, ENDS),
        (Flaw::ReaderIgnoresPending, PREFERRED),
        (Flaw::KeepsItsClaim, ENDS),
    ] {
        breaks(law, &Config { gives_up: true, flaw: Some(flaw), ..Config::default() })?;
    }
    Ok(())
}
