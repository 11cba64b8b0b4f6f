//! Who waits without a thread, for what, and which thread sees to it.
//!
//! For each path (and kind of lock) there is one *line* of waiters, in order of arrival, as long as there are any. A
//! line is served by a *porter*, a thread that waits for its first in the kernel; there are at most [`MOST_PORTERS`], and
//! one more thread polls for all lines that got none. A thread that has nothing to do stays for a moment, and ends.
//!
//! Everything is under one mutex, in sections that call nothing. What they find is done after: bells are rung, guards
//! and lock objects dropped and threads woken with nothing locked. A lost wake-up costs a moment ([`BACKSTOP`]), not the
//! wait.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Nesting;
use super::crew::{At, LAST_PATIENCE, Sleeper, Task, Thread, end_idle_within, hire};
use super::deferred::{Entry, Stage};
use super::farewell::{InHand, leave, say_farewell, say_farewells};
use super::request::Target;
use crate::error::{Error, ErrorKind};
use crate::fork::ForkMutex;
use crate::mechanism::{Family, Guard, Manners, Mode, Terms};
use crate::registry::LockId;

/// The most lines that are waited for in the kernel at a time.
pub(super) const MOST_PORTERS: usize = 16;

/// How long a thread that has nothing to do stays, in case that there is something soon.
const LINGER: Duration = Duration::from_millis(10);

/// The longest time until a thread looks whether it is still wanted.
pub(super) const BACKSTOP: Duration = Duration::from_millis(50);

/// Questions that are due within this time are asked together.
const TOGETHER: Duration = Duration::from_millis(4);

pub(super) static DESK: ForkMutex<Desk> = ForkMutex::new();
/// How many lines and leavers there are, for those who would look in vain. A child starts with its parent's number, and
/// corrects it at the first look.
static LINES: AtomicUsize = AtomicUsize::new(0);

/// What the waiters of one line wait for.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The canonical path.
    pub(super) path: PathBuf,
    family: Option<Family>,
    /// The lock object, where the lock is as good to no other.
    lock: Option<LockId>,
    pub(super) lifetime: Option<Duration>,
}

impl Key {
    pub(super) fn new(path: PathBuf, target: &dyn Target, lifetime: Option<Duration>) -> Self {
        let family = target.mechanism().family();
        let lock = if family.is_none() { Some(target.id()) } else { None };
        Self { path, family, lock, lifetime }
    }
}

#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) lines: HashMap<Arc<Key>, Line>,
    /// Those that no porter serves, the oldest first.
    pub(super) unserved: VecDeque<Arc<Key>>,
    pub(super) threads: Vec<Thread>,
    /// Those whose wait is over, and who are to be told when nothing is asked for any more that only they wanted.
    pub(super) leaving: Vec<(Arc<Key>, Arc<Entry>)>,
    /// The lines for which somebody has got the lock, and looks who takes it.
    pub(super) in_hand: Vec<Arc<Key>>,
}

#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) waiters: VecDeque<Waiting>,
    /// When whoever serves it will look up.
    next_look: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) entry: Arc<Entry>,
    next_question: Option<Instant>,
}

impl Desk {
    pub(super) fn note_lines(&self) {
        LINES.store(self.lines.len() + self.leaving.len(), Ordering::Release);
    }

    fn unlist(&mut self, key: &Arc<Key>) -> Option<Line> {
        let (own_key, line) = self.lines.remove_entry(key)?;
        // It is listed by its own key. There may be a thousand others, and comparing their paths would keep everybody.
        self.unserved.retain(|unserved| !Arc::ptr_eq(unserved, &own_key));
        self.note_lines();
        Some(line)
    }

    pub(super) fn sleepers(&self, is_meant: impl Fn(&At) -> bool) -> Vec<Sleeper> {
        let threads = self.threads.iter().filter(|thread| is_meant(&thread.at));
        threads.map(Thread::sleeper).collect()
    }

    fn sleeper(&self, is_meant: impl Fn(&At) -> bool) -> Option<Sleeper> {
        let thread = self.threads.iter().find(|thread| is_meant(&thread.at))?;
        Some(thread.sleeper())
    }

    /// Who sees to the line.
    pub(super) fn server(&self, key: &Arc<Key>) -> Option<Sleeper> {
        let serves = |at: &At| matches!(at, At::Serving(served) if served == key);
        self.sleeper(serves).or_else(|| self.sleeper(|at| *at == At::Polling))
    }

    /// Whether the first of the line wants the lock in this mode.
    pub(super) fn wants(&self, key: &Arc<Key>, mode: Mode) -> bool {
        let first = self.lines.get(key).and_then(|line| line.waiters.front());
        first.is_some_and(|waiting| waiting.entry.party.mode == mode)
    }

    /// Has those end who wait for nobody, and says who they are.
    pub(super) fn dismiss(&mut self) -> Vec<Sleeper> {
        let is_any = |key: &Arc<Key>| self.lines.get(key).is_some_and(|line| !line.waiters.is_empty());
        let is_any_unserved = self.unserved.iter().any(is_any);
        let is_needed = |at: &At| match at {
            At::Serving(key) => is_any(key),
            At::Idle(_) | At::Polling => is_any_unserved,
            At::Ended => true,
        };
        let unneeded = self.sleepers(|at| !is_needed(at));
        for thread in &mut self.threads {
            thread.is_to_end = unneeded.iter().any(|sleeper| sleeper.id == thread.id);
        }
        unneeded
    }

    pub(super) fn count(&self, is_meant: impl Fn(&At) -> bool) -> usize {
        self.threads.iter().filter(|thread| is_meant(&thread.at)).count()
    }
}

/// Whether anybody waits at all.
pub(super) fn is_any() -> bool {
    LINES.load(Ordering::Acquire) > 0
}

/// The first of those who wait for the same.
pub(super) fn first_of(key: &Key) -> Option<Arc<Entry>> {
    let desk = DESK.lock();
    desk.lines.get(key)?.waiters.front().map(|waiting| Arc::clone(&waiting.entry))
}

/// On what terms a thread asks for the lock that `entry` waits for, past a line.
pub(super) fn hasty(entry: &Entry) -> Terms {
    Terms { mode: entry.party.mode, manners: Manners::Hasty, lifetime: entry.patience.lifetime }
}

/// Puts a waiter into its line, behind those who asked before it did: an attempt by an executor takes its time.
pub(super) fn enqueue(key: &Arc<Key>, entry: Arc<Entry>) -> io::Result<()> {
    let next_question =
        if entry.has_questions { Instant::now().checked_add(entry.question_interval()) } else { None };
    let due = [entry.deadline.end(), next_question].into_iter().flatten().min();
    let own = Arc::clone(&entry);
    let (sleeper, is_new) = {
        let mut desk = DESK.lock();
        let desk = &mut *desk;
        let is_new = !desk.lines.contains_key(key);
        let line = desk.lines.entry(Arc::clone(key)).or_default();
        let wanted = line.waiters.front().map(|first| first.entry.party.mode);
        let earlier = |waiting: &Waiting| waiting.entry.number < entry.number;
        let place = line.waiters.iter().rposition(earlier).map_or(0, |index| index + 1);
        // Who sees to the line waits for nothing, or for something else.
        let is_news = place == 0 && wanted != Some(entry.party.mode);
        line.waiters.insert(place, Waiting { entry, next_question });
        let is_sooner = due.is_some_and(|due| line.next_look.is_none_or(|look| due < look));
        if is_new {
            desk.unserved.push_back(Arc::clone(key));
            desk.note_lines();
        }
        (if !is_new && (is_news || is_sooner) { desk.server(key) } else { None }, is_new)
    };
    if let Some(sleeper) = sleeper {
        sleeper.rouse();
    }
    if is_new {
        hire().inspect_err(|error| {
            leave(key, &own);
            give_up(key, error);
        })?;
    }
    Ok(())
}

/// Ends the wait of all in a line that nobody can serve.
fn give_up(key: &Arc<Key>, error: &io::Error) {
    let line = {
        let mut desk = DESK.lock();
        desk.unlist(key)
    };
    for waiting in line.into_iter().flat_map(|line| line.waiters) {
        let error = io::Error::from_raw_os_error(error.raw_os_error().unwrap_or_default());
        let error = Error::caused(ErrorKind::Io, "spawn", &key.path, error);
        fail(&waiting.entry, error);
    }
}

fn fail(entry: &Entry, error: Error) {
    if entry.settle(Stage::Failed(error.into())).is_ok() {
        entry.ring();
    }
}

/// Gives a lock that was got for the line `key` to the first who takes it, or back. The readers behind a reader have their
/// turn with it, where they share its hold.
pub(super) fn offer(key: &Arc<Key>, mode: Mode, guard: Box<dyn Guard>) {
    let in_hand = InHand::new(key);
    offer_to_all(key, mode, guard);
    drop(in_hand);
    say_farewell(key);
    // Where many locks become free at once, all porters go from line to line, and the waiters would not come to run.
    if !DESK.lock().unserved.is_empty() {
        thread::yield_now();
    }
}

fn offer_to_all(key: &Arc<Key>, mode: Mode, mut guard: Box<dyn Guard>) {
    while let Some(entry) = next_for(key, mode) {
        guard = match entry.conclude(entry.receive(guard)) {
            Ok(()) if mode == Mode::Shared => return let_in_readers(key),
            Ok(()) | Err(None) => return,
            Err(Some(guard)) => guard,
        };
    }
    drop(guard.release());
}

fn let_in_readers(key: &Arc<Key>) {
    while let Some(entry) = first_of(key).filter(|entry| entry.party.mode == Mode::Shared) {
        if entry.target.join_for(entry.party) != Nesting::Nested {
            return;
        }
        forget(key, &entry);
        // Whoever does not hear of it has given it back, and the others share what is left, if anything is.
        let _or_untold = entry.conclude(Stage::Nested);
    }
}

/// Takes a waiter out of its line, if it is still there, and tells nobody.
fn forget(key: &Arc<Key>, entry: &Arc<Entry>) {
    let _dropped_when_unlocked = {
        let mut desk = DESK.lock();
        let Some(line) = desk.lines.get_mut(key) else { return };
        let index = line.waiters.iter().position(|waiting| Arc::ptr_eq(&waiting.entry, entry));
        index.and_then(|index| line.waiters.remove(index))
    };
}

/// Takes the first of the line out of it, if it wants what there is.
fn next_for(key: &Arc<Key>, mode: Mode) -> Option<Arc<Entry>> {
    let mut desk = DESK.lock();
    let waiters = &mut desk.lines.get_mut(key)?.waiters;
    if waiters.front()?.entry.party.mode != mode {
        return None;
    }
    waiters.pop_front().map(|waiting| waiting.entry)
}

/// Lets the first of the line have the error that waiting for it came to. The next one may have another, or none.
pub(super) fn fail_first(key: &Arc<Key>, error: Error) {
    let first = {
        let mut desk = DESK.lock();
        desk.lines.get_mut(key).and_then(|line| line.waiters.pop_front())
    };
    if let Some(first) = first {
        fail(&first.entry, error);
    }
}

/// The first of the line. Where there is nobody, the line is no more.
pub(super) fn first(key: &Arc<Key>) -> Option<Arc<Entry>> {
    let mut desk = DESK.lock();
    let line = desk.lines.get(key)?;
    let first = line.waiters.front().map(|waiting| Arc::clone(&waiting.entry));
    if first.is_none() {
        // Nobody is in it.
        let _empty = desk.unlist(key);
    }
    first
}

/// Whether the first of the line wants the lock in this mode.
pub(super) fn wants(key: &Arc<Key>, mode: Mode) -> bool {
    DESK.lock().wants(key, mode)
}

/// Whether it will still, when the waits that are due have ended.
pub(super) fn will_want(key: &Arc<Key>, mode: Mode) -> bool {
    let desk = DESK.lock();
    let mut waiters = desk.lines.get(key).into_iter().flat_map(|line| &line.waiters);
    waiters
        .find(|waiting| !waiting.entry.has_expired())
        .is_some_and(|waiting| waiting.entry.party.mode == mode)
}

/// Ends the waits that are due and lets questions be asked. Says when to come again.
pub(super) fn see_to(key: &Arc<Key>) -> Instant {
    let now = Instant::now();
    let mut expired = Vec::new();
    let mut asked = Vec::new();
    let (next, last_attempt) = {
        let mut desk = DESK.lock();
        let backstop = now + BACKSTOP;
        let Some(line) = desk.lines.get_mut(key) else { return backstop };
        let first = line.waiters.front().map(|waiting| Arc::clone(&waiting.entry));
        line.waiters.retain(|waiting| {
            let is_over = waiting.entry.has_expired();
            if is_over {
                expired.push(Arc::clone(&waiting.entry));
            }
            !is_over
        });
        let mut next = backstop;
        for waiting in &mut line.waiters {
            if waiting.next_question.is_some_and(|due| due <= now + TOGETHER) {
                asked.push(Arc::clone(&waiting.entry));
                waiting.next_question = now.checked_add(waiting.entry.question_interval());
            }
            next = [waiting.next_question, waiting.entry.deadline.end()]
                .into_iter()
                .flatten()
                .fold(next, Instant::min);
        }
        line.next_look = Some(next);
        let first = first.filter(|first| expired.first().is_some_and(|entry| Arc::ptr_eq(entry, first)));
        // Who withdraws meanwhile is told when whoever sees to the line looks again.
        (next, first.map(|_| InHand::of(&mut desk, key)))
    };
    for (index, entry) in expired.iter().enumerate() {
        entry.expire(key, index == 0 && last_attempt.is_some());
    }
    drop(last_attempt);
    for entry in asked {
        entry.ask();
    }
    next
}

/// Ends the waits of those whose lock object `lock` has come to be held.
pub(crate) fn nudge(lock: LockId) {
    if !is_any() {
        return;
    }
    let waiters: Vec<_> = {
        let desk = DESK.lock();
        let of_lock = |line: &Line| {
            let is_its = |waiting: &&Waiting| waiting.entry.target.id() == lock;
            line.waiters.iter().filter(is_its).map(|waiting| Arc::clone(&waiting.entry)).collect::<Vec<_>>()
        };
        desk.lines
            .iter()
            .flat_map(|(key, line)| {
                let key = Arc::clone(key);
                of_lock(line).into_iter().map(move |entry| (Arc::clone(&key), entry))
            })
            .collect()
    };
    for (key, entry) in waiters {
        entry.nest(&key);
    }
}

/// What the thread `id` is to do next.
pub(super) fn next_task(id: LockId) -> Task {
    let now = Instant::now();
    let mut desk = DESK.lock();
    let desk = &mut *desk;
    while let Some(key) = desk.unserved.front().cloned() {
        if desk.lines.get(&key).is_some_and(|line| !line.waiters.is_empty()) {
            break;
        }
        desk.unserved.pop_front();
        desk.unlist(&key);
    }
    let is_any = !desk.unserved.is_empty();
    let serving = desk.count(|at| matches!(at, At::Serving(_)));
    let Some(index) = desk.threads.iter().position(|thread| thread.id == id) else { return Task::End };
    let is_polled = desk.threads.iter().any(|thread| thread.at == At::Polling && thread.id != id);
    let thread = &mut desk.threads[index];
    if !matches!(thread.at, At::Idle(_)) {
        thread.at = At::Idle(now);
    }
    if is_any && serving < MOST_PORTERS {
        if let Some(key) = desk.unserved.pop_front() {
            thread.at = At::Serving(Arc::clone(&key));
            return Task::Serve(key);
        }
    }
    if is_any && !is_polled {
        thread.at = At::Polling;
        return Task::Poll;
    }
    let At::Idle(since) = thread.at else { return Task::End };
    let rest = LINGER.saturating_sub(now.saturating_duration_since(since));
    if thread.is_to_end || rest.is_zero() {
        thread.at = At::Ended;
        return Task::End;
    }
    Task::Rest(rest)
}

/// A line without a porter.
pub(super) struct Unserved {
    pub(super) key: Arc<Key>,
    pub(super) first: Arc<Entry>,
    pub(super) next_look: Option<Instant>,
}

/// The lines without a porter.
pub(super) fn unserved() -> Vec<Unserved> {
    let mut desk = DESK.lock();
    let desk = &mut *desk;
    let mut found = Vec::with_capacity(desk.unserved.len());
    desk.unserved.retain(|key| {
        let line = desk.lines.get(key);
        let first = line.and_then(|line| Some((Arc::clone(&line.waiters.front()?.entry), line.next_look)));
        let is_any = first.is_some();
        match first {
            Some((first, next_look)) => found.push(Unserved { key: Arc::clone(key), first, next_look }),
            None => drop(desk.lines.remove(key)),
        }
        is_any
    });
    desk.note_lines();
    found
}

/// Ends all waits without a thread, and the threads that wait for them; nobody is told. For the end of the process:
/// there may be nobody any more who can be told.
pub fn end_waits() {
    let lines: Vec<_> = {
        let mut desk = DESK.lock();
        desk.lines.values_mut().map(|line| std::mem::take(&mut line.waiters)).collect()
    };
    say_farewells(|_| true);
    lines.into_iter().flatten().for_each(|waiting| drop(waiting.entry.take()));
    end_idle_within(LAST_PATIENCE);
}
