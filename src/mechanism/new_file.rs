//! A file that is complete before it has a name that others look for.
//!
//! A name that appears first, with the content to follow, belongs to nobody for a moment; and if its maker dies in that
//! moment, for ever.

use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::folder::Folder;
use crate::fork::{self, Tracked};
use crate::sys::{self, FileId, names};

/// What is older than this when it gets its name is stamped anew: a contender with a `lifetime` must not find a fresh
/// lock already old. Only somebody who was stopped in between is so slow.
const STILL_FRESH: Duration = Duration::from_millis(10);

/// How often a private name is drawn until one is free.
const ROUNDS: usize = 4;

/// A file to be made.
pub(super) struct NewFile<'a> {
    /// Its permission bits, of which the umask takes some.
    pub(super) bits: u32,
    /// What it says.
    pub(super) content: &'a [u8],
    /// Does what else is to be done before it has its name.
    pub(super) settle: &'a dyn Fn(&Tracked) -> io::Result<()>,
    /// Draws a name that it may have before, where files without a name do not exist.
    pub(super) private_name: &'a dyn Fn() -> OsString,
}

impl NewFile<'_> {
    /// Makes it and gives it a name that nothing has.
    ///
    /// Two ways, the second where the first one does not exist: a file that has no name yet; a file with a private name,
    /// and a second, hard link.
    ///
    /// # Errors
    /// `AlreadyExists`: something has the name. `Unsupported`: there are no hard links.
    pub(super) fn publish(&self, folder: &Folder, name: &OsStr) -> io::Result<Tracked> {
        match self.publish_unnamed(folder, name) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.publish_linked(folder, name),
            published => published,
        }
    }

    fn publish_unnamed(&self, folder: &Folder, name: &OsStr) -> io::Result<Tracked> {
        let begin = Instant::now();
        let at = folder.named(name)?;
        // Written before anybody has asked for its times, and be it this process: whatever changes a file after that is told
        // apart, which takes the file system another write of the inode.
        let made = Tracked::open(|| {
            let file = names::create_unnamed(at.folder, self.bits)?;
            (&file).write_all(self.content)?;
            Ok(file)
        })?;
        (self.settle)(&made)?;
        freshen(&made, begin)?;
        names::name_unnamed(made.own_file()?, at)?;
        Ok(made)
    }

    fn publish_linked(&self, folder: &Folder, name: &OsStr) -> io::Result<Tracked> {
        let begin = Instant::now();
        let (private, made) = self.create_private(folder)?;
        let at = folder.named(&private)?;
        let fill = || {
            made.own_file()?.write_all(self.content)?;
            (self.settle)(&made)?;
            freshen(&made, begin)
        };
        let named = fill().and_then(|()| names::link(at, name));
        let named = judge_by_name(folder, name, made.stamp().id, named);
        let removed = names::remove(at);
        named?;
        // It has its name; a private one that stays is in nobody's way.
        drop(removed);
        Ok(made)
    }

    fn create_private(&self, folder: &Folder) -> io::Result<(OsString, Tracked)> {
        let mut round = 0;
        loop {
            round += 1;
            let name = (self.private_name)();
            match Tracked::open(|| names::create_new(folder.named(&name)?, self.bits)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && round < ROUNDS => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(io::Error::other(error));
                }
                created => return Ok((name, created?)),
            }
        }
    }
}

/// What became of giving `name` to the file `id`, whatever the call said. NFS may repeat a request whose answer got lost,
/// and then say that the name is taken, by us; or it gives up waiting for the answer, with an error. A file of ours that
/// nobody knows of would keep others out as long as this process lives.
pub(super) fn judge_by_name(
    folder: &Folder,
    name: &OsStr,
    id: FileId,
    named: io::Result<()>,
) -> io::Result<()> {
    let look = || names::look(folder.named(name)?);
    named.or_else(|error| match look() {
        Ok(Some(stamp)) if stamp.id == id => Ok(()),
        Ok(_) | Err(_) => Err(error),
    })
}

/// Stamps anew what was begun at `begin`, if that is a while ago.
pub(super) fn freshen(made: &Tracked, begin: Instant) -> io::Result<()> {
    if begin.elapsed() < STILL_FRESH { Ok(()) } else { names::touch(made.own_file()?) }
}

/// 32 digits that nobody else draws: no thread, no machine, and no forked child, which has a copy of whatever its parent
/// draws numbers from.
pub(super) fn random_hex() -> String {
    // The operating system's, for each thread.
    let secret = std::collections::hash_map::RandomState::new();
    let here = (sys::own_pid(), fork::generation(), Instant::now());
    format!("{:016x}{:016x}", secret.hash_one((0, here)), secret.hash_one((1, here)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_file<'a>() -> NewFile<'a> {
        NewFile {
            bits: 0o600,
            content: b"",
            settle: &|_| Ok(()),
            private_name: &|| OsString::from(format!("private.{}", random_hex())),
        }
    }

    #[test]
    fn a_file_that_has_its_name_is_made_whatever_the_call_says() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path()).unwrap();
        let (private, made) = new_file().create_private(&folder).unwrap();
        let (name, id) = (OsStr::new("x.lock"), made.stamp().id);
        let errors = [io::ErrorKind::AlreadyExists, io::ErrorKind::TimedOut, io::ErrorKind::Other];
        for kind in errors {
            let judged = judge_by_name(&folder, name, id, Err(kind.into()));
            assert_eq!(judged.map_err(|error| error.kind()), Err(kind), "it has no name yet");
        }
        names::link(folder.named(&private).unwrap(), name).unwrap();
        for kind in errors {
            assert!(judge_by_name(&folder, name, id, Err(kind.into())).is_ok(), "{kind}");
        }
    }

    /// Whatever is written after somebody has asked for the times gets times of its own, and the inode is written once more.
    #[test]
    fn it_is_written_before_anybody_asks_for_its_times() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path()).unwrap();
        let new = NewFile { content: b"content", ..new_file() };
        match new.publish_unnamed(&folder, OsStr::new("x.lock")) {
            Ok(made) => assert_eq!(made.stamp().size, 7),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
    }

    #[test]
    fn no_number_is_drawn_twice() {
        let draw = || std::iter::repeat_with(random_hex).take(1000).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let mut drawn: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn.len(), 4000);
        assert!(drawn.iter().all(|hex| hex.len() == 32));
    }
}
