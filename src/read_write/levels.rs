//! Who is inside, by which way each came in, and how often.

use std::mem;

use crate::error::ErrorKind;
use crate::mechanism::{Guard, Mode};
use crate::owner::OwnerId;
use crate::registry::LockId;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Those in the wait loop.
    pub(super) waiting: Vec<OwnerId>,
}

#[derive(Debug, Default)]
pub(super) enum Phase {
    #[default]
    Free,
    Busy,
    Held(Hold),
}

#[derive(Debug)]
pub(super) struct Hold {
    pub(super) guard: Box<dyn Guard>,
    pub(super) mode: Mode,
    /// One for each owner and each way in. There is at least one, and for a writer only one owner.
    pub(super) levels: Vec<Levels>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Levels {
    pub(super) owner: OwnerId,
    /// How it came in: through the lock object itself, or a door that leads to it.
    pub(super) door: LockId,
    pub(super) depth: u32,
}

impl Hold {
    pub(super) fn has(&self, owner: OwnerId) -> bool {
        self.levels.iter().any(|levels| levels.owner == owner)
    }

    /// Counts `owner` in, and says whether it is new to this hold.
    pub(super) fn join(&mut self, owner: OwnerId, door: LockId, mode: Mode) -> Result<bool, ErrorKind> {
        if self.guard.is_lost() {
            return Err(ErrorKind::Compromised);
        }
        let is_known = self.has(owner);
        match (is_known, self.mode, mode) {
            (_, Mode::Shared, Mode::Shared) | (true, Mode::Exclusive, Mode::Exclusive) => {
                let is_its = |levels: &&mut Levels| (levels.owner, levels.door) == (owner, door);
                match self.levels.iter_mut().find(is_its) {
                    Some(levels) => levels.depth += 1,
                    None => self.levels.push(Levels { owner, door, depth: 1 }),
                }
                Ok(!is_known)
            }
            (true, Mode::Shared, Mode::Exclusive) => Err(ErrorKind::Upgrade),
            (true, Mode::Exclusive, Mode::Shared) => Err(ErrorKind::Downgrade),
            (false, Mode::Shared, Mode::Exclusive) | (false, Mode::Exclusive, _) => {
                Err(ErrorKind::HeldByAnother(self.mode))
            }
        }
    }
}

/// What is to be done, outside the mutex, to release.
pub(super) enum Step {
    Nothing,
    /// These owners have no level any more, others have.
    Forget(Vec<OwnerId>),
    Unlock(Hold),
}

/// Whose levels are meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose {
    /// One owner's, as far as it came in by this way.
    Owner(OwnerId, LockId),
    /// All that came in by this way.
    Door(LockId),
}

impl Whose {
    pub(super) fn includes(self, levels: &Levels) -> bool {
        match self {
            Self::Owner(owner, door) => (levels.owner, levels.door) == (owner, door),
            Self::Door(door) => levels.door == door,
        }
    }
}

impl State {
    pub(super) fn begin_release(&mut self) -> Step {
        match mem::replace(&mut self.phase, Phase::Busy) {
            Phase::Held(hold) => Step::Unlock(hold),
            unheld @ (Phase::Free | Phase::Busy) => {
                self.phase = unheld;
                Step::Nothing
            }
        }
    }

    /// Takes one level away of those that are meant, or all of them.
    pub(super) fn take(&mut self, whose: Whose, all: bool) -> Result<Step, ErrorKind> {
        let Phase::Held(hold) = &mut self.phase else { return Err(ErrorKind::NotHeld) };
        let Some(first) = hold.levels.iter_mut().find(|levels| whose.includes(levels)) else {
            return Err(ErrorKind::NotTheHolder(hold.mode));
        };
        if first.depth > 1 && !all {
            first.depth -= 1;
            return Ok(Step::Nothing);
        }
        if hold.levels.iter().all(|levels| whose.includes(levels)) {
            return Ok(self.begin_release());
        }
        let (gone, left): (Vec<_>, Vec<_>) = hold.levels.iter().partition(|levels| whose.includes(levels));
        hold.levels = left;
        Ok(Step::Forget(gone.iter().map(|levels| levels.owner).filter(|owner| !hold.has(*owner)).collect()))
    }

    /// Takes one level away where others stay.
    pub(super) fn unnest(&mut self, whose: Whose) -> Option<Step> {
        let Phase::Held(hold) = &self.phase else { return None };
        let has_more = hold.levels.len() > 1 || hold.levels.iter().any(|levels| levels.depth > 1);
        if has_more { self.take(whose, false).ok() } else { None }
    }

    /// Takes one level of the first owner's of a hold that was lost.
    pub(super) fn take_lost(&mut self) -> Result<Step, ErrorKind> {
        let first = match &self.phase {
            Phase::Held(hold) if hold.guard.is_lost() => hold.levels.first(),
            Phase::Held(_) | Phase::Free | Phase::Busy => None,
        };
        let Some(Levels { owner, door, .. }) = first.copied() else { return Err(ErrorKind::NotHeld) };
        self.take(Whose::Owner(owner, door), false)
    }
}
