//! Who gives a marker back while others wait lets them go first.
//!
//! Waking a waiter takes longer than coming straight back: a releaser that loops would keep the lock for ever. There
//! is no line to ask, for a line needs a file that stays, and a marker goes with each holder.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fork::ForkMutex;

/// How long a waiter takes from being woken to having made a marker of its own, with something to spare.
const HEAD_START: Duration = Duration::from_micros(300);

/// The name of the last marker that was given back while others waited, and until when they go first.
static OWED: ForkMutex<Option<(OsString, Instant)>> = ForkMutex::new();

/// Notes that others waited for the marker `name` that is given back now.
pub(super) fn owe(name: &OsStr) {
    let until = Instant::now() + HEAD_START;
    *OWED.lock() = Some((name.to_owned(), until));
}

/// Until when others go first at the name that `path` ends with.
pub(super) fn due(path: &Path) -> Option<Instant> {
    let owed = OWED.lock();
    let (owed_name, until) = owed.as_ref()?;
    (path.file_name() == Some(owed_name) && Instant::now() < *until).then_some(*until)
}
