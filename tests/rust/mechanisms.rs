//! Mechanisms that exist only here: one that does not lock, one that fails on demand, and one beside which others act.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrolock::mechanism::{Attempt, Guard, KernelLock, Manners, Mechanism, ReleaseError, Terms};
use ferrolock::{Error, FileId, Lock, Scope};

/// The negative control: everybody gets it.
#[derive(Debug)]
pub(crate) struct NoLock;

#[derive(Debug)]
struct NoGuard;

impl Mechanism for NoLock {
    fn try_acquire(&self, _path: &Path, _terms: Terms) -> Result<Attempt, Error> {
        Ok(Attempt::Acquired(Box::new(NoGuard)))
    }
}

impl Guard for NoGuard {
    fn file(&self) -> FileId {
        FileId { device: 0, inode: 0 }
    }

    fn release(self: Box<Self>) -> Result<(), ReleaseError> {
        Ok(())
    }
}

/// What happens at one attempt, or at one release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// What the kernel lock does.
    Proceed,
    /// An error; of a release, with the lock still held.
    Fail,
    /// Of a release: the lock is given back and then something fails.
    FailTidying,
    /// Of an attempt: somebody else has it.
    Contend,
    /// Of an attempt: a signal came.
    Interrupt,
    /// A bug of the mechanism.
    Panic,
}

/// Which step comes at which count, from 1.
pub(crate) type Script = fn(usize) -> Step;

/// The kernel lock with faults, of attempts and of releases.
#[derive(Debug, Clone)]
pub(crate) struct Faulty {
    pub(crate) attempt: Script,
    pub(crate) release: Script,
    pub(crate) attempts: Arc<AtomicUsize>,
    pub(crate) releases: Arc<AtomicUsize>,
}

impl Faulty {
    pub(crate) fn attempting(attempt: Script) -> Self {
        Self { attempt, ..Self::releasing(|_| Step::Proceed) }
    }

    pub(crate) fn releasing(release: Script) -> Self {
        Self { attempt: |_| Step::Proceed, release, attempts: Arc::default(), releases: Arc::default() }
    }

    pub(crate) fn lock(&self, scope: Scope) -> Lock {
        Lock::new(Box::new(self.clone()), scope)
    }

    pub(crate) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }

    pub(crate) fn releases(&self) -> usize {
        self.releases.load(Ordering::SeqCst)
    }
}

fn count(counter: &AtomicUsize) -> usize {
    counter.fetch_add(1, Ordering::SeqCst) + 1
}

/// An error as a mechanism makes it: only the crate itself can construct one.
fn some_error() -> Error {
    match KernelLock::default().try_acquire(Path::new(""), Manners::Polite.into()) {
        Err(error) => error,
        Ok(attempt) => unreachable!("the empty path is no file: {attempt:?}"),
    }
}

impl Mechanism for Faulty {
    fn try_acquire(&self, path: &Path, terms: Terms) -> Result<Attempt, Error> {
        match (self.attempt)(count(&self.attempts)) {
            Step::Fail | Step::FailTidying => return Err(some_error()),
            Step::Contend => return Ok(Attempt::Contended(None)),
            Step::Interrupt => return Ok(Attempt::Interrupted),
            Step::Panic => panic!("a bug in try_acquire"),
            Step::Proceed => {}
        }
        Ok(match KernelLock::default().try_acquire(path, terms)? {
            Attempt::Acquired(guard) => {
                Attempt::Acquired(Box::new(FaultyGuard { faults: self.clone(), guard }))
            }
            held @ (Attempt::Contended(_) | Attempt::Interrupted) => held,
        })
    }
}

#[derive(Debug)]
struct FaultyGuard {
    faults: Faulty,
    guard: Box<dyn Guard>,
}

impl Guard for FaultyGuard {
    fn file(&self) -> FileId {
        self.guard.file()
    }

    fn release(self: Box<Self>) -> Result<(), ReleaseError> {
        match (self.faults.release)(count(&self.faults.releases)) {
            Step::Fail => Err(ReleaseError { guard: Some(self), error: some_error() }),
            Step::FailTidying => {
                self.guard.release()?;
                Err(ReleaseError { guard: None, error: some_error() })
            }
            Step::Panic => panic!("a bug in release"),
            Step::Proceed | Step::Contend | Step::Interrupt => self.guard.release(),
        }
    }
}

/// The kernel lock, where something happens each time after an attempt and before that can say what it came to.
pub(crate) struct Beset(Box<dyn Fn() + Send + Sync>);

impl Beset {
    pub(crate) fn by(meanwhile: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Box::new(meanwhile))
    }
}

impl fmt::Debug for Beset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beset").finish_non_exhaustive()
    }
}

impl Mechanism for Beset {
    fn try_acquire(&self, path: &Path, terms: Terms) -> Result<Attempt, Error> {
        let attempt = KernelLock::default().try_acquire(path, terms);
        (self.0)();
        attempt
    }
}
