//! What a waiter does as head of the queue: `wait::queue::Head`.

use super::state::{KernelLock, Pc, StandIn, StandInPc, State, Then, Who};
use super::waiter::Because;
use super::{Circumstance, Config, Flaw};

impl State {
    pub(super) fn wait_at(&mut self, config: &Config, number: usize) {
        if self.waiters[number].head.place.is_none() {
            self.waiters[number].head.is_at_head_of_line = false;
            self.waiters[number].head.place = Some(self.open());
        }
        let can_send = self.can_signal() && !config.meets(Circumstance::NoStandIns);
        let waiter = &mut self.waiters[number];
        let stand_in = waiter.head.stand_in.and_then(|slot| self.stand_ins[slot].as_ref());
        waiter.pc = if self.goes_past_lines {
            waiter.head.is_at_head_of_line = true;
            if stand_in.is_some() { Pc::LetGo(Then::GoPast) } else { Pc::ToLock }
        } else if let Some(stand_in) = stand_in {
            if stand_in.is_done() { Pc::Joining(Then::TakeOver) } else { Pc::ToSleep }
        } else if waiter.head.is_at_head_of_line {
            Pc::ToLock
        } else if waiter.head.has_looked_up && can_send {
            Pc::ToSleep
        } else {
            Pc::ToLine
        };
        let will_stand_in = waiter.pc == Pc::ToSleep && waiter.head.stand_in.is_none();
        if let (true, Some(place), Some(queue)) = (will_stand_in, waiter.head.place, waiter.queue) {
            self.open[place.0] += 1;
            let slot = self.stand_ins.iter().position(Option::is_none).unwrap_or(self.stand_ins.len());
            self.stand_ins.resize(self.stand_ins.len().max(slot + 1), None);
            let pc = StandInPc::Call;
            self.stand_ins[slot] =
                Some(StandIn { pc, place, queue, is_called_off: false, is_detached: false });
            self.waiters[number].head.stand_in = Some(slot);
        }
    }

    fn awaited(&mut self, number: usize) -> &mut KernelLock {
        if matches!(self.waiters[number].pc, Pc::ToLine | Pc::InLine) {
            &mut self.turnstile
        } else {
            &mut self.flock
        }
    }

    pub(super) fn blocking_call(&mut self, number: usize) {
        let Some(place) = self.waiters[number].head.place else { return };
        let is_for_line = self.waiters[number].pc == Pc::ToLine;
        if !self.can_signal() {
            // No timer is to be had.
            self.waiters[number].pc = Pc::Nap;
        } else if self.awaited(number).call(Who::Waiter(number), place) {
            self.has_come(number);
        } else {
            self.waiters[number].pc = if is_for_line { Pc::InLine } else { Pc::InLock };
        }
    }

    pub(super) fn granted(&mut self, number: usize) {
        self.awaited(number).grant(Who::Waiter(number));
        self.has_come(number);
    }

    fn has_come(&mut self, number: usize) {
        let waiter = &mut self.waiters[number];
        let was_for_line = matches!(waiter.pc, Pc::ToLine | Pc::InLine);
        waiter.head.is_at_head_of_line |= was_for_line;
        waiter.pc = if was_for_line { Pc::ToLock } else { Pc::LeaveLine };
    }

    pub(super) fn cut_short(&mut self, number: usize, because: Because) {
        self.turnstile.interrupt(Who::Waiter(number));
        self.flock.interrupt(Who::Waiter(number));
        let waiter = &mut self.waiters[number];
        waiter.head.has_looked_up |= waiter.pc == Pc::InLine;
        waiter.is_timed_out |= because == Because::Deadline;
        waiter.questions_left -= usize::from(because == Because::Question);
        waiter.pc = if because == Because::Question { Pc::Due } else { Pc::Top };
    }

    pub(super) fn place_into_guard(&mut self, config: &Config, number: usize) {
        let Some(place) = self.waiters[number].head.place.take() else { return };
        let is_shared = self.open[place.0] > 1;
        if !is_shared || config.has(Flaw::IntoGuardShares) {
            self.waiters[number].guard = Some(place);
            self.waiters[number].pc = Pc::LetGo(Then::Leave);
            return;
        }
        if !config.has(Flaw::SharedPlaceKeepsLock) {
            self.flock.unlock(place);
        }
        self.close(place);
        self.waiters[number].pc = Pc::Top;
    }

    /// At its first attempt, or at its last: the model has two where the code has six.
    pub(super) fn tick(&mut self, number: usize) {
        let is_last = self.waiters[number].pc == Pc::TickAgain;
        let is_next = self.waiters[number].head.is_at_head_of_line;
        self.waiters[number].pc = if !self.attempt(number) {
            Pc::Top
        } else if is_last || is_next {
            self.goes_past_lines |= !is_next;
            Pc::LetGo(Then::Leave)
        } else {
            Pc::GiveBack
        };
    }

    pub(super) fn let_go(&mut self, config: &Config, number: usize) {
        let Pc::LetGo(then) = self.waiters[number].pc else { return };
        let waiter = &mut self.waiters[number];
        let is_kept = config.has(Flaw::TimedOutKeepsPlace) && waiter.is_timed_out && waiter.guard.is_none();
        if is_kept {
            waiter.head.stand_in = None;
        } else if then != Then::GoPast {
            waiter.head.is_at_head_of_line = false;
            waiter.head.has_looked_up = false;
            if let Some(place) = waiter.head.place.take() {
                self.close(place);
            }
        }
        if let Some((_, stand_in)) = self.stand_in_of(number) {
            stand_in.is_called_off = true;
            self.waiters[number].pc = Pc::Joining(then);
        } else {
            self.waiters[number].pc = self.after(then, number);
        }
    }

    fn after(&mut self, then: Then, number: usize) -> Pc {
        match then {
            Then::Sleep => Pc::ToSleep,
            Then::Leave => Pc::Leave,
            Then::GoPast => Pc::ToLock,
            Then::TakeOver if self.waiters[number].head.is_at_head_of_line => Pc::ToLock,
            Then::TakeOver => {
                self.waiters[number].head.has_looked_up = true;
                Pc::Top
            }
        }
    }

    pub(super) fn stand_in_of(&mut self, number: usize) -> Option<(usize, &mut StandIn)> {
        let slot = self.waiters[number].head.stand_in?;
        self.stand_ins[slot].as_mut().map(|stand_in| (slot, stand_in))
    }

    pub(super) fn joined(&mut self, number: usize) {
        let Pc::Joining(then) = self.waiters[number].pc else { return };
        let result = self.stand_in_of(number).and_then(|(_, stand_in)| stand_in.result());
        if let (Some(slot), Some(waited)) = (self.waiters[number].head.stand_in, result) {
            self.stand_ins[slot] = None;
            if then == Then::TakeOver {
                self.waiters[number].head.is_at_head_of_line = waited;
            }
        }
        self.waiters[number].head.stand_in = None;
        self.waiters[number].pc = self.after(then, number);
    }
}
