//! The threads of the desk: what they are at, how each is started and woken, and how they end.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::desk::{DESK, Key, MOST_PORTERS};
use super::{porter, queue};
use crate::registry::LockId;
use crate::sys;

/// How long a fork, and the end of the process, wait for threads to end, and a non-blocking attempt for one to come away: it
/// may be in a system call that hangs.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);
pub(super) const LAST_PATIENCE: Duration = Duration::from_secs(2);

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
    /// `false`: it may be in a system call, and cannot be interrupted.
    pub(super) fn rouse(&self) -> bool {
        let Some(handle) = &self.handle else { return true };
        handle.thread().unpark();
        if !self.is_serving {
            return true;
        }
        queue::nudge(self.id);
        sys::interrupt(handle)
    }
}

/// How the desk gets somebody to serve a new line.
enum Hire {
    Wake(Vec<Sleeper>),
    Start(LockId),
}

/// Sees to it that somebody serves the lines without a porter.
pub(super) fn hire() -> io::Result<()> {
    let hire = {
        let mut desk = DESK.lock();
        let is_idle = |at: &At| matches!(at, At::Idle(_));
        let idle = desk.count(is_idle);
        let may_start = desk.count(|at| *at != At::Ended) <= MOST_PORTERS;
        if desk.unserved.len() > idle && may_start {
            let id = LockId::next();
            desk.threads.push(Thread { id, handle: None, at: At::Idle(Instant::now()), is_to_end: false });
            Hire::Start(id)
        } else {
            Hire::Wake(desk.sleepers(|at| is_idle(at) || *at == At::Polling))
        }
    };
    match hire {
        Hire::Wake(sleepers) => {
            for sleeper in &sleepers {
                sleeper.rouse();
            }
        }
        Hire::Start(id) => {
            join_ended();
            let started = sys::spawn_quiet("ferrolock-porter", move || porter::work(id));
            let mut desk = DESK.lock();
            let Some(index) = desk.threads.iter().position(|thread| thread.id == id) else { return Ok(()) };
            match started {
                Ok(handle) => desk.threads[index].handle = Some(Arc::new(handle)),
                Err(error) => {
                    desk.threads.swap_remove(index);
                    let is_anybody_left = desk.threads.iter().any(|thread| thread.at == At::Polling);
                    return if is_anybody_left { Ok(()) } else { Err(error) };
                }
            }
        }
    }
    Ok(())
}

/// Waits for the threads that have ended: a moment each.
fn join_ended() {
    let ended: Vec<_> = {
        let mut desk = DESK.lock();
        let desk = &mut *desk;
        let is_over = |thread: &Thread| thread.at == At::Ended && thread.handle.is_some();
        let ended: Vec<_> = desk
            .threads
            .iter_mut()
            .filter(|thread| is_over(thread))
            .filter_map(|thread| thread.handle.take())
            .collect();
        desk.threads.retain(|thread| thread.at != At::Ended || thread.handle.is_some());
        ended
    };
    for handle in ended {
        if let Some(handle) = Arc::into_inner(handle) {
            drop(handle.join());
        }
    }
}

/// Has the threads end that have nothing to do, and waits for that: before a fork, for one.
pub fn end_idle_porters() {
    end_idle_within(PATIENCE);
}

pub(super) fn end_idle_within(patience: Duration) {
    let begin = Instant::now();
    loop {
        let idle = DESK.lock().dismiss();
        if idle.is_empty() || begin.elapsed() > patience {
            break;
        }
        for sleeper in &idle {
            sleeper.rouse();
        }
        super::sleep(Duration::from_micros(50));
    }
    join_ended();
}
