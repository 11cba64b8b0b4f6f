//! The calls: what each does, and which one comes next.

use super::state::{Actor, At, Folder, Kind, Role, Seat, State, Then, Token, bit, seats};

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
    /// And again, if somebody was listed who is gone or evicted.
    pub(super) list_until_alone: bool,
    /// What was renamed away is looked at, and put back if it is another's.
    pub(super) compare: bool,
    /// Who has just made a file in the folder sees all that is there.
    pub(super) fresh_lists: bool,
    /// A number is claimed by making its name, which only one can.
    pub(super) claim_number: bool,
    /// A number counts only if no greater one is there, and one's own claim still is.
    pub(super) confirm_number: bool,
    /// Who nests looks after it has published whether its process still has the other hold.
    pub(super) join_last: bool,
    /// Who gives a hold back whose marker is gone is told.
    pub(super) told_late: bool,
}

pub(super) struct Step<'a> {
    pub(super) rules: Rules,
    pub(super) state: &'a mut State,
    pub(super) seat: Seat,
    /// Between a look at a name and its removal nobody comes.
    pub(super) is_exact: bool,
    /// What a listing says instead of what is there.
    pub(super) remembered: Option<Folder>,
}

impl Step<'_> {
    fn me(&self) -> Actor {
        *self.state.actor(self.seat)
    }

    fn actor(&mut self) -> &mut Actor {
        &mut self.state.actors[usize::from(self.seat)]
    }

    fn go(&mut self, at: At) {
        self.actor().at = at;
    }

    fn is_own_state(&self, me: &Actor) -> bool {
        self.state.state.map(|(name, _)| name) == me.state
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
            (_, At::Idle) if me.role == Role::Nested => self.begin_nested(),
            (_, At::Idle) => self.go(At::Enter),
            (_, At::Enter) => self.enter(&me),
            (_, At::EvictState) => {
                // Whatever is there now. It is never put back.
                if !self.is_exact || self.state.state.is_some_and(|(name, _)| name == me.judged_state) {
                    self.state.state = None;
                }
                self.go(At::Enter);
            }
            (Kind::Filelock, at) => self.filelock(&me, at),
            (
                Kind::Ours,
                At::Clear | At::Judge | At::Disown | At::EvictLook | At::EvictTake | At::EvictAside,
            ) => self.clear(&me),
            (Kind::Ours, At::Publish | At::Show | At::Join) => self.publish(&me),
            (Kind::Ours, At::List | At::ListAgain) => self.list(&me),
            (Kind::Ours, At::Look | At::LookAgain | At::Evict | At::EvictAgain) => self.look_at(&me),
            (Kind::Ours, At::Number) => self.number(&me),
            (Kind::Ours, At::ConfirmWrite | At::ConfirmState | At::CheckClock | At::Grant) => {
                self.confirm(&me);
            }
            (Kind::Ours, At::LeaveLook | At::LeaveRemove | At::Tidy) => self.step_out(&me),
            (Kind::Ours, At::Hold) => self.withdraw(),
            (Kind::Ours, At::RemoveOwn | At::TakeLook | At::Take | At::TakeAside) => self.remove(&me),
            (_, At::Dead) => unreachable!("a dead process makes no calls"),
        }
    }

    /// Only a process that reads has such a thread.
    fn begin_nested(&mut self) {
        let has_hold = self.state.other_thread(self.seat).is_some_and(|other| self.state.actor(other).holds);
        if has_hold {
            self.go(if self.rules.join_last { At::Publish } else { At::Join });
        }
    }

    fn enter(&mut self, me: &Actor) {
        if me.claims && me.was_stopped && self.rules.own_clock {
            self.withdraw();
            return;
        }
        match self.state.state {
            None => {
                let name = self.state.next_state;
                self.state.state = Some((name, self.seat));
                self.actor().state = Some(name);
                // Who has a claim goes on where it was.
                let is_waiting = me.claims || (me.kind == Kind::Filelock && me.then == Then::Wait);
                self.go(if is_waiting { At::List } else { At::Clear });
            }
            Some((name, owner)) if me.kind == Kind::Ours && self.state.is_silent(owner) => {
                self.actor().judged_state = name;
                self.go(At::EvictState);
            }
            Some(_) => {}
        }
    }

    fn clear(&mut self, me: &Actor) {
        let judged = me.judged.filter(|judged| self.state.write == Some(*judged));
        match me.at {
            At::Clear => match self.state.write {
                None => self.go(At::Publish),
                Some(token) if self.state.is_stale(token) => {
                    self.actor().judged = Some(token);
                    self.go(At::Judge);
                }
                Some(_) => self.leave(Then::Rest),
            },
            At::Judge if judged.is_some_and(|judged| self.state.is_stale(judged)) => self.go(At::Disown),
            At::Judge => self.leave(Then::Rest),
            At::Disown => {
                self.remove_from_folder(me.judged);
                self.go(At::EvictLook);
            }
            At::EvictLook if judged.is_some() => self.go(At::EvictTake),
            At::EvictLook => self.go(At::Publish),
            At::EvictTake => {
                let is_exact = self.is_exact;
                self.actor().aside = self.state.write.take_if(|_| judged.is_some() || !is_exact);
                self.go(At::EvictAside);
            }
            _ => {
                self.look_aside(me);
                self.go(At::Publish);
            }
        }
    }

    /// Removes the marker that says so, if it is there: nobody uses its name again.
    fn remove_from_folder(&mut self, token: Option<Token>) {
        if let Some(Token { owner, past: 0 }) = token {
            self.state.folder.remove(owner);
        }
    }

    /// What came out is dropped, or linked back if it is another's and nobody else is there.
    fn look_aside(&mut self, me: &Actor) {
        if self.rules.compare && me.aside != me.judged && self.state.write.is_none() {
            self.state.write = me.aside;
        }
        self.actor().aside = None;
    }

    fn publish(&mut self, me: &Actor) {
        let own = bit(self.seat);
        match (me.at, me.role) {
            (At::Join, _) => {
                let other = self.state.other_thread(self.seat);
                let is_there =
                    other.is_some_and(|other| self.state.actor(other).holds && self.state.folder.has(other));
                match (is_there, self.rules.join_last) {
                    (true, true) => self.go(At::CheckClock),
                    (true, false) => self.go(At::Publish),
                    (false, true) => self.withdraw(),
                    (false, false) => self.go(At::Idle),
                }
            }
            (At::Publish, role) => {
                let published = if role == Role::Writer {
                    &mut self.state.folder.claims
                } else {
                    &mut self.state.folder.readers
                };
                *published |= own;
                (self.actor().claims, self.actor().was_stopped) = (true, false);
                self.go(match role {
                    Role::Writer => At::Show,
                    Role::Reader => At::List,
                    Role::Nested if self.rules.join_last => At::Join,
                    Role::Nested => At::CheckClock,
                });
            }
            _ if self.state.write.is_none() && self.state.folder.claims & own != 0 => {
                self.state.write = Some(Token::of(self.seat));
                self.go(At::List);
            }
            _ => self.withdraw(),
        }
    }

    fn list(&mut self, me: &Actor) {
        let own = bit(self.seat);
        let folder = self.remembered.unwrap_or(self.state.folder);
        let others = match me.role {
            Role::Writer => (folder.readers | folder.claims) & !own,
            _ if self.rules.list_claims => folder.claims & !own,
            _ => 0,
        };
        let is_again = me.at == At::ListAgain;
        self.actor().listed = others;
        if me.role == Role::Writer && (!is_again || others != 0 && self.rules.list_until_alone) {
            self.actor().then = if is_again { Then::ListAgain } else { Then::Rest };
            self.actor().number = folder.newest() + 1;
        } else if is_again && self.rules.confirm_number {
            let is_whole = folder.newest() == me.number && folder.claims & own != 0;
            self.actor().number = if is_whole { me.number } else { 0 };
        }
        self.go(if is_again { At::LookAgain } else { At::Look });
        self.skip_looks();
    }

    /// Looks at those who were listed, one after the other.
    fn look_at(&mut self, me: &Actor) {
        let is_again = matches!(me.at, At::LookAgain | At::EvictAgain);
        if matches!(me.at, At::Evict | At::EvictAgain) {
            self.remove_from_folder(me.judged);
            self.go(if is_again { At::LookAgain } else { At::Look });
        } else if let Some(other) = seats(me.listed).next() {
            self.actor().listed &= !bit(other);
            if self.state.folder.has(other) {
                if !self.state.is_silent(other) {
                    match me.role {
                        Role::Writer => self.leave(Then::Wait),
                        _ => self.withdraw(),
                    }
                    return;
                }
                self.actor().judged = Some(Token::of(other));
                self.go(if is_again { At::EvictAgain } else { At::Evict });
                return;
            }
        }
        self.skip_looks();
    }

    fn skip_looks(&mut self) {
        let me = self.me();
        if me.listed == 0 {
            match (me.role, me.at) {
                (Role::Writer, At::Look) => self.go(At::Number),
                (Role::Writer, _) if me.then == Then::ListAgain => {
                    self.actor().then = Then::Rest;
                    self.go(At::Number);
                }
                (Role::Writer, _) if me.number == 0 => self.withdraw(),
                _ => self.go(At::ConfirmWrite),
            }
        }
    }

    fn number(&mut self, me: &Actor) {
        let name = 1 << me.number;
        if self.state.folder.numbers & name != 0 && self.rules.claim_number {
            self.leave(Then::Wait);
            return;
        }
        self.state.folder.numbers |= name;
        self.go(if self.rules.list_again { At::ListAgain } else { At::ConfirmWrite });
    }

    fn confirm(&mut self, me: &Actor) {
        let is_confirmed = match me.at {
            At::ConfirmWrite => {
                let expected = (me.role == Role::Writer).then(|| Token::of(self.seat));
                self.state.write == expected
            }
            At::ConfirmState => self.is_own_state(me) || !self.rules.confirm_state,
            At::CheckClock => !me.was_stopped || !self.rules.own_clock,
            _ => true,
        };
        match me.at {
            _ if !is_confirmed => self.withdraw(),
            At::ConfirmWrite => self.go(At::ConfirmState),
            At::ConfirmState => self.go(At::CheckClock),
            At::CheckClock => {
                self.actor().was_stopped = false;
                self.go(At::Grant);
            }
            _ => {
                self.grant(me);
                if me.role == Role::Nested { self.go(At::Hold) } else { self.leave(Then::Hold) }
            }
        }
    }

    fn grant(&mut self, me: &Actor) {
        (self.actor().holds, self.actor().left) = (true, me.left - 1);
        if me.role == Role::Writer && me.kind == Kind::Ours {
            let own = 1 << me.number;
            // Who was stopped since it looked at its clock comes late with a smaller one, which a store refuses.
            let is_late = self.state.granted > own && !me.was_stopped;
            self.state.is_number_repeated |= self.state.granted & own != 0 || is_late;
            self.state.granted |= own;
        }
    }

    fn step_out(&mut self, me: &Actor) {
        match me.at {
            At::LeaveLook if self.is_own_state(me) => self.go(At::LeaveRemove),
            At::LeaveLook | At::LeaveRemove => {
                if me.at == At::LeaveRemove && (self.is_own_state(me) || !self.is_exact) {
                    self.state.state = None;
                }
                self.actor().state = None;
                match me.then {
                    Then::Rest | Then::ListAgain => self.go(At::Idle),
                    Then::Wait => self.go(At::Enter),
                    Then::Hold if me.role == Role::Writer => self.go(At::Tidy),
                    Then::Hold => self.go(At::Hold),
                }
            }
            _ => {
                self.state.folder.numbers &= !((1 << me.number) - 1);
                self.go(At::Hold);
            }
        }
    }

    fn remove(&mut self, me: &Actor) {
        match me.at {
            At::RemoveOwn => {
                self.state.is_untold |=
                    me.holds && !self.state.folder.has(self.seat) && !self.rules.told_late;
                self.state.folder.remove(self.seat);
                let own = self.state.retire(self.seat);
                (self.actor().claims, self.actor().holds) = (false, false);
                if me.role == Role::Writer {
                    self.actor().judged = Some(own);
                    self.go(At::TakeLook);
                } else {
                    self.end(me);
                }
            }
            At::TakeLook if self.state.write == me.judged => self.go(At::Take),
            At::TakeLook => self.end(me),
            At::Take => {
                let is_exact = self.is_exact;
                self.actor().aside = self.state.write.take_if(|write| Some(*write) == me.judged || !is_exact);
                self.go(At::TakeAside);
            }
            _ => {
                self.look_aside(me);
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
            (At::Publish, Role::Reader | Role::Nested) => {
                self.state.folder.readers |= bit(self.seat);
                self.grant(me);
                self.leave(Then::Hold);
            }
            (At::Publish, Role::Writer) if self.state.write.is_none() => {
                self.state.write = Some(Token::of(self.seat));
                self.leave(Then::Wait);
            }
            (At::Publish, Role::Writer) => self.leave(Then::Rest),
            (At::List, _) if self.state.folder.readers != 0 => self.leave(Then::Wait),
            (At::List, _) => {
                self.grant(me);
                self.leave(Then::Hold);
            }
            (At::LeaveLook, _) => {
                self.state.state = None;
                self.actor().state = None;
                self.go(match me.then {
                    Then::Rest | Then::ListAgain => At::Idle,
                    Then::Wait => At::Enter,
                    Then::Hold => At::Hold,
                });
            }
            _ => {
                if me.role == Role::Writer {
                    self.state.write = None;
                }
                self.state.folder.remove(self.seat);
                self.state.retire(self.seat);
                self.actor().holds = false;
                self.actor().then = Then::Rest;
                self.go(At::Idle);
            }
        }
    }

    /// What the heartbeat of somebody who is not stopped does.
    pub(super) fn beat(mut self) {
        let me = self.me();
        let own = Token::of(self.seat);
        let is_theirs = |token: Token| self.state.actor(token.owner).kind == Kind::Filelock;
        let is_lost = !self.state.folder.has(self.seat)
            || me.role == Role::Writer
                && self.state.write.is_some_and(|write| write != own && is_theirs(write));
        if is_lost {
            // It is told if it holds, and what is left of its claim goes.
            self.actor().holds = false;
            if matches!(me.at, At::Hold | At::Enter) {
                self.withdraw();
            }
        } else if me.role == Role::Writer && self.state.write.is_none() {
            self.state.write = Some(own);
        }
    }
}
