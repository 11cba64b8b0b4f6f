//! Taking the place of a marker that holds nothing any more.
//!
//! The protocol is filelock's (4.2), which takes part: a contender makes a marker of its own *aside*, lets the two
//! names swap their files in one step, and then looks what it got. If that is the file it had judged, the lock is
//! had, and at no moment did the name stand empty. If not, somebody else was faster, and what came out may be a live
//! owner's: it is put back. docs/architecture.md has the interleavings, `tests/rust/models` tries them all.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::draft::{self, Draft, random_hex};
use super::occupant::{self, Found, Occupant};
use super::site::Site;
use crate::error::Error;
use crate::fork::ForkMutex;
use crate::sys::{FileId, Stamp, names, process};
use crate::wait;

/// How long a contender tries to put back what it took by mistake.
const PUT_BACK: Duration = Duration::from_secs(2);

/// For how long somebody else's marker may be where ours was, until the exchange is made all the same: who has
/// exchanged it there puts it back at once, unless he was stopped.
const STALL: Duration = Duration::from_millis(10);
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);

/// Replaces the stale marker `judged` by one of our own; `None`: it could not be had, somebody else may hold it.
pub(super) fn reclaim(site: &Site, judged: &Occupant, mode: Option<u32>) -> Result<Option<Draft>, Error> {
    if !is_still(site, &judged.stamp)? {
        return Ok(None);
    }
    if let Some(breaker) = judged.content.pid() {
        if recover(site, judged, breaker)? == Recovery::Blocked {
            return Ok(None);
        }
    }
    let name = aside_name(site, std::process::id());
    if names::MOVES_BY_RENAME {
        return move_away(site, judged, &name)
            .and_then(|moved| if moved { draft::create(site, &site.name, mode) } else { Ok(None) });
    }
    OWN_ASIDES.lock().push(name.clone());
    let _listed = Unlist(name.clone());
    let own = match draft::create(site, &name, mode) {
        Ok(Some(own)) => own,
        Ok(None) => return Ok(None),
        // There is no room for a longer name beside the marker's: nobody can reclaim it.
        Err(error) if error.os_error().is_some_and(names::is_too_long) => return Ok(None),
        Err(error) => return Err(error),
    };
    let aside = Aside { site, own: own.id(), own_file: &own, name };
    if !is_still(site, &judged.stamp).inspect_err(|_| aside.discard())? {
        aside.discard();
        return Ok(None);
    }
    // Whatever the call says, the names tell what was done: a server may repeat a request.
    let exchanged = aside.exchange();
    match aside.look() {
        Ok(Some(stamp)) if stamp.is_same_content(&judged.stamp) => {
            aside.discard();
            Ok(Some(own))
        }
        Ok(Some(stamp)) if stamp.id == own.id() => {
            aside.discard();
            told_apart(site, exchanged).map(|()| None)
        }
        Ok(_) | Err(_) => {
            aside.put_back();
            Ok(None)
        }
    }
}

/// Takes a name off the list of our asides at the end of the attempt, however it ends.
struct Unlist(OsString);

impl Drop for Unlist {
    fn drop(&mut self) {
        OWN_ASIDES.lock().retain(|name| *name != self.0);
    }
}

/// An exchange that is not allowed, or not possible here, leaves the marker to its owner.
fn told_apart(site: &Site, exchanged: io::Result<()>) -> Result<(), Error> {
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

fn is_still(site: &Site, judged: &Stamp) -> Result<bool, Error> {
    Ok(site.look()?.is_some_and(|stamp| stamp.is_same_content(judged)))
}

fn aside_name(site: &Site, pid: u32) -> OsString {
    site.beside(&format!(".break.{pid}.{}", random_hex()))
}

/// The names of the asides that threads of this process have. An earlier process may have had our number and died
/// over an aside of its own: that one is to be recovered, these are not.
static OWN_ASIDES: LazyLock<ForkMutex<Vec<OsString>>> = LazyLock::new(ForkMutex::new);

/// Where there is no exchange, but a marker whose owner lives cannot be renamed: a plain rename, looked at after.
fn move_away(site: &Site, judged: &Occupant, aside: &OsStr) -> Result<bool, Error> {
    let named = |name| site.named(name).map_err(|error| site.failed("rename", error));
    let (at, aside) = (named(&site.name)?, named(aside)?);
    if !is_still(site, &judged.stamp)? || names::rename(at, aside.name).is_err() {
        return Ok(false);
    }
    if names::look(aside).is_ok_and(|stamp| stamp.is_some_and(|stamp| stamp.is_same_content(&judged.stamp))) {
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
    own_file: &'a Draft,
    name: OsString,
}

impl Aside<'_> {
    fn look(&self) -> io::Result<Option<Stamp>> {
        names::look(self.site.named(&self.name)?)
    }

    fn exchange(&self) -> io::Result<()> {
        names::exchange(self.site.named(&self.name)?, &self.site.name)
    }

    /// Takes the name away. It is ours alone, so a failure leaves litter and nothing worse.
    fn discard(&self) {
        drop(self.site.named(&self.name).and_then(names::remove));
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
        let aside = self.site.named(&self.name)?;
        match names::look(self.site.at()?)? {
            Some(stamp) if stamp.id == self.own => self.exchange()?,
            Some(_) if names::stamp_of(self.own_file.open_file()?)?.links == 0 => {
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

/// What the folder holds of markers that somebody died over.
#[derive(Debug, PartialEq, Eq)]
enum Recovery {
    /// Nothing that anybody could still hold.
    Clear,
    /// A live owner's marker was put back, or somebody else is about to: the lock is not to be had.
    Blocked,
}

/// Looks for live markers that the dead owner of `judged` took by mistake and did not come to put back.
fn recover(site: &Site, judged: &Occupant, breaker: u32) -> Result<Recovery, Error> {
    for name in stranded(site, breaker)? {
        if recover_one(site, judged, breaker, &name)? == Recovery::Blocked {
            return Ok(Recovery::Blocked);
        }
    }
    Ok(Recovery::Clear)
}

/// The names under which the dead process `breaker` may have left somebody's marker: its own aside, and what others
/// were about to restore.
fn stranded(site: &Site, breaker: u32) -> Result<Vec<OsString>, Error> {
    let all = site.at().and_then(|at| names::names(at, &site.beside(".")));
    let all = all.map_err(|error| site.failed("list", error))?;
    let concerns_us = |name: &OsString| {
        Name::parse(site, name).is_some_and(|parsed| match parsed {
            Name::Break(pid) => pid == breaker && !OWN_ASIDES.lock().contains(name),
            Name::Restore(_) => true,
        })
    };
    Ok(all.into_iter().filter(concerns_us).collect())
}

/// A name beside a marker's, and the process that it names.
enum Name {
    /// Where a contender keeps what it takes.
    Break(u32),
    /// Where a contender keeps what it is about to put back for a dead one.
    Restore(u32),
}

impl Name {
    fn parse(site: &Site, name: &OsStr) -> Option<Self> {
        let end = name.to_str()?.strip_prefix(site.name.to_str()?)?;
        let (is_break, rest) = match end.strip_prefix(".break.") {
            Some(rest) => (true, rest),
            None => (false, end.strip_prefix(".restore.")?),
        };
        let (pid, hex) = rest.split_once('.')?;
        let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != 32 || !hex.bytes().all(is_lower_hex) || !pid.bytes().all(|byte| byte.is_ascii_digit())
        {
            return None;
        }
        let pid = pid.parse().ok().filter(|pid| (1..=i32::MAX as u32).contains(pid))?;
        Some(if is_break { Self::Break(pid) } else { Self::Restore(pid) })
    }
}

fn recover_one(site: &Site, judged: &Occupant, breaker: u32, name: &OsStr) -> Result<Recovery, Error> {
    let failed = |error| site.failed("recover", error);
    let found = site.named(name).map_err(failed)?;
    match Name::parse(site, name) {
        Some(Name::Restore(pid)) if process::is_running(pid) != Some(false) => return Ok(Recovery::Blocked),
        Some(_) => {}
        None => return Ok(Recovery::Clear),
    }
    let claimed = site.beside(&format!(".restore.{}.{}", std::process::id(), random_hex()));
    // Whoever renames it has it; the others find nothing.
    match names::rename(found, &claimed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Recovery::Blocked),
        renamed => renamed.map_err(failed)?,
    }
    let at = site.named(&claimed).map_err(failed)?;
    let give_back = || names::rename(at, &aside_name(site, breaker)).map_err(failed);
    let Some(stamp) = names::look(at).map_err(failed)? else { return Ok(Recovery::Blocked) };
    match occupant::read(site, &claimed, &stamp) {
        Ok(Found::Marker(stray)) if stray.is_worthless(breaker) => {
            names::remove(at).map_err(failed)?;
            return Ok(Recovery::Clear);
        }
        Ok(Found::Nothing) => return Ok(Recovery::Blocked),
        Ok(Found::Marker(_) | Found::Unreadable(_)) | Err(_) => {}
    }
    if is_still(site, &judged.stamp)? && names::exchange(at, &site.name).is_ok() {
        match names::look(at).map_err(failed)? {
            Some(out) if out.is_same_content(&judged.stamp) => {
                names::remove(at).map_err(failed)?;
                return Ok(Recovery::Blocked);
            }
            // Somebody else was faster, and has the lock.
            Some(_) => names::exchange(at, &site.name).map_err(failed)?,
            None => return Ok(Recovery::Blocked),
        }
    }
    give_back()?;
    Ok(Recovery::Blocked)
}
