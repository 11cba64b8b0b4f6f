//! The mutex around each transition: `x.state`, the marker of a soft lock, as filelock has it.
//!
//! It is held for as long as a few system calls take, so whoever has held it for the threshold has died or was stopped
//! inside, and is evicted. One that was stopped goes on as if nothing had happened; so what was done inside counts only if
//! the marker is still one's own after ([`Transition::is_ours`]).

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use super::lease;
use super::observe::{self, Observer, STATE};
use super::rooms::{Look, Marker, Readers, Rooms, look};
use super::seam::{Step, reach};
use super::taking::again;
use crate::error::{Error, ErrorKind};
use crate::fork::ForkMutex;
use crate::mechanism::marker::{self, Form, OwnMarker};
use crate::mechanism::new_file::random_hex;
use crate::process;
use crate::record::Content;
use crate::sys::{FileId, Stamp, names};

/// How often entering starts again because the marker came or went in between.
const ROUNDS: usize = 4;

/// The transitions that threads of this process are in, by the folder's inode (the same folder may be mounted twice) and
/// the name.
static TURNS: ForkMutex<Vec<(u64, OsString)>> = ForkMutex::new();

/// A thread's right to be the only one of this process in a transition: its marker names the process only.
#[derive(Debug)]
struct Turn {
    place: (u64, OsString),
}

impl Turn {
    fn take(rooms: &Rooms) -> Option<Self> {
        rooms.state.folder.file().ok()?;
        let place = (rooms.state.folder.id().inode, rooms.state.name.clone());
        let mut turns = TURNS.lock();
        if turns.contains(&place) {
            return None;
        }
        turns.push(place.clone());
        Some(Self { place })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.lock().retain(|place| *place != self.place);
    }
}

/// What entering came to.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
pub(super) enum Entered<'a> {
    Inside(Transition<'a>),
    /// Somebody else is.
    Held(Option<FileId>),
}

/// A transition of this thread. Its drop leaves it.
#[derive(Debug)]
pub(super) struct Transition<'a> {
    rooms: &'a Rooms,
    draft: OwnMarker,
    stamp: Stamp,
    began: Duration,
    _turn: Turn,
}

impl<'a> Transition<'a> {
    pub(super) fn enter(
        rooms: &'a Rooms,
        readers: &Readers,
        observer: &Observer,
        threshold: Duration,
    ) -> Result<Entered<'a>, Error> {
        let began = observe::now();
        let Some(turn) = Turn::take(rooms) else { return Ok(Entered::Held(None)) };
        for _ in 0..ROUNDS {
            if let Some(draft) = marker::create(&rooms.state, &rooms.state.name, &Form::with_mode(0o600))? {
                let stamp = draft.file.own_file().and_then(names::stamp_of);
                let stamp = stamp.map_err(|error| rooms.failed("stat", error))?;
                reach(Step::Entered);
                return Ok(Entered::Inside(Self { rooms, draft, stamp, began, _turn: turn }));
            }
            let found = rooms.state.at().and_then(look).map_err(|error| rooms.failed("open", error))?;
            let found = match found {
                Look::Nothing => continue,
                Look::NoFile => return Err(not_a_marker(rooms)),
                Look::Marker(found) => found,
            };
            let now = observe::now();
            let unchanged = observer.unchanged_for(Some(readers), STATE, &found, now, threshold);
            if unchanged < threshold && !is_void(rooms, &found) {
                return Ok(Entered::Held(Some(found.stamp.id)));
            }
            evict(rooms, &found).map_err(|error| rooms.failed("rename", error))?;
        }
        Ok(Entered::Held(None))
    }

    /// Whether this is still the only transition: nobody else has begun one since this one began.
    pub(super) fn is_ours(&self) -> io::Result<bool> {
        match look(self.rooms.state.at()?)? {
            Look::Marker(marker) => Ok(marker.stamp.is_same_content(&self.stamp)),
            Look::Nothing | Look::NoFile => Ok(false),
        }
    }

    /// How long ago it began, whatever this process was stopped for meanwhile.
    pub(super) fn age(&self) -> Duration {
        observe::now().saturating_sub(self.began)
    }

    /// What the file system takes for the time at which this transition began.
    pub(super) fn stamped(&self) -> (i64, i64) {
        self.stamp.modified
    }
}

impl Drop for Transition<'_> {
    fn drop(&mut self) {
        reach(Step::Leaving);
        if self.draft.file.file().is_none() {
            return;
        }
        // It keeps others out for nobody if it stays: to them this process lives. "Not there" can be wrong once.
        let look_for_it = || match look(self.rooms.state.at()?)? {
            Look::Marker(marker) => Ok(marker.stamp.is_same_content(&self.stamp)),
            Look::NoFile => Ok(false),
            Look::Nothing => Err(io::ErrorKind::NotFound.into()),
        };
        let is_ours = match again(look_for_it) {
            Err(error) => error.kind() != io::ErrorKind::NotFound,
            Ok(is_ours) => is_ours,
        };
        if is_ours {
            drop(again(|| self.rooms.state.at().and_then(names::remove)));
        }
    }
}

pub(super) fn not_a_marker(rooms: &Rooms) -> Error {
    Error::caused(ErrorKind::Refused, "lock", &rooms.path, crate::sys::special_file_error())
        .because("a marker is a regular file")
}

/// Whether the marker stands for no transition, whatever its age. Asked by who has the turn of this process.
fn is_void(rooms: &Rooms, found: &Marker) -> bool {
    match Content::parse(&found.bytes) {
        // An answer that got lost: it was made, and this process was told that it was not.
        Content::Owned(record) if record == process::own_record() => true,
        Content::Owned(record) => lease::is_proved_dead(&record, rooms.is_local()),
        Content::Released => true,
        // Nobody who goes through here writes terms.
        Content::Empty | Content::Tenant(_) | Content::Bare(_) | Content::Strict | Content::Malformed => {
            false
        }
    }
}

/// Takes the marker `judged` away.
///
/// What comes out may be another one, if somebody was faster. It is never put back: whoever finds its own marker gone
/// starts again, and would not if the gap were closed.
fn evict(rooms: &Rooms, judged: &Marker) -> io::Result<()> {
    let at = rooms.state.at()?;
    match look(at)? {
        Look::Marker(found) if found.is_still(judged) => {}
        Look::Nothing | Look::NoFile | Look::Marker(_) => return Ok(()),
    }
    reach(Step::Evicting);
    let mut aside = rooms.state.name.clone();
    aside.push(format!(".break.{}.{}", std::process::id(), random_hex()));
    match names::rename(at, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => {
            renamed?;
            names::remove(rooms.state.named(&aside)?)
        }
    }
}
