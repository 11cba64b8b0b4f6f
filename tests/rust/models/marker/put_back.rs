//! Putting back what an exchange took by mistake (B).

use super::state::{Actor, At, Kind, State};
use super::steps::Step;

impl Step<'_> {
    pub(super) fn put_back(&mut self, me: &Actor) {
        let aside = me.aside.expect("an aside name");
        let in_aside = self.folder().lookup(aside);
        let is_own_at_path = self.path() == me.own;
        match (me.at, me.kind) {
            (At::PutBackLookAside, _) if in_aside == me.own => self.go(At::PutBackUnlink),
            (At::PutBackLookAside, _) => self.go(At::PutBackLook),
            (At::PutBackLook, _) if is_own_at_path => self.go(At::PutBackExchange),
            (At::PutBackLook, Kind::Ours) if self.path().is_some() => self.go(At::PutBackCount),
            (At::PutBackLook, Kind::Filelock) if self.path().is_some() => self.go(At::PutBackWait),
            (At::PutBackLook, Kind::Ours) => self.go(At::PutBackLink),
            // It takes a missing path for a job that is done.
            (At::PutBackLook, Kind::Filelock) => self.go(At::PutBackUnlink),
            (At::PutBackCount, _) => {
                let is_named = me.own.is_some_and(|own| self.folder().links(own) > 0);
                self.go(if is_named { At::PutBackWait } else { At::PutBackUnlink });
            }
            (At::PutBackWait, _) => self.go(At::PutBackLookAside),
            (At::PutBackExchange, _) => {
                let exchanged = self.folder().exchange(aside);
                let is_done = !exchanged && me.kind == Kind::Filelock;
                self.go(if is_done { At::PutBackUnlink } else { At::PutBackLookAside });
            }
            (At::PutBackLink, _) if self.path().is_some() => self.go(At::PutBackLookAside),
            (At::PutBackLink, _) => {
                self.folder().path = in_aside;
                self.go(At::PutBackUnlink);
            }
            (At::PutBackUnlink, kind) => {
                self.folder().unlink(aside);
                if kind == Kind::Filelock { self.go(At::CleanUpLook) } else { self.end() }
            }
            (At::CleanUpLook, _) if is_own_at_path => self.go(At::CleanUpUnlink),
            (At::CleanUpUnlink, _) => {
                self.folder().path = None;
                self.end();
            }
            _ => self.end(),
        }
    }
}

/// Time passes: the path has not changed for 10 ms.
pub(super) fn stall(state: &mut State, seat: usize) {
    state.actors[seat].at = At::PutBackExchange;
}

/// Time passes: 2 s are over. What is at the path stays, and what is aside.
pub(super) fn give_up(state: &mut State, seat: usize) {
    state.give_ups -= 1;
    state.gave_up = true;
    state.actors[seat].rest(At::Idle);
    state.collect();
}
