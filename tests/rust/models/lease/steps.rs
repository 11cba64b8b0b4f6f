//! The calls: what each does, and which one comes next.

use super::state::{Actor, At, Kind, NOBODY, Role, Seat, State, Then, bit, seats};

/// What our contenders do. Each part can be left out, to see whether it is needed.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the protocol")]
pub(super) struct Rules {
    /// A grant counts only if `x.state` is one's own.
    pub(super) confirm_state: bool,
    /// And only if it was not stopped since it published, by its own clock.
    pub(super) own_clock: bool,
    /// A reader looks for claims after it has published.
    pub(super) list_claims: bool,
    /// A writer lists once more when it has its number.
    pub(super) list_again: bool,
    /// What was renamed away is looked at, and put back if it is another's.
    pub(super) compare: bool,
    /// Who has just made a file in the folder sees all that is there.
    pub(super) fresh_lists: bool,
    /// A number counts only if no greater one is there, and one's own claim still is.
    pub(super) confirm_number: bool,
}

pub(super) struct Step<'a> {
    pub(super) rules: Rules,
    pub(super) state: &'a mut State,
    pub(super) seat: Seat,
    /// Between a look at a name and its removal nobody comes.
    pub(super) is_exact: bool,
    /// A listing comes from before the others were there.
    pub(super) is_old: bool,
}

impl Step<'_> {
    fn me(&self) -> Actor {
        self.state.actors[usize::from(self.seat)]
    }

    fn actor(&mut self) -> &mut Actor {
        &mut self.state.actors[usize::from(self.seat)]
    }

    fn go(&mut self, at: At) {
        self.actor().at = at;
    }

    fn is_stale(&self, seat: Seat) -> bool {
        self.state.actors[usize::from(seat)].is_stale()
    }

    /// Leaves the transition, and then goes on.
    fn leave(&mut self, then: Then) {
        self.actor().then = then;
        self.go(At::LeaveLook);
    }

    /// Takes back what was published, and begins anew.
    fn withdraw(&mut self) {
        self.actor().then = Then::Rest;
        self.go(At::RemoveOwn);
    }

    pub(super) fn make(mut self) {
        let me = self.me();
        match (me.kind, me.at) {
            (_, At::Idle) => self.go(At::Enter),
            (_, At::Enter) => self.enter(&me),
            (_, At::EvictState) => {
                // Whatever is there now. It is never put back.
                if !self.is_exact || self.state.state.is_some_and(|(name, _)| name == me.judged) {
                    self.state.state = None;
                }
                self.go(At::Enter);
            }
            (Kind::Filelock, at) => self.filelock(&me, at),
            (
                Kind::Ours,
                At::Clear | At::Judge | At::Disown | At::EvictLook | At::EvictTake | At::EvictAside,
            ) => {
                self.clear(&me);
            }
            (Kind::Ours, At::Publish | At::Show) => self.publish(&me),
            (Kind::Ours, At::List | At::ListAgain) => self.list(&me),
            (Kind::Ours, At::Evict | At::EvictAgain) => {
                let gone = !bit(me.judged);
                self.state.readers &= gone;
                self.state.claims &= gone;
                self.go(if me.at == At::Evict { At::List } else { At::ListAgain });
            }
            (Kind::Ours, At::Number) => self.number(&me),
            (Kind::Ours, At::ConfirmWrite | At::ConfirmState) => self.confirm(&me),
            (Kind::Ours, At::LeaveLook | At::LeaveRemove | At::Tidy) => self.step_out(&me),
            (Kind::Ours, At::Hold) => self.withdraw(),
            (Kind::Ours, At::RemoveOwn | At::TakeLook | At::Take | At::TakeAside) => self.remove(&me),
            (_, At::Dead) => unreachable!("a dead process makes no calls"),
        }
        self.state.normalize();
    }

    fn enter(&mut self, me: &Actor) {
        match self.state.state {
            None => {
                let name = self.state.next_state;
                self.state.state = Some((name, self.seat));
                self.actor().state = Some(name);
                // Who has a claim goes on where it was.
                let is_waiting = me.claims || (me.kind == Kind::Filelock && me.then == Then::Wait);
                self.go(if is_waiting { At::List } else { At::Clear });
            }
            Some((name, owner)) if me.kind == Kind::Ours && self.is_stale(owner) => {
                self.actor().judged = name;
                self.go(At::EvictState);
            }
            Some(_) => {}
        }
    }

    fn clear(&mut self, me: &Actor) {
        match me.at {
            At::Clear => match self.state.write {
                None => self.go(At::Publish),
                Some(owner) if self.is_stale(owner) => {
                    self.actor().judged = owner;
                    self.go(At::Judge);
                }
                Some(_) => self.leave(Then::Rest),
            },
            At::Judge if self.state.write == Some(me.judged) && self.is_stale(me.judged) => {
                self.go(At::Disown);
            }
            At::Judge => self.leave(Then::Rest),
            At::Disown => {
                self.state.claims &= !bit(me.judged);
                self.go(At::EvictLook);
            }
            At::EvictLook if self.state.write == Some(me.judged) => self.go(At::EvictTake),
            At::EvictLook => self.go(At::Publish),
            At::EvictTake => {
                let is_judged = self.state.write == Some(me.judged);
                let is_exact = self.is_exact;
                self.actor().aside = self.state.write.take_if(|_| is_judged || !is_exact);
                self.go(At::EvictAside);
            }
            _ => {
                self.look_aside(me, me.judged);
                self.go(At::Publish);
            }
        }
    }

    /// What came out is dropped, or linked back if it is another's and nobody else is there.
    fn look_aside(&mut self, me: &Actor, wanted: Seat) {
        if self.rules.compare && me.aside != Some(wanted) && self.state.write.is_none() {
            self.state.write = me.aside;
        }
        self.actor().aside = None;
    }

    fn publish(&mut self, me: &Actor) {
        match (me.at, me.role) {
            (At::Publish, Role::Reader) => {
                self.state.readers |= bit(self.seat);
                (self.actor().claims, self.actor().was_stopped) = (true, false);
                self.go(At::List);
            }
            (At::Publish, Role::Writer) => {
                self.state.claims |= bit(self.seat);
                (self.actor().claims, self.actor().was_stopped) = (true, false);
                self.go(At::Show);
            }
            _ if self.state.write.is_none() && self.state.claims & bit(self.seat) != 0 => {
                self.state.write = Some(self.seat);
                self.go(At::List);
            }
            _ => self.withdraw(),
        }
    }

    fn list(&mut self, me: &Actor) {
        let own = bit(self.seat);
        let others = match me.role {
            Role::Reader if !self.rules.list_claims => 0,
            Role::Reader => self.state.claims & !own,
            Role::Writer => (self.state.readers | self.state.claims) & !own,
        };
        let others = if self.is_old { 0 } else { others };
        let is_again = me.at == At::ListAgain;
        let mut live = seats(others).filter(|seat| !self.is_stale(*seat));
        if live.next().is_some() {
            match me.role {
                Role::Reader => self.withdraw(),
                Role::Writer => self.leave(Then::Wait),
            }
            return;
        }
        if let Some(stale) = seats(others).next() {
            self.actor().judged = stale;
            self.go(if is_again { At::EvictAgain } else { At::Evict });
            return;
        }
        match me.role {
            Role::Reader => self.go(At::ConfirmWrite),
            Role::Writer if !is_again => {
                let newest = if self.is_old { 0 } else { self.state.newest() };
                self.actor().number = newest + 1;
                self.go(At::Number);
            }
            Role::Writer => {
                let is_greatest = self.is_old || self.state.newest() == me.number;
                let is_there = self.state.claims & own != 0;
                if self.rules.confirm_number && !(is_greatest && is_there) {
                    self.withdraw();
                } else {
                    self.go(At::ConfirmWrite);
                }
            }
        }
    }

    fn number(&mut self, me: &Actor) {
        let name = 1 << me.number;
        if self.state.numbers & name != 0 {
            self.leave(Then::Wait);
            return;
        }
        self.state.numbers |= name;
        self.go(if self.rules.list_again { At::ListAgain } else { At::ConfirmWrite });
    }

    fn confirm(&mut self, me: &Actor) {
        if me.at == At::ConfirmWrite {
            let expected = if me.role == Role::Writer { Some(self.seat) } else { None };
            if self.state.write == expected {
                self.go(At::ConfirmState);
            } else {
                self.withdraw();
            }
            return;
        }
        let is_own = self.state.state.map(|(name, _)| name) == me.state;
        let is_doubtful = self.rules.own_clock && me.was_stopped;
        if self.rules.confirm_state && !is_own || is_doubtful {
            self.withdraw();
            return;
        }
        self.grant(me);
        self.leave(Then::Hold);
    }

    fn grant(&mut self, me: &Actor) {
        let actor = self.actor();
        (actor.holds, actor.was_stopped, actor.left) = (true, false, actor.left - 1);
        if me.role == Role::Writer && me.kind == Kind::Ours {
            self.state.is_number_repeated |= me.number <= self.state.last_granted;
            self.state.last_granted = me.number.max(self.state.last_granted);
        }
    }

    fn step_out(&mut self, me: &Actor) {
        match me.at {
            At::LeaveLook if self.state.state.map(|(name, _)| name) == me.state => self.go(At::LeaveRemove),
            At::LeaveLook | At::LeaveRemove => {
                let is_own = self.state.state.map(|(name, _)| name) == me.state;
                if me.at == At::LeaveRemove && (is_own || !self.is_exact) {
                    self.state.state = None;
                }
                self.actor().state = None;
                match me.then {
                    Then::Rest => self.go(At::Idle),
                    Then::Wait => self.go(At::Enter),
                    Then::Hold if me.role == Role::Writer => self.go(At::Tidy),
                    Then::Hold => self.go(At::Hold),
                }
            }
            _ => {
                self.state.numbers &= !((1 << me.number) - 1);
                self.go(At::Hold);
            }
        }
    }

    fn remove(&mut self, me: &Actor) {
        match me.at {
            At::RemoveOwn => {
                // The next claim has another name: who is about to remove this one removes nothing.
                for other in self.state.actors.iter_mut().filter(|other| other.at != At::EvictState) {
                    if other.judged == self.seat {
                        other.judged = NOBODY;
                    }
                }
                let gone = !bit(self.seat);
                self.state.readers &= gone;
                self.state.claims &= gone;
                (self.actor().claims, self.actor().holds) = (false, false);
                if me.role == Role::Writer { self.go(At::TakeLook) } else { self.end(me) }
            }
            At::TakeLook if self.state.write == Some(self.seat) => self.go(At::Take),
            At::TakeLook => self.end(me),
            At::Take => {
                let is_own = self.state.write == Some(self.seat);
                let is_exact = self.is_exact;
                self.actor().aside = self.state.write.take_if(|_| is_own || !is_exact);
                self.go(At::TakeAside);
            }
            _ => {
                self.look_aside(me, self.seat);
                self.end(me);
            }
        }
    }

    fn end(&mut self, me: &Actor) {
        if me.state.is_some() { self.leave(Then::Rest) } else { self.go(At::Idle) }
    }

    /// filelock 3.29: all by name, and nothing looked at twice.
    fn filelock(&mut self, me: &Actor, at: At) {
        match (at, me.role) {
            (At::Clear, _) if self.state.write.is_some() => self.leave(Then::Rest),
            (At::Clear, _) => self.go(At::Publish),
            (At::Publish, Role::Reader) => {
                self.state.readers |= bit(self.seat);
                self.grant(me);
                self.leave(Then::Hold);
            }
            (At::Publish, Role::Writer) if self.state.write.is_none() => {
                self.state.write = Some(self.seat);
                self.leave(Then::Wait);
            }
            (At::Publish, Role::Writer) => self.leave(Then::Rest),
            (At::List, _) if self.state.readers != 0 => self.leave(Then::Wait),
            (At::List, _) => {
                self.grant(me);
                self.leave(Then::Hold);
            }
            (At::LeaveLook, _) => {
                self.state.state = None;
                self.actor().state = None;
                self.go(match me.then {
                    Then::Rest => At::Idle,
                    Then::Wait => At::Enter,
                    Then::Hold => At::Hold,
                });
            }
            _ => {
                if me.role == Role::Writer {
                    self.state.write = None;
                } else {
                    self.state.readers &= !bit(self.seat);
                }
                self.actor().holds = false;
                self.actor().then = Then::Rest;
                self.go(At::Idle);
            }
        }
    }

    /// What the heartbeat of somebody who is not stopped does.
    pub(super) fn beat(mut self) {
        let me = self.me();
        let own = bit(self.seat);
        let there = if me.role == Role::Writer { self.state.claims } else { self.state.readers };
        if there & own == 0 {
            // It is told, and what is left of its claim goes.
            self.actor().holds = false;
            if me.at == At::Hold {
                self.withdraw();
            }
        } else if me.role == Role::Writer && self.state.write.is_none() {
            self.state.write = Some(self.seat);
        }
        self.state.normalize();
    }
}
