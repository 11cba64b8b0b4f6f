//! Live markers that a contender took by mistake, and died before it had put them back.

use std::ffi::{OsStr, OsString};
use std::io;

use super::aside::{Name, OwnAside, aside_of};
use super::occupant::{self, Found, Occupant};
use super::site::Site;
use crate::error::Error;
use crate::sys::{names, process};

/// What the folder holds of markers that somebody died over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Nothing that anybody could still hold.
    Clear,
    /// A live owner's marker: it was put back, or somebody else is about to.
    NotToBeHad,
}

/// Looks for live markers that the dead owner of `judged` took by mistake and did not come to put back.
pub(super) fn recover(site: &Site, judged: &Occupant, breaker: u32) -> Result<Recovery, Error> {
    for name in stranded(site, breaker)? {
        if recover_one(site, judged, breaker, &name)? == Recovery::NotToBeHad {
            return Ok(Recovery::NotToBeHad);
        }
    }
    Ok(Recovery::Clear)
}

/// The names under which the dead process `breaker` may have left somebody's marker: its own aside, and what others
/// were about to restore.
fn stranded(site: &Site, breaker: u32) -> Result<Vec<OsString>, Error> {
    let all = site.folder.names(&site.beside("."));
    let all = all.map_err(|error| site.failed("list", error))?;
    let concerns_us = |name: &OsString| {
        Name::parse(site, name).is_some_and(|parsed| match parsed {
            Name::Break(pid) => pid == breaker && !OwnAside::is_any(name),
            Name::Restore(_) => true,
        })
    };
    Ok(all.into_iter().filter(concerns_us).collect())
}

fn recover_one(site: &Site, judged: &Occupant, breaker: u32, name: &OsStr) -> Result<Recovery, Error> {
    let failed = |error| site.failed("recover", error);
    match Name::parse(site, name) {
        Some(Name::Restore(pid)) if is_being_restored(pid, name) => return Ok(Recovery::NotToBeHad),
        Some(_) => {}
        None => return Ok(Recovery::Clear),
    }
    let claimed = OwnAside::to_restore(site);
    // Whoever renames it has it; the others find nothing.
    match names::rename(site.named(name).map_err(failed)?, &claimed.name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Recovery::NotToBeHad),
        renamed => renamed.map_err(failed)?,
    }
    let settled = settle(site, judged, breaker, &claimed.name);
    if let Ok(Some(recovery)) = settled {
        return Ok(recovery);
    }
    // For the next one to claim. Under this process's name it would be in everybody's way as long as this one lives.
    let give_back = || names::rename(site.named(&claimed.name)?, &aside_of(site, breaker));
    let given_back = give_back().or_else(|_| give_back()).map_err(failed);
    settled.and(given_back).map(|()| Recovery::NotToBeHad)
}

/// Whether the process that names itself in `name` lives, and is about to put it back.
fn is_being_restored(pid: u32, name: &OsStr) -> bool {
    if pid == std::process::id() { OwnAside::is_any(name) } else { process::is_running(pid) != Some(false) }
}

/// Puts what was claimed where it belongs; `None`: it is still under the name `claimed`.
fn settle(site: &Site, judged: &Occupant, breaker: u32, claimed: &OsStr) -> Result<Option<Recovery>, Error> {
    let failed = |error| site.failed("recover", error);
    let at = site.named(claimed).map_err(failed)?;
    let Some(stamp) = names::look(at).map_err(failed)? else { return Ok(Some(Recovery::NotToBeHad)) };
    match occupant::read(site, claimed, &stamp) {
        Ok(Found::Marker(stray)) if stray.is_worthless(breaker) => {
            names::remove(at).map_err(failed)?;
            return Ok(Some(Recovery::Clear));
        }
        Ok(Found::Nothing) => return Ok(Some(Recovery::NotToBeHad)),
        Ok(Found::Marker(_) | Found::Unreadable(_)) | Err(_) => {}
    }
    if site.is_still(judged.stamp())? && names::exchange(at, &site.name).is_ok() {
        match names::look(at).map_err(failed)? {
            Some(out) if out.is_same_content(judged.stamp()) => {
                names::remove(at).map_err(failed)?;
                return Ok(Some(Recovery::NotToBeHad));
            }
            // Somebody else was faster, and has the lock.
            Some(_) => names::exchange(at, &site.name).map_err(failed)?,
            None => return Ok(Some(Recovery::NotToBeHad)),
        }
    }
    Ok(None)
}
