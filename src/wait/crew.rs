//! The threads of the desk: what they are at, and how each is woken.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::desk::Key;
use super::queue;
use crate::registry::LockId;
use crate::sys;

/// A thread of ours. It is waited for when it has ended, so that none is left over without a name.
#[derive(Debug)]
pub(super) struct Thread {
    /// Its name, also among those who wait in the kernel.
    pub(super) id: LockId,
    /// `None` while it is being started.
    pub(super) handle: Option<Arc<JoinHandle<()>>>,
    pub(super) at: At,
    pub(super) is_to_end: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    Idle(Instant),
    Serving(Arc<Key>),
    Polling,
    Ended,
}

/// What a thread is to do.
#[derive(Debug)]
pub(super) enum Task {
    Serve(Arc<Key>),
    /// Make a round of the lines without a porter.
    Poll,
    Rest(Duration),
    End,
}

/// A thread to be woken, wherever it sleeps.
#[derive(Debug, Clone)]
pub(super) struct Sleeper {
    pub(super) id: LockId,
    /// It may sleep in a system call or in the queue of a path, rather than between two tasks.
    is_serving: bool,
    pub(super) handle: Option<Arc<JoinHandle<()>>>,
}

impl Thread {
    pub(super) fn sleeper(&self) -> Sleeper {
        let is_serving = matches!(self.at, At::Serving(_));
        Sleeper { id: self.id, is_serving, handle: self.handle.clone() }
    }
}

impl Sleeper {
    pub(super) fn rouse(&self) {
        if let Some(handle) = &self.handle {
            handle.thread().unpark();
            if self.is_serving {
                queue::nudge(self.id);
                sys::interrupt(handle);
            }
        }
    }
}
