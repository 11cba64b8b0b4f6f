//! The steps of an attempt, a hold and a release: what a system call does, and which one comes next.

use super::state::{Actor, At, Content, Folder, Ino, Kind, State};

/// How the place of a stale marker is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One's own marker, made aside, is exchanged with it.
    Exchange,
    /// It is overwritten with one's own record.
    InPlace,
}

/// What our contenders do. Each part can be left out, to see that it is needed.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the protocol")]
pub(super) struct Rules {
    pub(super) way: Way,
    /// J1: a judged marker is kept open.
    pub(super) pin: bool,
    /// R0: the judged marker's inode is locked while it is reclaimed.
    pub(super) lock: bool,
    /// S: a live marker that a dead breaker left aside is looked for, and put back.
    pub(super) recover: bool,
    /// R4: the judged marker must still be at the path when one's own is ready.
    pub(super) recheck: bool,
    /// R6: what the exchange took must be the judged marker; and in place, it must be at the path still.
    pub(super) verify: bool,
    /// In place: the file gets a time that it has not had.
    pub(super) touch: bool,
    /// Who takes over looks whether others have their markers aside; if so, and they still have when it releases, it
    /// does not unlink.
    pub(super) survey: bool,
    /// L1: only one's own marker is unlinked.
    pub(super) compare: bool,
    /// Not a part: a listing of the folder may miss a name that is renamed meanwhile.
    pub(super) torn: bool,
}

/// One step of one contender.
pub(super) struct Step<'a> {
    pub(super) rules: &'a Rules,
    pub(super) state: &'a mut State,
    pub(super) seat: usize,
}

impl Step<'_> {
    /// Makes the system call that the contender stands before.
    pub(super) fn make(mut self) {
        let me = self.me();
        match me.at {
            At::Idle | At::Prepare | At::Link | At::Write => self.acquire(&me),
            At::Open | At::Read | At::Judge | At::Lock | At::Recheck1 => self.judge(&me),
            At::RecoverScan | At::RecoverScanBreaks => self.scan(&me),
            At::RecoverClaim
            | At::RecoverRead
            | At::RecoverDrop
            | At::RecoverCheck
            | At::RecoverExchange
            | At::RecoverVerify
            | At::RecoverUnlink
            | At::RecoverUndo
            | At::RecoverReturn => self.recover(&me),
            At::Aside
            | At::AsideWrite
            | At::Recheck2
            | At::Exchange
            | At::Verify
            | At::TakeUnlink
            | At::AsideUnlink => self.exchange(&me),
            At::Spoil | At::Rewrite | At::Touch | At::Settle | At::Retreat => self.rewrite(&me),
            At::PutBackLookAside
            | At::PutBackLook
            | At::PutBackCount
            | At::PutBackWait
            | At::PutBackExchange
            | At::PutBackLink
            | At::PutBackUnlink
            | At::CleanUpLook
            | At::CleanUpUnlink => self.put_back(&me),
            At::Survey | At::Held | At::ReleaseCompare | At::Unlink | At::WriteReleased => self.hold_on(&me),
            At::Dead => unreachable!("a dead process makes no calls"),
        }
        self.state.collect();
    }

    pub(super) fn me(&self) -> Actor {
        self.state.actors[self.seat]
    }

    pub(super) fn actor(&mut self) -> &mut Actor {
        &mut self.state.actors[self.seat]
    }

    pub(super) fn folder(&mut self) -> &mut Folder {
        &mut self.state.folder
    }

    pub(super) fn path(&self) -> Option<Ino> {
        self.state.folder.path
    }

    pub(super) fn go(&mut self, at: At) {
        self.actor().at = at;
    }

    /// The end of an attempt that did not get the lock, or of a hold.
    pub(super) fn end(&mut self) {
        self.actor().rest(At::Idle);
    }

    pub(super) fn write_own(&mut self, content: Content) {
        let own = self.me().own.expect("an own marker");
        self.folder().write(own, content);
    }

    /// Whether this is the marker that was judged, by its number and time.
    pub(super) fn is_judged(&self, ino: Option<Ino>) -> bool {
        let me = self.me();
        ino == me.judged && ino.is_some_and(|ino| self.state.folder.stamp(ino) == me.seen)
    }

    fn acquire(&mut self, me: &Actor) {
        match (me.at, me.kind) {
            (At::Idle, _) if self.path().is_some() => self.go(At::Open),
            (At::Idle, Kind::Ours) => self.go(At::Prepare),
            (At::Idle, Kind::Filelock) => {
                let own = Some(self.folder().create(Content::Empty));
                (self.folder().path, self.actor().own) = (own, own);
                self.go(At::Write);
            }
            (At::Write, _) => {
                self.write_own(Content::Record(me.pid));
                self.hold();
            }
            (At::Prepare, _) => {
                let own = self.folder().create(Content::Record(me.pid));
                self.actor().own = Some(own);
                self.go(At::Link);
            }
            _ if self.path().is_some() => {
                self.actor().own = None;
                self.go(At::Open);
            }
            _ => {
                self.folder().path = me.own;
                self.hold();
            }
        }
    }

    fn judge(&mut self, me: &Actor) {
        match me.at {
            At::Open => match (self.path(), me.kind) {
                (None, Kind::Ours) => self.go(At::Prepare),
                (None, Kind::Filelock) => self.end(),
                (Some(ino), _) => {
                    let seen = self.folder().stamp(ino);
                    (self.actor().judged, self.actor().seen) = (Some(ino), seen);
                    self.go(At::Read);
                }
            },
            // filelock opens the path once more to read it, and goes on only with the file that it keeps open.
            At::Read if me.kind == Kind::Filelock && self.path() != me.judged => self.end(),
            At::Read => match me.judged.map(|ino| self.folder().content(ino)) {
                Some(Content::Record(pid)) => {
                    self.actor().breaker = Some(pid);
                    self.go(At::Judge);
                }
                Some(Content::Released | Content::Malformed) => self.reclaim(me),
                Some(Content::Empty | Content::Free) | None => self.end(),
            },
            At::Judge if me.breaker.is_some_and(|pid| self.state.is_alive(pid)) => self.end(),
            At::Judge => self.reclaim(me),
            At::Lock if self.is_locked(me.judged) => self.end(),
            At::Lock => {
                self.actor().locks = true;
                self.go(At::Recheck1);
            }
            _ if !self.is_judged(self.path()) => self.end(),
            _ if me.breaker.is_some() && (self.rules.recover || me.kind == Kind::Filelock) => {
                self.go(At::RecoverScan);
            }
            _ => self.take_over(),
        }
    }

    fn reclaim(&mut self, me: &Actor) {
        self.go(if self.rules.lock && me.kind == Kind::Ours { At::Lock } else { At::Recheck1 });
    }

    fn is_locked(&self, ino: Option<Ino>) -> bool {
        self.state.actors.iter().any(|actor| actor.locks && actor.judged == ino)
    }

    /// The judged marker is stale, and hides nobody's.
    pub(super) fn take_over(&mut self) {
        let is_in_place = self.rules.way == Way::InPlace && self.me().kind == Kind::Ours;
        self.go(if is_in_place { At::Spoil } else { At::Aside });
    }

    /// The lock is had by taking over.
    pub(super) fn taken(&mut self) {
        if self.rules.survey && self.me().kind == Kind::Ours { self.go(At::Survey) } else { self.hold() }
    }

    fn hold(&mut self) {
        let Actor { kind, pid, holds, own, contested, .. } = self.me();
        *self.actor() = Actor { at: At::Held, own, contested, ..Actor::new(kind, pid, holds - 1) };
    }

    /// Whether a live process has a name beside the path. Who holds has none of its own.
    fn is_contested(&self) -> bool {
        self.state.folder.entries().any(|(name, _)| self.state.is_alive(name.pid))
    }

    fn hold_on(&mut self, me: &Actor) {
        match me.at {
            At::Survey => {
                self.actor().contested = self.is_contested();
                self.hold();
            }
            At::Held if me.contested => {
                self.go(if self.is_contested() { At::WriteReleased } else { At::ReleaseCompare });
            }
            At::Held | At::ReleaseCompare => self.release_compare(me),
            At::Unlink => {
                self.folder().path = None;
                self.end();
            }
            _ => {
                self.write_own(Content::Released);
                self.end();
            }
        }
    }

    fn release_compare(&mut self, me: &Actor) {
        let is_named = me.own.is_some_and(|own| self.folder().links(own) > 0);
        match self.path() {
            path if path == me.own => self.go(At::Unlink),
            _ if me.kind == Kind::Ours && !self.rules.compare => self.go(At::Unlink),
            None if me.kind == Kind::Filelock || !is_named => self.end(),
            _ => self.go(At::WriteReleased),
        }
    }
}
