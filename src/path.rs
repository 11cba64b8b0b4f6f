//! Which file a path means, fixed when an acquisition starts.

use std::borrow::Cow;
use std::io;
use std::path::{self, Path, PathBuf};

use crate::sys::{self, FileId};

/// Makes `path` independent of later changes of the working directory.
///
/// Links stay as they are. The empty path stays empty, for the operating system to refuse.
///
/// # Errors
/// Whatever asking for the working directory gives.
pub fn absolute(path: &Path) -> io::Result<Cow<'_, Path>> {
    if path.is_absolute() || path.as_os_str().is_empty() {
        return Ok(Cow::Borrowed(path));
    }
    path::absolute(path).map(Cow::Owned)
}

/// Follows the links of the folder, but not one at the end: the one name of the place that is locked.
///
/// Folders that do not exist yet are taken as they are spelt.
///
/// # Errors
/// Whatever following the links gives, apart from `NotFound`.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    let path = absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok(resolve_existing(folder)?.join(name)),
        _ => Ok(path.into_owned()),
    }
}

fn resolve_existing(folder: &Path) -> io::Result<PathBuf> {
    match (folder.canonicalize(), folder.parent(), folder.file_name()) {
        (Err(error), Some(above), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(resolve_existing(above)?.join(name))
        }
        (resolved, _, _) => resolved,
    }
}

/// The file that `path` leads to, where it can be known.
#[must_use]
pub fn file_at(path: &Path) -> Option<FileId> {
    sys::id_at(path).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_bound_to_the_present_folder() -> io::Result<()> {
        let here = std::env::current_dir()?;
        assert_eq!(absolute(Path::new("x.lock"))?, here.join("x.lock"));
        assert_eq!(absolute(Path::new("/a/x.lock"))?, Path::new("/a/x.lock"));
        assert_eq!(absolute(Path::new(""))?, Path::new(""));
        Ok(())
    }
}
