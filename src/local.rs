//! On which file systems a system call comes back soon, as far as is known.
//!
//! Who must not block (the thread of an event loop) asks what is known, and lets another thread find out the rest: on a
//! network mount that hangs, the question itself never returns.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::fork::ForkMutex;
use crate::path;
use crate::sys;

/// The most folders that are remembered; then they are asked again.
const MOST_FOLDERS: usize = 4096;

static FOLDERS: ForkMutex<HashMap<PathBuf, bool>> = ForkMutex::new();

fn folder(path: &Path) -> Option<PathBuf> {
    path::absolute(path).ok()?.parent().map(Path::to_owned)
}

/// Whether calls on `path` are answered by this machine; `None`: nobody has asked yet. Touches nothing.
#[must_use]
pub fn is_known_quick(path: &Path) -> Option<bool> {
    let folder = folder(path)?;
    FOLDERS.lock().get(&folder).copied()
}

/// Finds out. Like every call on a file system that is not of this machine, it may take any time.
#[must_use]
pub fn learn_quickness(path: &Path) -> bool {
    let is_quick = sys::is_path_known_local(path);
    if let Some(folder) = folder(path) {
        let mut folders = FOLDERS.lock();
        if folders.len() >= MOST_FOLDERS {
            folders.clear();
        }
        folders.insert(folder, is_quick);
    }
    is_quick
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_out_of_a_folder_is_known_of_its_files() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        assert_eq!(is_known_quick(&folder.path().join("x.lock")), None);
        let found = learn_quickness(&folder.path().join("x.lock"));
        assert_eq!(is_known_quick(&folder.path().join("y.lock")), Some(found));
    }
}
