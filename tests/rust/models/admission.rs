//! Readers and writers on the three ranges of bytes: who is admitted, in all interleavings of a few participants.
//!
//! The participants are readers and writers of ours, who make one attempt and then wait in line, or poll, or do not wait, or
//! read through two lock objects; and SQLite's, which are filelock's too: they know of no line, poll, and take the locks
//! in SQLite's own order. A step is one system call, under the name that it has in `mechanism/byte_range/` and
//! `sys/ranges_ofd.rs`. The kernel is the turnstile, which is had in order of arrival, and the three locks, each of which has
//! either any number of sharers or one owner, by descriptions; a call that blocks happens when it can.
//!
//! | what is wrong ([`Flaw`]) | what breaks |
//! |---|---|
//! | a writer is in when it has PENDING | a writer beside readers |
//! | a reader does not look at PENDING | writers are not preferred |
//! | PENDING before RESERVED, or SHARED while waiting for RESERVED | all wait for each other: SQLite's writers, or two of ours |
//! | who gives up leaves its claim; or it polls beside its claim, because it cannot block any more | all wait for it, it for itself |
//! | a second hold of who reads is kept out by PENDING | it waits for the writer, and the writer for it |
//! | who has come in keeps the turnstile | nobody behind is woken |
//! | nobody looks past a line that does not move; or a writer that polls does not | who waits behind one that is stopped |
//!
//! *No longer than one poll*: where all sleep and the lock is free for one who waits, one poll of each, in any order, lets
//! somebody in. Among those who wait in the kernel, none stopped, not even that is needed. stateright sees to these laws, about
//! states; that from every state there is a way on which all come to an end is for [`trap`](super::trap).
//!
//! Bounds. Small: all crews of three, one turn each, one of which may be stopped and go on, any of which may be killed
//! or give up. Ignored: crews of four, without deaths.
//!
//! Not modelled: files that are replaced, errors, the queue inside a process (see `queue`), Windows, more than one turn.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "where each participant stands is listed in `Pc`; the last arm is the rest, or a call that changes nothing"
)]

mod laws;
mod state;
mod steps;

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::support::Checked;
use laws::{ALONE, ENDS, IN_TIME, PREFERRED, WOKEN, laws, way_to_trap};
use state::{Pc, Seat, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Reader,
    Writer,
    /// Makes one attempt, whoever stands in line.
    HastyReader,
    HastyWriter,
    /// Makes attempts with pauses between, as greenlets do and tasks.
    PollingReader,
    PollingWriter,
    /// Reads, and reads once more through another lock object.
    NestingReader,
    /// SQLite's, or filelock's.
    SqliteReader,
    SqliteWriter,
}

const ALL: [Who; 9] = [
    Who::Reader,
    Who::Writer,
    Who::HastyReader,
    Who::HastyWriter,
    Who::PollingReader,
    Who::PollingWriter,
    Who::NestingReader,
    Who::SqliteReader,
    Who::SqliteWriter,
];

/// A mistake that the model must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    PendingFirst,
    SharedWhileItWaits,
    PendingIsEnough,
    ReaderIgnoresPending,
    KeepsItsClaim,
    PollsBesideItsClaim,
    NestedIsKeptOut,
    KeepsTheTurnstile,
    StaysBehind,
    BidIsPolite,
}

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each may happen or not")]
struct Config {
    who: Vec<Who>,
    /// Who waits may give up.
    gives_up: bool,
    /// Any may be killed, wherever it is.
    is_killed: bool,
    /// One may be stopped, wherever it is, and may go on.
    is_stopped: bool,
    /// The program takes the signal that ends blocking calls.
    signal_is_taken: bool,
    /// Who is stopped with something locked may be waited for.
    excuses_stopped: bool,
    flaw: Option<Flaw>,
}

impl Config {
    fn new(who: &[Who]) -> Self {
        Self {
            who: who.to_vec(),
            gives_up: true,
            is_killed: false,
            is_stopped: false,
            signal_is_taken: false,
            excuses_stopped: true,
            flaw: None,
        }
    }

    fn who(&self, seat: Seat) -> Who {
        self.who[usize::from(seat)]
    }
}

/// A step of a participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Action(Seat, Step);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Makes its next call; one that blocks or fails changes nothing.
    Go,
    /// Looks past the line.
    Tick,
    /// Hears from another process that the line does not move, and waits past it (`is_line_reported_stuck`).
    IsTold,
    /// A reader's call is interrupted, for it has to see to something else.
    LookUp,
    /// The kernel refuses to wait for it.
    CannotBlock,
    GiveUp,
    Kill,
    Stop,
    GoOn,
}

/// The model.
struct Admission {
    config: Config,
    /// What is looked for.
    properties: fn() -> Vec<Property<Self>>,
}

impl Admission {
    fn new(config: Config) -> Self {
        Self { config, properties: laws }
    }
}

/// All crews of this size, whatever the order.
fn crews(size: usize) -> Vec<Vec<Who>> {
    let mut crews = vec![(0, Vec::new())];
    for _ in 0..size {
        let longer = |(first, crew): (usize, Vec<Who>)| {
            (first..ALL.len()).map(move |next| (next, [&crew[..], &[ALL[next]]].concat()))
        };
        crews = crews.into_iter().flat_map(longer).collect();
    }
    crews.into_iter().map(|(_, crew)| crew).collect()
}

/// A law that does not hold, and the way there.
fn broken(config: &Config) -> Option<(&'static str, Vec<Action>)> {
    let checker = Admission::new(config.clone()).checker().finish_when(HasDiscoveries::AnyFailures);
    let failure = checker.spawn_bfs().join().discoveries().into_iter().next();
    failure
        .map(|(law, way)| (law, way.into_actions()))
        .or_else(|| way_to_trap(&Admission::new(config.clone())).map(|way| (ENDS, way)))
}

fn holds(config: &Config) -> Checked {
    let told = |(law, way)| Err(format!("not so: {law}\n{config:?}\n{way:?}").into());
    broken(config).map_or(Ok(()), told)
}

/// This crew breaks the law.
fn breaks(law: &'static str, config: &Config) -> Checked {
    let admission = Admission::new(config.clone());
    let is_broken = if law == ENDS {
        way_to_trap(&admission).is_some()
    } else {
        let until = HasDiscoveries::AnyOf(BTreeSet::from([law]));
        admission.checker().finish_when(until).spawn_bfs().join().discovery(law).is_some()
    };
    if is_broken { Ok(()) } else { Err(format!("it holds: {law}\n{config:?}").into()) }
}

#[test]
fn readers_and_writers_are_admitted_in_all_interleavings_and_all_come_to_an_end() -> Checked {
    for who in crews(3) {
        holds(&Config { is_killed: true, ..Config::new(&who) })?;
    }
    Ok(())
}

#[test]
fn who_is_stopped_holds_nobody_up_for_whom_the_lock_is_free() -> Checked {
    for who in crews(3) {
        holds(&Config { is_stopped: true, gives_up: false, ..Config::new(&who) })?;
    }
    Ok(())
}

#[test]
fn who_cannot_wait_in_the_kernel_any_more_is_admitted_too() -> Checked {
    for who in crews(3).into_iter().filter(|crew| crew.iter().any(|who| who.blocks())) {
        holds(&Config { signal_is_taken: true, gives_up: false, ..Config::new(&who) })?;
    }
    Ok(())
}

/// ```text
/// cargo test --release --test rust -- --ignored models::admission::
/// ```
#[test]
#[ignore = "takes minutes"]
fn the_same_of_four() -> Checked {
    for who in crews(4) {
        holds(&Config { is_stopped: true, ..Config::new(&who) })?;
    }
    Ok(())
}

/// As SQLite's does: there is nothing in its protocol against it.
#[test]
fn who_is_stopped_after_it_has_claimed_keeps_others_out() -> Checked {
    for other in [Who::Reader, Who::Writer, Who::PollingWriter, Who::SqliteReader, Who::SqliteWriter] {
        let who = [Who::Writer, other];
        breaks(
            ENDS,
            &Config { is_stopped: true, excuses_stopped: false, gives_up: false, ..Config::new(&who) },
        )?;
    }
    Ok(())
}

#[test]
fn the_model_finds_each_mistake() -> Checked {
    use Who::{NestingReader, PollingWriter, Reader, SqliteWriter, Writer};
    let stopped = |who: &[Who]| Config { is_stopped: true, ..Config::new(who) };
    for (flaw, law, config) in [
        (Flaw::PendingIsEnough, ALONE, Config::new(&[Reader, Writer])),
        (Flaw::ReaderIgnoresPending, PREFERRED, Config::new(&[Reader, Writer, Reader])),
        (Flaw::PendingFirst, ENDS, Config::new(&[Writer, SqliteWriter])),
        (Flaw::SharedWhileItWaits, ENDS, Config::new(&[Writer, SqliteWriter])),
        (Flaw::KeepsItsClaim, ENDS, Config::new(&[Reader, Writer, Reader])),
        (Flaw::PollsBesideItsClaim, ENDS, Config { signal_is_taken: true, ..Config::new(&[Reader, Writer]) }),
        (Flaw::NestedIsKeptOut, ENDS, Config::new(&[NestingReader, Writer])),
        (Flaw::KeepsTheTurnstile, WOKEN, Config::new(&[Writer, Reader, Reader])),
        (Flaw::StaysBehind, IN_TIME, stopped(&[Writer, Reader, Reader])),
        (Flaw::StaysBehind, ENDS, stopped(&[Writer, Reader, Reader])),
        (Flaw::BidIsPolite, IN_TIME, stopped(&[Writer, Reader, PollingWriter])),
        (Flaw::BidIsPolite, ENDS, stopped(&[Writer, Reader, PollingWriter])),
    ] {
        let config = Config { flaw: Some(flaw), gives_up: flaw == Flaw::KeepsItsClaim, ..config };
        breaks(law, &config)?;
    }
    Ok(())
}

/// What the laws are about does happen in the model.
#[test]
fn the_model_comes_to_all_that_it_speaks_of() -> Checked {
    use Who::{NestingReader, Reader, SqliteReader, Writer};
    for who in [[Reader, Writer, NestingReader], [Reader, Writer, SqliteReader]] {
        let config = Config { is_stopped: true, signal_is_taken: true, ..Config::new(&who) };
        let checker = Admission { config, properties: sights }.checker().spawn_bfs().join();
        let is_missing = |sight: &&Property<_>| checker.discovery(sight.name).is_none();
        let missing: Vec<_> = sights().iter().filter(is_missing).map(|sight| sight.name).collect();
        if !missing.is_empty() {
            return Err(format!("never seen by {who:?}: {missing:?}").into());
        }
    }
    Ok(())
}

fn sights() -> Vec<Property<Admission>> {
    let sight = |name, condition: fn(&Admission, &State) -> bool| Property::sometimes(name, condition);
    vec![
        sight("a writer waits with its claim while a reader is inside", |_, state| {
            state.pc(1) == Pc::Shared && state.is_inside(0)
        }),
        sight("two are inside", |_, state| state.is_inside(0) && state.is_inside(2)),
        sight("a writer is inside, and the others wait", |_, state| {
            state.is_inside(1) && state.waits(0) && state.waits(2)
        }),
        sight("one comes when a writer has claimed", |_, state| state.is_late_for(0, 1)),
        sight("the head of the line is stopped, and another is inside", |_, state| {
            state.is_line_stuck() && state.is_inside(0)
        }),
        sight("one that was stopped goes on beside one that went past it", |_, state| {
            !state.may_stop && state.stopped.is_none() && state.line == [0] && state.is_inside(1)
        }),
        sight("a lock found past the line is given back", |_, state| state.pc(0) == Pc::Probed),
        sight("one gives its claim back, for it cannot block", |_, state| state.pc(1) == Pc::Nap),
        sight("all are done", |_, state| state.at.iter().all(|pc| *pc == Pc::Done)),
    ]
}
