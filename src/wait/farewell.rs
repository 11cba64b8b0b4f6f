//! Waits that are over, and are not told so yet: a thread still asks for what only they wanted.
//!
//! It may be given the lock in that moment. So whoever is told that a wait is over, in whatever way, must find that thread
//! gone: the lock that he gives back, or knows to be free, would seem to be held otherwise.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::canonical;
use super::crew::{At, PATIENCE, Sleeper};
use super::deferred::Entry;
use super::desk::{DESK, Desk, Key, is_any};
use crate::mechanism::Mode;

/// How often who wants threads to be gone looks whether they are.
const BETWEEN_LOOKS: Duration = Duration::from_micros(50);

/// Who is to be told that he has left a line.
type Leaver = (Arc<Key>, Arc<Entry>);

/// A lock that was got for a line, or is asked for a last time for somebody who is in it no more, from then until it is
/// somebody's or was given back.
pub(super) struct InHand<'a>(&'a Arc<Key>);

impl<'a> InHand<'a> {
    pub(super) fn new(key: &'a Arc<Key>) -> Self {
        Self::of(&mut DESK.lock(), key)
    }

    pub(super) fn of(desk: &mut Desk, key: &'a Arc<Key>) -> Self {
        desk.in_hand.push(Arc::clone(key));
        Self(key)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let mut desk = DESK.lock();
        if let Some(index) = desk.in_hand.iter().position(|key| key == self.0) {
            desk.in_hand.swap_remove(index);
        }
    }
}

/// Takes a waiter out of its line, if it is still there. Says whether something is still asked for that only it wanted, or
/// was got and is in somebody's hand; then it is [told](Entry::has_left) when that is over.
pub(super) fn leave(key: &Arc<Key>, entry: &Arc<Entry>) -> bool {
    let (left, sleeper, is_told) = {
        let mut desk = DESK.lock();
        let is_in_hand = desk.in_hand.contains(key);
        let mut is_other = false;
        let left = desk.lines.get_mut(key).and_then(|line| {
            let index = line.waiters.iter().position(|waiting| Arc::ptr_eq(&waiting.entry, entry))?;
            let left = line.waiters.remove(index);
            let front = line.waiters.front().map(|waiting| waiting.entry.party.mode);
            // Nobody is left, or who is first now wants something else: what is being waited for is of no use.
            is_other = index == 0 && front != Some(entry.party.mode);
            left
        });
        let sleeper = if is_other && !is_in_hand { desk.server(key) } else { None };
        let is_told = is_in_hand || sleeper.is_some();
        if is_told {
            desk.leaving.push((Arc::clone(key), Arc::clone(entry)));
            desk.note_lines();
        }
        (left, sleeper, is_told)
    };
    drop(left);
    let is_stuck = |sleeper: Sleeper| !sleeper.rouse() && entry.target.mechanism().wakes_waiters(&key.path);
    if sleeper.is_some_and(is_stuck) {
        // The program has taken the signal, and this thread may stay in the kernel until the lock is free.
        drop(take_out(|_, leaving| Arc::ptr_eq(leaving, entry)));
        return false;
    }
    is_told
}

/// Wakes who sees to the line, for somebody who is leaving it.
pub(super) fn hurry(key: &Arc<Key>) {
    let sleeper = DESK.lock().server(key);
    if let Some(sleeper) = sleeper {
        sleeper.rouse();
    }
}

/// Has the threads come away from `path` that ask there for nobody any more, for somebody who asks once. One that hangs is
/// not waited for.
pub(super) fn see_off(path: &Path) {
    let leaving = || DESK.lock().leaving.iter().map(|(key, _)| Arc::clone(key)).collect::<Vec<_>>();
    if !is_any() || leaving().is_empty() {
        return;
    }
    let Ok(path) = canonical(path) else { return };
    let begin = Instant::now();
    while let Some(key) = leaving().into_iter().find(|key| key.path == path) {
        if begin.elapsed() > PATIENCE {
            return;
        }
        hurry(&key);
        super::sleep(BETWEEN_LOOKS);
    }
}

/// Whether the first of the line wants the lock in this mode, in which the calling thread asks for it. Then nobody who is
/// leaving the line has to wait for it: what he wanted is wanted again, or the thread does not ask for it.
pub(super) fn is_wanted(key: &Arc<Key>, mode: Mode) -> bool {
    let gone = {
        let mut desk = DESK.lock();
        if !desk.wants(key, mode) {
            return false;
        }
        take_out_of(&mut desk, |leaving, _| leaving == key)
    };
    tell(gone);
    true
}

/// Tells those who are leaving that nothing is asked for any more that only they wanted.
pub(super) fn say_farewell(key: &Arc<Key>) {
    say_farewells(|leaving| leaving == key);
}

/// The same for all lines but those that are `kept` by the thread that polls, and those that have a porter.
pub(super) fn say_farewells_but_to(is_kept: impl Fn(&Arc<Key>) -> bool) {
    let served: Vec<_> = {
        let desk = DESK.lock();
        let at = desk.threads.iter().map(|thread| &thread.at);
        at.filter_map(|at| if let At::Serving(key) = at { Some(Arc::clone(key)) } else { None }).collect()
    };
    say_farewells(|leaving| !is_kept(leaving) && !served.contains(leaving));
}

/// The same for those to whom nobody sees any more: a thread that has seen to a line counts as its server until it is at
/// something else, and whoever leaves a new line of that name meanwhile relies on it.
pub(super) fn say_last_farewells() {
    let unseen: Vec<_> = {
        let desk = DESK.lock();
        let keys = desk.leaving.iter().map(|(key, _)| key);
        keys.filter(|key| desk.server(key).is_none()).map(Arc::clone).collect()
    };
    say_farewells(|leaving| unseen.contains(leaving));
}

pub(super) fn say_farewells(is_meant: impl Fn(&Arc<Key>) -> bool) {
    tell(take_out(|key, _| is_meant(key)));
}

fn tell(gone: Vec<Leaver>) {
    for (_, entry) in gone {
        entry.has_left();
    }
}

fn take_out(is_meant: impl Fn(&Arc<Key>, &Arc<Entry>) -> bool) -> Vec<Leaver> {
    take_out_of(&mut DESK.lock(), is_meant)
}

fn take_out_of(desk: &mut Desk, is_meant: impl Fn(&Arc<Key>, &Arc<Entry>) -> bool) -> Vec<Leaver> {
    if desk.leaving.is_empty() {
        return Vec::new();
    }
    let leaving = std::mem::take(&mut desk.leaving);
    let (gone, stay) = leaving.into_iter().partition(|(key, entry)| is_meant(key, entry));
    desk.leaving = stay;
    desk.note_lines();
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::{Lock, Scope};
    use crate::mechanism::{Attempt, KernelLock, Manners, Mechanism};
    use crate::owner::OwnerId;
    use crate::registry::LockId;
    use crate::time::Timeout;
    use crate::wait::crew::Thread;
    use crate::wait::{Deferred, FAR, Patience, Request, porter};

    /// Has the desk count on a thread that is not there.
    fn pretend(at: At) -> LockId {
        let id = LockId::next();
        DESK.lock().threads.push(Thread { id, handle: None, at, is_to_end: true });
        id
    }

    /// Between the end of its line and what it does next a thread counts as its server, also of a new line of that name.
    #[test]
    fn who_relied_on_a_thread_that_is_done_with_its_line_is_told() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = canonical(&folder.path().join("x.lock"))?;
        let holder = KernelLock::default().try_acquire(&path, Manners::Hasty.into())?;
        assert!(matches!(holder, Attempt::Acquired(_)));
        let lock = Arc::new(Lock::new(Box::new(KernelLock::default()), Scope::Shared));
        let key = Arc::new(Key::new(path.clone(), &*lock, None));
        let patience = Patience { timeout: Timeout::Never, poll_interval: FAR, lifetime: None };
        let owner = OwnerId::unique();
        let request = Request { owner, debtor: owner, path: &path, patience };
        let waiter = Deferred::for_lock(lock, &request, false, Box::new(|| true));
        assert!(!waiter.attempt().map_err(|unmet| unmet.error)?);
        let done = pretend(At::Serving(key));
        // Whom the desk wakes for the new line, and who comes too late.
        let idle = pretend(At::Idle(Instant::now()));
        waiter.wait().map_err(|unmet| unmet.error)?;
        waiter.withdraw();
        assert!(waiter.is_leaving());
        porter::work(done);
        assert!(!waiter.is_leaving());
        DESK.lock().threads.retain(|thread| thread.id != done && thread.id != idle);
        Ok(())
    }
}
