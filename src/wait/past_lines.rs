//! Lines that were found not to move.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::fork::ForkMutex;
use crate::mechanism::Manners;
use crate::path;

/// For how long a process goes past a line after it found that it does not move.
const FOR_A_WHILE: Duration = Duration::from_secs(1);

/// Whether there may be any: the first attempt of each acquisition asks.
static MAY_BE_ANY: AtomicBool = AtomicBool::new(false);

static PAST_LINES: ForkMutex<Vec<PastLine>> = ForkMutex::new();

/// A line that was found not to move.
#[derive(Debug)]
struct PastLine {
    /// The canonical path of its lock.
    path: PathBuf,
    /// Until then this process goes past it.
    until: Instant,
    /// How it does: who saw it himself reports it. Who was told does not, or two would tell each other for ever.
    manners: Manners,
}

/// Goes past the line for `path`, which is canonical, for a while.
pub(super) fn go_past_line(path: &Path, manners: Manners) {
    let now = Instant::now();
    let Some(until) = now.checked_add(FOR_A_WHILE) else { return };
    let mut past_lines = PAST_LINES.lock();
    past_lines.retain(|past| past.until > now && past.path != path);
    MAY_BE_ANY.store(true, Ordering::Relaxed);
    past_lines.push(PastLine { path: path.to_owned(), until, manners });
}

/// How a newcomer to the line for `path` behaves who can wait: as long as it moves, it does not overtake.
pub(crate) fn manners(path: &Path) -> Manners {
    if !MAY_BE_ANY.load(Ordering::Relaxed) {
        return Manners::Polite;
    }
    // The first attempt of an acquisition is made with the path as it was given.
    let Ok(path) = path::canonical(path) else { return Manners::Polite };
    let now = Instant::now();
    let mut past_lines = PAST_LINES.lock();
    past_lines.retain(|past| past.until > now);
    MAY_BE_ANY.store(!past_lines.is_empty(), Ordering::Relaxed);
    past_lines.iter().find(|past| past.path == path).map_or(Manners::Polite, |past| past.manners)
}
