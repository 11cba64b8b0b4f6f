//! What a caller should be told although nothing failed.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fork::ForkMutex;

static POSTED: ForkMutex<Vec<String>> = ForkMutex::new();
/// For those who would look in vain: nearly always.
static IS_ANY: AtomicBool = AtomicBool::new(false);

/// Leaves a notice for whoever asks next.
pub(crate) fn post(notice: String) {
    POSTED.lock().push(notice);
    IS_ANY.store(true, Ordering::Release);
}

/// Takes the notices that were left since somebody last asked: about file systems whose locks do nothing, or do not
/// reach other hosts. Each comes once a process.
#[must_use]
pub fn take_notices() -> Vec<String> {
    if !IS_ANY.load(Ordering::Acquire) {
        return Vec::new();
    }
    IS_ANY.store(false, Ordering::Release);
    mem::take(&mut *POSTED.lock())
}
