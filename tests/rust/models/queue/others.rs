//! What the stand-ins do, the other process, and the program around.

use super::state::{OutsiderPc, Signal, StandInPc, State, Who};
use super::{Action, Choices, Circumstance, Config, Fate, Flaw};

/// A step of a stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StandInStep {
    WaitForHeadOfLine,
    Granted,
    /// Drops its share of the place, and says that it is done.
    DropPlace,
    /// `Queue::wake_head`, and the end of the thread.
    WakeHead,
}

/// A step of the other process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutsiderStep {
    /// It comes back: asks whether somebody stands in line.
    AskLine,
    TryLock,
    WaitForHeadOfLine,
    WaitForLock,
    Granted,
    LeaveLine,
    Release,
    IsKilled,
    IsStopped,
}

/// What happens to the whole process of the waiters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProgramStep {
    /// The signal that ends system calls.
    TakesSignal,
    GivesSignalBack,
    /// `go_past_lines`, in the wait for another path or because of a report.
    GoesPastLines,
    TriesLinesAgain,
}

impl State {
    pub(super) fn can_signal(&self) -> bool {
        self.signal != Signal::Taken
    }

    pub(super) fn other_choices(&self, config: &Config, choices: &mut Choices) {
        for (number, stand_in) in self.stand_ins.iter().enumerate() {
            let Some(stand_in) = stand_in else { continue };
            let step = match stand_in.pc {
                StandInPc::Call => StandInStep::WaitForHeadOfLine,
                StandInPc::Blocked if self.turnstile.can_grant(Who::StandIn(number)) => StandInStep::Granted,
                StandInPc::Drop(_) => StandInStep::DropPlace,
                StandInPc::Wake(_) => StandInStep::WakeHead,
                StandInPc::Blocked | StandInPc::Finished(_) => continue,
            };
            choices.must(Action::StandIn(number, step));
        }
        self.outsider_choices(config, choices);
        if self.goes_past_lines {
            choices.must(Action::Program(ProgramStep::TriesLinesAgain));
        } else if self.will_be_told {
            choices.may(Action::Program(ProgramStep::GoesPastLines));
        }
        match self.signal {
            Signal::Ours if config.meets(Circumstance::SignalIsTaken) => {
                choices.may(Action::Program(ProgramStep::TakesSignal));
            }
            Signal::Taken => choices.may(Action::Program(ProgramStep::GivesSignalBack)),
            Signal::Ours | Signal::GivenBack => {}
        }
    }

    fn outsider_choices(&self, config: &Config, choices: &mut Choices) {
        let pc = self.outsider.pc;
        let mut must = |step| choices.must(Action::Outsider(step));
        match pc {
            OutsiderPc::TryLock => must(OutsiderStep::TryLock),
            OutsiderPc::ToLine => must(OutsiderStep::WaitForHeadOfLine),
            OutsiderPc::ToLock => must(OutsiderStep::WaitForLock),
            OutsiderPc::InLine if self.turnstile.can_grant(Who::Outsider) => must(OutsiderStep::Granted),
            OutsiderPc::InLock if self.flock.can_grant(Who::Outsider) => must(OutsiderStep::Granted),
            OutsiderPc::LeaveLine => must(OutsiderStep::LeaveLine),
            OutsiderPc::Holding => must(OutsiderStep::Release),
            OutsiderPc::Idle => choices.may(Action::Outsider(OutsiderStep::AskLine)),
            OutsiderPc::InLine | OutsiderPc::InLock | OutsiderPc::Stopped | OutsiderPc::Done => return,
        }
        if pc == OutsiderPc::Idle {
            return;
        }
        match config.outside.fate {
            Fate::Lives => {}
            Fate::MayBeKilled => choices.may(Action::Outsider(OutsiderStep::IsKilled)),
            Fate::MayBeStopped => choices.may(Action::Outsider(OutsiderStep::IsStopped)),
        }
    }

    pub(super) fn program_step(&mut self, step: ProgramStep) {
        match step {
            ProgramStep::TakesSignal => self.signal = Signal::Taken,
            ProgramStep::GivesSignalBack => self.signal = Signal::GivenBack,
            ProgramStep::GoesPastLines => {
                self.will_be_told = false;
                self.goes_past_lines = true;
            }
            ProgramStep::TriesLinesAgain => self.goes_past_lines = false,
        }
    }

    pub(super) fn stand_in_step(&mut self, config: &Config, number: usize, step: StandInStep) {
        let Some(stand_in) = self.stand_ins[number].as_mut() else { return };
        let who = Who::StandIn(number);
        match (step, stand_in.pc) {
            (StandInStep::WaitForHeadOfLine, _) => {
                let is_had = self.turnstile.call(who, stand_in.place);
                stand_in.pc = if is_had { StandInPc::Drop(true) } else { StandInPc::Blocked };
            }
            (StandInStep::Granted, _) => {
                self.turnstile.grant(who);
                stand_in.pc = StandInPc::Drop(true);
            }
            (StandInStep::DropPlace, StandInPc::Drop(waited)) => {
                stand_in.pc = StandInPc::Wake(waited);
                let place = stand_in.place;
                self.close(place);
            }
            (StandInStep::WakeHead, StandInPc::Wake(waited)) => {
                stand_in.pc = StandInPc::Finished(waited);
                let queue = stand_in.queue;
                if !config.has(Flaw::StandInWakesNobody) {
                    self.wake_head(queue);
                }
            }
            (StandInStep::DropPlace | StandInStep::WakeHead, _) => {}
        }
    }

    pub(super) fn outsider_step(&mut self, config: &Config, step: OutsiderStep) {
        match step {
            OutsiderStep::AskLine => {
                self.outsider.rounds_left -= 1;
                self.outsider.desc = Some(self.open());
                self.outsider.pc = if !config.outside.is_polite {
                    OutsiderPc::ToLock
                } else if self.turnstile.holder.is_none() {
                    OutsiderPc::TryLock
                } else {
                    OutsiderPc::ToLine
                };
            }
            OutsiderStep::TryLock => {
                let is_had = self.outsider.desc.is_some_and(|desc| self.flock.try_lock(desc));
                self.outsider.pc = if is_had { OutsiderPc::Holding } else { OutsiderPc::ToLine };
            }
            OutsiderStep::WaitForHeadOfLine => {
                let is_had = self.outsider.desc.is_some_and(|desc| self.turnstile.call(Who::Outsider, desc));
                self.outsider.pc = if is_had { OutsiderPc::ToLock } else { OutsiderPc::InLine };
            }
            OutsiderStep::WaitForLock => {
                let is_had = self.outsider.desc.is_some_and(|desc| self.flock.call(Who::Outsider, desc));
                self.outsider.pc = if is_had { OutsiderPc::LeaveLine } else { OutsiderPc::InLock };
            }
            OutsiderStep::Granted if self.outsider.pc == OutsiderPc::InLine => {
                self.turnstile.grant(Who::Outsider);
                self.outsider.pc = OutsiderPc::ToLock;
            }
            OutsiderStep::Granted => {
                self.flock.grant(Who::Outsider);
                self.outsider.pc = OutsiderPc::LeaveLine;
            }
            OutsiderStep::LeaveLine => {
                let desc = self.outsider.desc;
                if let Some(desc) = desc {
                    self.turnstile.unlock(desc);
                }
                self.outsider.pc = OutsiderPc::Holding;
            }
            OutsiderStep::Release => {
                self.close_outsider();
                let comes_back = self.outsider.rounds_left > 0;
                self.outsider.pc = if comes_back { OutsiderPc::Idle } else { OutsiderPc::Done };
            }
            OutsiderStep::IsKilled => {
                self.turnstile.interrupt(Who::Outsider);
                self.flock.interrupt(Who::Outsider);
                self.close_outsider();
                self.outsider.rounds_left = 0;
                self.outsider.pc = OutsiderPc::Done;
            }
            // Its system call is interrupted; what its description has it keeps.
            OutsiderStep::IsStopped => {
                self.turnstile.interrupt(Who::Outsider);
                self.flock.interrupt(Who::Outsider);
                self.outsider.pc = OutsiderPc::Stopped;
            }
        }
    }

    fn close_outsider(&mut self) {
        let desc = self.outsider.desc.take();
        if let Some(desc) = desc {
            self.close(desc);
        }
    }
}
