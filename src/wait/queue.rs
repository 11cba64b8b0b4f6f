//! Waiting in the kernel, in turn.
//!
//! Two queues, one behind the other. Inside the process, waiters for one path queue in order of arrival, and only
//! the first, the *head*, goes to the kernel: a lock that is given back wakes one thread of each process and not
//! two hundred. Among processes, the heads stand in a line that the mechanism provides: a head waits for the head
//! of the line, then for the lock, and leaves the line with the lock in hand. Whoever arrives while somebody
//! stands in line stands in line too (`Manners::Polite`), so that nobody overtakes.
//!
//! A head waits in the kernel for a *tick* at a time. Between ticks it sees to signals, deadlines and questions,
//! and tries the lock itself, past the line: a process that is stopped at the head of the line would keep all
//! others waiting for a lock that is free. If that succeeds, this process goes past that line for a while.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::past_lines::{go_past_line, manners};
use super::stand_in::StandIn;
use super::{Contender, Outcome, Questions, Watch};
use crate::error::Error;
use crate::fork::{self, ForkMutex};
use crate::mechanism::{Attempt, Guard, Manners, Place};
use crate::registry::LockId;
use crate::sys::FileId;

/// How long a head waits in the kernel at a time, unless its poll interval says otherwise.
const SHORTEST_TICK: Duration = Duration::from_millis(10);
const LONGEST_TICK: Duration = Duration::from_millis(250);

/// How often who waits tries the lock past the line.
pub(super) fn tick(poll_interval: Duration) -> Duration {
    poll_interval.clamp(SHORTEST_TICK, LONGEST_TICK)
}

/// How often in a row a lock must be found free past a line until the line counts as one that does not move, and
/// the longest time between two looks: more than a head of a line takes from the release of a lock to having it.
const PROBES: u32 = 6;
const BETWEEN_PROBES: Duration = Duration::from_micros(800);

static QUEUES: ForkMutex<HashMap<PathBuf, Arc<Queue>>> = ForkMutex::new();
/// How many queues there are, for those who would look in vain. A child starts with its parent's number, and
/// corrects it at the first look.
static QUEUES_LISTED: AtomicUsize = AtomicUsize::new(0);

/// The waiters of this process for one path.
#[derive(Debug)]
struct Queue {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiters: VecDeque<Entry>,
    /// Grows whenever waiters are told something: who was on the way to sleep then does not.
    news: u64,
    /// Out of the table, so that a newcomer makes a new one.
    is_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TicketId(usize);

#[derive(Debug)]
struct Entry {
    ticket: TicketId,
    lock: LockId,
    wake: Arc<Condvar>,
    /// In a callback, which may take long, or wait for this very lock through another lock object: the next
    /// one goes to the kernel meanwhile.
    is_away: bool,
}

impl State {
    fn head(&self) -> Option<&Entry> {
        self.waiters.iter().find(|entry| !entry.is_away)
    }

    fn wake_head(&mut self) {
        self.news += 1;
        if let Some(head) = self.head() {
            head.wake.notify_one();
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a new waiter at the end of the queue for `path`.
    fn join(path: &Path, lock: LockId) -> Ticket {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let id = TicketId(NEXT.fetch_add(1, Ordering::Relaxed));
        let wake = Arc::new(Condvar::new());
        loop {
            let queue = {
                let mut queues = QUEUES.lock();
                let new = || Arc::new(Self { path: path.to_owned(), state: Mutex::default() });
                let queue = Arc::clone(queues.entry(path.to_owned()).or_insert_with(new));
                QUEUES_LISTED.store(queues.len(), Ordering::Relaxed);
                queue
            };
            let mut state = queue.lock();
            if state.is_closed {
                // Its last waiter is about to take it off the table: be faster.
                drop(state);
                queue.unlist();
            } else {
                state.waiters.push_back(Entry { ticket: id, lock, wake: Arc::clone(&wake), is_away: false });
                drop(state);
                return Ticket { queue, id, wake, generation: fork::generation() };
            }
        }
    }

    fn wake_head(&self) {
        self.lock().wake_head();
    }

    fn leave(self: &Arc<Self>, ticket: TicketId) {
        let mut state = self.lock();
        state.waiters.retain(|entry| entry.ticket != ticket);
        state.wake_head();
        if !state.waiters.is_empty() {
            return;
        }
        state.is_closed = true;
        drop(state);
        self.unlist();
    }

    fn unlist(self: &Arc<Self>) {
        let mut queues = QUEUES.lock();
        if queues.get(&self.path).is_some_and(|listed| Arc::ptr_eq(listed, self)) {
            queues.remove(&self.path);
        }
        QUEUES_LISTED.store(queues.len(), Ordering::Relaxed);
    }
}

/// Wakes those who wait through the lock object `lock`, which has come to be held.
pub(crate) fn nudge(lock: LockId) {
    if QUEUES_LISTED.load(Ordering::Relaxed) == 0 {
        return;
    }
    let queues: Vec<_> = QUEUES.lock().values().cloned().collect();
    for queue in queues {
        let mut state = queue.lock();
        state.news += 1;
        state.waiters.iter().filter(|entry| entry.lock == lock).for_each(|entry| entry.wake.notify_one());
    }
}

/// A waiter's stay in a queue.
#[derive(Debug)]
struct Ticket {
    queue: Arc<Queue>,
    id: TicketId,
    wake: Arc<Condvar>,
    generation: u64,
}

impl Ticket {
    /// A fork in a callback took this thread into a child, which has no part in the parent's queue.
    fn is_inherited(&self) -> bool {
        self.generation != fork::generation()
    }

    /// How much news there has been by now.
    fn news(&self) -> u64 {
        self.queue.lock().news
    }

    /// Whether this waiter is at the front.
    fn is_head(&self) -> bool {
        self.queue.lock().head().is_some_and(|entry| entry.ticket == self.id)
    }

    /// Runs `callback` while others may go to the kernel.
    fn away<R>(&self, callback: impl FnOnce() -> R) -> R {
        self.set_away(true);
        let result = callback();
        self.set_away(false);
        result
    }

    fn set_away(&self, is_away: bool) {
        // A thread of the parent may have held the mutex at the fork. It has none in the child, which would wait for ever.
        if self.is_inherited() {
            return;
        }
        let mut state = self.queue.lock();
        if let Some(entry) = state.waiters.iter_mut().find(|entry| entry.ticket == self.id) {
            entry.is_away = is_away;
        }
        if state.waiters.len() > 1 {
            state.wake_head();
        }
    }

    /// Sleeps until there is something new, `pause` at the longest.
    fn sleep(&self, known: u64, pause: Duration) {
        let state = self.queue.lock();
        if state.news == known {
            drop(self.wake.wait_timeout(state, pause));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_inherited() {
            // Another thread of the parent may have half changed it.
            mem::forget(Arc::clone(&self.queue));
        } else {
            self.queue.leave(self.id);
        }
    }
}

/// What the head is to do next.
enum Step {
    Return(Box<dyn Guard>),
    /// See to what is due.
    SeeToDue,
    /// Wait for what is at the path by now.
    Again,
    /// Somebody else stands in line.
    Sleep,
}

/// The head's part, from when a waiter has come to the front.
struct Head<'a> {
    contender: &'a Contender<'a>,
    place: Option<Arc<dyn Place>>,
    /// Where it has been first in vain. It stays there until it has its next place: those behind it go there too.
    previous: Option<Arc<dyn Place>>,
    /// The file that was last seen to be locked.
    file: Option<FileId>,
    /// At the head of the line, or past one that does not move.
    is_at_head_of_line: bool,
    /// It has looked up from the line once.
    has_looked_up: bool,
    stand_in: Option<StandIn>,
    backoff: Backoff,
}

impl<'a> Head<'a> {
    fn new(contender: &'a Contender<'a>) -> Self {
        let backoff = Backoff::new(contender.poll_interval);
        Self {
            contender,
            place: None,
            previous: None,
            file: None,
            is_at_head_of_line: false,
            has_looked_up: false,
            stand_in: None,
            backoff,
        }
    }

    /// Waits in the kernel, until the lock is had or for about `limit`.
    fn wait(&mut self, queue: &Arc<Queue>, limit: Duration) -> Result<Step, Error> {
        let begin = Instant::now();
        if self.place.is_none() {
            self.is_at_head_of_line = false;
            self.place = self.contender.open_place()?;
            self.previous = None;
            self.file = self.place.as_ref().and_then(|place| place.file()).or(self.file);
        }
        let Some(place) = self.place.clone() else { return self.nap(limit) };
        match self.wait_at(&place, queue, limit, begin) {
            Ok(None) => {
                place.leave_line();
                let kept = if place.has_line() { None } else { Some(Arc::clone(&place)) };
                drop(place);
                if let Some(guard) = self.place.take().map_or(Ok(None), Place::into_guard)? {
                    return Ok(Step::Return(guard));
                }
                // Kept where it is still in the way, it would seem to be locked by somebody else.
                self.previous = kept.filter(|place| place.is_outdated());
                Ok(Step::Again)
            }
            Ok(Some(step)) => Ok(step),
            // Whatever the kernel has against waiting, an attempt can be made, and tells what really matters.
            Err(_) => self.nap(limit),
        }
    }

    /// `None`: the lock is had.
    fn wait_at(
        &mut self,
        place: &Arc<dyn Place>,
        queue: &Arc<Queue>,
        limit: Duration,
        begin: Instant,
    ) -> io::Result<Option<Step>> {
        let manners = manners(self.contender.path);
        if manners != Manners::Polite {
            self.stand_in = None;
            self.is_at_head_of_line = true;
        }
        if let Some(stand_in) = self.stand_in.take() {
            if !stand_in.is_done() {
                self.stand_in = Some(stand_in);
                return Ok(Some(Step::Sleep));
            }
            self.is_at_head_of_line = stand_in.result()?;
        } else if !self.is_at_head_of_line {
            if self.has_looked_up {
                // From now on somebody stands in line who need not look up now and then.
                self.stand_in = StandIn::start(place, {
                    let queue = Arc::clone(queue);
                    move || queue.wake_head()
                });
                if self.stand_in.is_some() {
                    return Ok(Some(Step::Sleep));
                }
            }
            self.is_at_head_of_line = place.wait_for_turn(Some(limit))?;
        }
        if !self.is_at_head_of_line {
            self.has_looked_up = true;
            return Ok(Some(Step::SeeToDue));
        }
        let is_had = place.wait_for_lock(limit.saturating_sub(begin.elapsed()))?;
        if is_had && manners == Manners::PastLine {
            place.report_stuck_line();
        }
        Ok(if is_had { None } else { Some(Step::SeeToDue) })
    }

    /// Where the kernel cannot be asked to wait just now.
    fn nap(&mut self, limit: Duration) -> Result<Step, Error> {
        super::sleep(self.backoff.next().min(limit));
        // Its own place would count as somebody's line.
        self.attempt(if self.is_at_head_of_line { Manners::Hasty } else { Manners::Polite })
    }

    /// Tries the lock past the line. Also finds out if the file was replaced, and nobody holds the new one.
    ///
    /// A lock that is free past a line may just be between two holders. So it is given back, for those in line
    /// to take; if none of them does, look after look, the line does not move. The times between are random, for
    /// holders may keep a rhythm.
    fn tick(&mut self) -> Result<Step, Error> {
        if self.place.as_ref().is_some_and(|place| !place.is_worth_an_attempt()) {
            return Ok(Step::SeeToDue);
        }
        let mut step = self.attempt(Manners::Hasty)?;
        if self.place.as_ref().is_some_and(|place| place.is_line_reported_stuck()) {
            go_past_line(self.contender.path, Manners::Hasty);
            return Ok(step);
        }
        if self.place.as_ref().is_some_and(|place| !place.has_line()) {
            return Ok(step);
        }
        for _ in 1..PROBES {
            if self.is_at_head_of_line || matches!(step, Step::SeeToDue) {
                return Ok(step);
            }
            drop(step);
            super::sleep(BETWEEN_PROBES.mul_f64(0.25 + 0.75 * fastrand::f64()));
            step = self.attempt(Manners::Hasty)?;
        }
        if matches!(step, Step::Return(_)) {
            go_past_line(self.contender.path, Manners::PastLine);
        }
        Ok(step)
    }

    fn attempt(&mut self, manners: Manners) -> Result<Step, Error> {
        match self.contender.try_acquire(manners)? {
            Attempt::Acquired(guard) => return Ok(Step::Return(guard)),
            Attempt::Contended(Some(file)) => {
                self.file = Some(file);
                if self.waits_for_another_than(file) {
                    // What this head waits for is in the way no longer. Others wait for the new one already.
                    self.stand_in = None;
                    self.place = None;
                    self.is_at_head_of_line = false;
                    self.backoff = Backoff::new(self.contender.poll_interval);
                }
            }
            Attempt::Contended(None) | Attempt::Interrupted => {}
        }
        Ok(Step::SeeToDue)
    }

    fn waits_for_another_than(&self, file: FileId) -> bool {
        self.place.as_ref().and_then(|place| place.file()).is_some_and(|awaited| awaited != file)
    }
}

/// Waits as [`Contender::wait`] does, woken by the kernel.
pub(super) fn wait(
    mut file: Option<FileId>,
    contender: &Contender<'_>,
    watch: &mut dyn Watch,
) -> Result<Outcome, Error> {
    let tick = tick(contender.poll_interval);
    let mut ticket = Queue::join(contender.path, contender.lock);
    let mut head = None::<Head<'_>>;
    let mut questions = Questions::begin();
    let begin = questions.next;
    let mut next_signal_check = begin + watch.look_every();
    let mut next_tick = begin + tick;
    loop {
        // Taken before anything is looked at: what is told after that is not slept through.
        let known = ticket.news();
        if let Some(outcome) = contender.ended_otherwise(file) {
            return Ok(outcome);
        }
        let mut has_called = false;
        if questions.are_due() {
            has_called = true;
            if let ControlFlow::Break(stop) = ticket.away(|| questions.ask(contender, watch)) {
                return Ok(Outcome::Stopped(stop));
            }
            // Not before the first question is it known of a thread that no signal handler runs on it.
            next_signal_check = next_signal_check.max(begin + watch.look_every());
        }
        let now = Instant::now();
        // Waking up costs more than looking: who is awake for a tick looks early.
        let early = if now >= next_tick { watch.look_every() / 2 } else { Duration::ZERO };
        if now + early >= next_signal_check {
            has_called = true;
            if let ControlFlow::Break(stop) = ticket.away(|| watch.pause(Duration::ZERO)) {
                return Ok(Outcome::Stopped(stop));
            }
            next_signal_check = now + watch.look_every();
        }
        if ticket.is_inherited() {
            // A callback forked, and this is the child: it has no part in its parent's queue.
            ticket = Queue::join(contender.path, contender.lock);
            head = None;
            continue;
        }
        if let Some(outcome) = has_called.then(|| contender.ended_otherwise(file)).flatten() {
            // It came about meanwhile. The kernel is not asked any more for what nobody wants.
            return Ok(outcome);
        }
        let Some(left) = contender.deadline.remaining() else {
            // The line may not move, and the lock be free.
            return Ok(match contender.try_acquire(Manners::Hasty)? {
                Attempt::Acquired(guard) => Outcome::Acquired(guard),
                Attempt::Contended(_) | Attempt::Interrupted => Outcome::TimedOut(file),
            });
        };
        let due = questions.next.min(next_signal_check);
        let until = |due: Instant| left.min(due.saturating_duration_since(Instant::now()));
        if !ticket.is_head() {
            // Who is no head any more must not keep its place before the one who is.
            head = None;
            ticket.sleep(known, until(due));
            next_tick = Instant::now() + tick;
            continue;
        }
        let limit = until(due.min(next_tick));
        let head = head.get_or_insert_with(|| Head::new(contender));
        let step = if now >= next_tick {
            let step = head.tick()?;
            // Who is next need not fear a line that does not move, only a file that was replaced.
            next_tick = now + if head.is_at_head_of_line { LONGEST_TICK } else { tick };
            step
        } else {
            head.wait(&ticket.queue, limit)?
        };
        file = head.file.or(file);
        match step {
            Step::Return(guard) => return Ok(Outcome::Acquired(guard)),
            // Cut short: a signal may have come, whose handler wants to run.
            Step::SeeToDue if Instant::now() < now + limit => next_signal_check = now,
            Step::SeeToDue => {}
            // Its file is gone, and another one can have its number by now.
            Step::Again => {
                head.file = None;
                file = None;
            }
            Step::Sleep => ticket.sleep(known, limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two callbacks may follow each other, and the first one fork.
    #[test]
    fn who_was_forked_out_of_a_queue_leaves_its_mutex_alone() {
        let ticket = Queue::join(Path::new("/forked.lock"), LockId(0));
        let inherited = Ticket {
            queue: Arc::clone(&ticket.queue),
            id: ticket.id,
            wake: Arc::clone(&ticket.wake),
            generation: ticket.generation + 1,
        };
        let at_the_fork = ticket.queue.lock();
        assert!(inherited.away(|| true));
        drop(inherited);
        drop(at_the_fork);
    }
}
