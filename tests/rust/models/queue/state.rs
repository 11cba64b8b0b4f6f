//! What the participants share, and where each of them is.

use super::{Circumstance, Config};

/// An open file description, by its slot in [`State::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Desc(pub(super) usize);

/// Whose thread makes a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Waiter(usize),
    StandIn(usize),
    Outsider,
}

/// A lock of the kernel on one file: the `flock`, or the turnstile. It belongs to an open file description.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct KernelLock {
    pub(super) holder: Option<Desc>,
    /// The calls that block for it, in order.
    blocked: Vec<(Who, Desc)>,
}

impl KernelLock {
    /// A description that has the lock gets it again.
    pub(super) fn may_take(&self, desc: Desc) -> bool {
        self.holder.is_none_or(|holder| holder == desc)
    }

    pub(super) fn try_lock(&mut self, desc: Desc) -> bool {
        let is_free = self.may_take(desc);
        if is_free {
            self.holder = Some(desc);
        }
        is_free
    }

    /// A call that may block: whether it returns at once.
    pub(super) fn call(&mut self, who: Who, desc: Desc) -> bool {
        let is_had = self.try_lock(desc);
        if !is_had {
            self.blocked.push((who, desc));
        }
        is_had
    }

    /// Whether the blocked call of `who` can succeed now: a free lock is the first one's. Until that one has
    /// woken up, whoever comes may overtake.
    pub(super) fn can_grant(&self, who: Who) -> bool {
        let first = self.blocked.first().map(|(first, _)| *first);
        let own = self.blocked.iter().find(|(blocked, _)| *blocked == who).map(|(_, desc)| *desc);
        if self.holder.is_none() { first == Some(who) } else { self.holder == own }
    }

    pub(super) fn grant(&mut self, who: Who) {
        let own = self.blocked.iter().find(|(blocked, _)| *blocked == who).map(|(_, desc)| *desc);
        self.holder = own.or(self.holder);
        self.interrupt(who);
    }

    /// The blocked call returns `EINTR`, and has lost its place.
    pub(super) fn interrupt(&mut self, who: Who) {
        self.blocked.retain(|(blocked, _)| *blocked != who);
    }

    pub(super) fn unlock(&mut self, desc: Desc) {
        if self.holder == Some(desc) {
            self.holder = None;
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.holder.is_none() && self.blocked.is_empty()
    }
}

/// The waiters of the process, `wait/queue.rs`. What the number of news is does not matter, but whether it has
/// grown since a waiter looked: [`Waiter::has_news`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Queue {
    pub(super) entries: Vec<Entry>,
    pub(super) is_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) waiter: usize,
    pub(super) is_away: bool,
}

impl Queue {
    pub(super) fn head(&self) -> Option<usize> {
        self.entries.iter().find(|entry| !entry.is_away).map(|entry| entry.waiter)
    }
}

/// What comes after a head has let go of its place and its stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Then {
    /// It is no head any more, and sleeps.
    Sleep,
    /// The wait is over.
    Leave,
    /// The stand-in is done: take over from it.
    TakeOver,
    /// The line does not move: go past it.
    GoPast,
}

/// Where a waiter is: what it does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pc {
    Begin,
    TryLock,
    Join,
    /// With a queue from the table.
    Push,
    /// The queue was closed.
    UnlistClosed,
    Top,
    /// At the top of the loop, with a question due.
    Due,
    Asking,
    /// It looked, and is at the front.
    Front,
    ToLine,
    InLine,
    ToLock,
    InLock,
    /// `wait_for_lock` has returned.
    LeaveLine,
    IntoGuard,
    Nap,
    /// With the lock in hand past the line, about to give it back.
    GiveBack,
    TickAgain,
    /// About to drop its `Head`, or the stand-in alone.
    LetGo(Then),
    /// In `StandIn::drop` or `StandIn::result`.
    Joining(Then),
    ToSleep,
    Asleep,
    Leave,
    Unlist,
    Holding,
    Done,
}

/// `Head`, whose default is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Head {
    pub(super) place: Option<Desc>,
    pub(super) is_at_head_of_line: bool,
    pub(super) has_looked_up: bool,
    pub(super) stand_in: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Waiter {
    pub(super) pc: Pc,
    pub(super) queue: Option<usize>,
    /// The queue's news have grown since it looked.
    pub(super) has_news: bool,
    pub(super) head: Head,
    /// A lock that it believes it has.
    pub(super) guard: Option<Desc>,
    pub(super) questions_left: usize,
    pub(super) is_timed_out: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum StandInPc {
    Call,
    Blocked,
    /// Its call has returned; it drops its share of the place, and says that it is done.
    Drop(bool),
    Wake(bool),
    Finished(bool),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StandIn {
    pub(super) pc: StandInPc,
    pub(super) place: Desc,
    pub(super) queue: usize,
    pub(super) is_called_off: bool,
    /// Nobody will join it.
    pub(super) is_detached: bool,
}

impl StandIn {
    pub(super) fn is_done(&self) -> bool {
        matches!(self.pc, StandInPc::Wake(_) | StandInPc::Finished(_))
    }

    pub(super) fn result(&self) -> Option<bool> {
        if let StandInPc::Finished(waited) = self.pc { Some(waited) } else { None }
    }
}

/// Where the other process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum OutsiderPc {
    Idle,
    TryLock,
    ToLine,
    InLine,
    ToLock,
    InLock,
    LeaveLine,
    Holding,
    /// By a signal, for ever.
    Stopped,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Outsider {
    pub(super) pc: OutsiderPc,
    pub(super) desc: Option<Desc>,
    /// How often it will come back for the lock.
    pub(super) rounds_left: usize,
}

/// How the program treats the signal of `sys/interrupt.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Signal {
    Ours,
    Taken,
    GivenBack,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) flock: KernelLock,
    pub(super) turnstile: KernelLock,
    /// How many references each open file description has; without any it is closed.
    pub(super) open: Vec<usize>,
    /// `QUEUES`: the one entry for the path.
    pub(super) listed: Option<usize>,
    pub(super) queues: Vec<Option<Queue>>,
    /// `PAST_LINES`.
    pub(super) goes_past_lines: bool,
    /// It will be told, in the wait for another path or by a report, that lines do not move.
    pub(super) will_be_told: bool,
    pub(super) signal: Signal,
    pub(super) waiters: Vec<Waiter>,
    pub(super) stand_ins: Vec<Option<StandIn>>,
    pub(super) outsider: Outsider,
}

impl State {
    /// The other process holds the lock, and nobody waits yet.
    pub(super) fn new(config: &Config) -> Self {
        let waiter = |number: usize| Waiter {
            pc: Pc::Begin,
            queue: None,
            has_news: false,
            head: Head::default(),
            guard: None,
            questions_left: config.waiters[number].asks.how_often(),
            is_timed_out: false,
        };
        let mut state = Self {
            flock: KernelLock::default(),
            turnstile: KernelLock::default(),
            open: Vec::new(),
            listed: None,
            queues: Vec::new(),
            goes_past_lines: false,
            will_be_told: config.meets(Circumstance::IsToldToGoPast),
            signal: Signal::Ours,
            waiters: (0..config.waiters.len()).map(waiter).collect(),
            stand_ins: Vec::new(),
            outsider: Outsider { pc: OutsiderPc::Idle, desc: None, rounds_left: config.outside.rounds },
        };
        if config.outside.holds {
            let desc = state.open();
            state.flock.try_lock(desc);
            state.outsider.desc = Some(desc);
            state.outsider.pc = OutsiderPc::Holding;
        }
        state
    }

    pub(super) fn open(&mut self) -> Desc {
        let slot = self.open.iter().position(|references| *references == 0).unwrap_or(self.open.len());
        self.open.resize(self.open.len().max(slot + 1), 0);
        self.open[slot] = 1;
        Desc(slot)
    }

    /// Drops a reference. The last one gives back what the description has.
    pub(super) fn close(&mut self, desc: Desc) {
        self.open[desc.0] -= 1;
        if self.open[desc.0] == 0 {
            self.flock.unlock(desc);
            self.turnstile.unlock(desc);
        }
    }

    /// The queue that is in the table, or a new one.
    pub(super) fn listed_queue(&mut self) -> usize {
        let queue = self.listed.unwrap_or_else(|| {
            let slot = self.queues.iter().position(Option::is_none).unwrap_or(self.queues.len());
            self.queues.resize(self.queues.len().max(slot + 1), None);
            self.queues[slot] = Some(Queue::default());
            slot
        });
        self.listed = Some(queue);
        queue
    }

    pub(super) fn unlist(&mut self, queue: usize) {
        if self.listed == Some(queue) {
            self.listed = None;
        }
    }

    /// `State::wake_head`.
    pub(super) fn wake_head(&mut self, queue: usize) {
        self.tell_news(queue);
        let head = self.queues[queue].as_ref().and_then(Queue::head);
        if let Some(head) = head {
            self.notify(head);
        }
    }

    pub(super) fn tell_news(&mut self, queue: usize) {
        let entries = self.queues[queue].iter().flat_map(|queue| &queue.entries);
        entries.for_each(|entry| self.waiters[entry.waiter].has_news = true);
    }

    /// `Condvar::notify_one`: who does not sleep misses it.
    pub(super) fn notify(&mut self, waiter: usize) {
        let waiter = &mut self.waiters[waiter];
        if waiter.pc == Pc::Asleep {
            waiter.pc = Pc::Top;
        }
    }

    /// Forgets what nobody can reach, so that states that differ in nothing else are one.
    pub(super) fn tidy(&mut self) {
        let is_over = |stand_in: &StandIn| stand_in.is_detached && stand_in.result().is_some();
        for slot in &mut self.stand_ins {
            if slot.as_ref().is_some_and(is_over) {
                *slot = None;
            }
        }
        for slot in 0..self.queues.len() {
            let by_waiter = self.waiters.iter().any(|waiter| waiter.queue == Some(slot));
            let by_stand_in = self.stand_ins.iter().flatten().any(|stand_in| stand_in.queue == slot);
            if self.listed != Some(slot) && !by_waiter && !by_stand_in {
                self.queues[slot] = None;
            }
        }
        for waiter in &mut self.waiters {
            // News matter only to who is on the way to sleep.
            waiter.has_news &= matches!(
                waiter.pc,
                Pc::Front | Pc::LetGo(Then::Sleep) | Pc::Joining(Then::Sleep) | Pc::ToSleep
            );
        }
        while self.open.last() == Some(&0) {
            self.open.pop();
        }
        while self.queues.last() == Some(&None) {
            self.queues.pop();
        }
        while self.stand_ins.last() == Some(&None) {
            self.stand_ins.pop();
        }
    }
}
