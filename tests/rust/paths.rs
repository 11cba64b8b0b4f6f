//! Which file a path means.

use std::os::unix::fs::symlink;

use ferrolock::path::canonical;

use crate::support::{Checked, Place};

#[test]
fn links_above_are_followed_and_the_last_one_is_not() -> Checked {
    let place = Place::new()?;
    let folder = place.path.parent().ok_or("a file in a folder")?.canonicalize()?;
    std::fs::create_dir(folder.join("real"))?;
    symlink("real", folder.join("link"))?;
    symlink("nowhere", folder.join("real/x.lock"))?;
    assert_eq!(canonical(&folder.join("link/x.lock"))?, folder.join("real/x.lock"));
    assert_eq!(canonical(&folder.join("link/new/x.lock"))?, folder.join("real/new/x.lock"));
    Ok(())
}
