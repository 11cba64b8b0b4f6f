//! Taking the place of a stale marker: R3 to R6, by an exchange, or in place.

use super::state::{Actor, At, Content, Kind, Sort};
use super::steps::Step;

impl Step<'_> {
    pub(super) fn exchange(&mut self, me: &Actor) {
        let rules = *self.rules;
        let is_bound = |part: bool| part || me.kind == Kind::Filelock;
        let aside = me.aside.unwrap_or_else(|| self.state.new_name(Sort::Break, me.pid));
        match me.at {
            At::Aside => {
                let (content, next) = match me.kind {
                    Kind::Ours => (Content::Record(me.pid), At::Recheck2),
                    Kind::Filelock => (Content::Empty, At::AsideWrite),
                };
                let own = self.folder().create(content);
                self.folder().link(aside, own);
                (self.actor().own, self.actor().aside) = (Some(own), Some(aside));
                self.go(next);
            }
            At::AsideWrite => {
                self.write_own(Content::Record(me.pid));
                self.go(At::Recheck2);
            }
            At::Recheck2 if is_bound(rules.recheck) && !self.is_judged(self.path()) => {
                self.go(At::AsideUnlink);
            }
            At::Recheck2 => self.go(At::Exchange),
            At::Exchange if self.folder().exchange(aside) => self.go(At::Verify),
            At::Exchange => self.go(At::AsideUnlink),
            At::Verify if is_bound(rules.verify) && !self.is_judged(self.state.folder.lookup(aside)) => {
                self.go(At::PutBackLookAside);
            }
            At::Verify => self.go(At::TakeUnlink),
            At::TakeUnlink => {
                self.folder().unlink(aside);
                self.taken();
            }
            _ => {
                self.folder().unlink(aside);
                self.end();
            }
        }
    }

    /// The record is overwritten so that it is malformed in between, whatever part of it a reader sees: a malformed
    /// marker is stale for nobody before it was seen unchanged for 2 s, and never for who saw another time.
    pub(super) fn rewrite(&mut self, me: &Actor) {
        let judged = me.judged.expect("a judged marker");
        match me.at {
            At::Spoil => {
                self.folder().write(judged, Content::Malformed);
                self.go(At::Rewrite);
            }
            At::Rewrite => {
                self.folder().write(judged, Content::Record(me.pid));
                self.go(if self.rules.touch { At::Touch } else { At::Settle });
            }
            At::Touch => {
                self.folder().touch(judged);
                self.go(At::Settle);
            }
            At::Settle if self.path() == me.judged || !self.rules.verify => {
                self.actor().own = me.judged;
                self.taken();
            }
            At::Settle => self.go(At::Retreat),
            _ => {
                self.folder().write(judged, Content::Released);
                self.end();
            }
        }
    }
}
