//! Taking the place of a marker that holds nothing any more.
//!
//! The protocol is filelock's (4.2), which takes part: a contender makes a marker of its own *aside*, lets the two
//! names swap their files in one step, and then looks what it got. If that is the file it had judged, the lock is
//! had, and at no moment did the name stand empty. If not, somebody else was faster, and what came out may be a live
//! owner's: it is put back. docs/architecture/marker.md has the interleavings, `tests/rust/models` tries them all.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, Instant};

use super::aside::OwnAside;
use super::draft::{self, OwnMarker};
use super::form::Form;
use super::occupant::Occupant;
use super::recover::{Recovery, recover};
use super::site::Site;
use crate::error::Error;
use crate::sys::{FileId, Stamp, names};
use crate::wait;

/// How long a contender tries to put back what it took by mistake.
const PUT_BACK: Duration = Duration::from_secs(2);

/// For how long somebody else's marker may be where ours was, until the exchange is made all the same: who has
/// exchanged it there puts it back at once, unless he was stopped.
const STALL: Duration = Duration::from_millis(10);
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);

/// Replaces the stale marker `judged` by one of our own; `None`: it could not be had, somebody else may hold it.
pub(super) fn reclaim(site: &Site, judged: &Occupant, form: &Form) -> Result<Option<OwnMarker>, Error> {
    if !site.is_still(judged.stamp())? {
        return Ok(None);
    }
    if let Some(dead_pid) = judged.dead_pid() {
        if recover(site, judged, dead_pid)? == Recovery::NotToBeHad {
            return Ok(None);
        }
    }
    let own_aside = OwnAside::new(site);
    let name = &own_aside.name;
    if names::MOVES_BY_RENAME {
        let moved = move_away(site, judged, name)?;
        return if moved { draft::create(site, &site.name, form) } else { Ok(None) };
    }
    let begin = Instant::now();
    let own = match draft::create(site, name, form) {
        Ok(Some(own)) => own,
        Ok(None) => return Ok(None),
        // There is no room for a longer name beside the marker's: nobody can reclaim it.
        Err(error) if error.os_error().is_some_and(names::is_too_long) => return Ok(None),
        Err(error) => return Err(error),
    };
    let aside = Aside { site, own: own.id(), own_file: &own, name };
    if !site.is_still(judged.stamp()).inspect_err(|_| aside.discard())? {
        aside.discard();
        return Ok(None);
    }
    own.freshen(begin).map_err(|error| {
        aside.discard();
        site.failed("touch", error)
    })?;
    // Whatever the call says, the names tell what was done: a server may repeat a request.
    let exchanged = aside.exchange();
    match aside.look() {
        Ok(Some(stamp)) if stamp.is_same_content(judged.stamp()) => {
            aside.discard();
            Ok(Some(own))
        }
        Ok(Some(stamp)) if stamp.id == own.id() => {
            aside.discard();
            none_if_impossible(site, exchanged).map(|()| None)
        }
        Ok(_) | Err(_) => {
            aside.put_back();
            Ok(None)
        }
    }
}

/// An exchange that is not allowed, or not possible here, leaves the marker to its owner.
fn none_if_impossible(site: &Site, exchanged: io::Result<()>) -> Result<(), Error> {
    match exchanged {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
            ) =>
        {
            Err(site.failed("exchange", error))
        }
        Err(_) | Ok(()) => Ok(()),
    }
}

/// Where there is no exchange, but a marker whose owner lives cannot be renamed: a plain rename, looked at after.
fn move_away(site: &Site, judged: &Occupant, aside: &OsStr) -> Result<bool, Error> {
    let named = |name| site.named(name).map_err(|error| site.failed("rename", error));
    let (at, aside) = (named(&site.name)?, named(aside)?);
    if !site.is_still(judged.stamp())? || names::rename(at, aside.name).is_err() {
        return Ok(false);
    }
    if names::look(aside).is_ok_and(|stamp| stamp.is_some_and(|stamp| stamp.is_same_content(judged.stamp())))
    {
        drop(names::remove(aside));
        return Ok(true);
    }
    if names::link(aside, at.name).is_ok() {
        drop(names::remove(aside));
    }
    Ok(false)
}

/// The name beside the marker's, and the marker of our own that was first there.
struct Aside<'a> {
    site: &'a Site,
    own: FileId,
    own_file: &'a OwnMarker,
    name: &'a OsStr,
}

impl Aside<'_> {
    fn look(&self) -> io::Result<Option<Stamp>> {
        names::look(self.site.named(self.name)?)
    }

    fn exchange(&self) -> io::Result<()> {
        names::exchange(self.site.named(self.name)?, &self.site.name)
    }

    /// Takes the name away. It is ours alone, so a failure leaves litter and nothing worse.
    fn discard(&self) {
        drop(self.site.named(self.name).and_then(names::remove));
    }

    /// Undoes an exchange that brought out another file than the one that was judged.
    ///
    /// A step that fails is tried again: until this is done, a live owner's marker may be under the wrong name.
    fn put_back(&self) {
        let begin = Instant::now();
        let mut stalled = None::<(FileId, Instant)>;
        while begin.elapsed() < PUT_BACK {
            if self.try_to_put_back(&mut stalled).unwrap_or(false) {
                return;
            }
            wait::sleep(BETWEEN_LOOKS);
        }
    }

    fn try_to_put_back(&self, stalled: &mut Option<(FileId, Instant)>) -> io::Result<bool> {
        match self.look()? {
            None => {
                // Somebody has removed what we had displaced. Ours holds nothing, and must not seem to.
                if names::look(self.site.at()?)?.is_some_and(|stamp| stamp.id == self.own) {
                    names::remove(self.site.at()?)?;
                }
                return Ok(true);
            }
            Some(stamp) if stamp.id == self.own => {
                self.discard();
                return Ok(true);
            }
            Some(_) => {}
        }
        let aside = self.site.named(self.name)?;
        match names::look(self.site.at()?)? {
            Some(stamp) if stamp.id == self.own => self.exchange()?,
            Some(_) if names::stamp_of(self.own_file.file.own_file()?)?.links == 0 => {
                // Somebody has removed ours, and somebody else has taken the lock since: there is nothing to undo.
                self.discard();
                return Ok(true);
            }
            Some(stamp) => match *stalled {
                Some((id, since)) if id == stamp.id => {
                    if since.elapsed() >= STALL {
                        *stalled = None;
                        self.exchange()?;
                    }
                }
                Some(_) | None => *stalled = Some((stamp.id, Instant::now())),
            },
            None => {
                names::link(aside, &self.site.name)?;
                self.discard();
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::super::aside::aside_of;
    use super::*;

    /// The name of a lock, and an exchange that was made there by mistake: ours is at the name, `X` is aside.
    struct Mistake {
        folder: TempDir,
        site: Site,
        own: OwnMarker,
        name: OsString,
    }

    impl Mistake {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.lock");
            let site = Site::open(&path).unwrap();
            let name = aside_of(&site, std::process::id());
            let own = draft::create(&site, &name, &Form::default()).unwrap().unwrap();
            fs::write(&path, "X").unwrap();
            names::exchange(site.named(&name).unwrap(), &site.name).unwrap();
            Self { folder, site, own, name }
        }

        fn aside(&self) -> Aside<'_> {
            Aside { site: &self.site, own: self.own.id(), own_file: &self.own, name: &self.name }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("x.lock")
        }

        fn aside_path(&self) -> PathBuf {
            self.folder.path().join(&self.name)
        }

        /// The content of the file at the name, if it is alone in its folder.
        fn outcome(&self) -> String {
            let names = fs::read_dir(self.folder.path()).unwrap().count();
            if names == 1 { fs::read_to_string(self.path()).unwrap() } else { format!("{names} names") }
        }
    }

    #[test]
    fn what_was_taken_by_mistake_is_put_back() {
        let mistake = Mistake::new();
        mistake.aside().put_back();
        assert_eq!(mistake.outcome(), "X");
    }

    #[test]
    fn where_ours_was_removed_and_nobody_came_it_is_put_back_too() {
        let mistake = Mistake::new();
        fs::remove_file(mistake.path()).unwrap();
        mistake.aside().put_back();
        assert_eq!(mistake.outcome(), "X");
    }

    #[test]
    fn where_ours_was_removed_and_somebody_has_the_lock_there_is_nothing_to_undo() {
        let mistake = Mistake::new();
        fs::remove_file(mistake.path()).unwrap();
        fs::write(mistake.path(), "Y").unwrap();
        mistake.aside().put_back();
        assert_eq!(mistake.outcome(), "Y");
    }

    #[test]
    fn where_what_was_taken_is_gone_ours_does_not_stay_as_if_it_were_held() {
        let mistake = Mistake::new();
        fs::remove_file(mistake.aside_path()).unwrap();
        mistake.aside().put_back();
        assert_eq!(fs::read_dir(mistake.folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_third_party_that_exchanged_in_between_is_given_time_to_undo_it() {
        let mistake = Mistake::new();
        let third = mistake.folder.path().join("third");
        fs::write(&third, "third").unwrap();
        let exchange =
            || names::exchange(mistake.site.named(OsStr::new("third")).unwrap(), &mistake.site.name);
        exchange().unwrap();
        let aside = mistake.aside();
        let mut stalled = None;
        assert!(!aside.try_to_put_back(&mut stalled).unwrap());
        assert_eq!(fs::read_to_string(mistake.path()).unwrap(), "third", "not before the time is over");
        exchange().unwrap();
        assert!(!aside.try_to_put_back(&mut stalled).unwrap());
        assert!(aside.try_to_put_back(&mut stalled).unwrap());
        fs::remove_file(&third).unwrap();
        assert_eq!(mistake.outcome(), "X");
    }

    #[test]
    fn a_third_party_that_was_stopped_does_not_keep_a_live_marker_away() {
        let mistake = Mistake::new();
        let third = mistake.folder.path().join("third");
        fs::write(&third, "third").unwrap();
        names::exchange(mistake.site.named(OsStr::new("third")).unwrap(), &mistake.site.name).unwrap();
        let aside = mistake.aside();
        let mut stalled = None;
        assert!(!aside.try_to_put_back(&mut stalled).unwrap());
        wait::sleep(STALL);
        assert!(!aside.try_to_put_back(&mut stalled).unwrap());
        assert_eq!(fs::read_to_string(mistake.path()).unwrap(), "X");
    }
}
