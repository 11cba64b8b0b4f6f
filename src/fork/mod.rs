//! Forks: what a child must not keep of its parent's, and how it notices that it is one.
//!
//! The handlers run around every fork. In the child, before anything else does, they count the generation up, so that
//! whatever was made before belongs to an ancestor, and close its copies of our files ([`Tracked`]). State that a child
//! finds fresh lies in a [`ForkMutex`].

mod listing;
mod mutex;
mod tracked;
mod transit;

use std::cell::RefCell;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

pub use mutex::ForkMutex;
pub use tracked::Listed;
pub(crate) use tracked::Tracked;

use crate::sys;
use transit::Still;

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// How many forks lie between the process that loaded this library and the one that asks.
///
/// Whatever was made in another generation belongs to an ancestor: a child neither unlocks nor closes it.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

static HANDLERS: Once = Once::new();

/// Has every later fork of this process noticed.
///
/// The first acquisition does it too. But a fork by another thread at that very moment would leave the child
/// waiting for ever for a thread that it does not have; so a program with threads calls this first.
pub fn watch_forks() {
    HANDLERS.call_once(|| {
        sys::mark_process();
        sys::install_fork_handlers(before_fork, after_fork_in_parent, after_fork_in_child);
    });
}

/// Notices that this process was forked without the handlers (by a bare `clone` or `_Fork`): it has no mark. Asked as
/// an acquisition begins and as a release does.
pub(crate) fn notice_fork() {
    watch_forks();
    if !sys::is_process_marked() && sys::mark_process() {
        become_child(Still::at_once());
    }
}

thread_local! {
    /// From just before a fork until just after it.
    static FORKING: RefCell<Option<Still>> = const { RefCell::new(None) };
}

extern "C" fn before_fork() {
    let still = Still::begin();
    // Where a thread forks from its very last destructor, it ends at once instead.
    let _unreachable = FORKING.try_with(|forking| forking.borrow_mut().replace(still));
}

extern "C" fn after_fork_in_parent() {
    drop(take_forking());
}

extern "C" fn after_fork_in_child() {
    sys::mark_process();
    become_child(take_forking());
}

fn take_forking() -> Option<Still> {
    FORKING.try_with(|forking| forking.borrow_mut().take()).ok().flatten()
}

fn become_child(still: Option<Still>) {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    if let Some(still) = still {
        still.close_inherited();
    }
}
