//! A claim of this process, under one name or two, and how it is given back.

use std::ffi::OsString;
use std::io::{self, Write};
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use super::record::{ClaimState, own_bytes, private_name};
use super::rooms::Rooms;
use crate::error::{Error, ErrorKind};
use crate::fork::{ForkMutex, Tracked};
use crate::mechanism::at_exit::{self, Leftover};
use crate::mechanism::folder::Folder;
use crate::mechanism::new_file::{NewFile, judge_by_name, random_hex};
use crate::mechanism::{Guard, ReleaseError};
use crate::sys::{FileId, names};

/// What was published under a token that nobody draws again: so it is removed by its names, without a second look, however
/// late that is.
#[derive(Debug)]
struct Names {
    claims: Arc<Folder>,
    token: String,
    path: PathBuf,
}

/// Claims that could not be withdrawn: they keep everybody out, this process too. Tried again before each attempt.
static OWED: ForkMutex<Vec<Arc<Names>>> = ForkMutex::new();

impl Names {
    fn remove(&self, state: ClaimState) -> io::Result<()> {
        let name = OsString::from(state.claim(&self.token));
        names::remove(self.claims.named(&name)?)
    }

    /// A forked child withdraws nothing of its parent's.
    fn is_of_this_process(&self) -> bool {
        self.claims.file().is_ok()
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::caused(ErrorKind::Io, "unlink", &self.path, error)
    }
}

impl Leftover for Names {
    fn clear_away(self: Arc<Self>) {
        drop(self.remove(ClaimState::Held));
        drop(self.remove(ClaimState::Intent));
    }
}

/// What is published. Its drop withdraws it.
#[derive(Debug)]
struct Published {
    names: Arc<Names>,
    is_withdrawn: bool,
}

impl Drop for Published {
    fn drop(&mut self) {
        if self.is_withdrawn || !self.names.is_of_this_process() {
            return;
        }
        let held = self.names.remove(ClaimState::Held);
        let intent = self.names.remove(ClaimState::Intent);
        if held.and(intent).is_err() {
            at_exit::note(&self.names);
            OWED.lock().push(Arc::clone(&self.names));
        }
    }
}

/// Withdraws what could not be withdrawn before from these rooms.
pub(super) fn settle(rooms: &Rooms) {
    let owed = {
        let mut owed = OWED.lock();
        let is_here = |names: &Arc<Names>| names.claims.id() == rooms.claims.id();
        let (here, elsewhere) = mem::take(&mut *owed).into_iter().partition::<Vec<_>, _>(is_here);
        *owed = elsewhere;
        here
    };
    // Where that fails once more, the drop says so.
    for names in owed {
        drop(Published { names, is_withdrawn: false });
    }
}

/// An attempt that has published its wish for the lock.
#[derive(Debug)]
pub(super) struct Claim {
    published: Published,
    pub(super) file: Tracked,
}

impl Claim {
    pub(super) fn publish(rooms: &Rooms, mode: Option<u32>) -> Result<Self, Error> {
        let (token, path) = (random_hex(), rooms.site.path().to_owned());
        let name = ClaimState::Intent.claim(&token);
        // Before the call: whatever it says, the name may be there then.
        let names = Arc::new(Names { claims: Arc::clone(&rooms.claims), token, path });
        let published = Published { names, is_withdrawn: false };
        let new = NewFile {
            bits: super::bits(mode),
            fill: &|made| made.own_file()?.write_all(&own_bytes(&published.names.token)),
            private_name: &|| private_name(&name, &random_hex()).into(),
        };
        let file = new.publish(&rooms.claims, name.as_ref());
        let file = file.map_err(|error| super::publication_error(&rooms.site, error))?;
        Ok(Self { published, file })
    }

    pub(super) fn token(&self) -> &str {
        &self.published.names.token
    }

    /// Gives it its second name, which keeps those out that come later with a smaller token.
    pub(super) fn hold(&self, rooms: &Rooms) -> Result<(), Error> {
        let (claims, id) = (&rooms.claims, self.file.stamp().id);
        let [held, intent] =
            [ClaimState::Held, ClaimState::Intent].map(|state| OsString::from(state.claim(self.token())));
        let linked = claims.named(&intent).and_then(|at| names::link(at, &held));
        judge_by_name(claims, &held, id, linked).map_err(|error| super::publication_error(&rooms.site, error))
    }

    /// Makes it a lock.
    pub(super) fn into_guard(self, sentinel: Tracked) -> StrictGuard {
        at_exit::note(&self.published.names);
        StrictGuard { published: self.published, sentinel }
    }
}

/// The lock of a claim. Its drop gives the lock back.
#[derive(Debug)]
pub(super) struct StrictGuard {
    published: Published,
    /// Kept open, so that nothing else becomes known by its number.
    sentinel: Tracked,
}

impl Guard for StrictGuard {
    fn file(&self) -> FileId {
        self.sentinel.stamp().id
    }

    /// The second name goes first: without it a smaller token may win, so the lock is free then, and what is left of the
    /// claim keeps others out for nobody.
    fn release(mut self: Box<Self>) -> Result<(), ReleaseError> {
        let names = Arc::clone(&self.published.names);
        if !names.is_of_this_process() {
            return Ok(());
        }
        if let Err(error) = names.remove(ClaimState::Held) {
            return Err(ReleaseError { guard: Some(self), error: names.failed(error) });
        }
        match names.remove(ClaimState::Intent) {
            Ok(()) => {
                self.published.is_withdrawn = true;
                Ok(())
            }
            Err(error) => Err(ReleaseError { guard: None, error: names.failed(error) }),
        }
    }
}
