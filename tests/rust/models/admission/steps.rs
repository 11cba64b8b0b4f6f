//! The calls: what each does, and which one comes next.

use super::state::{Pc, Seat, State, other};
use super::{Action, Config, Flaw, Step, Who};

/// What one poll takes: SQLite's writer takes SHARED, lets go of PENDING, and takes all three.
const MOST_CALLS: u8 = 6;

impl State {
    /// What can happen next, and whether it must: nobody relies on a death, a stop, or that somebody gives up.
    pub(super) fn choices(&self, config: &Config) -> Vec<(Action, bool)> {
        let mut choices = Vec::new();
        for seat in self.seats() {
            self.choices_of(config, seat, &mut |step, is_due| choices.push((Action(seat, step), is_due)));
        }
        choices
    }

    fn choices_of(&self, config: &Config, seat: Seat, add: &mut dyn FnMut(Step, bool)) {
        let (who, pc) = (config.who(seat), self.pc(seat));
        if pc == Pc::Done {
            return;
        }
        if self.is_stopped(seat) {
            add(Step::GoOn, false);
            return;
        }
        add(Step::Go, true);
        if self.may_tick(config, seat) {
            add(Step::Tick, true);
        }
        let blocks = who.blocks() && matches!(pc, Pc::Reserved | Pc::Pending | Pc::Shared);
        if who.blocks() && pc == Pc::Line && self.is_line_stuck() {
            add(Step::IsTold, false);
        }
        if blocks && !who.writes() && pc == Pc::Shared {
            add(Step::LookUp, false);
        }
        if blocks && config.signal_is_taken {
            add(Step::CannotBlock, false);
        }
        let at_locks = matches!(pc, Pc::Reserved | Pc::Pending | Pc::Shared);
        let waits = if who.is_sqlite() {
            matches!(pc, Pc::Ask | Pc::Pending | Pc::Shared)
        } else {
            at_locks || matches!(pc, Pc::Line | Pc::Nap | Pc::Pause)
        };
        if waits && config.gives_up {
            add(Step::GiveUp, false);
        }
        if pc != Pc::Come {
            if config.is_killed {
                add(Step::Kill, false);
            }
            if self.may_stop {
                add(Step::Stop, false);
            }
        }
    }

    /// Who cannot wait in the kernel, or not only, makes an attempt now and then, whoever stands in line.
    fn may_tick(&self, config: &Config, seat: Seat) -> bool {
        match (config.who(seat), self.pc(seat)) {
            (who, Pc::Line) if who.blocks() => config.flaw != Some(Flaw::StaysBehind),
            // Its own claim would refuse it later.
            (Who::Writer, Pc::Reserved)
            | (Who::Reader | Who::NestingReader, Pc::Pending)
            | (Who::PollingReader, Pc::Pause) => true,
            (Who::PollingWriter, Pc::Pause) => config.flaw != Some(Flaw::BidIsPolite),
            _ => false,
        }
    }

    pub(super) fn step(&mut self, config: &Config, seat: Seat, step: Step) {
        match step {
            Step::Go => self.make(config, seat),
            Step::Tick => self.tick(config, seat),
            Step::IsTold => self.go(seat, first_of_wait(config, seat)),
            Step::LookUp => {
                self.pending.free(seat);
                self.go(seat, Pc::Pending);
            }
            Step::CannotBlock => {
                if config.flaw != Some(Flaw::PollsBesideItsClaim) {
                    self.unlock(seat);
                    self.forget_late(seat);
                }
                self.go(seat, Pc::Nap);
            }
            Step::GiveUp if config.flaw == Some(Flaw::KeepsItsClaim) => {
                self.leave_line(seat);
                self.go(seat, Pc::Done);
            }
            Step::GiveUp | Step::Kill => {
                self.end(seat);
                if self.is_stopped(seat) {
                    self.stopped = None;
                }
            }
            Step::Stop => (self.stopped, self.may_stop) = (Some(seat), false),
            Step::GoOn => self.stopped = None,
        }
    }

    fn make(&mut self, config: &Config, seat: Seat) {
        match config.who(seat) {
            _ if self.is_inside(seat) => self.go_out(config, seat),
            Who::SqliteReader | Who::SqliteWriter => self.sqlite(config, seat),
            who if who.polls() => self.poll(config, seat),
            _ if matches!(self.pc(seat), Pc::Come | Pc::Ask | Pc::Take) => self.first_attempt(config, seat),
            _ => self.wait(config, seat),
        }
    }

    fn arrive(&mut self, config: &Config, seat: Seat) {
        if let Some(writer) = self.claimant(config) {
            self.late |= 1 << (4 * seat + writer);
        }
    }

    /// The writer that has claimed, and waits for the readers inside to end.
    pub(super) fn claimant(&self, config: &Config) -> Option<Seat> {
        self.pending.owner().filter(|owner| config.who(*owner).writes() && self.pc(*owner) == Pc::Shared)
    }

    fn come_in(&mut self, config: &Config, seat: Seat) {
        if config.flaw != Some(Flaw::KeepsTheTurnstile) {
            self.leave_line(seat);
        }
        self.go(seat, Pc::Inside);
    }

    fn go_out(&mut self, config: &Config, seat: Seat) {
        match (config.who(seat), self.pc(seat)) {
            (Who::NestingReader, Pc::Inside) => {
                let is_kept_out =
                    config.flaw == Some(Flaw::NestedIsKeptOut) && self.pending.is_of_others(seat, true);
                if !is_kept_out && self.shared.share(other(seat)) {
                    self.go(seat, Pc::InsideTwice);
                }
            }
            (Who::NestingReader, Pc::InsideTwice) => {
                self.unlock(seat);
                self.go(seat, Pc::StillInside);
            }
            _ => self.end(seat),
        }
    }

    fn first_attempt(&mut self, config: &Config, seat: Seat) {
        let who = config.who(seat);
        let next = if who.writes() { Pc::Take } else { Pc::Ask };
        let refused = if who.is_hasty() { Pc::Done } else { Pc::Line };
        match self.pc(seat) {
            Pc::Come => {
                self.arrive(config, seat);
                let is_behind = !who.is_hasty() && !self.line.is_empty();
                self.go(seat, if is_behind { refused } else { next });
            }
            Pc::Ask if self.is_kept_out(config, seat) => self.go(seat, refused),
            Pc::Ask => self.go(seat, Pc::Take),
            _ if self.take(who, seat) => self.come_in(config, seat),
            _ => self.go(seat, refused),
        }
        if self.pc(seat) == Pc::Done {
            self.end(seat);
        }
    }

    fn is_kept_out(&self, config: &Config, description: Seat) -> bool {
        config.flaw != Some(Flaw::ReaderIgnoresPending) && self.pending.has_other_owner(description)
    }

    /// The call that decides: a reader's, or the writer's over all three ranges, which takes all or nothing.
    fn take(&mut self, who: Who, description: Seat) -> bool {
        if !who.writes() {
            return self.shared.share(description);
        }
        let (mut reserved, mut pending, mut shared) = (self.reserved, self.pending, self.shared);
        let is_had = reserved.own(description) && pending.own(description) && shared.own(description);
        if is_had {
            (self.reserved, self.pending, self.shared) = (reserved, pending, shared);
        }
        is_had
    }

    /// An attempt on a description of its own: `try_read` or `try_write`.
    fn attempt(&mut self, config: &Config, seat: Seat) -> bool {
        let who = config.who(seat);
        (who.writes() || !self.is_kept_out(config, other(seat))) && self.take(who, other(seat))
    }

    /// Looks past the line. At its head that decides; behind, only if the lock is free twice: else it may just be between
    /// two holders.
    fn tick(&mut self, config: &Config, seat: Seat) {
        match (config.who(seat), self.pc(seat)) {
            (Who::PollingReader, _) => self.go(seat, Pc::Ask),
            (Who::PollingWriter, _) => self.go(seat, Pc::Reserved),
            (_, Pc::Line) => {
                let has_probed = self.has_probed & 1 << seat != 0;
                if !self.attempt(config, seat) {
                    self.has_probed &= !(1 << seat);
                } else if has_probed {
                    self.come_in(config, seat);
                } else {
                    self.go(seat, Pc::Probed);
                }
            }
            _ => {
                if self.attempt(config, seat) {
                    self.come_in(config, seat);
                }
            }
        }
    }

    /// Waits in the kernel. A call that blocks happens when it can.
    fn wait(&mut self, config: &Config, seat: Seat) {
        let has = |flaw| config.flaw == Some(flaw);
        let writes = config.who(seat).writes();
        match self.pc(seat) {
            Pc::Line => {
                if !self.line.contains(&seat) {
                    self.line.push(seat);
                }
                if self.line[0] == seat {
                    self.has_probed &= !(1 << seat);
                    self.go(seat, first_of_wait(config, seat));
                }
            }
            Pc::Probed => {
                self.unlock(other(seat));
                self.has_probed |= 1 << seat;
                self.go(seat, Pc::Line);
            }
            Pc::Nap if self.attempt(config, seat) => self.come_in(config, seat),
            Pc::Reserved => {
                let is_ready = !has(Flaw::SharedWhileItWaits) || self.shared.share(seat);
                if is_ready && self.reserved.own(seat) {
                    self.go(seat, if has(Flaw::PendingFirst) { Pc::Shared } else { Pc::Pending });
                }
            }
            Pc::Pending if writes && self.pending.own(seat) => {
                let next = if has(Flaw::PendingFirst) { Pc::Reserved } else { Pc::Shared };
                self.go(seat, next);
                if has(Flaw::PendingIsEnough) {
                    self.come_in(config, seat);
                }
            }
            Pc::Pending if !writes && (has(Flaw::ReaderIgnoresPending) || self.pending.share(seat)) => {
                self.go(seat, Pc::Shared);
            }
            Pc::Shared if writes && self.shared.own(seat) => self.come_in(config, seat),
            Pc::Shared if !writes && self.shared.share(seat) => {
                self.pending.free(seat);
                self.come_in(config, seat);
            }
            _ => {}
        }
    }

    /// Attempts and pauses. A writer's bid keeps what it has.
    fn poll(&mut self, config: &Config, seat: Seat) {
        let who = config.who(seat);
        match self.pc(seat) {
            Pc::Come => {
                self.arrive(config, seat);
                self.go(seat, Pc::Pause);
            }
            Pc::Pause if !self.line.is_empty() => {}
            Pc::Pause => self.go(seat, if who.writes() { Pc::Reserved } else { Pc::Ask }),
            Pc::Ask if self.is_kept_out(config, seat) => self.go(seat, Pc::Pause),
            Pc::Ask => self.go(seat, Pc::Take),
            Pc::Take if self.take(who, seat) => self.come_in(config, seat),
            Pc::Take => self.go(seat, Pc::Pause),
            Pc::Reserved if self.reserved.own(seat) => self.go(seat, Pc::Pending),
            Pc::Pending if self.pending.own(seat) => self.go(seat, Pc::Shared),
            Pc::Shared if self.shared.own(seat) => self.come_in(config, seat),
            _ => {}
        }
    }

    fn sqlite(&mut self, config: &Config, seat: Seat) {
        match self.pc(seat) {
            Pc::Come => {
                self.arrive(config, seat);
                self.go(seat, Pc::Ask);
            }
            Pc::Ask if self.pending.share(seat) => self.go(seat, Pc::Take),
            Pc::Take if self.shared.share(seat) => self.go(seat, Pc::Unpend),
            Pc::Take => {
                self.pending.free(seat);
                self.go(seat, Pc::Ask);
            }
            Pc::Unpend => {
                self.pending.free(seat);
                self.go(seat, if config.who(seat).writes() { Pc::Reserved } else { Pc::Inside });
            }
            Pc::Reserved if self.reserved.own(seat) => self.go(seat, Pc::Pending),
            Pc::Reserved => {
                self.shared.free(seat);
                self.go(seat, Pc::Ask);
            }
            Pc::Pending if self.pending.own(seat) => self.go(seat, Pc::Shared),
            Pc::Shared if self.shared.own(seat) => self.go(seat, Pc::Inside),
            _ => {}
        }
    }

    /// Whether it sleeps until its next attempt, or somebody else's doing.
    pub(super) fn sleeps(&self, config: &Config, seat: Seat) -> bool {
        let (who, pc) = (config.who(seat), self.pc(seat));
        if self.is_stopped(seat) || self.is_inside(seat) || matches!(pc, Pc::Come | Pc::Done) {
            return true;
        }
        match pc {
            Pc::Pause | Pc::Nap => true,
            Pc::Ask => who == Who::SqliteReader || who == Who::SqliteWriter,
            Pc::Reserved if who.is_sqlite() => false,
            Pc::Reserved | Pc::Pending | Pc::Shared if who.polls() || who.is_sqlite() => true,
            Pc::Line | Pc::Reserved | Pc::Pending | Pc::Shared => {
                let mut after = self.clone();
                after.make(config, seat);
                after == *self
            }
            Pc::Come
            | Pc::Take
            | Pc::Probed
            | Pc::Unpend
            | Pc::Inside
            | Pc::InsideTwice
            | Pc::StillInside
            | Pc::Done => false,
        }
    }

    /// Lets happen what need not wait for anybody.
    pub(super) fn settle(&mut self, config: &Config) {
        while let Some(seat) = self.seats().find(|seat| !self.sleeps(config, *seat)) {
            self.make(config, seat);
        }
    }

    /// One poll of who waits, and what comes of it.
    pub(super) fn poll_once(&mut self, config: &Config, seat: Seat) {
        for call in 0..MOST_CALLS {
            if !self.waits(seat) {
                break;
            }
            let is_probing = self.has_probed & 1 << seat != 0;
            if (call == 0 || is_probing) && self.may_tick(config, seat) {
                self.tick(config, seat);
            } else {
                self.make(config, seat);
            }
        }
        self.settle(config);
    }
}

/// What who waits in the kernel asks for first, with the turnstile or past it.
fn first_of_wait(config: &Config, seat: Seat) -> Pc {
    let is_reserving = config.who(seat).writes() && config.flaw != Some(Flaw::PendingFirst);
    if is_reserving { Pc::Reserved } else { Pc::Pending }
}
