//! The lease: readers and writers on a file system that several machines share.
//!
//! How it works: who holds has a file there, a marker, and keeps it fresh. A contender that sees a marker unchanged for long
//! enough takes its holder for dead and removes it. The files are those of filelock 3.27 to 3.32, whose programs take part.
//!
//! What it guarantees: readers share, a writer is alone, on any file system where a name can be created by one only, by
//! whoever keeps its markers fresh. Who was stopped for longer than its threshold may lose its hold; it is told.
//!
//! | step of an attempt | reader | writer |
//! |---|---|---|
//! | *glance* | a live `x.write`: contended | the same, and once it has claimed: live readers |
//! | *enter* | `x.state` is made | the same |
//! | *clear* | a stale `x.write` is evicted | the same |
//! | *publish* | its marker | its claim, and `x.write` |
//! | *number* | | makes `.generation.N` |
//! | *list* | no writer's claim | nobody else, and no greater number |
//! | *confirm* | no `x.write`; `x.state` is still its own | its claim, `x.write` and `x.state` are |
//! | *leave* | `x.state` is removed | the same |
//!
//! A writer that finds readers in *list* leaves, and begins again there, with its claim published. Everybody publishes
//! before it lists, so of two that exclude each other one at least sees the other, whatever became of `x.state`; that one is
//! what filelock goes by. Whoever publishes makes a file in the folder that it lists next, so no old answer is given.
//!
//! Downsides: (1) advisory. (2) A holder that is stopped for longer than its threshold goes on beside its successor until it
//! is told; a store that can refuse old numbers needs `generation`. (3) filelock has neither claims nor numbers: beside its
//! programs all rests on `x.state`. (4) Who removes the files frees the lock.

mod claim;
mod judge;
mod lease;
#[cfg(test)]
#[cfg(unix)]
mod nested;
mod observe;
mod rooms;
mod seam;
#[cfg(test)]
#[cfg(unix)]
mod stops;
mod taking;
mod transition;
#[cfg(test)]
#[cfg(unix)]
mod troubles;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claim::{Claim, LeaseGuard};
use judge::{Judge, Verdict};
use observe::Observer;
use rooms::{Listing, Look, Readers, Rooms, generation_name, look};
use seam::{Step, reach};
use transition::{Entered, Transition};

use super::monitor::{LeaseMonitor, LeaseSettings};
use super::{Attempt, Bid, Holder, Manners, Mechanism, Mode, Terms};
use crate::error::Error;
use crate::fork::Tracked;
use crate::sys::{self, FileId, names};

/// How often an attempt begins again because the file system said something that does not last; or lists again because
/// those who were listed are gone.
const ROUNDS: u32 = 8;
/// How many attempts of a waiter may end with that in a row.
const TROUBLES: u32 = 64;

/// A lock for readers and writers by leases on files.
///
/// Takes part with filelock's `SoftReadWriteLock` of releases 3.27 to 3.32. For one path.
#[derive(Debug)]
pub struct LeaseReadWriteLock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: LeaseSettings,
    monitor: Arc<LeaseMonitor>,
    observer: Observer,
}

/// What an attempt came to that did not get the lock.
enum Contention {
    /// The place of those who hold or wait, or what else is in the way, if anything is known.
    By(Option<FileId>),
    /// It was not alone when it published, or cannot know: nothing counts.
    Again,
}

type Outcome<T> = Result<Result<T, Contention>, Error>;

impl LeaseReadWriteLock {
    /// A lock whose holders go by `settings`, and are told by `monitor` what becomes of their holds.
    #[must_use]
    pub fn new(settings: LeaseSettings, monitor: Arc<LeaseMonitor>) -> Self {
        Self { shared: Arc::new(Shared { settings, monitor, observer: Observer::new() }) }
    }
}

impl Mechanism for LeaseReadWriteLock {
    fn try_acquire(&self, path: &Path, terms: Terms) -> Result<Attempt, Error> {
        let (mut claim, mut troubles) = (None, 0);
        let troubles = (terms.manners != Manners::Hasty).then_some(&mut troubles);
        let attempt = self.shared.attempt(path, terms, &mut claim, troubles);
        withdraw(&mut claim);
        attempt
    }

    fn holder(&self, path: &Path) -> Option<Holder> {
        holder(path).ok().flatten()
    }

    fn bid(&self, path: &Path, terms: Terms) -> Option<Box<dyn Bid>> {
        let (shared, path) = (Arc::clone(&self.shared), path.to_owned());
        Some(Box::new(LeaseBid { shared, path, terms, claim: None, troubles: 0 }))
    }

    fn begins_with_bid(&self) -> bool {
        true
    }
}

/// A waiter. A writer's claim stays between its attempts, once it has one.
#[derive(Debug)]
struct LeaseBid {
    shared: Arc<Shared>,
    path: PathBuf,
    terms: Terms,
    claim: Option<Arc<Claim>>,
    /// How many attempts in a row the file system has spoilt.
    troubles: u32,
}

impl Bid for LeaseBid {
    fn attempt(&mut self) -> Result<Attempt, Error> {
        let before = self.claim.clone();
        let attempt = self.shared.attempt(&self.path, self.terms, &mut self.claim, Some(&mut self.troubles));
        // Also one that was published in the place of one that was spent.
        if let Some(claim) = &self.claim {
            if !before.is_some_and(|before| Arc::ptr_eq(&before, claim)) {
                claim.keep_fresh()?;
            }
        }
        attempt
    }

    /// A claim that is at another place is not found there, and published anew.
    fn stay_at(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
    }
}

impl Drop for LeaseBid {
    fn drop(&mut self) {
        withdraw(&mut self.claim);
    }
}

/// Takes back what was published and not granted. What cannot be removed is not kept fresh.
fn withdraw(claim: &mut Option<Arc<Claim>>) {
    if let Some(claim) = claim.take() {
        drop(LeaseGuard { claim });
    }
}

impl Shared {
    /// One attempt. A writer's `claim` is what it has published, before and after; it is taken out when it is granted.
    /// Who waits has `troubles`, the number of its attempts in a row that the file system has spoilt, and asks again after
    /// a pause, whatever its manners; who does not is told at once.
    fn attempt(
        &self,
        path: &Path,
        terms: Terms,
        claim: &mut Option<Arc<Claim>>,
        mut troubles: Option<&mut u32>,
    ) -> Result<Attempt, Error> {
        let mut round = 0;
        loop {
            round += 1;
            // That of the process that this one was forked from, or evicted.
            if claim.as_ref().is_some_and(|claim| !claim.is_of_this_process() || claim.is_spent()) {
                withdraw(claim);
            }
            let attempted = match terms.mode {
                Mode::Shared => self.attempt_shared(path, terms.manners),
                Mode::Exclusive => self.attempt_exclusive(path, claim),
            };
            let error = match attempted {
                Ok(outcome) => {
                    if let Some(troubles) = &mut troubles {
                        **troubles = 0;
                    }
                    match outcome {
                        Ok(claim) => return Ok(Attempt::Acquired(Box::new(LeaseGuard { claim }))),
                        Err(Contention::By(file)) => {
                            file.into_iter().for_each(claim::look_after_holds);
                            return Ok(Attempt::Contended(file));
                        }
                        Err(Contention::Again) if round < ROUNDS => continue,
                        Err(Contention::Again) => return Ok(Attempt::Contended(None)),
                    }
                }
                Err(error) => error,
            };
            let Some(cause) = error.os_error() else { return Err(error) };
            if cause.kind() == io::ErrorKind::Interrupted {
                return Ok(Attempt::Interrupted);
            }
            if !sys::is_transient(cause) {
                return Err(error);
            }
            if round < ROUNDS {
                continue;
            }
            return match troubles {
                Some(troubles) if *troubles < TROUBLES => {
                    *troubles += 1;
                    Ok(Attempt::Contended(None))
                }
                Some(_) | None => Err(error),
            };
        }
    }

    fn judge<'a>(
        &'a self,
        rooms: &'a Rooms,
        readers: &'a Readers,
        inside: Option<&Transition<'_>>,
    ) -> Judge<'a> {
        let here = inside.map(Transition::stamped);
        Judge { rooms, readers, observer: &self.observer, settings: self.settings, here }
    }

    fn enter<'a>(&self, rooms: &'a Rooms, readers: &Readers) -> Outcome<Transition<'a>> {
        match Transition::enter(rooms, readers, &self.observer, self.settings.stale_threshold)? {
            Entered::Inside(transition) => Ok(Ok(transition)),
            Entered::Held(file) => Ok(Err(Contention::By(file))),
        }
    }

    fn attempt_shared(&self, path: &Path, manners: Manners) -> Outcome<Arc<Claim>> {
        let rooms = Rooms::open(path)?;
        let readers = rooms.make_readers().map_err(|error| rooms.failed("open", error))?;
        let attempted = if manners == Manners::Nested {
            self.join_reader(&rooms, &readers)
        } else {
            self.attempt_reader(&rooms, &readers)
        };
        match attempted? {
            // Somebody in a transition, too, may be a writer that waits for a reader of this process.
            Err(_) if claim::held_reader(&readers).is_some() => Ok(Err(Contention::By(Some(readers.id())))),
            attempted => Ok(attempted),
        }
    }

    /// For who reads here already through another lock object: past the writers that wait.
    ///
    /// Beside a writer that was granted it is not let in, whatever was lost meanwhile: the other marker of this process is
    /// found at its name *after* the new one was published, and nobody gives a name twice. So it was there all the time, and
    /// a writer that has listed the readers before has seen it, and lists once more if it is gone when it looks; one that lists
    /// them later sees the new one. That needs no transition.
    fn join_reader(&self, rooms: &Arc<Rooms>, readers: &Readers) -> Outcome<Arc<Claim>> {
        let held = || Ok(Err(Contention::By(Some(readers.id()))));
        let Some(other) = claim::held_reader(readers) else { return held() };
        let Some(claim) = Claim::publish(rooms, readers, Mode::Shared, self.settings, &self.monitor)? else {
            return Ok(Err(Contention::Again));
        };
        let mut published = Some(Arc::clone(&claim));
        let granted = match check(rooms, other.number_while_held(readers)) {
            Ok(Some(number)) => {
                reach(Step::Confirmed);
                make_hold(&claim, number)
            }
            Ok(None) => held(),
            Err(error) => Err(error),
        };
        if !matches!(granted, Ok(Ok(_))) {
            withdraw(&mut published);
        }
        granted
    }

    fn attempt_reader(&self, rooms: &Arc<Rooms>, readers: &Readers) -> Outcome<Arc<Claim>> {
        let glance = self.judge(rooms, readers, None);
        if let Some(contention) = check(rooms, live_writer(&glance, false))? {
            return Ok(Err(contention));
        }
        let transition = match self.enter(rooms, readers)? {
            Ok(transition) => transition,
            Err(contention) => return Ok(Err(contention)),
        };
        let judge = self.judge(rooms, readers, Some(&transition));
        if let Some(contention) = check(rooms, live_writer(&judge, true))? {
            return Ok(Err(contention));
        }
        reach(Step::Cleared);
        let Some(claim) = Claim::publish(rooms, readers, Mode::Shared, self.settings, &self.monitor)? else {
            return Ok(Err(Contention::Again));
        };
        let mut published = Some(Arc::clone(&claim));
        let confirmed = check(rooms, Self::confirm_reader(&judge, &transition));
        let granted = self.grant(&transition, &claim, confirmed);
        if !matches!(granted, Ok(Ok(_))) {
            withdraw(&mut published);
        }
        granted
    }

    /// Makes a confirmed claim a hold.
    fn grant(
        &self,
        transition: &Transition<'_>,
        claim: &Arc<Claim>,
        confirmed: Result<Result<u64, Contention>, Error>,
    ) -> Outcome<Arc<Claim>> {
        let number = match confirmed? {
            Ok(number) => number,
            Err(contention) => return Ok(Err(contention)),
        };
        reach(Step::Confirmed);
        // Who was stopped on the way may be evicted any moment, and the first heartbeat is far away.
        if transition.age() > self.settings.stale_threshold / 2 {
            return Ok(Err(Contention::Again));
        }
        make_hold(claim, number)
    }

    /// *list* and *confirm*, of a reader.
    fn confirm_reader(judge: &Judge<'_>, transition: &Transition<'_>) -> io::Result<Result<u64, Contention>> {
        let listing = judge.readers.list()?;
        if let Some(contention) = look_at_all(judge, &listing.writers, None, true)?.contention(judge) {
            return Ok(Err(contention));
        }
        reach(Step::Listed);
        if !matches!(look(judge.rooms.write()?)?, Look::Nothing) || !transition.is_ours()? {
            return Ok(Err(Contention::Again));
        }
        Ok(Ok(listing.newest()))
    }

    fn attempt_exclusive(&self, path: &Path, claim: &mut Option<Arc<Claim>>) -> Outcome<Arc<Claim>> {
        let rooms = Rooms::open(path)?;
        let readers = rooms.make_readers().map_err(|error| rooms.failed("open", error))?;
        let glance = self.judge(&rooms, &readers, None);
        let seen = match claim {
            None => live_writer(&glance, false),
            Some(claim) => readers
                .list()
                .and_then(|listing| look_at_others(&glance, &listing, claim, false))
                .map(|others| others.contention(&glance)),
        };
        if let Some(contention) = check(&rooms, seen)? {
            return Ok(Err(contention));
        }
        let transition = match self.enter(&rooms, &readers)? {
            Ok(transition) => transition,
            Err(contention) => return Ok(Err(contention)),
        };
        let judge = self.judge(&rooms, &readers, Some(&transition));
        let own = if let Some(own) = claim {
            Arc::clone(own)
        } else {
            if let Some(contention) = check(&rooms, live_writer(&judge, true))? {
                return Ok(Err(contention));
            }
            reach(Step::Cleared);
            match Claim::publish(&rooms, &readers, Mode::Exclusive, self.settings, &self.monitor)? {
                Some(own) => Arc::clone(claim.insert(own)),
                None => return Ok(Err(Contention::Again)),
            }
        };
        let mut numbers = Vec::new();
        let confirmed = check(&rooms, confirm_writer(&judge, &transition, &own)).map(|confirmed| {
            confirmed.map(|listing| {
                numbers.clone_from(&listing.generations);
                listing.newest()
            })
        });
        let granted = self.grant(&transition, &own, confirmed);
        match &granted {
            Ok(Ok(_)) => {
                *claim = None;
                drop(transition);
                // Nobody else is there any more.
                self.observer.settle(&readers);
                remove_all_but_newest(&readers, numbers);
            }
            // What was published was not alone, or is not all there any more.
            Ok(Err(Contention::Again)) => withdraw(claim),
            Ok(Err(Contention::By(_))) | Err(_) => {}
        }
        granted
    }
}

/// As the last step, for a heartbeat must not be there for a claim that is not.
fn make_hold(claim: &Arc<Claim>, number: u64) -> Outcome<Arc<Claim>> {
    if claim.is_spent() {
        return Ok(Err(Contention::Again));
    }
    claim.keep_fresh()?;
    if !claim.grant(number) {
        return Ok(Err(Contention::Again));
    }
    reach(Step::Granted);
    Ok(Ok(Arc::clone(claim)))
}

/// Whom the writer's marker names, or that of one of the readers.
fn holder(path: &Path) -> Result<Option<Holder>, Error> {
    let rooms = Rooms::open(path)?;
    let named = |look| match look {
        Look::Marker(marker) => lease::Lease::parse(&marker.bytes).map(lease::Lease::into_holder),
        Look::Nothing | Look::NoFile => None,
    };
    let look_for = || {
        if let Some(writer) = named(look(rooms.write()?)?) {
            return Ok(Some(writer));
        }
        let readers = rooms.readers()?;
        for name in readers.list()?.readers {
            if let Some(reader) = named(look(readers.named(&name)?)?) {
                return Ok(Some(reader));
            }
        }
        Ok(None)
    };
    check(&rooms, look_for())
}

fn check<T>(rooms: &Rooms, step: io::Result<T>) -> Result<T, Error> {
    step.map_err(|error| rooms.failed("lock", error))
}

/// *glance* and *clear*: the writer that is in the way. A stale one is evicted, inside a transition.
fn live_writer(judge: &Judge<'_>, evicts: bool) -> io::Result<Option<Contention>> {
    match judge.look_at_write()? {
        Some((Verdict::Live, _)) => Ok(Some(Contention::By(Some(judge.readers.id())))),
        Some((Verdict::Stale, marker)) if evicts && !judge.evict_writer(&marker)? => {
            Ok(Some(Contention::By(Some(judge.readers.id()))))
        }
        None | Some((Verdict::Due | Verdict::Stale | Verdict::Gone, _)) => Ok(None),
    }
}

/// What became of those who were listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Others {
    /// There was nobody.
    Nobody,
    /// Somebody was there, and is not any more.
    Gone,
    /// Somebody may live.
    Live,
}

impl Others {
    fn contention(self, judge: &Judge<'_>) -> Option<Contention> {
        (self == Self::Live).then(|| Contention::By(Some(judge.readers.id())))
    }
}

/// Whether the holder of one of the markers `markers` may live. Stale ones are evicted, inside a transition.
fn look_at_all(
    judge: &Judge<'_>,
    markers: &[OsString],
    own: Option<&OsString>,
    evicts: bool,
) -> io::Result<Others> {
    let mut others = Others::Nobody;
    for name in markers.iter().filter(|name| Some(*name) != own) {
        others = others.max(match judge.look_at(name)? {
            Some((Verdict::Live, _)) => Others::Live,
            Some((Verdict::Stale, Some(marker))) if evicts && !judge.evict(name, &marker)? => Others::Live,
            Some((Verdict::Due | Verdict::Stale | Verdict::Gone, _)) => Others::Gone,
            None => Others::Nobody,
        });
    }
    Ok(others)
}

/// Whether one of all others may live.
fn look_at_others(judge: &Judge<'_>, listing: &Listing, own: &Claim, evicts: bool) -> io::Result<Others> {
    let readers = look_at_all(judge, &listing.readers, None, evicts)?;
    let writers = look_at_all(judge, &listing.writers, Some(&own.name), evicts)?;
    Ok(readers.max(writers))
}

/// *number*, *list* and *confirm*, of a writer, whose number is the newest one in the listing then.
fn confirm_writer(
    judge: &Judge<'_>,
    transition: &Transition<'_>,
    own: &Claim,
) -> io::Result<Result<Listing, Contention>> {
    let mut listing = judge.readers.list()?;
    if let Some(contention) = look_at_others(judge, &listing, own, true)?.contention(judge) {
        return Ok(Err(contention));
    }
    for _ in 0..ROUNDS {
        let number = listing.newest().saturating_add(1);
        match claim_number(judge.readers, number) {
            // Somebody else is on its way; the number may be anybody's.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => break,
            claimed => claimed?,
        }
        reach(Step::Numbered);
        listing = judge.readers.list()?;
        reach(Step::Relisted);
        match look_at_others(judge, &listing, own, true)? {
            Others::Nobody => {}
            // In its place there may be another one of its process, which has found it there and is not listed.
            Others::Gone => continue,
            Others::Live => return Ok(Err(Contention::By(Some(judge.readers.id())))),
        }
        reach(Step::Listed);
        let is_whole = listing.newest() == number
            && listing.writers.contains(&own.name)
            && own.is_at_write()?
            && transition.is_ours()?;
        return Ok(if is_whole { Ok(listing) } else { Err(Contention::Again) });
    }
    Ok(Err(Contention::By(None)))
}

/// Claims the number by making its name: nobody else can, and nobody could before.
fn claim_number(readers: &Readers, number: u64) -> io::Result<()> {
    let name = generation_name(number);
    Tracked::open(|| names::create_new(readers.named(&name)?, 0o600)).map(drop)
}

/// The greatest number stays: the next one goes by it.
fn remove_all_but_newest(readers: &Readers, mut numbers: Vec<u64>) {
    numbers.sort_unstable();
    numbers.pop();
    for number in numbers {
        let name = generation_name(number);
        drop(readers.named(&name).and_then(names::remove));
    }
}
