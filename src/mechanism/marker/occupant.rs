//! What stands at the name of a marker, and whether it still holds anything.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::form::Tenure;
use super::site::Site;
use crate::error::Error;
use crate::fork::{ForkMutex, Tracked};
use crate::mechanism::look;
use crate::process::{self, Fate};
use crate::record::{Content, OwnerMode, Record};
use crate::sys::{self, FileId, Kind, Stamp, Verdict, names};

/// For how long something that is no marker must have been seen unchanged before it is taken for the rest of one: its
/// writer may just be writing.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// A file at the name of a marker, kept open: as long as it is, no other file gets its number.
#[derive(Debug)]
pub(in crate::mechanism) struct Occupant {
    pub(in crate::mechanism) file: Tracked,
    pub(in crate::mechanism) content: Content,
}

/// What reading the name came to.
#[derive(Debug)]
pub(in crate::mechanism) enum Found {
    Nothing,
    /// A file that this user may not read.
    Unreadable(FileId),
    Marker(Occupant),
}

/// Reads what stands at `name`, where `stamp` was seen.
///
/// # Errors
/// `Refused` for what can never be a marker: a link, a folder, a FIFO, a device, a file that this user may not write.
pub(in crate::mechanism) fn read(site: &Site, name: &std::ffi::OsStr, stamp: &Stamp) -> Result<Found, Error> {
    let at = site.named(name).map_err(|error| site.failed("open", error))?;
    refuse_other_kinds(site, stamp)?;
    if stamp.mode & 0o200 == 0 && !names::may_write(at) {
        return Err(site.refused(sys::distrust_error()).because("the file is not writable"));
    }
    let file = match Tracked::open(|| names::open_to_read(at)) {
        Ok(file) => file,
        Err(error) if names::is_stale(&error) => {
            names::forget(at);
            return Ok(Found::Nothing);
        }
        Err(error) if sys::classify(&error) == Verdict::Missing => return Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Found::Unreadable(stamp.id));
        }
        Err(error) => return Err(site.failed("open", error)),
    };
    refuse_other_kinds(site, file.stamp())?;
    match look::read(&file) {
        Ok(bytes) => Ok(Found::Marker(Occupant { file, content: Content::parse(&bytes) })),
        Err(error) if names::is_stale(&error) => {
            names::forget(at);
            Ok(Found::Nothing)
        }
        Err(error) => Err(site.failed("read", error)),
    }
}

fn refuse_other_kinds(site: &Site, stamp: &Stamp) -> Result<(), Error> {
    let error = match stamp.kind {
        Kind::Regular => return Ok(()),
        Kind::Link => names::link_error(),
        Kind::Folder => names::folder_error(),
        Kind::Special => sys::special_file_error(),
    };
    Err(site.refused(error).because("a marker is a regular file"))
}

impl Occupant {
    /// What the file was when it was opened, before it was read.
    pub(in crate::mechanism) fn stamp(&self) -> &Stamp {
        self.file.stamp()
    }

    /// Whether the marker counts as abandoned by its age alone, although its owner may live.
    pub(super) fn is_aged(&self, lifetime: Option<Duration>) -> bool {
        self.content != Content::Strict && lifetime.is_some_and(|lifetime| age(self.stamp()) >= lifetime)
    }

    /// Whether the marker holds nothing any more, and no other contender of ours is about to reclaim it.
    ///
    /// An owner of ours has its marker's file locked: where it has, nothing needs to be asked about it, and most
    /// attempts meet such a marker. What is no marker may be somebody's lock file, and is locked only when it is known
    /// to be left.
    ///
    /// # Errors
    /// As [`Tenure::see_expired`].
    pub(super) fn is_up_for_reclaim(
        &self,
        site: &Site,
        tenure: &Tenure,
        locked: Option<FileId>,
    ) -> Result<bool, Error> {
        if self.is_kept(locked) {
            return Ok(false);
        }
        Ok((self.is_stale() || tenure.see_expired(site, self)?) && self.keep_others_away(locked))
    }

    /// Whether an owner of ours, or who reclaims it just now, has its file locked.
    pub(super) fn is_kept(&self, locked: Option<FileId>) -> bool {
        self.is_locked_while_held() && !self.keep_others_away(locked)
    }

    /// Whether an owner of ours has the file of such a marker locked.
    pub(super) fn is_locked_while_held(&self) -> bool {
        match &self.content {
            Content::Owned(_) => true,
            Content::Tenant(tenancy) => tenancy.mode == OwnerMode::Exclusive,
            Content::Empty | Content::Bare(_) | Content::Released | Content::Strict | Content::Malformed => {
                false
            }
        }
    }

    /// The owner, if the marker is to be taken from a dead one: what that had taken by mistake is to be looked for. Who is
    /// evicted because of the marker's age may live, or be a process of another machine.
    pub(super) fn dead_pid(&self) -> Option<u32> {
        let pid = match &self.content {
            Content::Tenant(tenancy) => tenancy.owner.pid,
            Content::Owned(Record { pid, .. }) | Content::Bare(pid) => *pid,
            Content::Empty | Content::Released | Content::Strict | Content::Malformed => return None,
        };
        self.is_stale().then_some(pid)
    }

    /// Keeps other contenders of ours from reclaiming the marker, by a lock on its file, for as long as this is kept
    /// open; `false`: one does just now.
    ///
    /// Two that exchange at once can lose a third one's marker, if a releaser comes in between: the model has the
    /// interleaving. `locked` is a marker whose file the caller has locked already. Where there are no such locks,
    /// nobody is kept away.
    fn keep_others_away(&self, locked: Option<FileId>) -> bool {
        if locked == Some(self.stamp().id) {
            return true;
        }
        let Some(file) = self.file.file() else { return false };
        if !sys::is_known_local(file, self.stamp().id) {
            return true;
        }
        !sys::try_lock(file).is_err_and(|error| sys::classify(&error) == Verdict::Contended)
    }

    /// Whether the marker holds nothing any more, so that it may be taken out of the way.
    pub(in crate::mechanism) fn is_stale(&self) -> bool {
        match &self.content {
            Content::Released => true,
            Content::Owned(record) => process::fate(record, self.is_local()) == Fate::Dead,
            Content::Tenant(tenancy) if tenancy.mode == OwnerMode::Unknown => false,
            Content::Tenant(tenancy) => process::fate(&tenancy.owner, self.is_local()) == Fate::Dead,
            // Whose machine it means is not known.
            Content::Bare(pid) => process::fate_of_bare(*pid) == Fate::Dead && self.is_past_grace(),
            Content::Malformed => self.is_past_grace(),
            Content::Empty | Content::Strict => false,
        }
    }

    /// Whether this is certainly no holder's, to decide if it has to be put back where it came from. `breaker` is a
    /// dead process whose own marker it may be.
    pub(super) fn is_worthless(&self, breaker: u32) -> bool {
        match &self.content {
            Content::Released | Content::Malformed => true,
            Content::Bare(pid) => process::fate_of_bare(*pid) == Fate::Dead,
            Content::Tenant(tenancy) if tenancy.mode == OwnerMode::Unknown => false,
            Content::Owned(record) => self.is_of_nobody(record, breaker),
            Content::Tenant(tenancy) => self.is_of_nobody(&tenancy.owner, breaker),
            Content::Empty | Content::Strict => false,
        }
    }

    fn is_of_nobody(&self, owner: &Record, breaker: u32) -> bool {
        let fate = process::fate(owner, self.is_local());
        fate == Fate::Dead || (owner.pid == breaker && fate != Fate::Foreign)
    }

    fn is_local(&self) -> bool {
        self.file.file().is_some_and(|file| sys::is_known_local(file, self.stamp().id))
    }

    fn is_past_grace(&self) -> bool {
        is_past_grace(self.stamp())
    }

    /// For how long this process has known the marker to be as it is, by its own clock.
    pub(super) fn unchanged_for(&self) -> Duration {
        unchanged_for(self.stamp())
    }
}

/// Whether this process has seen something that is no marker for so long that nobody is just writing it.
pub(in crate::mechanism) fn is_past_grace(stamp: &Stamp) -> bool {
    unchanged_for(stamp) >= GRACE
}

/// How long ago the marker was written, by the wall clock and the file system's: they may differ.
#[expect(clippy::disallowed_methods, reason = "`lifetime` is defined by the wall clock, also in filelock")]
pub(in crate::mechanism) fn age(stamp: &Stamp) -> Duration {
    let (seconds, nanoseconds) = stamp.modified;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let written = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
    now.saturating_sub(written)
}

/// Whether the file that was seen at the site as `stamp` is a marker that is proved to hold nothing: its owner is dead, or
/// has said so. `None`: it is no marker.
///
/// # Errors
/// As [`read`].
pub(in crate::mechanism) fn is_abandoned(site: &Site, stamp: &Stamp) -> Result<Option<bool>, Error> {
    Ok(match read(site, &site.name, stamp)? {
        Found::Marker(occupant)
            if matches!(occupant.content, Content::Owned(_) | Content::Tenant(_) | Content::Released) =>
        {
            Some(occupant.is_stale())
        }
        Found::Nothing | Found::Unreadable(_) | Found::Marker(_) => None,
    })
}

/// A file that is no marker, or a lease, and since when it has been seen as it is.
#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    since: Instant,
}

/// What attempts of this process saw. It outlives them: many short attempts count like a long one.
static SEEN: ForkMutex<Vec<Seen>> = ForkMutex::new();
const MOST_SEEN: usize = 4096;

/// For how long this process has known the file to be as it is, by its own clock.
fn unchanged_for(stamp: &Stamp) -> Duration {
    let now = Instant::now();
    let mut seen = SEEN.lock();
    if let Some(known) = seen.iter_mut().find(|known| known.stamp.id == stamp.id) {
        if known.stamp != *stamp {
            *known = Seen { stamp: *stamp, since: now };
        }
        return now - known.since;
    }
    if seen.len() == MOST_SEEN {
        seen.remove(0);
    }
    seen.push(Seen { stamp: *stamp, since: now });
    Duration::ZERO
}

/// What is at `path`, for those who only ask. Errors are no answer.
pub(super) fn content_at(path: &Path) -> Option<Occupant> {
    let site = Site::find(path).ok()??;
    let stamp = site.look().ok()??;
    match read(&site, &site.name, &stamp).ok()? {
        Found::Marker(occupant) => Some(occupant),
        Found::Nothing | Found::Unreadable(_) => None,
    }
}
