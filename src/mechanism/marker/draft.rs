//! A marker of one's own: the record is complete before the name appears.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::time::Instant;

use super::form::Form;
use super::site::Site;
use crate::error::Error;
use crate::fork::Tracked;
use crate::mechanism::new_file::{NewFile, freshen, random_hex};
use crate::sys::{self, FileId, names};

/// Write permissions that no marker has: its record is the owner's word.
const NEVER: u32 = 0o022;

/// A marker that was made, open for as long as it is held.
#[derive(Debug)]
pub(in crate::mechanism) struct OwnMarker {
    pub(in crate::mechanism) file: Tracked,
}

impl OwnMarker {
    pub(in crate::mechanism) fn id(&self) -> FileId {
        self.file.stamp().id
    }
}

/// Makes a marker of this process at `name`; `None`: the name is taken.
///
/// Where there are no hard links, by creating the name itself, with the record after it.
pub(in crate::mechanism) fn create(
    site: &Site,
    name: &OsStr,
    form: &Form,
) -> Result<Option<OwnMarker>, Error> {
    let record = form.to_bytes();
    let new = NewFile {
        bits: bits(form.mode),
        content: &record,
        settle: &|file| settle(file, form),
        private_name: &|| OsString::from(format!(".ferrolock.{}.{}", std::process::id(), random_hex())),
    };
    let created = match new.publish(&site.folder, name) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => create_plain(site, name, form, &record),
        published => published,
    };
    match created {
        Ok(file) => Ok(Some(OwnMarker { file })),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(site.failed("create", error)),
    }
}

fn create_plain(site: &Site, name: &OsStr, form: &Form, record: &[u8]) -> io::Result<Tracked> {
    let at = site.named(name)?;
    let file = Tracked::open(|| names::create_new(at, bits(form.mode)))?;
    let fill = || {
        file.own_file()?.write_all(record)?;
        settle(&file, form)
    };
    fill().inspect_err(|_| drop(names::remove(at)))?;
    Ok(file)
}

/// Sets the permission bits, and takes the lock by which waiters of this machine are woken.
fn settle(made: &Tracked, form: &Form) -> io::Result<()> {
    let file = made.own_file()?;
    if form.mode.is_some() && made.stamp().mode & 0o7777 != bits(form.mode) {
        names::set_mode(file, bits(form.mode))?;
    }
    if sys::is_known_local(file, made.stamp().id) {
        // Nobody else knows the file yet. Who cannot be woken asks again and again.
        drop(sys::try_lock(file));
    }
    Ok(())
}

impl OwnMarker {
    /// Stamps anew what was begun at `begin`, if that is a while ago.
    pub(super) fn freshen(&self, begin: Instant) -> io::Result<()> {
        freshen(&self.file, begin)
    }
}

/// The permission bits of a new marker.
fn bits(mode: Option<u32>) -> u32 {
    mode.unwrap_or(0o666) & !NEVER
}
