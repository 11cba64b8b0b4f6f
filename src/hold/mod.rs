//! Who holds a lock object, how often, and the transitions between.
//!
//! A lock object has one *slot* for every owner (a thread, by default), or one for all:
//!
//! | phase | means | an acquisition | a release |
//! |---|---|---|---|
//! | (no slot) | unheld | attempts | does nothing |
//! | `Busy` | a release is in a system call | attempts, and waits for the release to commit | does nothing |
//! | `Free` | somebody waits | attempts | does nothing |
//! | `Held` | held `depth` times over | `depth + 1` | `depth - 1`; the last one unlocks |
//!
//! Slots change under a mutex, and no system call and nothing of the caller's runs while it is locked.

mod acquisition;
mod slots;

use std::mem;
use std::path::Path;
use std::time::Duration;

use acquisition::Asked;
pub use acquisition::{Begun, Pending};
use slots::{Levels, Phase, Slot};

use crate::error::{Error, ErrorKind};
use crate::fork::{self, ForkMutex};
use crate::mechanism::{Attempt, Guard, Holder, Mechanism, ReleaseError};
use crate::owner::{Liveness, OwnerId};
use crate::registry::{self, Held, LockId};
use crate::sys::{self, Descriptor};
use crate::time::{Deadline, Timeout};
use crate::wait::{self, Nesting, Party, Patience, Target, WaitsBy, Watch};

/// Who waits for less may find the time to be over before his first attempt.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// Whose holds a lock object tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every owner has a hold and a count of its own, and excludes the others.
    PerOwner,
    /// All owners share one hold and one count.
    Shared,
}

/// What a release did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// Nothing: this owner held nothing.
    NotHeld,
    /// One level less; the lock is still held.
    StillHeld,
    /// The lock is given back.
    Unlocked,
}

/// What one level less comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unnesting {
    /// Nothing: this owner held nothing.
    NotHeld,
    /// It is done; the lock is still held.
    StillHeld,
    /// It was the last one: a release gives the lock back.
    Last {
        /// By no call that may take long, as far as is known.
        at_once: bool,
    },
}

/// What an acquisition gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A hold: the lock was had from the mechanism.
    First,
    /// One level more of a hold that was there.
    Nested,
}

/// A lock object: a mechanism, and the holds that its owners have through it.
///
/// In a forked child it starts unheld, whatever the parent holds through its copy.
#[derive(Debug)]
pub struct Lock {
    id: LockId,
    mechanism: Box<dyn Mechanism>,
    scope: Scope,
    slots: ForkMutex<Vec<Slot>>,
}

impl Lock {
    /// A lock object that nobody holds. Touches no file.
    #[must_use]
    pub fn new(mechanism: Box<dyn Mechanism>, scope: Scope) -> Self {
        Self { id: LockId::next(), mechanism, scope, slots: ForkMutex::new() }
    }

    /// How often `owner` holds this lock object; 0 is unheld.
    #[must_use]
    pub fn depth(&self, owner: OwnerId) -> u32 {
        let key = self.key(owner);
        let slots = self.slots.lock();
        slots.iter().find(|slot| slot.owner == key).map_or(0, |slot| match &slot.phase {
            Phase::Held { depth, .. } => *depth,
            Phase::Free | Phase::Busy => 0,
        })
    }

    /// Counts one level more if `owner` holds the lock already, and says whether it did. There is none of a hold that was
    /// lost: [`Lock::acquire`] says so.
    #[must_use]
    pub fn nest(&self, owner: OwnerId) -> bool {
        self.try_nest(owner) == Nesting::Nested
    }

    fn try_nest(&self, owner: OwnerId) -> Nesting {
        let key = self.key(owner);
        let mut slots = self.slots.lock();
        slots.iter_mut().find(|slot| slot.owner == key).map_or(Nesting::No, Slot::nest)
    }

    /// What `owner`'s hold is known by, where it has such a name.
    #[must_use]
    pub fn token(&self, owner: OwnerId) -> Option<String> {
        let key = self.key(owner);
        let slots = self.slots.lock();
        slots.iter().find(|slot| slot.owner == key).and_then(|slot| match &slot.phase {
            Phase::Held { guard, .. } => guard.token().map(str::to_owned),
            Phase::Free | Phase::Busy => None,
        })
    }

    /// Counts one level less if `owner` holds the lock more than once, and says what else is to be done.
    #[must_use]
    pub fn unnest(&self, owner: OwnerId) -> Unnesting {
        let key = self.key(owner);
        let mut slots = self.slots.lock();
        let slot = slots.iter_mut().find(|slot| slot.owner == key);
        slot.map_or(Unnesting::NotHeld, |slot| match &mut slot.phase {
            Phase::Held { depth, .. } if *depth > 1 => {
                *depth -= 1;
                Unnesting::StillHeld
            }
            Phase::Held { guard, .. } => Unnesting::Last { at_once: guard.is_released_at_once() },
            Phase::Free | Phase::Busy => Unnesting::NotHeld,
        })
    }

    /// Acquires the lock on `path` for `owner`, or nests.
    ///
    /// A relative path is resolved now, once, and so are the links of its folder.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut), [`Cancelled`](ErrorKind::Cancelled) and
    /// [`Interrupted`](ErrorKind::Interrupted) end a wait; [`Deadlock`](ErrorKind::Deadlock) and
    /// [`Reentered`](ErrorKind::Reentered) refuse one; [`Compromised`](ErrorKind::Compromised) is for a hold that was
    /// lost; the rest are of the mechanism. Nothing is held then that was not before.
    pub fn acquire(
        &self,
        owner: OwnerId,
        path: &Path,
        patience: Patience,
        watch: &mut dyn Watch,
    ) -> Result<Level, Error> {
        match self.begin(owner, path, patience)? {
            Begun::Held(level) => Ok(level),
            Begun::Pending(pending) => pending.go_on(watch),
        }
    }

    /// Begins to [acquire](Lock::acquire): nests, or makes the first attempt.
    ///
    /// # Errors
    /// As of [`Lock::acquire`].
    pub fn begin<'a>(
        &'a self,
        owner: OwnerId,
        path: &'a Path,
        patience: Patience,
    ) -> Result<Begun<'a>, Error> {
        fork::notice_fork();
        if self.nest_or_refuse(owner, path)? {
            return Ok(Begun::Held(Level::Nested));
        }
        let asked = Asked { lock: self, owner, path, patience, deadline: Deadline::begin(patience.timeout) };
        let nest = || self.try_nest(owner);
        match self.mechanism.try_acquire(path, asked.contender(&nest).first_terms()) {
            Ok(Attempt::Acquired(guard)) => Ok(Begun::Held(self.commit(owner, owner, guard))),
            first => Ok(Begun::Pending(Pending { asked, first })),
        }
    }

    /// Whether [`Lock::begin`] makes no call that may take long, as far as is known from the last acquisition.
    #[must_use]
    pub fn begins_at_once(&self, patience: Patience) -> bool {
        // Who cannot wait may have to wait for a thread that is about to give the lock back (`wait::farewell`).
        let can_wait = match patience.timeout {
            Timeout::Once => false,
            Timeout::After(limit) => limit >= LEAST_WAIT,
            Timeout::Never => true,
        };
        can_wait && self.mechanism.attempts_at_once()
    }

    /// Makes the lock that `guard` stands for a hold of `owner`'s, for whom `debtor` is not to wait.
    fn commit(&self, owner: OwnerId, debtor: OwnerId, guard: Box<dyn Guard>) -> Level {
        // Before anybody can release it: a record that came later would stay.
        registry::record(Held::of(self.id, debtor, &*guard));
        let mut guard = Some(guard);
        wait::persist(|| {
            self.with_slot(self.key(owner), |slot| match &mut slot.phase {
                Phase::Free => {
                    if let Some(guard) = guard.take() {
                        slot.liveness = Liveness::of(owner);
                        slot.phase = Phase::Held { guard, depth: 1 };
                    }
                    Some(())
                }
                // A file replaced under a shared hold: the hold counts, the new lock goes back.
                Phase::Held { guard: held, depth } => {
                    // Or it is the one that was lost.
                    if held.is_lost() {
                        guard = guard.take().map(|new| mem::replace(held, new));
                    }
                    *depth += 1;
                    Some(())
                }
                // Another thread has unlocked and is about to say so.
                Phase::Busy => None,
            })
        });
        let level = if guard.is_some() { Level::Nested } else { Level::First };
        if let Some(spare) = guard {
            registry::forget(self.id, spare.file());
        }
        if self.scope == Scope::Shared {
            wait::nudge(self.id);
        } else {
            // Tasks of one thread may wait for its hold.
            wait::desk::nudge(self.id);
        }
        level
    }

    /// As [`Lock::nest`], but an error where the owner waits for this lock object already.
    fn nest_or_refuse(&self, owner: OwnerId, path: &Path) -> Result<bool, Error> {
        let key = self.key(owner);
        let mut slots = self.slots.lock();
        let Some(slot) = slots.iter_mut().find(|slot| slot.owner == key) else { return Ok(false) };
        match slot.nest() {
            Nesting::No => {}
            Nesting::Nested => return Ok(true),
            Nesting::Refused(kind) => return Err(Error::new(kind, "lock", path).with_absolute_path()),
        }
        if slot.waiting.contains(&owner) {
            return Err(Error::new(ErrorKind::Reentered, "lock", path).with_absolute_path());
        }
        Ok(false)
    }

    /// Releases one level of `owner`'s hold, or with `force` all of them.
    ///
    /// Without `force`, try [`Lock::unnest`] first: it makes no system call.
    ///
    /// With `force`, holds of threads that have exited are released as well: nobody else could.
    ///
    /// # Errors
    /// What the mechanism gives. Where unlocking itself failed, the lock is held as before.
    pub fn release(&self, owner: OwnerId, force: bool) -> Result<Released, Error> {
        let levels = if force { Levels::All } else { Levels::One };
        let released = self.release_slot(self.key(owner), levels)?;
        if force {
            for exited in self.owners(|slot| slot.liveness.has_exited()) {
                self.release_slot(exited, Levels::All)?;
            }
        }
        Ok(released)
    }

    /// Releases the holds that were lost, whoever had them: for who is told of it. What was acquired anew since stays.
    ///
    /// # Errors
    /// As [`Lock::release`].
    pub fn release_lost(&self) -> Result<(), Error> {
        let owners = self.owners(|slot| slot.phase.is_lost());
        owners.into_iter().try_for_each(|key| self.release_slot(key, Levels::AllLost).map(drop))
    }

    /// Releases the holds of all owners, for a lock object that nobody can reach any more.
    ///
    /// # Errors
    /// The first that the mechanism gives; the other holds are released all the same.
    pub fn release_all(&self) -> Result<(), Error> {
        let owners = self.owners(|slot| matches!(slot.phase, Phase::Held { .. }));
        let results: Vec<_> = owners.into_iter().map(|owner| self.release_slot(owner, Levels::All)).collect();
        results.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
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

    /// The descriptor by which `owner` holds the lock, where it is held by one; on Windows the handle.
    #[must_use]
    pub fn descriptor(&self, owner: OwnerId) -> Option<Descriptor> {
        let key = self.key(owner);
        let slots = self.slots.lock();
        slots.iter().find(|slot| slot.owner == key).and_then(|slot| match &slot.phase {
            Phase::Held { guard, .. } => guard.open_file().map(sys::descriptor),
            Phase::Free | Phase::Busy => None,
        })
    }

    /// Whether any owner holds this lock object on the file that is at `path`.
    #[must_use]
    pub fn is_held_at(&self, path: &Path) -> bool {
        let held: Vec<_> = self.slots.lock().iter().filter_map(Slot::file).collect();
        held.into_iter().any(|file| sys::is_at(path, file).unwrap_or(false))
    }

    /// Whether any owner holds this lock object.
    #[must_use]
    pub fn is_held_by_anyone(&self) -> bool {
        !self.slots.is_new() && self.slots.lock().iter().any(|slot| matches!(slot.phase, Phase::Held { .. }))
    }

    /// Releases one level of the slot's hold, or all. What the depth is counts now: another thread may have nested
    /// in a shared hold since anybody looked.
    fn release_slot(&self, key: Option<OwnerId>, levels: Levels) -> Result<Released, Error> {
        fork::notice_fork();
        let (guard, depth) = {
            let mut slots = self.slots.lock();
            let Some(slot) = slots.iter_mut().find(|slot| slot.owner == key) else {
                return Ok(Released::NotHeld);
            };
            match mem::replace(&mut slot.phase, Phase::Busy) {
                lasting @ Phase::Held { .. } if levels == Levels::AllLost && !lasting.is_lost() => {
                    slot.phase = lasting;
                    return Ok(Released::NotHeld);
                }
                Phase::Held { guard, depth } if depth > 1 && levels == Levels::One => {
                    slot.phase = Phase::Held { guard, depth: depth - 1 };
                    return Ok(Released::StillHeld);
                }
                Phase::Held { guard, depth } => (guard, depth),
                unheld @ (Phase::Free | Phase::Busy) => {
                    slot.phase = unheld;
                    return Ok(Released::NotHeld);
                }
            }
        };
        let releasing = Transition { lock: self, key };
        let file = guard.file();
        // Off the record first: a release that panics leaves no hold.
        let record = registry::forget(self.id, file);
        let error = match guard.release() {
            Err(ReleaseError { guard: Some(guard), error }) => {
                record.into_iter().for_each(registry::record);
                releasing.end(Phase::Held { guard, depth });
                return Err(error);
            }
            Err(ReleaseError { guard: None, error }) => Some(error),
            Ok(()) => None,
        };
        error.map_or(Ok(Released::Unlocked), Err)
    }

    fn owners(&self, matching: impl Fn(&Slot) -> bool) -> Vec<Option<OwnerId>> {
        self.slots.lock().iter().filter(|slot| matching(slot)).map(|slot| slot.owner).collect()
    }

    fn key(&self, owner: OwnerId) -> Option<OwnerId> {
        match self.scope {
            Scope::PerOwner => Some(owner),
            Scope::Shared => None,
        }
    }

    /// Runs `change` on the slot `key`, which is made if need be and removed when it is idle after.
    fn with_slot<R>(&self, key: Option<OwnerId>, change: impl FnOnce(&mut Slot) -> R) -> R {
        let mut slots = self.slots.lock();
        let index = slots.iter().position(|slot| slot.owner == key).unwrap_or_else(|| {
            slots.push(Slot {
                owner: key,
                liveness: Liveness::default(),
                phase: Phase::Free,
                waiting: Vec::new(),
            });
            slots.len() - 1
        });
        let result = change(&mut slots[index]);
        if slots[index].is_idle() {
            slots.swap_remove(index);
        }
        result
    }
}

impl Target for Lock {
    fn id(&self) -> LockId {
        self.id
    }

    fn mechanism(&self) -> &dyn Mechanism {
        &*self.mechanism
    }

    fn nest_for(&self, party: Party) -> Nesting {
        self.try_nest(party.owner)
    }

    fn commit_for(&self, party: Party, guard: Box<dyn Guard>) -> Result<Level, ErrorKind> {
        Ok(self.commit(party.owner, party.debtor, guard))
    }

    fn is_busy(&self, party: Party) -> bool {
        let key = self.key(party.owner);
        self.slots.lock().iter().any(|slot| slot.owner == key && matches!(slot.phase, Phase::Busy))
    }

    fn give_back(&self, party: Party, _path: &Path) -> Result<(), Error> {
        self.release_slot(self.key(party.owner), Levels::One).map(drop)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.slots.is_new() {
            return;
        }
        // A finalizer has nobody to tell. What fails to unlock is closed with its guard.
        drop(self.release_all());
        registry::forget_all(self.id);
    }
}

/// A slot in [`Phase::Busy`]. It comes out of it also where the release fails or panics.
struct Transition<'a> {
    lock: &'a Lock,
    key: Option<OwnerId>,
}

impl Transition<'_> {
    fn end(self, phase: Phase) {
        self.lock.with_slot(self.key, |slot| slot.phase = phase);
        mem::forget(self);
    }
}

impl Drop for Transition<'_> {
    fn drop(&mut self) {
        self.lock.with_slot(self.key, |slot| {
            if matches!(slot.phase, Phase::Busy) {
                slot.phase = Phase::Free;
            }
        });
    }
}

/// An owner's stay in the wait loop.
struct Waiting<'a> {
    lock: &'a Lock,
    owner: OwnerId,
}

impl<'a> Waiting<'a> {
    fn enter(lock: &'a Lock, owner: OwnerId) -> Self {
        lock.with_slot(lock.key(owner), |slot| slot.waiting.push(owner));
        Self { lock, owner }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.lock.with_slot(self.lock.key(self.owner), |slot| {
            slot.waiting.retain(|waiting| *waiting != self.owner);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanism::KernelLock;
    use crate::{Timeout, Unwatched};

    /// A thread pool comes with an owner for each of its threads, and a server with one for each task.
    #[test]
    fn a_lock_object_keeps_nothing_of_those_who_have_released_it() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.lock");
        let lock = Lock::new(Box::new(KernelLock::default()), Scope::PerOwner);
        let patience =
            Patience { timeout: Timeout::Once, poll_interval: std::time::Duration::ZERO, lifetime: None };
        let owner = OwnerId::unique();
        lock.acquire(owner, &path, patience, &mut Unwatched)?;
        assert!(lock.acquire(OwnerId::unique(), &path, patience, &mut Unwatched).is_err());
        assert_eq!(lock.slots.lock().len(), 1, "of the holder");
        lock.release(owner, false)?;
        assert!(lock.slots.lock().is_empty());
        Ok(())
    }
}
