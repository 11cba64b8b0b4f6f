//! Asking for a lock: the first attempt, and the one wait loop, for every mechanism.

mod backoff;
mod crew;
mod deferred;
pub(crate) mod desk;
mod farewell;
mod past_lines;
mod polling;
mod porter;
pub(crate) mod queue;
mod request;
mod stand_in;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crew::end_idle_porters;
pub use deferred::{Deferred, News, Unmet};
pub use desk::end_waits;
pub use request::Request;
pub(crate) use request::{Party, Target};

use crate::error::{Error, ErrorKind};
use crate::mechanism::{Attempt, Bid, Guard, Manners, Mechanism, Mode, Place, Terms};
use crate::owner::OwnerId;
use crate::path;
use crate::registry::{self, LockId};
use crate::sys::FileId;
use crate::time::{Deadline, Timeout};

/// As good as for ever, and within every clock.
pub(crate) const FAR: Duration = Duration::from_secs(86_400 * 365);

/// How an acquisition waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    /// When to give up.
    pub timeout: Timeout,
    /// How often [`Watch::contended`] is asked, and the longest pause between two attempts.
    pub poll_interval: Duration,
    /// The age at which a marker counts as abandoned although its owner may live. Other locks do not age.
    pub lifetime: Option<Duration>,
}

/// How a wait goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsBy {
    /// The kernel wakes the waiter.
    Kernel,
    /// The waiter asks again and again.
    Polling,
}

/// Why a [`Watch`] ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The caller wants the lock no longer.
    Cancelled,
    /// A signal handler or a callback failed; the watch keeps the reason.
    Interrupted,
}

/// What a waiter does beside waiting: the caller's side of the loop.
///
/// No mutex is locked and the lock is not held while a watch is called, so it may use any lock, also this one.
pub trait Watch {
    /// Is told once how the wait goes on, before it does.
    fn begins(&mut self, _waits_by: WaitsBy) {}

    /// Is asked at the first failed attempt and then every [`Patience::poll_interval`]; `pause` is the
    /// longest time to the next question.
    fn contended(&mut self, pause: Duration) -> ControlFlow<Stop>;

    /// Lets `pause` pass, or less where something has to be seen to, such as a signal; sees to that also if
    /// there is no time to pass.
    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop>;

    /// Whether the thread may block other than in [`Watch::pause`]. A greenlet's may not.
    fn may_block(&self) -> bool {
        true
    }

    /// Whether [`Watch::contended`] has to be called again, once it was.
    fn has_questions(&self) -> bool {
        true
    }

    /// How often [`Watch::pause`] has to be called at least, if only with nothing to pass; it is called earlier, but not twice
    /// as often, where the waiter is awake anyway.
    fn look_every(&self) -> Duration {
        FAR
    }
}

/// What a lock object says to an owner that wants it, before anybody is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nesting {
    /// Nobody holds it whose hold could count for this owner too.
    No,
    /// It is held already, and this owner has one level more.
    Nested,
    /// This owner cannot have it, however long it waits.
    Refused(ErrorKind),
}

/// What an acquisition came to.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The lock was had; making it a hold is the lock object's business.
    Acquired(Box<dyn Guard>),
    /// The lock object has come to be held in another way, and counted this owner too.
    Nested,
}

/// An owner that asks for a lock through a lock object.
#[derive(Clone, Copy)]
pub(crate) struct Contender<'a> {
    pub(crate) lock: LockId,
    pub(crate) owner: OwnerId,
    pub(crate) mechanism: &'a dyn Mechanism,
    pub(crate) mode: Mode,
    /// For the first attempt as it was given; who waits has the canonical one.
    pub(crate) path: &'a Path,
    pub(crate) deadline: Deadline,
    pub(crate) poll_interval: Duration,
    pub(crate) lifetime: Option<Duration>,
    /// Nests, if the lock object has come to be held by this owner in another way: a shared one, by
    /// another thread. Or says that it has come to be held so that this owner cannot have it.
    pub(crate) nest: &'a dyn Fn() -> Nesting,
}

impl Contender<'_> {
    /// On what terms to make the first attempt: who can wait does not go past a line, and who cannot must not meet a thread
    /// of this process that asks for nobody any more.
    pub(crate) fn first_terms(&self) -> Terms {
        if self.may_wait() {
            return self.terms(past_lines::manners(self.path));
        }
        farewell::see_off(self.path);
        self.terms(Manners::Hasty)
    }

    /// The first attempt, and the bid that made it, which the wait goes on with.
    pub(crate) fn begin(&self) -> (Result<Attempt, Error>, Option<Box<dyn Bid>>) {
        // Who makes one attempt only leaves nothing behind it.
        if self.mode == Mode::Exclusive && self.mechanism.begins_with_bid() && self.may_wait() {
            if let Some(mut bid) = self.mechanism.bid(self.path, self.first_terms()) {
                return (bid.attempt(), Some(bid));
            }
        }
        (self.attempt(), None)
    }

    /// One attempt, which goes past a line only where it is the last one.
    pub(crate) fn attempt(&self) -> Result<Attempt, Error> {
        self.or_nested(self.mechanism.try_acquire(self.path, self.first_terms())?)
    }

    /// The same for a thread that others need; `None`: only a whole attempt can tell.
    pub(crate) fn attempt_briefly(&self) -> Result<Option<Attempt>, Error> {
        let attempt = self.mechanism.try_acquire_briefly(self.path, self.first_terms())?;
        attempt.map(|attempt| self.or_nested(attempt)).transpose()
    }

    fn or_nested(&self, attempt: Attempt) -> Result<Attempt, Error> {
        match attempt {
            Attempt::Contended(Some(file)) if self.mode == Mode::Shared && self.holds_elsewhere(file) => {
                self.try_acquire(Manners::Nested)
            }
            Attempt::Acquired(_) | Attempt::Contended(_) | Attempt::Interrupted => Ok(attempt),
        }
    }

    pub(crate) fn try_acquire(&self, manners: Manners) -> Result<Attempt, Error> {
        self.mechanism.try_acquire(self.path, self.terms(manners))
    }

    /// Goes on after a first attempt: waits for the lock, unless it was had. What `enter` gives is kept for the time of
    /// the wait.
    ///
    /// The first attempt took the path as it is at this moment. A wait stays with the place that it means now: a relative
    /// path is resolved once, and so are the links of its folder.
    pub(crate) fn go_on<W>(
        &self,
        mut first: Result<Attempt, Error>,
        mut bid: Option<Box<dyn Bid>>,
        watch: &mut dyn Watch,
        enter: impl FnOnce() -> W,
    ) -> Result<Answer, Error> {
        let failed = |kind| Error::new(kind, "lock", self.path).with_absolute_path();
        let file = loop {
            match first.map_err(Error::with_absolute_path)? {
                Attempt::Acquired(guard) => return Ok(Answer::Acquired(guard)),
                Attempt::Contended(file) => break file,
                Attempt::Interrupted if watch.pause(Duration::ZERO).is_break() => {
                    return Err(failed(ErrorKind::Interrupted));
                }
                // One attempt was asked for, and this was none.
                Attempt::Interrupted if !self.may_wait() => first = self.attempt(),
                Attempt::Interrupted => break None,
            }
        };
        match (self.nest)() {
            Nesting::No => {}
            Nesting::Nested => return Ok(Answer::Nested),
            Nesting::Refused(kind) => return Err(failed(kind)),
        }
        if self.deadline.is_once() {
            return Err(failed(ErrorKind::TimedOut(file)));
        }
        let path = &canonical(self.path)?;
        if let Some(bid) = &mut bid {
            bid.stay_at(path);
        }
        let _waiting = enter();
        let kind = match (Contender { path, ..*self }).wait(file, bid, watch)? {
            Outcome::Acquired(guard) => return Ok(Answer::Acquired(guard)),
            Outcome::Nested => return Ok(Answer::Nested),
            Outcome::Refused(kind) => kind,
            Outcome::Deadlock => ErrorKind::Deadlock,
            Outcome::TimedOut(file) => ErrorKind::TimedOut(file),
            Outcome::Stopped(Stop::Cancelled) => ErrorKind::Cancelled,
            Outcome::Stopped(Stop::Interrupted) => ErrorKind::Interrupted,
        };
        Err(Error::new(kind, "lock", path))
    }

    /// Waits after a first attempt that found `file` contended, until the lock is had, an attempt fails, the deadline
    /// passes or the watch stops it. The path has to be canonical.
    ///
    /// The kernel wakes the waiter where it can and the watch lets it; elsewhere it polls, by `bid` if the first attempt was
    /// one's.
    pub(crate) fn wait(
        &self,
        file: Option<FileId>,
        bid: Option<Box<dyn Bid>>,
        watch: &mut dyn Watch,
    ) -> Result<Outcome, Error> {
        if bid.is_none() && self.may_wait() && watch.may_block() && self.mechanism.wakes_waiters(self.path) {
            watch.begins(WaitsBy::Kernel);
            return queue::wait(file, self, watch);
        }
        watch.begins(WaitsBy::Polling);
        let bid = bid.or_else(|| self.mechanism.bid(self.path, self.terms(Manners::Polite)));
        polling::wait(file, bid, self, watch)
    }

    fn may_wait(&self) -> bool {
        self.deadline.remaining().is_some()
    }

    fn terms(&self, manners: Manners) -> Terms {
        Terms { mode: self.mode, manners, lifetime: self.lifetime }
    }

    fn open_place(&self) -> Result<Option<Arc<dyn Place>>, Error> {
        self.mechanism.open_place(self.path, self.terms(past_lines::manners(self.path)))
    }

    /// Whether the owner has the file through another lock object: it would wait for itself.
    fn holds_elsewhere(&self, file: FileId) -> bool {
        registry::would_deadlock(self.lock, self.owner, file)
    }

    /// How the wait ends without an attempt: the hold has come in another way, or never will.
    fn ended_otherwise(&self, file: Option<FileId>) -> Option<Outcome> {
        match (self.nest)() {
            Nesting::Nested => Some(Outcome::Nested),
            Nesting::Refused(kind) => Some(Outcome::Refused(kind)),
            Nesting::No => {
                let is_in_vain =
                    self.deadline.is_unlimited() && file.is_some_and(|file| self.holds_elsewhere(file));
                is_in_vain.then_some(Outcome::Deadlock)
            }
        }
    }
}

/// The path of a wait: absolute, with the links of its folder followed.
fn canonical(path: &Path) -> Result<PathBuf, Error> {
    path::canonical(path).map_err(|error| Error::caused(ErrorKind::Io, "realpath", path, error))
}

/// The least time between two questions: a shorter poll interval would be nothing but work.
const SHORTEST_QUESTION: Duration = Duration::from_millis(1);

/// When the watch is asked.
struct Questions {
    next: Instant,
}

impl Questions {
    /// The first one is due at once.
    fn begin() -> Self {
        Self { next: Instant::now() }
    }

    fn are_due(&self) -> bool {
        Instant::now() >= self.next
    }

    fn ask(&mut self, contender: &Contender<'_>, watch: &mut dyn Watch) -> ControlFlow<Stop> {
        let now = Instant::now();
        let pause = contender.deadline.remaining().unwrap_or_default().min(contender.poll_interval);
        watch.contended(pause)?;
        let interval = if watch.has_questions() { contender.poll_interval } else { FAR };
        self.next = now + interval.max(SHORTEST_QUESTION);
        ControlFlow::Continue(())
    }
}

/// How a wait ended without an error of its attempts.
#[derive(Debug)]
pub(crate) enum Outcome {
    Acquired(Box<dyn Guard>),
    Nested,
    /// The lock object has come to be held so that this owner cannot have it.
    Refused(ErrorKind),
    TimedOut(Option<FileId>),
    Stopped(Stop),
    /// The owner itself holds the file through another lock object, and the wait has no end.
    Deadlock,
}

/// Wakes those who wait through the lock object `lock`, which has come to be held.
pub(crate) fn nudge(lock: LockId) {
    queue::nudge(lock);
    desk::nudge(lock);
}

/// A watch that only sleeps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        ControlFlow::Continue(())
    }

    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
        sleep(pause);
        ControlFlow::Continue(())
    }
}

/// Blocks the calling thread: the one place of the crate where a wait sleeps.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn sleep(pause: Duration) {
    std::thread::sleep(pause);
}

/// Makes attempts until one comes to something, for what another thread of this process is just about to do: mostly at
/// once; but a system call that it is in may take long, and nobody knows how long.
pub(crate) fn persist<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    const YIELDS: u32 = 64;
    const PAUSES: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(2)];
    let (mut yields, mut pause) = (0, PAUSES[0]);
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        if yields < YIELDS {
            yields += 1;
            std::thread::yield_now();
        } else {
            sleep(pause);
            pause = (2 * pause).min(PAUSES[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_system_call_of_another_thread_leaves_the_processor_alone() {
        let begin = Instant::now();
        let mut attempts = 0;
        persist(|| {
            attempts += 1;
            (begin.elapsed() > Duration::from_millis(100)).then_some(())
        });
        assert!(attempts < 1_000, "{attempts}");
    }
}
