//! What stands at the lock's path: the sentinel, or somebody who keeps strict locks out.

use std::path::Path;

use super::Contention;
use super::record::private_name;
use super::rooms::{Rooms, protocol_error};
use crate::error::Error;
use crate::fork::Tracked;
use crate::mechanism::marker::{Found, Occupant, Site, is_past_grace, read};
use crate::mechanism::new_file::{NewFile, random_hex};
use crate::process::{self, Fate};
use crate::record::{Content, Record, STRICT};
use crate::sys::{FileId, Kind, Stamp};

/// How often an attempt starts again because something came or went in between.
const ROUNDS: usize = 16;

/// What stands at the path instead of the sentinel, and whether it may go by itself.
enum Stranger {
    /// A soft lock that is held.
    Holder(FileId, String),
    /// Something that may be about to become one, or may be left over: time tells.
    Unknown(Stamp, String),
    /// Nothing that ever becomes one.
    Never(String),
}

/// The sentinel of the path, kept open; it is made if nothing is there.
///
/// # Errors
/// `Protocol` for what stands there and does not go by itself. A strict lock takes nobody's place.
pub(super) fn open(rooms: &Rooms, mode: Option<u32>) -> Result<Result<Tracked, Contention>, Error> {
    let site = &rooms.site;
    for _ in 0..ROUNDS {
        let Some(stamp) = site.look()? else {
            if let Some(made) = make(rooms, mode)? {
                return Ok(Ok(made));
            }
            continue;
        };
        let stranger = match judge(site, &stamp)? {
            None => continue,
            Some(Ok(sentinel)) => return Ok(Ok(sentinel)),
            Some(Err(stranger)) => stranger,
        };
        let what = match stranger {
            Stranger::Holder(file, _) => return Ok(Err(Contention::By(file))),
            Stranger::Unknown(stamp, _) if !is_past_grace(&stamp) => {
                return Ok(Err(Contention::By(stamp.id)));
            }
            Stranger::Unknown(_, what) | Stranger::Never(what) => what,
        };
        let reason = format!("at its path is {what}; remove it if it is nobody's");
        return Err(protocol_error(site, &reason));
    }
    Ok(Err(Contention::Unseen))
}

/// What stands at `path`, if it is not the sentinel.
pub(super) fn stranger_at(path: &Path) -> Result<Option<String>, Error> {
    let Some(site) = Site::find(path)? else { return Ok(None) };
    let Some(stamp) = site.look()? else { return Ok(None) };
    Ok(match judge(&site, &stamp)? {
        None | Some(Ok(_)) => None,
        Some(Err(Stranger::Holder(_, what) | Stranger::Unknown(_, what) | Stranger::Never(what))) => {
            Some(what)
        }
    })
}

fn make(rooms: &Rooms, mode: Option<u32>) -> Result<Option<Tracked>, Error> {
    let site = &rooms.site;
    let name = site.name.to_string_lossy();
    let new = NewFile {
        bits: super::bits(mode),
        content: STRICT,
        settle: &|_| Ok(()),
        private_name: &|| private_name(&name, &random_hex()).into(),
    };
    match new.publish(&site.folder, &site.name) {
        Ok(made) => {
            rooms.sweep_site(&made);
            Ok(Some(made))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(super::publication_error(site, error)),
    }
}

/// The sentinel, or who else is there; `None`: it has gone since `stamp` was seen.
fn judge(site: &Site, stamp: &Stamp) -> Result<Option<Result<Tracked, Stranger>>, Error> {
    let never = |what: &str| Ok(Some(Err(Stranger::Never(what.to_owned()))));
    match stamp.kind {
        Kind::Regular => {}
        Kind::Folder => return never("a folder"),
        Kind::Link => return never("a link"),
        Kind::Special => return never("a special file"),
    }
    Ok(match read(site, &site.name, stamp)? {
        Found::Nothing => None,
        Found::Unreadable(_) => {
            Some(Err(Stranger::Unknown(*stamp, "a file that this user may not read".to_owned())))
        }
        Found::Marker(Occupant { file, content: Content::Strict, .. }) => Some(Ok(file)),
        Found::Marker(occupant) => Some(Err(judge_marker(&occupant))),
    })
}

fn judge_marker(occupant: &Occupant) -> Stranger {
    let file = occupant.stamp().id;
    if let Some(Record { pid, host, .. }) = occupant.content.owner() {
        return if occupant.is_stale() {
            Stranger::Never(format!(
                "the marker of a soft lock, left by process {pid} of {host}, which has ended"
            ))
        } else {
            Stranger::Holder(file, format!("the marker of a soft lock, held by process {pid} of {host}"))
        };
    }
    match &occupant.content {
        Content::Bare(pid) if process::fate_of_bare(*pid) != Fate::Dead => {
            Stranger::Holder(file, format!("the marker of a PIDLockFile, held by process {pid}"))
        }
        Content::Owned(_)
        | Content::Tenant(_)
        | Content::Bare(_)
        | Content::Empty
        | Content::Released
        | Content::Malformed
        | Content::Strict => {
            let what = "a file that is neither the sentinel of strict locks nor a marker of a soft lock";
            Stranger::Unknown(*occupant.stamp(), what.to_owned())
        }
    }
}
