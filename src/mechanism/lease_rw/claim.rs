//! What this process has published: a reader's marker, or a writer's two.
//!
//! A reader is one file under a name that nobody uses again. So is a writer of ours, and `x.write` is a second, hard link to
//! it, for filelock and for those who only want to know whether there is a writer. What nobody uses again can be removed by
//! its name without looking twice; `x.write` cannot: between a look and the removal it may have become somebody else's.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::lease::Lease;
use super::rooms::{Look, Readers, Rooms, Touched, look, touch_if, writer_name};
use super::seam::{Step, reach};
use super::taking::take_write_away;
use crate::error::Error;
use crate::fork::Tracked;
use crate::fork::{self, ForkMutex};
use crate::heartbeat::{self, Beat, Next};
use crate::mechanism::at_exit::{self, Leftover};
use crate::mechanism::health::{self, Health, Prognosis, Refreshed};
use crate::mechanism::monitor::{Compromise, CompromiseReason, LeaseMonitor, LeaseSettings};
use crate::mechanism::new_file::random_hex;
use crate::mechanism::{Guard, Loss, Mode, ReleaseError};
use crate::sys::{self, FileId, names};

/// How often a removal is tried before it counts as failed.
const ROUNDS: usize = 8;

/// It waits, or was granted, was given back, was lost when it was held, or when it was waiting.
const PENDING: u8 = 0;
const HELD: u8 = 1;
const RELEASED: u8 = 2;
const LOST: u8 = 3;
const SPENT: u8 = 4;

/// A marker of this process, and what keeps it fresh.
#[derive(Debug)]
pub(super) struct Claim {
    rooms: Arc<Rooms>,
    mode: Mode,
    settings: LeaseSettings,
    token: String,
    bytes: Vec<u8>,
    /// In the folder of readers.
    pub(super) name: OsString,
    /// The folder of readers: what all holds of this path have in common.
    place: FileId,
    monitor: Arc<LeaseMonitor>,
    /// The process that published it.
    generation: u64,
    phase: AtomicU8,
    loss: Loss,
    /// The number of the last writer before it, or its own.
    number: AtomicU64,
    health: ForkMutex<Health>,
}

/// The claims of this process.
static CLAIMS: ForkMutex<Vec<Weak<Claim>>> = ForkMutex::new();

impl Claim {
    /// Publishes a claim; `None`: a writer has been faster.
    pub(super) fn publish(
        rooms: &Arc<Rooms>,
        readers: &Readers,
        mode: Mode,
        settings: LeaseSettings,
        monitor: &Arc<LeaseMonitor>,
    ) -> Result<Option<Arc<Self>>, Error> {
        let lease = Lease::of_this_process(settings);
        let bytes = lease.to_bytes();
        let name = match mode {
            Mode::Shared => OsString::from(format!("{}.{}", random_hex(), lease.pid)),
            Mode::Exclusive => writer_name(&lease.token),
        };
        let begun = health::now();
        reach(Step::Publishing);
        readers.create(&name, &bytes).map_err(|error| rooms.failed("create", error))?;
        let claim = Arc::new(Self {
            rooms: Arc::clone(rooms),
            mode,
            settings,
            token: lease.token,
            bytes,
            name,
            place: readers.id(),
            monitor: Arc::clone(monitor),
            generation: fork::generation(),
            phase: AtomicU8::new(PENDING),
            loss: Loss::default(),
            number: AtomicU64::new(0),
            health: ForkMutex::new(),
        });
        *claim.health.lock() = Health::since(begun);
        CLAIMS.lock().push(Arc::downgrade(&claim));
        at_exit::note(&claim);
        reach(Step::Published);
        match claim.show_writer(readers) {
            Ok(true) => {
                reach(Step::Shown);
                Ok(Some(claim))
            }
            Ok(false) => {
                drop(claim.withdraw());
                Ok(None)
            }
            Err(error) => {
                drop(claim.withdraw());
                Err(claim.rooms.failed("link", error))
            }
        }
    }

    /// Gives a writer's marker the name by which all know that there is a writer; `false`: another has it.
    fn show_writer(&self, readers: &Readers) -> io::Result<bool> {
        if self.mode == Mode::Shared {
            return Ok(true);
        }
        let linked = names::link_across(readers.named(&self.name)?, self.rooms.write()?);
        let done = match linked {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.create_write(),
            linked => linked,
        };
        // Whatever the call says, the name tells what was done: a server may repeat a request.
        if self.is_at_write()? {
            return Ok(true);
        }
        match done {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
            // It was there, and was taken away.
            Ok(()) => Ok(false),
        }
    }

    /// Where there are no hard links, a second file says the same.
    fn create_write(&self) -> io::Result<()> {
        let at = self.rooms.write()?;
        let mut is_made = false;
        let mut make = || {
            let file = Tracked::open(|| names::create_new(at, 0o600).inspect(|_| is_made = true))?;
            file.own_file().and_then(|mut file| file.write_all(&self.bytes))
        };
        let made = make();
        if made.is_err() && is_made {
            drop(names::remove(at));
        }
        made
    }

    /// Whether `x.write` is this claim's.
    pub(super) fn is_at_write(&self) -> io::Result<bool> {
        Ok(matches!(look(self.rooms.write()?)?, Look::Marker(marker) if marker.bytes == self.bytes))
    }

    /// Whether the claim belongs to this process rather than to one that it was forked from.
    pub(super) fn is_of_this_process(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Whether the claim must not be granted any more: it is lost, or this process was stopped since it was published, and
    /// somebody may have judged it in that time and be about to remove it. Another claim has another name.
    pub(super) fn is_spent(&self) -> bool {
        let health = self.health.lock();
        let is_late = health.is_late(health::now(), self.settings);
        health.is_doubtful || is_late || self.phase.load(Ordering::SeqCst) == SPENT
    }

    fn is_there(&self, readers: &Readers) -> io::Result<bool> {
        Ok(matches!(look(readers.named(&self.name)?)?, Look::Marker(marker) if marker.bytes == self.bytes))
    }

    /// The number of a reader's hold, if it is still there at this moment: so no writer was granted since it began.
    pub(super) fn number_while_held(&self, readers: &Readers) -> io::Result<Option<u64>> {
        if self.phase.load(Ordering::SeqCst) != HELD {
            return Ok(None);
        }
        Ok(self.is_there(readers)?.then(|| self.number.load(Ordering::SeqCst)))
    }

    /// Has the claim kept fresh from now on.
    pub(super) fn keep_fresh(self: &Arc<Self>) -> Result<(), Error> {
        let beat: Arc<dyn Beat> = Arc::clone(self) as Arc<dyn Beat>;
        let due = self.health.lock().due(self.settings);
        let started = heartbeat::start(self.place.device, &beat, health::as_instant(due));
        started.map_err(|error| self.rooms.failed("start a heartbeat for", error))
    }

    fn no_longer_fresh(self: &Arc<Self>) {
        let beat: Arc<dyn Beat> = Arc::clone(self) as Arc<dyn Beat>;
        heartbeat::stop(self.place.device, &beat);
    }

    /// Makes the claim a hold. `false`: it was lost meanwhile.
    pub(super) fn grant(&self, generation: u64) -> bool {
        self.number.store(generation, Ordering::SeqCst);
        let granted = self.phase.compare_exchange(PENDING, HELD, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if granted {
            self.monitor.grant(&self.token, generation);
        }
        granted
    }

    /// Takes the claim back, or gives the hold back. Does nothing in a forked child, and nothing twice.
    pub(super) fn withdraw(self: &Arc<Self>) -> io::Result<()> {
        if !self.is_of_this_process() {
            return Ok(());
        }
        let before = self.phase.swap(RELEASED, Ordering::SeqCst);
        if before == RELEASED {
            return Ok(());
        }
        self.no_longer_fresh();
        let was_there = match self.remove_patiently() {
            Ok(was_there) => was_there,
            // Nobody holds it, and nobody refreshes what is left of it.
            Err(_) if before == LOST => false,
            Err(error) => {
                self.phase.store(before, Ordering::SeqCst);
                if before == PENDING || before == HELD {
                    drop(self.keep_fresh());
                }
                return Err(error);
            }
        };
        if before == HELD && !was_there {
            // Told late, but told: the heartbeat had not come to see it.
            self.report(CompromiseReason::Evicted, None);
        }
        if before == HELD || before == LOST {
            self.monitor.release(&self.token);
        }
        Ok(())
    }

    fn remove_patiently(&self) -> io::Result<bool> {
        let mut was_there = false;
        for round in 1.. {
            match self.remove(&mut was_there) {
                Err(error) if sys::is_transient(&error) && round < ROUNDS => {}
                // "Not there" can be wrong once.
                Ok(()) if !was_there && round < ROUNDS / 2 => {}
                removed => return removed.map(|()| was_there),
            }
        }
        Ok(was_there)
    }

    /// Removes what is published. The claim first: from then on nothing can bring `x.write` back.
    fn remove(&self, was_there: &mut bool) -> io::Result<()> {
        match self.rooms.readers() {
            Ok(readers) => {
                let at = readers.named(&self.name)?;
                if self.is_there(&readers)? {
                    reach(Step::Releasing);
                    names::remove(at)?;
                    *was_there = true;
                    reach(Step::Released);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if self.mode == Mode::Exclusive { take_write_away(&self.rooms, &self.bytes) } else { Ok(()) }
    }

    fn report(&self, reason: CompromiseReason, error: Option<Arc<io::Error>>) {
        let lock_file = self.rooms.path.clone();
        self.monitor.report(Compromise { lock_file, token: self.token.clone(), reason, error });
    }

    /// Looks whether the claim is still there, and refreshes it.
    fn refresh(&self) -> io::Result<Refreshed> {
        let readers = match self.rooms.readers() {
            Ok(readers) => readers,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Refreshed::Lost(CompromiseReason::MarkerMissing));
            }
            Err(error) => return Err(error),
        };
        let at = readers.named(&self.name)?;
        match touch_if(at, &self.bytes)? {
            Touched::Done => {}
            Touched::Nothing => return Ok(Refreshed::Lost(CompromiseReason::Evicted)),
            Touched::Other(_) => return Ok(Refreshed::Lost(CompromiseReason::OwnerChanged)),
        }
        if self.mode == Mode::Shared {
            return Ok(Refreshed::Fresh);
        }
        match touch_if(self.rooms.write()?, &self.bytes)? {
            Touched::Done => Ok(Refreshed::Fresh),
            Touched::Nothing => {
                // Somebody took it for another's, and then died before it could put it back.
                self.show_writer(&readers)?;
                Ok(Refreshed::Fresh)
            }
            // One of ours respects the claim. filelock's does not.
            Touched::Other(bytes) if Lease::parse(&bytes).is_some_and(|lease| lease.terms.is_some()) => {
                Ok(Refreshed::Fresh)
            }
            Touched::Other(_) => Ok(Refreshed::Lost(CompromiseReason::OwnerChanged)),
        }
    }

    fn lose(self: &Arc<Self>, reason: CompromiseReason, error: Option<io::Error>) {
        let turns = |before, after| {
            self.phase.compare_exchange(before, after, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        if turns(HELD, LOST) {
            let _only_once = self.loss.comes();
            self.report(reason, error.map(Arc::new));
        } else if !turns(PENDING, SPENT) {
            return;
        }
        // What is left of it keeps others out for nobody.
        drop(self.remove(&mut false));
    }
}

impl Beat for Claim {
    fn beat(&self) -> Next {
        let phase = self.phase.load(Ordering::SeqCst);
        if !self.is_of_this_process() || (phase != PENDING && phase != HELD) {
            return Next::Never;
        }
        let begun = health::now();
        let refreshed = self.refresh();
        let ended = health::now();
        let prognosis = self.health.lock().note(refreshed, begun, ended, self.settings);
        match prognosis {
            Prognosis::Beat(pause) => return Next::In(pause),
            Prognosis::Over(reason, error) => {
                if let Some(own) = find(self) {
                    own.lose(reason, error);
                }
            }
        }
        Next::Never
    }
}

fn holds(place: FileId) -> impl Iterator<Item = Arc<Claim>> {
    let claims: Vec<_> = CLAIMS.lock().iter().filter_map(Weak::upgrade).collect();
    claims.into_iter().filter(move |claim| {
        let is_held = claim.phase.load(Ordering::SeqCst) == HELD;
        is_held && claim.place == place && claim.is_of_this_process()
    })
}

/// A hold of this process that reads at the place of `readers`.
pub(super) fn held_reader(readers: &Readers) -> Option<Arc<Claim>> {
    holds(readers.id()).find(|claim| claim.mode == Mode::Shared)
}

/// Looks whether the holds of this process at `place` are still there. One that is not, is found out by its heart; but who
/// waits there now is told whether he waits for himself.
pub(super) fn look_after_holds(place: FileId) {
    for claim in holds(place) {
        if let Ok(is_there) = claim.rooms.readers().and_then(|readers| claim.is_there(&readers)) {
            claim.loss.suspect(!is_there);
        }
    }
}

/// The claim, as what its withdrawal needs.
fn find(claim: &Claim) -> Option<Arc<Claim>> {
    let claims = CLAIMS.lock();
    claims.iter().find(|known| std::ptr::eq(known.as_ptr(), claim)).and_then(Weak::upgrade)
}

impl Leftover for Claim {
    fn clear_away(self: Arc<Self>) {
        drop(self.withdraw());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let own: *const Self = self;
        CLAIMS.lock().retain(|claim| !std::ptr::eq(claim.as_ptr(), own));
    }
}

/// A granted claim. Its drop gives the lock back.
#[derive(Debug)]
pub(super) struct LeaseGuard {
    pub(super) claim: Arc<Claim>,
}

impl Guard for LeaseGuard {
    fn file(&self) -> FileId {
        self.claim.place
    }

    fn loss(&self) -> Option<Loss> {
        Some(self.claim.loss.clone())
    }

    fn release(self: Box<Self>) -> Result<(), ReleaseError> {
        match self.claim.withdraw() {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = self.claim.rooms.failed("unlink", error);
                Err(ReleaseError { guard: Some(self), error })
            }
        }
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        // Nobody can be told. A marker that stays is not refreshed any more.
        if self.claim.withdraw().is_err() {
            self.claim.no_longer_fresh();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;
    use std::time::{Duration, Instant, SystemTime};

    use super::*;
    use crate::mechanism::lease_rw::LeaseReadWriteLock;
    use crate::mechanism::{Attempt, Manners, Mechanism, Terms};
    use crate::wait::sleep;

    type Checked = Result<(), Box<dyn std::error::Error>>;

    /// Makes the marker old.
    fn age(marker: &Path) -> io::Result<()> {
        File::options().write(true).open(marker)?.set_modified(SystemTime::UNIX_EPOCH)
    }

    /// Waits until the marker is refreshed.
    fn see_refreshed(marker: &Path) -> io::Result<()> {
        let begin = Instant::now();
        while fs::metadata(marker)?.modified()? == SystemTime::UNIX_EPOCH {
            assert!(begin.elapsed() < Duration::from_secs(8), "its end is not awaited");
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// A contender may have seen it for as long as it took.
    #[test]
    fn a_claim_that_was_published_long_ago_is_refreshed_at_once() -> Checked {
        let settings = LeaseSettings {
            heartbeat_interval: Duration::from_secs(30),
            stale_threshold: Duration::from_secs(40),
        };
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.lock");
        let rooms = Rooms::open(&path)?;
        let readers = rooms.make_readers()?;
        let monitor = Arc::new(LeaseMonitor::new(None));
        for mode in [Mode::Shared, Mode::Exclusive] {
            let claim = Claim::publish(&rooms, &readers, mode, settings, &monitor)?.ok_or("it is free")?;
            let marker = folder.path().join("x.lock.readers").join(&claim.name);
            age(&marker)?;
            claim.health.lock().good -= Duration::from_secs(31);
            assert!(!claim.is_spent());
            claim.keep_fresh()?;
            see_refreshed(&marker)?;
            claim.withdraw()?;
        }
        Ok(())
    }

    #[test]
    fn a_claim_in_the_place_of_a_spent_one_is_refreshed_too() -> Checked {
        let settings = LeaseSettings {
            heartbeat_interval: Duration::from_millis(50),
            stale_threshold: Duration::from_secs(40),
        };
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.lock");
        let lock = || LeaseReadWriteLock::new(settings, Arc::new(LeaseMonitor::new(None)));
        let reads = Terms { mode: Mode::Shared, ..Manners::Hasty.into() };
        let Attempt::Acquired(_reader) = lock().try_acquire(&path, reads)? else {
            return Err("it is free".into());
        };
        let waits = Terms { mode: Mode::Exclusive, ..Manners::Polite.into() };
        let mut bid = lock().bid(&path, waits).ok_or("there are bids")?;
        let claim = || {
            let claims = CLAIMS.lock().iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
            let is_ours = |claim: &Arc<Claim>| claim.rooms.path == path && claim.mode == Mode::Exclusive;
            claims.into_iter().find(is_ours).ok_or("a claim")
        };
        let attempt = bid.attempt()?;
        assert!(matches!(attempt, Attempt::Contended(_)));
        let spent = claim()?.name.clone();
        let attempt = bid.attempt()?;
        assert!(matches!(attempt, Attempt::Contended(_)));
        assert_eq!(claim()?.name, spent, "it stays between two attempts");
        claim()?.health.lock().is_doubtful = true;
        let attempt = bid.attempt()?;
        assert!(matches!(attempt, Attempt::Contended(_)));
        assert_ne!(claim()?.name, spent);
        let marker = folder.path().join("x.lock.readers").join(&claim()?.name);
        age(&marker)?;
        see_refreshed(&marker)?;
        Ok(())
    }
}
