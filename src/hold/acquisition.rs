//! An acquisition: its first attempt, and what follows if that was not enough.
//!
//! The two are apart, so that a caller can make the first with something in hand that it would not keep through a wait.

use std::path::Path;

use super::{Level, Lock, Waiting};
use crate::error::Error;
use crate::mechanism::{Attempt, Mode};
use crate::owner::OwnerId;
use crate::time::Deadline;
use crate::wait::{Answer, Contender, FAR, Nesting, Patience, Watch};

/// What the beginning of an acquisition came to.
#[derive(Debug)]
pub enum Begun<'a> {
    /// It is done.
    Held(Level),
    /// The first attempt was not enough.
    Pending(Pending<'a>),
}

/// An acquisition after its first attempt.
#[derive(Debug)]
pub struct Pending<'a> {
    pub(super) asked: Asked<'a>,
    pub(super) first: Result<Attempt, Error>,
}

impl Pending<'_> {
    /// Waits for the lock, if it is to be waited for.
    ///
    /// # Errors
    /// As of [`Lock::acquire`].
    pub fn go_on(self, watch: &mut dyn Watch) -> Result<Level, Error> {
        let Asked { lock, owner, .. } = self.asked;
        let nest = || lock.try_nest(owner);
        let enter = || Waiting::enter(lock, owner);
        match self.asked.contender(&nest).go_on(self.first, None, watch, enter)? {
            Answer::Acquired(guard) => Ok(lock.commit(owner, owner, guard)),
            Answer::Nested => Ok(Level::Nested),
        }
    }
}

/// Who wants the lock, where, and for how long he waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) lock: &'a Lock,
    pub(super) owner: OwnerId,
    pub(super) path: &'a Path,
    pub(super) patience: Patience,
    pub(super) deadline: Deadline,
}

impl<'a> Asked<'a> {
    pub(super) fn contender(&self, nest: &'a dyn Fn() -> Nesting) -> Contender<'a> {
        Contender {
            lock: self.lock.id,
            owner: self.owner,
            mechanism: &*self.lock.mechanism,
            mode: Mode::Exclusive,
            path: self.path,
            deadline: self.deadline,
            poll_interval: self.patience.poll_interval.min(FAR),
            lifetime: self.patience.lifetime,
            nest,
        }
    }
}
