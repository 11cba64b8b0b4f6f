//! Recovering a live marker that a breaker left aside when it died (S).

use super::state::{Actor, At, Content, Kind, Name, Pid, Sort};
use super::steps::Step;

impl Step<'_> {
    /// Lists the folder: in one, or first the names of who restores, and then those of who breaks.
    pub(super) fn scan(&mut self, me: &Actor) {
        let breaker = me.breaker.expect("the judged marker names a process");
        let listed = |sort| match me.at {
            At::RecoverScanBreaks => sort == Sort::Break,
            _ => !self.rules.torn || sort == Sort::Restore,
        };
        let names: Vec<_> = self.state.folder.entries().map(|(name, _)| name).collect();
        let mut found: Vec<_> = me.candidates.into_iter().flatten().collect();
        for name in names.into_iter().filter(|name| listed(name.sort)) {
            match name.sort {
                Sort::Restore if self.is_being_restored(me, name) => return self.end(),
                Sort::Break if name.pid != breaker => {}
                Sort::Break | Sort::Restore => found.push(name),
            }
        }
        found.sort_unstable();
        assert!(found.len() <= me.candidates.len(), "more room for candidates");
        self.actor().candidates = std::array::from_fn(|place| found.get(place).copied());
        match me.at {
            At::RecoverScan if self.rules.torn => self.go(At::RecoverScanBreaks),
            _ => self.go_to_candidate(),
        }
    }

    fn is_being_restored(&self, me: &Actor, name: Name) -> bool {
        self.state.is_alive(name.pid) && (me.kind == Kind::Ours || name.pid != me.pid)
    }

    fn go_to_candidate(&mut self) {
        if self.me().candidates[0].is_some() { self.go(At::RecoverClaim) } else { self.take_over() }
    }

    pub(super) fn recover(&mut self, me: &Actor) {
        let breaker = me.breaker.expect("the judged marker names a process");
        let name = me.candidates[0].expect("a name that was found");
        let found = self.folder().lookup(name);
        match me.at {
            // Who is late finds the name gone.
            At::RecoverClaim => match self.folder().unlink(name) {
                None => self.end(),
                Some(ino) => {
                    let own = self.state.new_name(Sort::Restore, me.pid);
                    self.folder().link(own, ino);
                    self.actor().candidates[0] = Some(own);
                    self.go(At::RecoverRead);
                }
            },
            At::RecoverRead => {
                let content = found.map_or(Content::Free, |ino| self.folder().content(ino));
                let is_live = self.is_live(content, breaker);
                self.go(if is_live { At::RecoverCheck } else { At::RecoverDrop });
            }
            At::RecoverDrop => {
                self.folder().unlink(name);
                self.actor().candidates[0] = None;
                self.actor().candidates.rotate_left(1);
                self.go_to_candidate();
            }
            At::RecoverCheck if self.is_judged(self.path()) => self.go(At::RecoverExchange),
            At::RecoverExchange if self.folder().exchange(name) => self.go(At::RecoverVerify),
            At::RecoverCheck | At::RecoverExchange => self.go(At::RecoverReturn),
            At::RecoverVerify if self.is_judged(found) => self.go(At::RecoverUnlink),
            At::RecoverVerify => self.go(At::RecoverUndo),
            At::RecoverUnlink => {
                self.folder().unlink(name);
                self.end();
            }
            At::RecoverUndo => {
                self.folder().exchange(name);
                self.go(At::RecoverReturn);
            }
            _ => {
                let back = self.state.new_name(Sort::Break, breaker);
                if let Some(ino) = self.folder().unlink(name) {
                    self.folder().link(back, ino);
                }
                self.end();
            }
        }
    }

    /// Whether what was found aside may hold the lock.
    fn is_live(&self, content: Content, breaker: Pid) -> bool {
        match content {
            Content::Empty => true,
            Content::Record(pid) => pid != breaker && self.state.is_alive(pid),
            Content::Released | Content::Malformed | Content::Free => false,
        }
    }
}
