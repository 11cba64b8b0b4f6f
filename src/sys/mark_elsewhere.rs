//! A mark that only one process has: its number.

use std::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Whether this process, and not an ancestor of it, was the last to call [`mark_process`].
pub(crate) fn is_process_marked() -> bool {
    NUMBER.load(Ordering::Relaxed) == std::process::id()
}

/// Marks this process; `false`: it was marked already.
pub(crate) fn mark_process() -> bool {
    let own = std::process::id();
    NUMBER.swap(own, Ordering::Relaxed) != own
}

/// The number of this process.
pub(crate) fn own_pid() -> u32 {
    std::process::id()
}
