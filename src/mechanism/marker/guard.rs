//! A held marker, and how it is given back: only one's own is removed.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::courtesy;
use super::draft::OwnMarker;
use super::lease::{LeaseTerms, Leasehold};
use super::site::Site;
use crate::error::Error;
use crate::mechanism::at_exit::{self, Leftover};
use crate::mechanism::health::Refreshed;
use crate::mechanism::monitor::CompromiseReason;
use crate::mechanism::{CloseErrors, Guard, Loss, ReleaseError};
use crate::record::RELEASED;
use crate::sys::{self, At, FileId, Verdict, names};
use crate::wait;

/// A marker of this process, at its name.
#[derive(Debug)]
pub(super) struct Held {
    /// Closed first: that wakes the next one.
    draft: OwnMarker,
    pub(super) site: Site,
    /// It was withdrawn, or somebody is about to.
    is_withdrawn: AtomicBool,
    /// Somebody may have taken its place although its owner lives.
    may_expire: bool,
}

/// What became of a marker that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Withdrawn {
    /// It is gone, or was not ours to remove.
    Done,
    /// It was not at its name any more.
    WasNotThere(CompromiseReason),
}

impl Held {
    pub(super) fn id(&self) -> FileId {
        self.draft.id()
    }

    /// Takes the marker away from its name, or sees to it that it holds nothing wherever it is.
    ///
    /// Does nothing in a forked child: the marker is the parent's.
    fn withdraw(&self) -> io::Result<Withdrawn> {
        let (Some(file), Ok(at)) = (self.draft.file.file(), self.site.at()) else {
            return Ok(Withdrawn::Done);
        };
        // Two that do it at once, a release and the end of the process, would both find the marker at its name, and
        // the slower one remove the next holder's.
        if self.is_withdrawn.swap(true, Ordering::SeqCst) {
            return Ok(Withdrawn::Done);
        }
        if sys::has_waiters(file) {
            courtesy::owe(&self.site.name);
        }
        // Whatever failed, it is held as before.
        self.remove_or_disown(file, at).inspect_err(|_| {
            self.open_to_contenders();
            self.is_withdrawn.store(false, Ordering::SeqCst);
        })
    }

    fn remove_or_disown(&self, file: &File, at: At<'_>) -> io::Result<Withdrawn> {
        if self.may_expire && !self.keep_place(file)? {
            return write_released(file).map(|()| Withdrawn::Done);
        }
        let outcome = match names::look(at)? {
            Some(stamp) if stamp.id == self.id() => {
                names::remove(at)?;
                self.disown_if_aside(file);
                return Ok(Withdrawn::Done);
            }
            Some(_) => Withdrawn::WasNotThere(CompromiseReason::OwnerChanged),
            None => Withdrawn::WasNotThere(CompromiseReason::MarkerMissing),
        };
        // A contender may have it aside, and put it back after this.
        if names::stamp_of(file)?.links > 0 {
            write_released(file)?;
        }
        Ok(outcome)
    }

    /// Sees to it that nobody takes the marker's place between a look at the name and its removal, which would be that of
    /// the successor's; `false`: somebody is about to.
    ///
    /// Contenders of this machine have the file locked meanwhile. To others it has changed, whatever they saw before: a
    /// whole lease has to pass before they may take it.
    fn keep_place(&self, file: &File) -> io::Result<bool> {
        if sys::is_known_local(file, self.id()) && !lock_patiently(file) {
            return Ok(false);
        }
        names::touch(file).map(|()| true)
    }

    /// Lets contenders take a lease when it is not fresh: its owner may be stopped then. As long as it was being made, and
    /// perhaps another's was aside, nobody could.
    fn open_to_contenders(&self) {
        if let (true, Some(file)) = (self.may_expire, self.draft.file.file()) {
            drop(sys::unlock(file));
        }
    }

    /// A contender that had a lease aside when its place was removed links it back there.
    fn disown_if_aside(&self, file: &File) {
        if self.may_expire && names::stamp_of(file).is_ok_and(|stamp| stamp.links > 0) {
            // What fails expires.
            drop(write_released(file));
        }
    }

    /// Refreshes a lease, and then looks whether it is still at its name; `None`: it is over.
    pub(super) fn refresh(&self) -> Option<io::Result<Refreshed>> {
        let look = || {
            names::touch(self.draft.file.own_file()?)?;
            Ok(match names::look(self.site.at()?)? {
                Some(stamp) if stamp.id == self.id() => Refreshed::Fresh,
                Some(_) => Refreshed::Lost(CompromiseReason::OwnerChanged),
                None => Refreshed::Lost(CompromiseReason::MarkerMissing),
            })
        };
        let refreshed = (!self.is_over()).then(look);
        refreshed.filter(|_| !self.is_over())
    }

    fn is_over(&self) -> bool {
        self.is_withdrawn.load(Ordering::SeqCst) || self.draft.file.file().is_none()
    }

    /// Has a lost marker hold nothing, if anybody has it under another name and puts it back. There is nothing to withdraw
    /// then.
    pub(super) fn disown(&self) {
        if let (false, Some(file)) = (self.is_withdrawn.swap(true, Ordering::SeqCst), self.draft.file.file())
        {
            self.disown_if_aside(file);
        }
    }
}

/// Who reclaims a marker has its file locked for as long as that takes, unless it is stopped.
const RECLAIM: Duration = Duration::from_millis(100);
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);

/// Locks the file of the own marker; `false`: another has it locked, and does not go away.
fn lock_patiently(file: &File) -> bool {
    let begun = Instant::now();
    while sys::try_lock(file).is_err_and(|error| sys::classify(&error) == Verdict::Contended) {
        if begun.elapsed() >= RECLAIM {
            return false;
        }
        wait::sleep(BETWEEN_LOOKS);
    }
    true
}

impl Leftover for Held {
    fn clear_away(self: Arc<Self>) {
        drop(self.withdraw());
    }
}

fn write_released(mut file: &File) -> io::Result<()> {
    file.rewind()?;
    file.write_all(RELEASED)?;
    file.set_len(RELEASED.len() as u64)
}

/// The lock of a marker. Its drop gives the lock back.
#[derive(Debug)]
pub(super) struct MarkerGuard {
    /// Taken only when it is given back.
    held: Option<Arc<Held>>,
    id: FileId,
    close_errors: CloseErrors,
    lease: Option<Arc<Leasehold>>,
}

impl MarkerGuard {
    pub(super) fn new(site: Site, draft: OwnMarker, close_errors: CloseErrors, may_expire: bool) -> Self {
        let id = draft.id();
        let held = Arc::new(Held { draft, site, is_withdrawn: AtomicBool::new(false), may_expire });
        at_exit::note(&held);
        Self { held: Some(held), id, close_errors, lease: None }
    }

    /// Begins the lease of a marker that was made after `begun`; `None`: that took so long that it may be lost already.
    ///
    /// # Errors
    /// Those of a heartbeat that cannot be started.
    pub(super) fn begin_lease(
        mut self,
        terms: &Arc<LeaseTerms>,
        token: String,
        begun: Duration,
    ) -> Result<Option<Self>, Error> {
        let Some(held) = &self.held else { return Ok(None) };
        held.open_to_contenders();
        self.lease = Leasehold::begin(held, token, terms, begun)?;
        Ok(self.lease.is_some().then_some(self))
    }

    /// Gives the marker back. A lease that was lost unnoticed is told so: late, but before it is over. One that is known to be
    /// lost is over also where that fails: what is left of it is not fresh any more.
    fn withdraw(&self) -> Result<(), Error> {
        let Some(held) = &self.held else { return Ok(()) };
        let failed = |error| held.site.failed("unlink", error);
        let Some(lease) = &self.lease else { return held.withdraw().map(drop).map_err(failed) };
        lease.no_longer_fresh();
        match held.withdraw() {
            Ok(Withdrawn::Done) => {}
            Ok(Withdrawn::WasNotThere(reason)) => lease.lose(reason, None),
            Err(_) if lease.loss.has_come() => {}
            Err(error) => {
                drop(lease.keep_fresh());
                return Err(failed(error));
            }
        }
        lease.end();
        Ok(())
    }

    /// Closes the marker's file, which has left its name; one who removes markers at the end of the process may do it
    /// instead, or a heartbeat, if he has it in hand just now.
    fn close(&mut self) -> Result<(), Error> {
        let Some(held) = self.held.take() else { return Ok(()) };
        match Arc::try_unwrap(held) {
            Ok(Held { mut draft, site, .. }) => {
                draft.file.close().map_err(|error| site.failed("close", error))
            }
            Err(_) => Ok(()),
        }
    }
}

impl Guard for MarkerGuard {
    fn file(&self) -> FileId {
        self.id
    }

    fn loss(&self) -> Option<Loss> {
        self.lease.as_ref().map(|lease| lease.loss.clone())
    }

    fn open_file(&self) -> Option<&File> {
        self.held.as_ref().and_then(|held| held.draft.file.file())
    }

    fn token(&self) -> Option<&str> {
        self.lease.as_ref().map(|lease| lease.token.as_str())
    }

    fn release(mut self: Box<Self>) -> Result<(), ReleaseError> {
        if let Err(error) = self.withdraw() {
            return Err(ReleaseError { guard: Some(self), error });
        }
        match self.close() {
            Err(error) if self.close_errors == CloseErrors::Raise => Err(ReleaseError { guard: None, error }),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for MarkerGuard {
    fn drop(&mut self) {
        // Nobody can be told. A marker that stays is judged by its record when this process has ended.
        if self.withdraw().is_err() {
            if let Some(lease) = &self.lease {
                lease.no_longer_fresh();
                lease.end();
            }
        }
        drop(self.close());
    }
}
