//! The folders beside the lock's path, and what stands in that of the claims.
//!
//! | name | what it is |
//! |---|---|
//! | `x` | the sentinel: a soft lock's marker that nobody takes over; it stays |
//! | `x.filelock/claims/` | a file for each claim; both folders stay |
//! | `x.filelock/claims/intent-v1-<token>.claim` | somebody wants the lock, or has it |
//! | `x.filelock/claims/held-v1-<token>.claim` | the same file: its owner has won, or is about to find out |
//! | `.<name>.private-v1-<token>.tmp` | `x` or a claim, while it is written; not where files without a name exist |
//! | `.probe-v1-<token>.tmp` | a claim, for as long as somebody proves that the server has it |

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::record::{self, StrictClaim, probe_name};
use crate::error::{Error, ErrorKind};
use crate::fork::Tracked;
use crate::mechanism::folder::Folder;
use crate::mechanism::look::{Look, Marker, look};
use crate::mechanism::marker::Site;
use crate::mechanism::new_file::random_hex;
use crate::sys::{FileId, Kind, Stamp, names};

const COORDINATION: &str = ".filelock";
const CLAIMS: &str = "claims";

/// In a folder with this bit a file is removed by its owner only.
const STICKY: u32 = 0o1000;
const PERMISSIONS: u32 = 0o777;

/// How often a folder is made that goes away again.
const ROUNDS: usize = 4;

/// The time, in seconds and nanoseconds, after which what nobody gave a public name is a dead one's.
const SCRAP_SECONDS: i64 = 2;

/// What stands in the folder of claims.
#[derive(Debug)]
pub(super) struct Listing {
    /// By name: those that are held come first.
    pub(super) claims: Vec<StrictClaim>,
    /// What contenders make on the way to one, and may have left.
    scraps: Vec<OsString>,
}

/// Where contenders for one path meet. Opened anew for each attempt.
#[derive(Debug)]
pub(super) struct Rooms {
    pub(super) site: Site,
    pub(super) claims: Arc<Folder>,
    /// Whether a claim counts only if the server is proved to have it. Who only asks makes no link for that.
    proves: bool,
}

impl Rooms {
    /// Opens the folders of `path`, which are made if there are none.
    pub(super) fn open(path: &Path, mode: Option<u32>) -> Result<Self, Error> {
        let site = Site::open(path)?;
        let coordination = make_room(&site, &site.folder, &site.beside(COORDINATION), mode)?;
        let claims = make_room(&site, &coordination, OsStr::new(CLAIMS), mode)?;
        let proves = !claims.is_local();
        Ok(Self { site, claims: Arc::new(claims), proves })
    }

    /// As [`Rooms::open`], for who only asks; `None`: there are none.
    pub(super) fn find(path: &Path) -> Result<Option<Self>, Error> {
        let Some(site) = Site::find(path)? else { return Ok(None) };
        let Some(coordination) = find_room(&site, &site.folder, &site.beside(COORDINATION))? else {
            return Ok(None);
        };
        let claims = find_room(&site, &coordination, OsStr::new(CLAIMS))?;
        Ok(claims.map(|claims| Self { site, claims: Arc::new(claims), proves: false }))
    }

    /// Whether the path still leads to these folders, and to the sentinel `sentinel`.
    pub(super) fn are_still(&self, sentinel: FileId) -> Result<bool, Error> {
        let Some(stamp) = self.site.look()? else { return Ok(false) };
        let again = || {
            let coordination = self.site.folder.open_inside(&self.site.beside(COORDINATION))?;
            names::look(coordination.named(OsStr::new(CLAIMS))?)
        };
        let claims = again().map_err(|error| self.site.failed("stat", error))?;
        Ok(stamp.id == sentinel && claims.is_some_and(|stamp| stamp.id == self.claims.id()))
    }

    /// Reads all claims.
    ///
    /// # Errors
    /// `Protocol` for what is no claim. Whoever made it may hold the lock.
    pub(super) fn scan(&self) -> Result<Listing, Error> {
        let names = self.claims.names(OsStr::new("")).map_err(|error| self.site.failed("list", error))?;
        let is_hidden = |name: &OsString| name.as_encoded_bytes().starts_with(b".");
        let (mut scraps, mut names): (Vec<_>, Vec<_>) = names.into_iter().partition(is_hidden);
        scraps.retain(|name| record::is_scrap(name));
        names.sort();
        let claims = names.iter().filter_map(|name| self.read(name).transpose()).collect::<Result<_, _>>()?;
        Ok(Listing { claims, scraps })
    }

    /// The claim at the name, unless it has gone since it was listed.
    fn read(&self, name: &OsStr) -> Result<Option<StrictClaim>, Error> {
        let odd = |reason: &str| protocol_error(&self.site, reason).about(name.to_string_lossy());
        let Some((state, token)) = record::parse_name(name) else {
            return Err(odd("the name of no claim, or of another version's"));
        };
        let failed = |error| self.site.failed("read", error).about(name.to_string_lossy());
        match self.claims.named(name).and_then(look) {
            Ok(Look::Nothing) => Ok(None),
            Ok(Look::NoFile) => Err(odd("a claim is a regular file")),
            Ok(Look::Marker(Marker { bytes, .. })) => {
                let Some(owner) = record::parse(&bytes, token) else {
                    return Err(odd("not the record of a claim"));
                };
                if self.proves && !self.is_at_server(name).map_err(failed)? {
                    return Ok(None);
                }
                let (name, token) = (name.to_string_lossy().into_owned(), token.to_owned());
                Ok(Some(StrictClaim { name, state, token, owner }))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether the claim is there, and not only remembered by this machine: a link to it can be made.
    ///
    /// It is taken to be there if that cannot be told, as where the claim is another user's and may not be linked.
    fn is_at_server(&self, name: &OsStr) -> io::Result<bool> {
        let at = self.claims.named(name)?;
        let probe = OsString::from(probe_name(&random_hex()));
        match names::link(at, &probe) {
            Ok(()) => {
                // In nobody's way if it stays.
                drop(self.claims.named(&probe).and_then(names::remove));
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound || names::is_stale(&error) => {
                names::forget(at);
                Ok(false)
            }
            Err(_) => Ok(true),
        }
    }

    /// Removes what contenders that died have left among the claims, now that `made` was.
    pub(super) fn sweep_claims(&self, listing: &Listing, made: &Tracked) {
        sweep(&self.claims, &listing.scraps, made);
    }

    /// The same beside the sentinel.
    pub(super) fn sweep_site(&self, made: &Tracked) {
        let (folder, public) = (&self.site.folder, &self.site.name);
        // Litter is in nobody's way.
        let mut names = folder.names(OsStr::new(".")).unwrap_or_default();
        names.retain(|name| record::is_scrap_of(name, public));
        sweep(folder, &names, made);
    }
}

/// What has a public name too is done with. What has none may be about to get it, unless it is older than what was just
/// `made`, by the clock of the file system: if its maker was only stopped, he begins anew.
fn sweep(folder: &Folder, scraps: &[OsString], made: &Tracked) {
    if scraps.is_empty() {
        return;
    }
    let Ok(now) = made.own_file().and_then(names::stamp_of) else { return };
    for scrap in scraps {
        let is_left = |stamp: Stamp| {
            let is_old = now.modified.0.saturating_sub(stamp.modified.0) > SCRAP_SECONDS;
            stamp.kind == Kind::Regular && (stamp.links > 1 || is_old)
        };
        let remove = || {
            let at = folder.named(scrap)?;
            if names::look(at)?.is_some_and(is_left) { names::remove(at) } else { Ok(()) }
        };
        drop(remove());
    }
}

/// An error that says what stands where another thing should.
pub(super) fn protocol_error(site: &Site, reason: &str) -> Error {
    Error::new(ErrorKind::Protocol, "lock", site.path()).because(reason)
}

fn room_error(site: &Site, name: &OsStr, error: io::Error) -> Error {
    let is =
        |other: io::Error| error.raw_os_error().is_some() && error.raw_os_error() == other.raw_os_error();
    if error.kind() == io::ErrorKind::NotADirectory || is(names::link_error()) {
        let reason = format!("{} has to be a folder, and no link to one", name.to_string_lossy());
        return protocol_error(site, &reason);
    }
    site.failed("open", error)
}

fn find_room(site: &Site, folder: &Folder, name: &OsStr) -> Result<Option<Folder>, Error> {
    let opened = folder.open_inside(name).and_then(|room| Ok((room.is_trusted()?, room)));
    match opened {
        Ok((true, room)) => Ok(Some(room)),
        Ok((false, _)) => {
            let name = name.to_string_lossy();
            let reason = format!("{name} belongs to another user, in a folder where anybody may make one");
            Err(protocol_error(site, &reason))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(room_error(site, name, error)),
    }
}

/// As [`find_room`], and makes it if need be.
fn make_room(site: &Site, folder: &Folder, name: &OsStr, mode: Option<u32>) -> Result<Folder, Error> {
    // Who may read a claim has to find it.
    let bits = mode.map_or(PERMISSIONS, |mode| mode | (mode & 0o444) >> 2);
    for _ in 0..ROUNDS {
        if let Some(room) = find_room(site, folder, name)? {
            restrict(&room, bits).map_err(|error| site.failed("chmod", error))?;
            return Ok(room);
        }
        let made = folder.named(name).and_then(|at| names::make_folder(at, bits));
        made.map_err(|error| site.failed("mkdir", error))?;
    }
    Err(protocol_error(site, &format!("{} is removed again and again", name.to_string_lossy())))
}

/// Sees to it that nobody but its owner removes a claim, as far as this user may.
fn restrict(room: &Folder, bits: u32) -> io::Result<()> {
    if !room.is_own() {
        return Ok(());
    }
    let is = names::stamp_of(room.file()?)?.mode & 0o7777;
    let should_be = is & (bits | !PERMISSIONS) | STICKY;
    if is == should_be { Ok(()) } else { names::set_mode(room.file()?, should_be) }
}

#[cfg(test)]
mod tests {
    use super::record::{ClaimState, own_bytes};
    use super::*;

    #[test]
    fn the_server_has_a_claim_that_a_link_can_be_made_to() {
        let folder = tempfile::tempdir().unwrap();
        let mut rooms = Rooms::open(&folder.path().join("x.lock"), None).unwrap();
        rooms.proves = true;
        let token = random_hex();
        let name = ClaimState::Intent.claim(&token);
        let file = folder.path().join("x.lock.filelock").join(CLAIMS).join(&name);
        assert!(!rooms.is_at_server(name.as_ref()).unwrap());
        std::fs::write(&file, own_bytes(&token)).unwrap();
        assert!(rooms.is_at_server(name.as_ref()).unwrap());
        let listing = rooms.scan().unwrap();
        assert_eq!(listing.claims.len(), 1);
        let names = rooms.claims.names(OsStr::new("")).unwrap();
        assert!(!names.iter().any(|name| record::is_scrap(name)), "{names:?}");
    }
}
