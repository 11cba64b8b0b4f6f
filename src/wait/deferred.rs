//! A waiter without a thread.
//!
//! Who cannot block (a task of an event loop) leaves a [`Deferred`] in the queue of its path and goes on. A thread of
//! the process waits for all of them (`porter`), gives each lock that it gets to the first who is still interested, and
//! rings its bell. The lock is no hold yet then: the waiter makes it one, by [`Deferred::accept`], when it is running
//! again. Until that it can change its mind, and the lock goes back.
//!
//! | stage | means | the queue may | the waiter may |
//! |---|---|---|---|
//! | `Idle` | made; perhaps its first attempt was in vain | nothing: it is not in the queue | attempt, wait, withdraw |
//! | `Waiting` | in the queue | offer, nest, fail, ask | withdraw |
//! | `Offered` | the lock is there | nothing | accept, withdraw |
//! | `Nested` | the lock object was held, and has one level more | nothing | accept, withdraw |
//! | `Failed` | the wait is over | nothing | look |
//! | `Leaving` | over, but a thread still asks for what only this one wanted | tell what came of it, when that is over | withdraw, which hurries it |
//! | `Over` | accepted, withdrawn, looked at; or inherited by a forked child | nothing | nothing |
//!
//! The stage changes under a mutex of its own. Whoever takes the content out of it has it: a lock is neither given to
//! two nor forgotten. The bell, guards and lock objects are touched with no mutex locked.

use std::fmt;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::desk::{self, Key};
use super::farewell;
use super::request::{Contended, First, Party, Request, Target, first_attempt};
use super::{FAR, Nesting, Patience, SHORTEST_QUESTION, WaitsBy};
use crate::error::{Error, ErrorKind};
use crate::fork::ForkMutex;
use crate::hold::{Level, Lock};
use crate::mechanism::{Attempt, Guard, Holder, Mode};
use crate::owner::OwnerId;
use crate::read_write::Door;
use crate::sys::FileId;
use crate::time::{Deadline, Timeout};

/// Why there is no lock.
#[derive(Debug)]
pub struct Unmet {
    /// What went wrong.
    pub error: Error,
    /// Who has the lock, where it says so itself.
    pub holder: Option<Holder>,
}

impl From<Error> for Box<Unmet> {
    fn from(error: Error) -> Self {
        Self::new(Unmet { error, holder: None })
    }
}

/// What a waiter finds out when its bell has rung.
#[derive(Debug)]
pub enum News {
    /// Nothing.
    Nothing,
    /// The poll interval is over: whatever wants to be asked then may be asked.
    Question,
    /// The lock is there, to be accepted.
    Granted,
    /// The wait is over, without the lock.
    Failed(Box<Unmet>),
}

/// Tells a waiter to look at its [`News`]. Says whether there is anybody who could.
type Bell = Box<dyn Fn() -> bool + Send + Sync>;

/// A waiter without a thread. Dropping it withdraws it.
#[derive(Debug)]
pub struct Deferred {
    entry: Arc<Entry>,
}

/// A waiter, as the queue knows it.
pub(super) struct Entry {
    /// Its place among all that were ever asked for.
    pub(super) number: u64,
    pub(super) target: Arc<dyn Target>,
    pub(super) party: Party,
    path: PathBuf,
    pub(super) patience: Patience,
    pub(super) deadline: Deadline,
    pub(super) has_questions: bool,
    bell: Bell,
    is_asked: AtomicBool,
    stage: ForkMutex<Stage>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("path", &self.path).field("stage", &self.stage).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) enum Stage {
    #[default]
    Over,
    Idle(Option<Contended>),
    Waiting(Contended),
    Offered(Box<dyn Guard>),
    Nested,
    Failed(Box<Unmet>),
    Leaving(Leaving),
}

/// The end of a wait that is not told yet: a non-blocking attempt that is made when it was told must find nobody who still
/// asks for it.
#[derive(Debug)]
pub(super) struct Leaving {
    key: Arc<Key>,
    next: Box<Stage>,
    is_withdrawn: bool,
}

impl Entry {
    /// Ends the wait with `outcome`, or gives it back if it is over already.
    pub(super) fn settle(&self, outcome: Stage) -> Result<(), Stage> {
        let mut stage = self.stage.lock();
        if !matches!(*stage, Stage::Waiting(_)) {
            return Err(outcome);
        }
        *stage = outcome;
        Ok(())
    }

    /// What a lock that was got for this waiter is to it.
    pub(super) fn receive(&self, guard: Box<dyn Guard>) -> Stage {
        match self.target.receive(self.party, guard) {
            Ok(Some(guard)) => Stage::Offered(guard),
            Ok(None) => Stage::Nested,
            Err(kind) => Stage::Failed(Error::new(kind, "lock", &self.path).with_absolute_path().into()),
        }
    }

    /// Ends the wait with `outcome`, and tells the waiter. What nobody hears of goes back; but a lock that is no hold yet
    /// can be given to the next, and is returned.
    pub(super) fn conclude(&self, outcome: Stage) -> Result<(), Option<Box<dyn Guard>>> {
        let untold = match self.settle(outcome) {
            Ok(()) if self.ring() => return Ok(()),
            // Nobody heard it; but somebody may have withdrawn, and given it back.
            Ok(()) => self.take(),
            // It has just ended its wait.
            Err(outcome) => outcome,
        };
        match untold {
            Stage::Offered(guard) => return Err(Some(guard)),
            Stage::Nested => self.give_back(),
            Stage::Over | Stage::Idle(_) | Stage::Waiting(_) | Stage::Failed(_) | Stage::Leaving(_) => {}
        }
        Err(None)
    }

    /// Takes out whatever there is.
    pub(super) fn take(&self) -> Stage {
        mem::take(&mut *self.stage.lock())
    }

    /// The file that was last seen to be locked.
    pub(super) fn file(&self) -> Option<FileId> {
        match &*self.stage.lock() {
            Stage::Waiting(contended) => contended.file,
            Stage::Over
            | Stage::Idle(_)
            | Stage::Offered(_)
            | Stage::Nested
            | Stage::Failed(_)
            | Stage::Leaving(_) => None,
        }
    }

    /// Tells the waiter to look; `false`: there is nobody any more.
    pub(super) fn ring(&self) -> bool {
        (self.bell)()
    }

    /// Tells the waiter that its questions may be asked.
    pub(super) fn ask(self: &Arc<Self>) {
        if !self.is_asked.swap(true, Ordering::AcqRel) && !self.ring() {
            self.withdraw();
        }
    }

    /// Ends the wait, if the lock object has come to be held otherwise, or never can be.
    pub(super) fn nest(self: &Arc<Self>, key: &Arc<Key>) {
        let next = match self.target.nest_for(self.party) {
            Nesting::No => return,
            Nesting::Nested => Stage::Nested,
            Nesting::Refused(kind) => {
                let error = Error::new(kind, "lock", &self.path).with_absolute_path();
                Stage::Failed(error.into())
            }
        };
        let is_nested = matches!(next, Stage::Nested);
        let leaving = Leaving { key: Arc::clone(key), next: Box::new(next), is_withdrawn: false };
        match self.settle(Stage::Leaving(leaving)) {
            Ok(()) if farewell::leave(key, self) => {}
            Ok(()) => self.has_left(),
            Err(_) if is_nested => self.give_back(),
            Err(_) => {}
        }
    }

    pub(super) fn withdraw(self: &Arc<Self>) {
        let taken = {
            let mut stage = self.stage.lock();
            match mem::take(&mut *stage) {
                Stage::Waiting(Contended { key, .. }) => {
                    let next = Box::new(Stage::Over);
                    *stage = Stage::Leaving(Leaving { key: Arc::clone(&key), next, is_withdrawn: true });
                    drop(stage);
                    if !farewell::leave(&key, self) {
                        self.end_leaving();
                    }
                    return;
                }
                Stage::Leaving(leaving) => {
                    let key = Arc::clone(&leaving.key);
                    *stage = Stage::Leaving(Leaving { is_withdrawn: true, ..leaving });
                    drop(stage);
                    return farewell::hurry(&key);
                }
                taken @ (Stage::Over
                | Stage::Idle(_)
                | Stage::Offered(_)
                | Stage::Nested
                | Stage::Failed(_)) => taken,
            }
        };
        match taken {
            // Explicitly: a copy of the descriptor that was made behind our back would keep the lock.
            Stage::Offered(guard) => drop(guard.release()),
            Stage::Nested => self.give_back(),
            Stage::Over | Stage::Idle(_) | Stage::Waiting(_) | Stage::Failed(_) | Stage::Leaving(_) => {}
        }
    }

    /// Tells the waiter, whose wait is over, what came of it: nobody asks for it any more.
    pub(super) fn has_left(self: &Arc<Self>) {
        if self.end_leaving() && !self.ring() {
            self.withdraw();
        }
    }

    /// What was withdrawn meanwhile goes back first: then nothing is left of it.
    fn end_leaving(&self) -> bool {
        loop {
            {
                let mut stage = self.stage.lock();
                let Stage::Leaving(leaving) = &mut *stage else { return false };
                let next = mem::take(&mut *leaving.next);
                if !leaving.is_withdrawn {
                    *stage = next;
                    return true;
                }
                if !matches!(next, Stage::Nested) {
                    *stage = Stage::Over;
                    return true;
                }
            }
            self.give_back();
        }
    }

    /// Nobody is there to hear of an error; what cannot be unlocked is held on, and shows it.
    fn give_back(&self) {
        drop(self.target.give_back(self.party, &self.path));
    }

    fn timed_out(&self, file: Option<FileId>, key: &Key) -> Unmet {
        let holder = self.target.mechanism().holder(&key.path);
        Unmet { error: Error::new(ErrorKind::TimedOut(file), "lock", &key.path), holder }
    }

    /// The deadline is over: a last attempt for who is `first`, as the line may not move and the lock be free.
    pub(super) fn expire(&self, key: &Key, is_first: bool) {
        let attempt = if is_first { self.last_attempt(key) } else { None };
        let outcome = match attempt {
            Some(guard) => self.receive(guard),
            None => Stage::Failed(Box::new(self.timed_out(self.file(), key))),
        };
        if let Err(Some(guard)) = self.conclude(outcome) {
            drop(guard.release());
        }
    }

    fn last_attempt(&self, key: &Key) -> Option<Box<dyn Guard>> {
        match self.target.mechanism().try_acquire(&key.path, desk::hasty(self)) {
            Ok(Attempt::Acquired(guard)) => Some(guard),
            Ok(Attempt::Contended(_) | Attempt::Interrupted) | Err(_) => None,
        }
    }

    /// The time between two questions.
    pub(super) fn question_interval(&self) -> Duration {
        self.patience.poll_interval.clamp(SHORTEST_QUESTION, FAR)
    }

    pub(super) fn has_expired(&self) -> bool {
        self.deadline.remaining().is_none()
    }
}

impl Deferred {
    /// A waiter for `lock`. Its time begins to run.
    ///
    /// `bell` is called by other threads, and must neither block for long nor wait for who calls this waiter; `false`:
    /// nobody will ever look, so the waiter may be withdrawn. With `has_questions` it rings every poll interval.
    #[must_use]
    pub fn for_lock(lock: Arc<Lock>, request: &Request<'_>, has_questions: bool, bell: Bell) -> Self {
        Self::new(lock, request, Mode::Exclusive, has_questions, bell)
    }

    /// A waiter that wants to read or to write.
    #[must_use]
    pub fn for_door(
        door: Arc<Door>,
        request: &Request<'_>,
        mode: Mode,
        has_questions: bool,
        bell: Bell,
    ) -> Self {
        Self::new(door, request, mode, has_questions, bell)
    }

    fn new(
        target: Arc<dyn Target>,
        request: &Request<'_>,
        mode: Mode,
        has_questions: bool,
        bell: Bell,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let entry = Entry {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            target,
            party: request.party(mode),
            path: request.path.to_owned(),
            patience: request.patience,
            deadline: Deadline::begin(request.patience.timeout),
            has_questions,
            bell,
            is_asked: AtomicBool::new(false),
            stage: ForkMutex::new(),
        };
        *entry.stage.lock() = Stage::Idle(None);
        Self { entry: Arc::new(entry) }
    }

    /// One attempt, without waiting: `true`, there is something to accept. To be called before [`Deferred::wait`].
    ///
    /// # Errors
    /// As [`Lock::acquire`](crate::Lock::acquire): [`TimedOut`](ErrorKind::TimedOut) where one attempt was all that was
    /// asked for, and [`Deadlock`](ErrorKind::Deadlock) where waiting would never end.
    pub fn attempt(&self) -> Result<bool, Box<Unmet>> {
        self.attempt_by(false).map(|had| had == Some(true))
    }

    /// The same on a thread that others need, which judges no owner of a marker and takes nobody's place. `None`: that would
    /// have to be done, by [`Deferred::attempt`].
    ///
    /// # Errors
    /// As [`Deferred::attempt`].
    pub fn attempt_briefly(&self) -> Result<Option<bool>, Box<Unmet>> {
        self.attempt_by(true)
    }

    fn attempt_by(&self, is_brief: bool) -> Result<Option<bool>, Box<Unmet>> {
        let entry = &*self.entry;
        let first = first_attempt(&*entry.target, entry.party, &entry.path, entry.patience, is_brief);
        let first = first.map_err(|error| {
            let is_late = matches!(error.kind(), ErrorKind::TimedOut(_));
            let holder = if is_late { entry.target.mechanism().holder(error.path()) } else { None };
            Box::new(Unmet { error, holder })
        })?;
        let (stage, is_had) = match first {
            First::Had(guard) => match entry.receive(guard) {
                Stage::Failed(unmet) => return Err(unmet),
                had @ (Stage::Offered(_)
                | Stage::Nested
                | Stage::Over
                | Stage::Idle(_)
                | Stage::Waiting(_)
                | Stage::Leaving(_)) => (had, true),
            },
            First::Nested => (Stage::Nested, true),
            First::Contended(contended) => (Stage::Idle(Some(contended)), false),
            First::Undecided => return Ok(None),
        };
        let mut current = entry.stage.lock();
        if matches!(*current, Stage::Idle(_)) {
            *current = stage;
            return Ok(Some(is_had));
        }
        drop(current);
        // Withdrawn meanwhile.
        match stage {
            Stage::Offered(guard) => drop(guard.release()),
            Stage::Nested => entry.give_back(),
            Stage::Over | Stage::Idle(_) | Stage::Waiting(_) | Stage::Failed(_) | Stage::Leaving(_) => {}
        }
        Ok(Some(false))
    }

    /// Joins the queue, after an attempt in vain. What comes of it [`Deferred::news`] tells; the bell may ring before this
    /// returns.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut), where there is no time left; [`Io`](ErrorKind::Io), where no thread can be had
    /// that waits.
    pub fn wait(&self) -> Result<(), Box<Unmet>> {
        let entry = &self.entry;
        let contended = {
            let mut stage = entry.stage.lock();
            let Stage::Idle(Some(contended)) = &*stage else { return Ok(()) };
            let contended = contended.clone();
            if !entry.has_expired() {
                *stage = Stage::Waiting(contended.clone());
            }
            contended
        };
        if entry.has_expired() && matches!(*entry.stage.lock(), Stage::Idle(_)) {
            return Err(Box::new(entry.timed_out(contended.file, &contended.key)));
        }
        if let Err(error) = desk::enqueue(&contended.key, Arc::clone(entry)) {
            drop(entry.take());
            return Err(Error::caused(ErrorKind::Io, "spawn", &contended.key.path, error).into());
        }
        // It may have come to be held between the attempt and here, and whoever saw to that did not see us.
        entry.nest(&contended.key);
        Ok(())
    }

    /// For who makes all its attempts itself, instead of [`Deferred::wait`]: whether there is time for another one.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut).
    pub fn check_time(&self) -> Result<(), Box<Unmet>> {
        let entry = &self.entry;
        let contended = {
            let stage = entry.stage.lock();
            let Stage::Idle(Some(contended)) = &*stage else { return Ok(()) };
            contended.clone()
        };
        if !entry.has_expired() {
            return Ok(());
        }
        Err(Box::new(entry.timed_out(contended.file, &contended.key)))
    }

    /// What there is to know. A question and a failure are told once.
    #[must_use]
    pub fn news(&self) -> News {
        let is_asked = self.entry.is_asked.swap(false, Ordering::AcqRel);
        let mut stage = self.entry.stage.lock();
        if let Stage::Failed(_) = &*stage {
            if let Stage::Failed(unmet) = mem::take(&mut *stage) {
                return News::Failed(unmet);
            }
        }
        match (&*stage, is_asked) {
            (Stage::Offered(_) | Stage::Nested, _) => News::Granted,
            (_, true) => News::Question,
            (_, false) => News::Nothing,
        }
    }

    /// Makes a hold of what was granted. `None`: not yet, for a release of the lock object is still in a system call.
    ///
    /// # Errors
    /// Those of the lock object, which may have been closed meanwhile; [`Cancelled`](ErrorKind::Cancelled), where nothing
    /// is there: in a forked child, say.
    pub fn accept(&self) -> Result<Option<Level>, Error> {
        let entry = &self.entry;
        if entry.target.is_busy(entry.party) {
            return Ok(None);
        }
        let refused = |kind| Error::new(kind, "lock", &entry.path).with_absolute_path();
        let granted = {
            let mut stage = entry.stage.lock();
            let is_granted = matches!(*stage, Stage::Offered(_) | Stage::Nested);
            if is_granted { mem::take(&mut *stage) } else { Stage::Over }
        };
        match granted {
            Stage::Offered(guard) => entry.target.commit_for(entry.party, guard).map(Some).map_err(refused),
            Stage::Nested => Ok(Some(Level::Nested)),
            Stage::Over | Stage::Idle(_) | Stage::Waiting(_) | Stage::Failed(_) | Stage::Leaving(_) => {
                Err(refused(ErrorKind::Cancelled))
            }
        }
    }

    /// Ends the wait, and gives back what it has been granted. Nothing is left of it then, unless it [is
    /// leaving](Self::is_leaving), which calling again hurries.
    pub fn withdraw(&self) {
        self.entry.withdraw();
    }

    /// Whether its wait is over, and a thread is still on its way out of the kernel's queue, where it waits for nobody
    /// else. The bell rings when that is over.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        matches!(*self.entry.stage.lock(), Stage::Leaving(_))
    }

    /// The time to the next question, or to the end of the wait if that comes first.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.entry.deadline.remaining().unwrap_or_default().min(self.entry.patience.poll_interval)
    }

    /// Whose hold it will be.
    #[must_use]
    pub fn owner(&self) -> OwnerId {
        self.entry.party.owner
    }

    /// Whether one attempt was all that was asked for.
    #[must_use]
    pub fn is_once(&self) -> bool {
        self.entry.patience.timeout == Timeout::Once
    }

    /// Whether there is something to accept.
    #[must_use]
    pub fn is_granted(&self) -> bool {
        matches!(*self.entry.stage.lock(), Stage::Offered(_) | Stage::Nested)
    }

    /// How the wait goes on, in the thread that waits. Touches nothing.
    #[must_use]
    pub fn waits_by(&self) -> WaitsBy {
        let mechanism = self.entry.target.mechanism();
        if mechanism.wakes_waiters(&self.entry.path) { WaitsBy::Kernel } else { WaitsBy::Polling }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.entry.withdraw();
    }
}
