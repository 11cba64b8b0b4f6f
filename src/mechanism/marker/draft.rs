//! A marker of one's own: the record is complete before the name appears.
//!
//! A name that appears first, with the record to follow, belongs to nobody for a moment; and if its owner dies in that
//! moment, for ever.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::site::Site;
use crate::error::Error;
use crate::fork::Tracked;
use crate::process;
use crate::sys::{self, FileId, names};

/// Write permissions that no marker has: its record is the owner's word.
const NEVER: u32 = 0o022;

/// A record older than this when it gets its name is stamped anew: a contender with a `lifetime` must not find a
/// fresh lock already old. Only somebody who was stopped in between is so slow.
const STILL_FRESH: Duration = Duration::from_millis(10);

/// How often a private name is drawn until one is free.
const ROUNDS: usize = 4;

/// A marker that was made, open for as long as it is held.
#[derive(Debug)]
pub(in crate::mechanism) struct OwnMarker {
    pub(in crate::mechanism) file: Tracked,
}

impl OwnMarker {
    pub(in crate::mechanism) fn id(&self) -> FileId {
        self.file.facts().id
    }
}

/// Makes a marker of this process at `name`; `None`: the name is taken.
///
/// Three ways, each for where the one before does not exist: a file that has no name yet; a file with a private name
/// and a second, hard link; creating the name itself, with the record after it.
pub(in crate::mechanism) fn create(
    site: &Site,
    name: &OsStr,
    mode: Option<u32>,
) -> Result<Option<OwnMarker>, Error> {
    let is_unsupported = |error: &io::Error| error.kind() == io::ErrorKind::Unsupported;
    match create_unnamed(site, name, mode) {
        Err(error) if is_unsupported(&error) => {}
        created => return none_if_taken(site, created),
    }
    match create_linked(site, name, mode) {
        Err(error) if is_unsupported(&error) => {}
        created => return none_if_taken(site, created),
    }
    none_if_taken(site, create_plain(site, name, mode))
}

fn none_if_taken(site: &Site, created: io::Result<OwnMarker>) -> Result<Option<OwnMarker>, Error> {
    match created {
        Ok(draft) => Ok(Some(draft)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(site.failed("create", error)),
    }
}

fn create_unnamed(site: &Site, name: &OsStr, mode: Option<u32>) -> io::Result<OwnMarker> {
    let begin = Instant::now();
    let at = site.named(name)?;
    let draft = OwnMarker { file: Tracked::open(|| names::create_unnamed(at.folder, bits(mode)))? };
    draft.fill(mode)?;
    draft.freshen(begin)?;
    names::name_unnamed(draft.file.own_file()?, at)?;
    Ok(draft)
}

fn create_linked(site: &Site, name: &OsStr, mode: Option<u32>) -> io::Result<OwnMarker> {
    let begin = Instant::now();
    let (private, draft) = create_private(site, mode)?;
    let at = site.named(&private)?;
    let named = draft.fill(mode).and_then(|()| draft.freshen(begin)).and_then(|()| names::link(at, name));
    let named = judge_by_name(site, name, &draft, named);
    let removed = names::remove(at);
    named?;
    // The lock is had; a private name that stays is in nobody's way.
    drop(removed);
    Ok(draft)
}

/// What became of naming the draft, whatever the call said. NFS may repeat a request whose answer got lost, and then say
/// that the name is taken, by us; or it gives up waiting for the answer, with an error. A marker of ours that nobody
/// knows of would be held as long as this process lives.
fn judge_by_name(site: &Site, name: &OsStr, draft: &OwnMarker, named: io::Result<()>) -> io::Result<()> {
    let look = || names::look(site.named(name)?);
    named.or_else(|error| match look() {
        Ok(Some(stamp)) if stamp.id == draft.id() => Ok(()),
        Ok(_) | Err(_) => Err(error),
    })
}

fn create_private(site: &Site, mode: Option<u32>) -> io::Result<(OsString, OwnMarker)> {
    let mut round = 0;
    loop {
        round += 1;
        let name = OsString::from(format!(".ferrolock.{}.{}", std::process::id(), random_hex()));
        match Tracked::open(|| names::create_new(site.named(&name)?, bits(mode))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && round < ROUNDS => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(io::Error::other(error));
            }
            created => return Ok((name, OwnMarker { file: created? })),
        }
    }
}

fn create_plain(site: &Site, name: &OsStr, mode: Option<u32>) -> io::Result<OwnMarker> {
    let at = site.named(name)?;
    let draft = OwnMarker { file: Tracked::open(|| names::create_new(at, bits(mode)))? };
    draft.fill(mode).inspect_err(|_| drop(names::remove(at)))?;
    Ok(draft)
}

impl OwnMarker {
    /// Writes the record, and takes the lock by which waiters of this machine are woken.
    fn fill(&self, mode: Option<u32>) -> io::Result<()> {
        let mut file = self.file.own_file()?;
        if mode.is_some() {
            names::set_mode(file, bits(mode))?;
        }
        file.write_all(&process::own_record().to_bytes())?;
        if sys::is_known_local(file, self.id()) {
            // Nobody else knows the file yet. Who cannot be woken asks again and again.
            drop(sys::try_lock(file));
        }
        Ok(())
    }

    /// Stamps anew what was begun at `begin`, if that is a while ago.
    pub(super) fn freshen(&self, begin: Instant) -> io::Result<()> {
        if begin.elapsed() < STILL_FRESH { Ok(()) } else { names::touch(self.file.own_file()?) }
    }
}

/// The permission bits of a new marker.
fn bits(mode: Option<u32>) -> u32 {
    mode.unwrap_or(0o666) & !NEVER
}

/// 32 digits that nobody else draws.
pub(in crate::mechanism) fn random_hex() -> String {
    format!("{:032x}", fastrand::u128(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_that_has_its_name_is_made_whatever_the_call_says() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::open(&folder.path().join("x.lock")).unwrap();
        let (private, draft) = create_private(&site, None).unwrap();
        let errors = [io::ErrorKind::AlreadyExists, io::ErrorKind::TimedOut, io::ErrorKind::Other];
        for kind in errors {
            let judged = judge_by_name(&site, &site.name, &draft, Err(kind.into()));
            assert_eq!(judged.map_err(|error| error.kind()), Err(kind), "it has no name yet");
        }
        names::link(site.named(&private).unwrap(), &site.name).unwrap();
        for kind in errors {
            assert!(judge_by_name(&site, &site.name, &draft, Err(kind.into())).is_ok(), "{kind}");
        }
    }
}
