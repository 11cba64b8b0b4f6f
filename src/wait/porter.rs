//! The threads that wait for those who have none.
//!
//! A porter waits as any thread does, for whoever is first in its line, and keeps its place in the kernel's queue when
//! that one gives up: the next one wants the same. Between it sees to deadlines and questions. The thread that polls
//! makes attempts for the lines that got no porter.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::crew::Task;
use super::desk::{self, BACKSTOP, Key, Unserved};
use super::farewell;
use super::{Contender, Nesting, Outcome, Stop, Watch};
use crate::error::{Error, ErrorKind};
use crate::mechanism::{Attempt, Bid, Mode};
use crate::owner::OwnerId;
use crate::registry::LockId;
use crate::time::{Deadline, Timeout};

/// The shortest pause between two rounds of the lines without a porter, and how much longer the longest pause between
/// two attempts on one of them gets with each: many lines must not keep a processor busy.
const SHORTEST_ROUND: Duration = Duration::from_millis(1);
const LEISURE: Duration = Duration::from_micros(200);

/// What a thread of the desk does, from its first moment to its last.
pub(super) fn work(id: LockId) {
    let mut rounds = Rounds::default();
    loop {
        match desk::next_task(id) {
            Task::Serve(key) => {
                rounds.end();
                while panic::catch_unwind(|| serve(id, &key)).is_err() {
                    desk::fail_first(&key, panicked(&key));
                }
            }
            Task::Poll => thread::park_timeout(rounds.make()),
            Task::Rest(pause) => {
                rounds.end();
                thread::park_timeout(pause);
            }
            Task::End => return rounds.end(),
        }
    }
}

/// A bug of a mechanism ends the wait that came upon it, and not the thread that all others depend on.
fn panicked(key: &Key) -> Error {
    Error::new(ErrorKind::Io, "lock", &key.path).because("the thread that waited for it panicked")
}

/// Waits for the line `key` as long as there is anybody in it.
fn serve(id: LockId, key: &Arc<Key>) {
    let owner = OwnerId::unique();
    loop {
        // Here nothing is asked for and no place is held: whoever has ended his wait meanwhile is told now.
        let next = desk::see_to(key);
        farewell::say_farewell(key);
        let Some(first) = desk::first(key) else { break };
        let mode = first.party.mode;
        let nest = || {
            if farewell::is_wanted(key, mode) { Nesting::No } else { Nesting::Refused(ErrorKind::Cancelled) }
        };
        let contender = Contender {
            lock: id,
            owner,
            mechanism: first.target.mechanism(),
            path: &key.path,
            mode,
            deadline: Deadline::begin(Timeout::Never),
            poll_interval: first.patience.poll_interval.min(super::FAR),
            lifetime: key.lifetime,
            nest: &nest,
        };
        let mut watch = Duty { key, mode, next };
        match contender.wait(first.file(), None, &mut watch) {
            Ok(Outcome::Acquired(guard)) => desk::offer(key, mode, guard),
            Ok(
                Outcome::Nested
                | Outcome::Refused(_)
                | Outcome::TimedOut(_)
                | Outcome::Stopped(_)
                | Outcome::Deadlock,
            ) => {}
            Err(error) => desk::fail_first(key, error),
        }
    }
    // From now on nobody can leave the line, for it is no more.
    farewell::say_farewell(key);
}

/// What a porter sees to while it waits.
struct Duty<'a> {
    key: &'a Arc<Key>,
    mode: Mode,
    next: Instant,
}

impl Duty<'_> {
    /// Sees to what is due; but whoever is the last to want what is being waited for is told of his end when the place in
    /// the kernel's queue has been left.
    fn see_to(&mut self) -> ControlFlow<Stop> {
        if !desk::will_want(self.key, self.mode) {
            return ControlFlow::Break(Stop::Cancelled);
        }
        self.next = desk::see_to(self.key);
        ControlFlow::Continue(())
    }
}

impl Watch for Duty<'_> {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        self.see_to()
    }

    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
        if !pause.is_zero() {
            let left = self.next.saturating_duration_since(Instant::now());
            thread::park_timeout(pause.min(left));
        }
        if pause.is_zero() || Instant::now() >= self.next {
            return self.see_to();
        }
        ControlFlow::Continue(())
    }

    fn has_questions(&self) -> bool {
        false
    }

    fn look_every(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now()).min(BACKSTOP)
    }
}

/// What the thread that polls knows of the lines.
#[derive(Default)]
struct Rounds {
    lines: HashMap<Arc<Key>, Polled>,
}

struct Polled {
    backoff: Backoff,
    next: Instant,
    /// What was published for the first of the line, and in which mode.
    bid: Option<(Mode, Box<dyn Bid>)>,
}

impl Rounds {
    /// One attempt for each line for which it is time. Says how long the pause to the next round is.
    fn make(&mut self) -> Duration {
        let lines = desk::unserved();
        let present: HashSet<_> = lines.iter().map(|line| &line.key).collect();
        self.lines.retain(|key, _| present.contains(key));
        farewell::say_farewells_but_to(|key| self.lines.contains_key(key));
        let leisure = LEISURE * u32::try_from(lines.len()).unwrap_or(u32::MAX);
        let now = Instant::now();
        let mut next = now + BACKSTOP;
        for line in &lines {
            let longest = line.first.patience.poll_interval.min(super::FAR).max(leisure);
            let new = || Polled { backoff: Backoff::new(longest), next: now, bid: None };
            let polled = self.lines.entry(Arc::clone(&line.key)).or_insert_with(new);
            if !desk::will_want(&line.key, line.first.party.mode) {
                polled.bid = None;
            }
            let look = match line.next_look {
                Some(look) if look > now => look,
                Some(_) | None => desk::see_to(&line.key),
            };
            if polled.next <= now {
                polled.drop_bid_unless_for(line.first.party.mode);
                farewell::say_farewell(&line.key);
                // Whoever leaves from now on is told in the next round.
                if desk::wants(&line.key, line.first.party.mode) {
                    polled.attempt(line);
                }
                polled.next = Instant::now() + polled.backoff.next();
            }
            next = next.min(look).min(polled.next);
        }
        next.saturating_duration_since(Instant::now()).max(SHORTEST_ROUND.max(leisure / 16))
    }

    /// Withdraws what was published.
    fn end(&mut self) {
        self.lines.clear();
        farewell::say_last_farewells();
    }
}

impl Polled {
    fn drop_bid_unless_for(&mut self, mode: Mode) {
        self.bid = self.bid.take().filter(|(bid_for, _)| *bid_for == mode);
    }

    fn attempt(&mut self, line: &Unserved) {
        let mode = line.first.party.mode;
        let attempt = panic::catch_unwind(AssertUnwindSafe(|| self.try_acquire(line, mode)));
        match attempt.unwrap_or_else(|_| Err(panicked(&line.key))) {
            Ok(Attempt::Acquired(guard)) => {
                self.bid = None;
                self.backoff.restart();
                desk::offer(&line.key, mode, guard);
            }
            Ok(Attempt::Contended(_) | Attempt::Interrupted) => {}
            Err(error) => {
                self.bid = None;
                desk::fail_first(&line.key, error);
            }
        }
    }

    /// Past a line of other processes: who only looks in now and then would never come to its turn.
    fn try_acquire(&mut self, line: &Unserved, mode: Mode) -> Result<Attempt, Error> {
        let mechanism = line.first.target.mechanism();
        let terms = desk::hasty(&line.first);
        if self.bid.is_none() {
            self.bid = mechanism.bid(&line.key.path, terms).map(|bid| (mode, bid));
        }
        match &mut self.bid {
            Some((_, bid)) => bid.attempt(),
            None => mechanism.try_acquire(&line.key.path, terms),
        }
    }
}
