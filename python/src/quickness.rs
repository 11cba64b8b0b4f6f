//! Whether calls on a lock object's path come back soon, as far as it knows.

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const QUICK: u8 = 1;
const SLOW: u8 = 2;

/// Whether calls on a path are answered by this machine.
#[derive(Default)]
pub(crate) struct Quickness(AtomicU8);

impl Quickness {
    /// As far as is known without asking.
    pub(crate) fn is_known_of(&self, path: &Path) -> bool {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => {
                let known = ferrolock::is_known_quick(path);
                if let Some(is_quick) = known {
                    self.note(is_quick);
                }
                known == Some(true)
            }
            known => known == QUICK,
        }
    }

    /// Finds out. That can take any time.
    pub(crate) fn learn_of(&self, path: &Path) {
        if self.0.load(Ordering::Relaxed) == UNKNOWN {
            self.note(ferrolock::learn_quickness(path));
        }
    }

    fn note(&self, is_quick: bool) {
        self.0.store(if is_quick { QUICK } else { SLOW }, Ordering::Relaxed);
    }
}
