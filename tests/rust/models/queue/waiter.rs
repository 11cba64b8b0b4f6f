//! What a waiter does: `wait::queue::wait`, and `Lock::acquire` around it.

use super::state::{Entry, Pc, Queue, StandInPc, State, Then, Who};
use super::{Action, Asks, Choices, Circumstance, Config, Flaw};

/// A step of a waiter, named as the function or the section of it that takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// `KernelLock::lock_whatever_is_there`, politely: whether somebody stands in line.
    AskLine,
    /// The same: a `flock` that does not block.
    TryLock,
    /// `Queue::join`, the table.
    Join,
    /// `Queue::join`, the queue.
    Push,
    /// `Queue::join`, for a closed queue; and the end of `Queue::leave`.
    Unlist,
    /// `Ticket::away`, before the callback.
    Away,
    /// The callback ends, and what comes after it in `Ticket::away`.
    Back {
        is_stopped: bool,
    },
    /// The last attempt, past the line.
    LastAttempt,
    /// `Ticket::standing`.
    Standing,
    /// `Ticket::sleep`.
    Sleep,
    /// `Head::wait_at`, up to its first system call.
    WaitAt,
    WaitForHeadOfLine,
    WaitForLock,
    /// The blocked call has the lock.
    Granted,
    /// The blocked call, or the sleep, ends without.
    CutShort(Because),
    LeaveLine,
    IntoGuard,
    /// `Head::nap`.
    Nap,
    /// An attempt of `Head::tick`.
    Tick,
    GiveBack,
    /// The drop of a head: of its place, then of its stand-in; or of the stand-in alone.
    LetGo,
    /// Sends the stand-in the signal.
    Interrupt,
    Joined,
    /// `StandIn::drop`, where the signal cannot be sent.
    Detach,
    /// `Queue::leave`.
    Leave,
    /// Of the lock that was acquired.
    Release,
}

/// What cuts a wait short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Because {
    Tick,
    Deadline,
    Question,
}

impl State {
    pub(super) fn waiter_choices(&self, config: &Config, number: usize, choices: &mut Choices) {
        let waiter = &self.waiters[number];
        let mut must = |step| choices.must(Action::Waiter(number, step));
        let who = Who::Waiter(number);
        match waiter.pc {
            Pc::Begin => {
                // Waiters that are alike come in order: which of them is which tells nothing.
                let is_first = number == 0 || self.waiters[number - 1].pc != Pc::Begin;
                if is_first || !config.are_alike() {
                    must(Step::AskLine);
                }
            }
            Pc::TryLock => must(Step::TryLock),
            Pc::Join => must(Step::Join),
            Pc::Push => must(Step::Push),
            Pc::UnlistClosed | Pc::Unlist => must(Step::Unlist),
            Pc::Top if waiter.is_timed_out => must(Step::LastAttempt),
            Pc::Top => {
                must(Step::Standing);
                if config.waiters[number].times_out {
                    choices.may(Action::Waiter(number, Step::LastAttempt));
                }
                if self.may_ask(config, number) {
                    choices.may(Action::Waiter(number, Step::Away));
                }
            }
            Pc::Due => must(Step::Away),
            Pc::Asking => callback_choices(config, number, choices),
            Pc::Front => {
                must(Step::WaitAt);
                if config.meets(Circumstance::Ticks) {
                    must(Step::Tick);
                }
            }
            Pc::ToLine => must(Step::WaitForHeadOfLine),
            Pc::ToLock => must(Step::WaitForLock),
            Pc::InLine | Pc::InLock => {
                let lock = if waiter.pc == Pc::InLine { &self.turnstile } else { &self.flock };
                if lock.can_grant(who) {
                    must(Step::Granted);
                }
                self.cut_short_choices(config, number, choices);
            }
            Pc::Asleep => self.cut_short_choices(config, number, choices),
            Pc::LeaveLine => must(Step::LeaveLine),
            Pc::IntoGuard => must(Step::IntoGuard),
            Pc::Nap => must(Step::Nap),
            Pc::GiveBack => must(Step::GiveBack),
            Pc::TickAgain => must(Step::Tick),
            Pc::LetGo(_) => must(Step::LetGo),
            Pc::Joining(then) => self.join_choices(number, then, choices),
            Pc::ToSleep => must(Step::Sleep),
            Pc::Leave => must(Step::Leave),
            Pc::Holding => must(Step::Release),
            Pc::Done => {}
        }
    }

    fn may_ask(&self, config: &Config, number: usize) -> bool {
        let waiter = &self.waiters[number];
        let stands_in_line = waiter.head.is_at_head_of_line || waiter.head.stand_in.is_some();
        waiter.questions_left > 0
            && !(stands_in_line && config.waiters[number].asks == Asks::ForEverBeforeTheLine)
    }

    fn cut_short_choices(&self, config: &Config, number: usize, choices: &mut Choices) {
        let cut_short = |because| Action::Waiter(number, Step::CutShort(because));
        // Only a head looks up at a tick: in the kernel, or asleep while a stand-in waits.
        let is_head = self.waiters[number].pc != Pc::Asleep || self.waiters[number].head.stand_in.is_some();
        if is_head && config.meets(Circumstance::Ticks) {
            choices.must(cut_short(Because::Tick));
        }
        if config.waiters[number].times_out {
            choices.may(cut_short(Because::Deadline));
        }
        if self.may_ask(config, number) {
            choices.may(cut_short(Because::Question));
        }
    }

    fn join_choices(&self, number: usize, then: Then, choices: &mut Choices) {
        let Some(slot) = self.waiters[number].head.stand_in else { return };
        let Some(stand_in) = &self.stand_ins[slot] else { return };
        let mut must = |step| choices.must(Action::Waiter(number, step));
        if stand_in.result().is_some() {
            must(Step::Joined);
        } else if then == Then::TakeOver {
            // It is done, and about to finish.
        } else if !self.can_signal() {
            must(Step::Detach);
        } else if stand_in.pc == StandInPc::Blocked {
            must(Step::Interrupt);
        }
    }

    pub(super) fn waiter_step(&mut self, config: &Config, number: usize, step: Step) {
        match step {
            Step::AskLine => {
                let is_free = self.goes_past_lines || self.turnstile.holder.is_none();
                self.waiters[number].pc = if is_free { Pc::TryLock } else { Pc::Join };
            }
            Step::TryLock => {
                let next = if self.attempt(number) { Pc::Holding } else { Pc::Join };
                self.waiters[number].pc = next;
            }
            Step::Join => {
                self.waiters[number].queue = Some(self.listed_queue());
                self.waiters[number].pc = Pc::Push;
            }
            Step::Push => self.push(number),
            Step::Unlist => self.unlist_own(number),
            Step::Away => {
                self.waiters[number].questions_left -= usize::from(self.waiters[number].pc == Pc::Top);
                self.waiters[number].pc = Pc::Asking;
                self.set_away(config, number, true);
            }
            Step::Back { is_stopped } => {
                self.waiters[number].pc = if is_stopped { Pc::LetGo(Then::Leave) } else { Pc::Top };
                self.set_away(config, number, false);
            }
            Step::LastAttempt => {
                self.waiters[number].is_timed_out = true;
                self.attempt(number);
                self.waiters[number].pc = Pc::LetGo(Then::Leave);
            }
            Step::Standing => self.standing(config, number),
            Step::Sleep => {
                let is_awake = self.waiters[number].has_news && !config.has(Flaw::SleepIgnoresNews);
                self.waiters[number].pc = if is_awake { Pc::Top } else { Pc::Asleep };
            }
            Step::WaitAt => self.wait_at(config, number),
            Step::WaitForHeadOfLine | Step::WaitForLock => self.blocking_call(number),
            Step::Granted => self.granted(number),
            Step::CutShort(because) => self.cut_short(number, because),
            Step::LeaveLine => {
                let place = self.waiters[number].head.place;
                if let Some(place) = place {
                    self.turnstile.unlock(place);
                }
                self.waiters[number].pc = Pc::IntoGuard;
            }
            Step::IntoGuard => self.place_into_guard(config, number),
            Step::Nap => {
                let is_next = self.waiters[number].head.is_at_head_of_line;
                let is_had = (is_next || self.turnstile.holder.is_none()) && self.attempt(number);
                self.waiters[number].pc = if is_had { Pc::LetGo(Then::Leave) } else { Pc::Top };
            }
            Step::Tick => self.tick(number),
            Step::GiveBack => {
                let guard = self.waiters[number].guard.take();
                if let Some(guard) = guard {
                    self.close(guard);
                }
                self.waiters[number].pc = Pc::TickAgain;
            }
            Step::LetGo => self.let_go(config, number),
            Step::Interrupt => {
                if let Some((slot, stand_in)) = self.stand_in_of(number) {
                    stand_in.pc = StandInPc::Drop(false);
                    self.turnstile.interrupt(Who::StandIn(slot));
                }
            }
            Step::Joined => self.joined(number),
            Step::Detach => {
                if let Some((_, stand_in)) = self.stand_in_of(number) {
                    stand_in.is_detached = true;
                }
                self.joined(number);
            }
            Step::Leave => self.leave(config, number),
            Step::Release => {
                if let Some(guard) = self.waiters[number].guard.take() {
                    self.flock.unlock(guard);
                    self.close(guard);
                }
                self.waiters[number].pc = Pc::Done;
            }
        }
    }

    /// Tries the lock on a description of its own.
    pub(super) fn attempt(&mut self, number: usize) -> bool {
        if self.flock.holder.is_some() {
            return false;
        }
        let guard = self.open();
        self.waiters[number].guard = Some(guard);
        self.flock.try_lock(guard)
    }

    fn push(&mut self, number: usize) {
        let Some(queue) = self.waiters[number].queue.and_then(|queue| self.queues[queue].as_mut()) else {
            return;
        };
        self.waiters[number].pc = if queue.is_closed {
            Pc::UnlistClosed
        } else {
            queue.entries.push(Entry { waiter: number, is_away: false });
            Pc::Top
        };
    }

    fn unlist_own(&mut self, number: usize) {
        let queue = self.waiters[number].queue.take();
        if let Some(queue) = queue {
            self.unlist(queue);
        }
        let will_join = self.waiters[number].pc == Pc::UnlistClosed;
        self.waiters[number].pc = if will_join { Pc::Join } else { self.after_wait(number) };
    }

    fn after_wait(&self, number: usize) -> Pc {
        if self.waiters[number].guard.is_some() { Pc::Holding } else { Pc::Done }
    }

    fn set_away(&mut self, config: &Config, number: usize, is_away: bool) {
        let Some(slot) = self.waiters[number].queue else { return };
        let Some(queue) = self.queues[slot].as_mut() else { return };
        let former = queue.head();
        for entry in queue.entries.iter_mut().filter(|entry| entry.waiter == number) {
            entry.is_away = is_away;
        }
        if queue.entries.len() > 1 && !(is_away && config.has(Flaw::AwayWakesNobody)) {
            self.wake_head(slot);
            if let Some(former) = former.filter(|_| !config.has(Flaw::BackWakesTheHeadOnly)) {
                self.notify(former);
            }
        }
    }

    fn standing(&mut self, config: &Config, number: usize) {
        let slot = self.waiters[number].queue;
        let head = slot.and_then(|slot| self.queues[slot].as_ref()).and_then(Queue::head);
        let waiter = &mut self.waiters[number];
        waiter.has_news = false;
        waiter.pc = if head == Some(number) {
            Pc::Front
        } else if waiter.head.place.is_some() && !config.has(Flaw::FormerHeadKeepsPlace) {
            Pc::LetGo(Then::Sleep)
        } else {
            Pc::ToSleep
        };
    }

    fn leave(&mut self, config: &Config, number: usize) {
        let Some(slot) = self.waiters[number].queue else { return };
        let Some(queue) = self.queues[slot].as_mut() else { return };
        queue.entries.retain(|entry| entry.waiter != number);
        queue.is_closed = queue.entries.is_empty();
        let is_closed = queue.is_closed;
        if !config.has(Flaw::LeaveWakesNobody) {
            self.wake_head(slot);
        }
        self.waiters[number].questions_left = 0;
        self.waiters[number].pc = if is_closed {
            Pc::Unlist
        } else {
            self.waiters[number].queue = None;
            self.after_wait(number)
        };
    }
}

fn callback_choices(config: &Config, number: usize, choices: &mut Choices) {
    let waits = config.waiters[number];
    if waits.asks.is_for_ever() {
        return;
    }
    let back = |is_stopped| Action::Waiter(number, Step::Back { is_stopped });
    choices.must(back(false));
    if waits.is_cancelled {
        choices.may(back(true));
    }
}
