//! Who reads or writes through a lock object of readers and writers, how often, and the transitions between.
//!
//! A lock object has one hold at a time. It is the writer's, and then only one owner (a thread, by default) has it;
//! or the readers', and then any number of owners share it, and each counts its own levels:
//!
//! | phase | means | to read | to write | a release |
//! |---|---|---|---|---|
//! | `Free` | unheld | attempts | attempts | is refused |
//! | `Busy` | a release is in a system call | attempts, and waits for the release to commit | the same | is refused |
//! | held by readers | | one level more for this owner | is refused | one level less for this owner; the last of all unlocks |
//! | held by a writer | | is refused | its owner: one level more; others are refused | its owner's: one level less; the last one unlocks |
//!
//! A hold that was lost (a lease that others took for a dead holder's) takes no level more until it is released.
//!
//! What cannot come true is refused and not waited for: a reader that wants to write would wait for itself, and threads
//! that want to exclude each other need lock objects of their own. Tasks come in through a [`Door`], and wait
//! for each other.
//!
//! The state changes under a mutex, and no system call and nothing of the caller's runs while it is locked.

mod door;
mod levels;

use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

pub use door::Door;
use levels::{Hold, Levels, Phase, State, Step, Whose};

use crate::error::{Error, ErrorKind};
use crate::fork::{self, ForkMutex};
use crate::hold::{Level, Released};
use crate::mechanism::{Guard, Holder, Mechanism, Mode, ReleaseError};
use crate::owner::OwnerId;
use crate::registry::{self, Held, LockId};
use crate::sys;
use crate::time::Deadline;
use crate::wait::{self, Answer, Contender, FAR, Nesting, Patience, WaitsBy, Watch};

/// A lock object of readers and writers: a mechanism, and the one hold that its owners have through it.
///
/// In a forked child it starts unheld, whatever the parent holds through its copy.
#[derive(Debug)]
pub struct ReadWrite {
    id: LockId,
    mechanism: Box<dyn Mechanism>,
    /// Not in the state: a closed lock object is closed in a forked child too.
    is_closed: AtomicBool,
    state: ForkMutex<State>,
}

impl ReadWrite {
    /// A lock object that nobody holds. Touches no file.
    #[must_use]
    pub fn new(mechanism: Box<dyn Mechanism>) -> Self {
        Self { id: LockId::next(), mechanism, is_closed: AtomicBool::new(false), state: ForkMutex::new() }
    }

    /// Acquires the lock on `path` for `owner`, or nests.
    ///
    /// # Errors
    /// [`Upgrade`](ErrorKind::Upgrade), [`Downgrade`](ErrorKind::Downgrade),
    /// [`HeldByAnother`](ErrorKind::HeldByAnother), [`Closed`](ErrorKind::Closed) and
    /// [`Compromised`](ErrorKind::Compromised) are about this lock object, the rest is as for [`Lock::acquire`](crate::Lock::acquire). Nothing is held then that was not before.
    pub fn acquire(
        &self,
        owner: OwnerId,
        mode: Mode,
        path: &Path,
        patience: Patience,
        watch: &mut dyn Watch,
    ) -> Result<(), Error> {
        fork::notice_fork();
        let refused = |kind| Error::new(kind, "lock", path).with_absolute_path();
        match self.nest(owner, self.id, mode) {
            Nesting::No => {}
            Nesting::Nested => return Ok(()),
            Nesting::Refused(kind) => return Err(refused(kind)),
        }
        if self.state.lock().waiting.contains(&owner) {
            return Err(refused(ErrorKind::Reentered));
        }
        let contender = Contender {
            lock: self.id,
            owner,
            mechanism: &*self.mechanism,
            mode,
            path,
            deadline: Deadline::begin(patience.timeout),
            poll_interval: patience.poll_interval.min(FAR),
            lifetime: patience.lifetime,
            nest: &|| self.nest(owner, self.id, mode),
        };
        let (first, bid) = contender.begin();
        match contender.go_on(first, bid, watch, || Waiting::enter(self, owner))? {
            Answer::Acquired(guard) => self.commit(owner, self.id, mode, guard).map(drop).map_err(refused),
            Answer::Nested => Ok(()),
        }
    }

    /// Releases one level of `owner`'s hold; with `force` all levels of all owners, whoever asks.
    ///
    /// # Errors
    /// [`NotHeld`](ErrorKind::NotHeld) and [`NotTheHolder`](ErrorKind::NotTheHolder), but with `force` there is nothing
    /// to refuse; what the mechanism gives. Where unlocking itself failed, the lock is held as before.
    pub fn release(&self, owner: OwnerId, force: bool, path: &Path) -> Result<Released, Error> {
        fork::notice_fork();
        let step = if force {
            Ok(self.state.lock().begin_release())
        } else {
            self.state.lock().take(Whose::Owner(owner, self.id), false)
        };
        self.finish(step, force, path)
    }

    /// Releases one level of those that are meant where that makes no system call, and says whether it did.
    fn unnest(&self, whose: Whose, path: &Path) -> bool {
        let step = self.state.lock().unnest(whose);
        step.is_some_and(|step| self.finish(Ok(step), false, path).is_ok())
    }

    /// Releases one level of those that are meant, or all; `NotTheHolder` where there are none.
    fn release_of(&self, whose: Whose, all: bool, path: &Path) -> Result<Released, Error> {
        fork::notice_fork();
        let step = self.state.lock().take(whose, all);
        self.finish(step, false, path)
    }

    /// Releases one level of a hold that was lost, for whoever was told of the loss.
    ///
    /// # Errors
    /// [`NotHeld`](ErrorKind::NotHeld) where there is no such hold any more; what the mechanism gives.
    pub fn release_lost(&self, path: &Path) -> Result<Released, Error> {
        fork::notice_fork();
        let step = self.state.lock().take_lost();
        self.finish(step, false, path)
    }

    fn finish(&self, step: Result<Step, ErrorKind>, force: bool, path: &Path) -> Result<Released, Error> {
        match step {
            Ok(Step::Nothing) if force => Ok(Released::NotHeld),
            Ok(Step::Nothing) => Ok(Released::StillHeld),
            Ok(Step::Forget(owners)) => {
                for owner in owners {
                    registry::forget_owner(self.id, owner);
                }
                Ok(Released::StillHeld)
            }
            Ok(Step::Unlock(hold)) => self.unlock(hold).map(|()| Released::Unlocked),
            Err(kind) => Err(Error::new(kind, "unlock", path).with_absolute_path()),
        }
    }

    /// Releases all holds and refuses all acquisitions from now on, also those that wait. Closing again does nothing.
    ///
    /// # Errors
    /// What the mechanism gives.
    pub fn close(&self) -> Result<(), Error> {
        self.is_closed.store(true, Ordering::SeqCst);
        wait::nudge(self.id);
        let released = self.release_all();
        self.mechanism.retire();
        released
    }

    /// Releases the holds of all owners, for a lock object that nobody can reach any more.
    ///
    /// # Errors
    /// What the mechanism gives.
    pub fn release_all(&self) -> Result<(), Error> {
        fork::notice_fork();
        let step = self.state.lock().begin_release();
        if let Step::Unlock(hold) = step { self.unlock(hold) } else { Ok(()) }
    }

    /// How `owner` holds this lock object, and how often.
    #[must_use]
    pub fn held_by(&self, owner: OwnerId) -> Option<(Mode, u32)> {
        match &self.state.lock().phase {
            Phase::Held(hold) if hold.has(owner) => {
                let its = hold.levels.iter().filter(|levels| levels.owner == owner);
                Some((hold.mode, its.map(|levels| levels.depth).sum()))
            }
            Phase::Held(_) | Phase::Free | Phase::Busy => None,
        }
    }

    /// Whether any owner holds this lock object.
    #[must_use]
    pub fn is_held_by_anyone(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Held(_))
    }

    fn is_held_by(&self, whose: Whose) -> bool {
        match &self.state.lock().phase {
            Phase::Held(hold) => hold.levels.iter().any(|levels| whose.includes(levels)),
            Phase::Free | Phase::Busy => false,
        }
    }

    /// Whether any owner holds this lock object on the file that is at `path`.
    #[must_use]
    pub fn is_held_at(&self, path: &Path) -> bool {
        let file = match &self.state.lock().phase {
            Phase::Held(hold) => hold.guard.file(),
            Phase::Free | Phase::Busy => return false,
        };
        sys::is_at(path, file).unwrap_or(false)
    }

    /// Whether [`ReadWrite::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// How a thread would wait for the lock on `path`. Touches nothing.
    #[must_use]
    pub fn waits_by(&self, path: &Path) -> WaitsBy {
        if self.mechanism.wakes_waiters(path) { WaitsBy::Kernel } else { WaitsBy::Polling }
    }

    /// Who holds the lock on `path`, where the lock itself says so.
    #[must_use]
    pub fn holder(&self, path: &Path) -> Option<Holder> {
        self.mechanism.holder(path)
    }

    fn id(&self) -> LockId {
        self.id
    }

    fn mechanism(&self) -> &dyn Mechanism {
        &*self.mechanism
    }

    fn nest(&self, owner: OwnerId, door: LockId, mode: Mode) -> Nesting {
        self.nest_if(owner, door, mode, |_| true)
    }

    /// Counts a level more for an owner that has one. What others hold is waited for.
    fn nest_again(&self, owner: OwnerId, door: LockId, mode: Mode) -> Nesting {
        self.nest_if(owner, door, mode, |hold| hold.has(owner) || hold.guard.is_lost())
    }

    /// The same for a reader that comes in with others.
    fn nest_with_readers(&self, owner: OwnerId, door: LockId) -> Nesting {
        self.nest_if(owner, door, Mode::Shared, |hold| hold.mode == Mode::Shared)
    }

    fn nest_if(
        &self,
        owner: OwnerId,
        door: LockId,
        mode: Mode,
        may_join: impl FnOnce(&Hold) -> bool,
    ) -> Nesting {
        let (joined, held) = {
            let mut state = self.state.lock();
            if self.is_closed() {
                return Nesting::Refused(ErrorKind::Closed);
            }
            match &mut state.phase {
                Phase::Held(hold) if may_join(hold) => {
                    (hold.join(owner, door, mode), Held::of(self.id, owner, &*hold.guard))
                }
                Phase::Held(_) | Phase::Free | Phase::Busy => return Nesting::No,
            }
        };
        match joined {
            Ok(is_new) => {
                if is_new {
                    self.record(held);
                }
                Nesting::Nested
            }
            Err(kind) => Nesting::Refused(kind),
        }
    }

    /// Puts an owner's hold on the record; but another thread may have released it by force since.
    fn record(&self, held: Held) {
        let owner = held.owner;
        registry::record(held);
        if self.held_by(owner).is_none() {
            registry::forget_owner(self.id, owner);
        }
    }

    /// Makes the lock that `guard` stands for a hold of `owner`'s.
    fn commit(
        &self,
        owner: OwnerId,
        door: LockId,
        mode: Mode,
        guard: Box<dyn Guard>,
    ) -> Result<Level, ErrorKind> {
        let mut held = Held::of(self.id, owner, &*guard);
        let mut guard = Some(guard);
        let joined = wait::persist(|| {
            let mut state = self.state.lock();
            if self.is_closed() {
                return Some(Err(ErrorKind::Closed));
            }
            match &mut state.phase {
                Phase::Free => {
                    if let Some(guard) = guard.take() {
                        let levels = vec![Levels { owner, door, depth: 1 }];
                        state.phase = Phase::Held(Hold { guard, mode, levels });
                    }
                    Some(Ok(true))
                }
                // Another reader was faster, or the file was replaced under another hold: it counts, and the new lock
                // goes back.
                Phase::Held(hold) => {
                    held = Held::of(self.id, owner, &*hold.guard);
                    Some(hold.join(owner, door, mode))
                }
                // Another thread has unlocked and is about to say so.
                Phase::Busy => None,
            }
        });
        let level = if guard.is_some() { Level::Nested } else { Level::First };
        drop(guard);
        if joined? {
            self.record(held);
        }
        // Threads share it. Tasks do not.
        wait::queue::nudge(self.id);
        Ok(level)
    }

    fn unlock(&self, hold: Hold) -> Result<(), Error> {
        let Hold { guard, mode, levels } = hold;
        let releasing = Releasing { lock: self };
        // Off the record first: a release that panics leaves no hold.
        registry::forget_all(self.id);
        match guard.release() {
            Err(ReleaseError { guard: Some(guard), error }) => {
                for levels in &levels {
                    registry::record(Held::of(self.id, levels.owner, &*guard));
                }
                releasing.end(Phase::Held(Hold { guard, mode, levels }));
                Err(error)
            }
            Err(ReleaseError { guard: None, error }) => Err(error),
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for ReadWrite {
    fn drop(&mut self) {
        // A finalizer has nobody to tell. What fails to unlock is closed with its guard.
        drop(self.release_all());
        registry::forget_all(self.id);
    }
}

/// A lock object in [`Phase::Busy`]. It comes out of it also where the release fails or panics.
struct Releasing<'a> {
    lock: &'a ReadWrite,
}

impl Releasing<'_> {
    fn end(self, phase: Phase) {
        self.lock.state.lock().phase = phase;
        mem::forget(self);
    }
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        let mut state = self.lock.state.lock();
        if matches!(state.phase, Phase::Busy) {
            state.phase = Phase::Free;
        }
    }
}

/// An owner's stay in the wait loop.
struct Waiting<'a> {
    lock: &'a ReadWrite,
    owner: OwnerId,
}

impl<'a> Waiting<'a> {
    fn enter(lock: &'a ReadWrite, owner: OwnerId) -> Self {
        lock.state.lock().waiting.push(owner);
        Self { lock, owner }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.lock.state.lock().waiting.retain(|waiting| *waiting != self.owner);
    }
}
