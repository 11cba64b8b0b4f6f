//! The holds of a lock object, one slot for each owner that has to do with it.

use crate::error::ErrorKind;
use crate::mechanism::Guard;
use crate::owner::{Liveness, OwnerId};
use crate::sys::FileId;
use crate::wait::Nesting;

#[derive(Debug)]
pub(super) struct Slot {
    /// `None`: the one slot of [`Scope::Shared`].
    pub(super) owner: Option<OwnerId>,
    /// Whether the owner can still release. That of the last to acquire.
    pub(super) liveness: Liveness,
    pub(super) phase: Phase,
    /// Those in the wait loop for this slot.
    pub(super) waiting: Vec<OwnerId>,
}

#[derive(Debug)]
pub(super) enum Phase {
    Free,
    Busy,
    Held { guard: Box<dyn Guard>, depth: u32 },
}

impl Phase {
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Held { guard, .. } if guard.is_lost())
    }
}

/// How much of a hold is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Levels {
    One,
    All,
    /// All, if it was lost.
    AllLost,
}

impl Slot {
    pub(super) fn file(&self) -> Option<FileId> {
        match &self.phase {
            Phase::Held { guard, .. } => Some(guard.file()),
            Phase::Free | Phase::Busy => None,
        }
    }

    /// Counts one level more if it is held. Of a hold that was lost there is none until it is released.
    pub(super) fn nest(&mut self) -> Nesting {
        match &mut self.phase {
            lost if lost.is_lost() => Nesting::Refused(ErrorKind::Compromised),
            Phase::Held { depth, .. } => {
                *depth += 1;
                Nesting::Nested
            }
            Phase::Free | Phase::Busy => Nesting::No,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Free) && self.waiting.is_empty()
    }
}
