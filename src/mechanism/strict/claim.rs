//! A claim of this process, under one name or two, and how it is given back.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::record::{ClaimState, own_bytes, private_name};
use super::rooms::Rooms;
use crate::error::{Error, ErrorKind};
use crate::fork::{ForkMutex, Tracked};
use crate::mechanism::at_exit::{self, Fate, Leftover};
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

impl Names {
    fn remove(&self, state: ClaimState) -> io::Result<()> {
        remove(&self.claims, state, &self.token)
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
        drop(remove_both(&self.claims, &self.token));
    }

    fn fate(&self) -> Fate {
        Fate::Stays
    }
}

fn remove(claims: &Folder, state: ClaimState, token: &str) -> io::Result<()> {
    let name = OsString::from(state.claim(token));
    names::remove(claims.named(&name)?)
}

fn remove_both(claims: &Folder, token: &str) -> io::Result<()> {
    let held = remove(claims, ClaimState::Held, token);
    held.and(remove(claims, ClaimState::Intent, token))
}

/// What is published. Its drop withdraws it.
#[derive(Debug)]
struct Published {
    names: Arc<Names>,
    is_withdrawn: bool,
}

impl Drop for Published {
    fn drop(&mut self) {
        let Names { claims, token, .. } = &*self.names;
        if self.is_withdrawn || !self.names.is_of_this_process() || remove_both(claims, token).is_ok() {
            return;
        }
        let owed = Owed { folder: claims.path(), id: claims.id(), token: token.clone() };
        let owed = Arc::new(owed);
        at_exit::note(&owed);
        owe(owed);
    }
}

/// A claim that could not be withdrawn: it keeps everybody out, this process too.
///
/// An open folder for each would be one more descriptor for ever. It is known by its path, and opened by whoever wants its
/// lock.
#[derive(Debug)]
struct Owed {
    folder: PathBuf,
    id: FileId,
    token: String,
}

impl Leftover for Owed {
    fn clear_away(self: Arc<Self>) {
        if let Ok(claims) = Folder::open(&self.folder) {
            if claims.id() == self.id {
                drop(remove_both(&claims, &self.token));
            }
        }
    }

    fn fate(&self) -> Fate {
        Fate::GivenUp
    }
}

/// The most of them that are remembered. One is left alone then, until somebody removes it by hand.
const MOST_OWED: usize = 256;
/// Tried again before each attempt in the same folder.
static OWED: ForkMutex<VecDeque<Arc<Owed>>> = ForkMutex::new();

fn owe(owed: Arc<Owed>) {
    let _oldest = {
        let mut all = OWED.lock();
        all.push_back(owed);
        if all.len() > MOST_OWED { all.pop_front() } else { None }
    };
}

/// Withdraws what could not be withdrawn before from these rooms.
pub(super) fn settle(rooms: &Rooms) {
    let here = {
        let mut owed = OWED.lock();
        let is_here = |owed: &Arc<Owed>| owed.id == rooms.claims.id();
        let here: Vec<_> = owed.iter().filter(|owed| is_here(owed)).cloned().collect();
        owed.retain(|owed| !is_here(owed));
        here
    };
    for owed in here {
        if remove_both(&rooms.claims, &owed.token).is_err() {
            owe(owed);
        }
    }
}

/// An attempt that has published its wish for the lock.
#[derive(Debug)]
pub(super) struct Claim {
    published: Published,
    pub(super) file: Tracked,
}

impl Claim {
    /// `None`: it would stay, for the process ends.
    pub(super) fn publish(rooms: &Rooms, mode: Option<u32>) -> Result<Option<Self>, Error> {
        let (token, path) = (random_hex(), rooms.site.path().to_owned());
        let name = ClaimState::Intent.claim(&token);
        // Before the call: whatever it says, the name may be there then.
        let names = Arc::new(Names { claims: Arc::clone(&rooms.claims), token, path });
        if !at_exit::may_make(&names) {
            return Ok(None);
        }
        let published = Published { names, is_withdrawn: false };
        let new = NewFile {
            bits: super::bits(mode),
            content: &own_bytes(&published.names.token),
            settle: &|_| Ok(()),
            private_name: &|| private_name(&name, &random_hex()).into(),
        };
        let file = new.publish(&rooms.claims, name.as_ref());
        let file = file.map_err(|error| super::publication_error(&rooms.site, error))?;
        Ok(Some(Self { published, file }))
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
