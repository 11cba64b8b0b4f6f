//! What the tests of every topic use.

use std::error::Error;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::mpsc::Sender;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use ferrolock::mechanism::{Attempt, Guard, KernelLock, Manners, Mechanism};
use ferrolock::wait::sleep;
use ferrolock::{ErrorKind, Lock, OwnerId, Patience, Scope, Stop, Timeout, Unwatched, Watch};
use tempfile::TempDir;

/// What a test or a step of it comes to.
pub(crate) type Checked<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Whatever must happen happens within this time, on the slowest machine; only a hang takes longer.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// The limit of a wait that must end before it: with its last attempt a waiter gets a lock that is free though nobody
/// woke it.
pub(crate) const LATE: Timeout = Timeout::After(Duration::from_secs(30));

/// How long a waiter that has said that it waits is watched not to get anything.
pub(crate) const SHORT: Duration = Duration::from_millis(60);

/// The longest pause between two attempts of a waiter.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// A path for a lock file in a folder of its own, which goes with it.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Checked<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().canonicalize()?.join("x.lock");
        Ok(Self { folder, path })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

pub(crate) fn kernel_lock(scope: Scope) -> Lock {
    Lock::new(Box::new(KernelLock::default()), scope)
}

pub(crate) fn me() -> OwnerId {
    OwnerId::current_thread()
}

/// One of some owners that are no threads.
pub(crate) fn greenlet(number: usize) -> OwnerId {
    static GREENLETS: LazyLock<[OwnerId; 10]> = LazyLock::new(|| [(); 10].map(|()| OwnerId::unique()));
    GREENLETS[number]
}

pub(crate) fn patience(timeout: Timeout) -> Patience {
    Patience { timeout, poll_interval: POLL, lifetime: None }
}

/// As [`patience`], and nothing but the kernel or another thread wakes the waiter before its deadline; only who is the
/// first of its process makes an attempt now and then.
#[cfg(target_os = "linux")]
pub(crate) fn only_woken(timeout: Timeout) -> Patience {
    Patience { timeout, poll_interval: Duration::from_secs(60), lifetime: None }
}

/// What `wait` comes to, if it does so within [`LONG`].
#[cfg(unix)]
pub(crate) fn in_time<T>(wait: impl FnOnce() -> Checked<T>) -> Checked<T> {
    let begin = Instant::now();
    let result = wait()?;
    let took = begin.elapsed();
    if took < LONG { Ok(result) } else { Err(format!("it took {took:?}").into()) }
}

/// Acquires with a watch that only sleeps.
pub(crate) fn acquire(
    lock: &Lock,
    owner: OwnerId,
    path: &Path,
    timeout: Timeout,
) -> Result<(), ferrolock::Error> {
    lock.acquire(owner, path, patience(timeout), &mut Unwatched).map(drop)
}

/// Whether a lock object that nobody else knows gets the lock on `path` at once. It gives it back.
pub(crate) fn is_free(path: &Path) -> Checked<bool> {
    match acquire(&kernel_lock(Scope::PerOwner), greenlet(9), path, Timeout::Once) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The kernel lock on `path`, without a lock object.
pub(crate) fn guard_on(path: &Path) -> Checked<Box<dyn Guard>> {
    match KernelLock::default().try_acquire(path, Manners::Polite.into())? {
        Attempt::Acquired(guard) => Ok(guard),
        held @ (Attempt::Contended(_) | Attempt::Interrupted) => Err(format!("{held:?}").into()),
    }
}

/// What the thread came to. Its panic goes on here.
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Asks again and again until the answer is yes; an error after [`LONG`].
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> Checked<bool>) -> Checked {
    let begin = Instant::now();
    while !condition()? {
        if begin.elapsed() > LONG {
            return Err(format!("waited {LONG:?} in vain: {what}").into());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A watch whose answers are a closure's: it is told which question this is, counted from 1.
pub(crate) struct Asking<F>(F, usize);

impl<F: FnMut(usize) -> ControlFlow<Stop>> Asking<F> {
    pub(crate) fn new(answer: F) -> Self {
        Self(answer, 0)
    }
}

impl<F: FnMut(usize) -> ControlFlow<Stop>> Watch for Asking<F> {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        self.1 += 1;
        (self.0)(self.1)
    }

    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
        sleep(pause);
        ControlFlow::Continue(())
    }
}

/// A watch that tells by a channel that the wait has begun.
pub(crate) fn telling(waiting: Sender<()>) -> impl Watch {
    Asking::new(move |_| {
        // Nobody listens any more once the test has failed: then there is no need to wait.
        waiting.send(()).map_or(ControlFlow::Break(Stop::Cancelled), ControlFlow::Continue)
    })
}

/// A watch that is asked once only, and tells by a closure.
pub(crate) struct AskedOnce<F>(pub(crate) F);

impl<F: FnMut()> Watch for AskedOnce<F> {
    fn contended(&mut self, _pause: Duration) -> ControlFlow<Stop> {
        (self.0)();
        ControlFlow::Continue(())
    }

    fn pause(&mut self, pause: Duration) -> ControlFlow<Stop> {
        sleep(pause);
        ControlFlow::Continue(())
    }

    fn has_questions(&self) -> bool {
        false
    }
}

/// How many descriptors of this process lead to the file at `path`, whatever their numbers.
#[cfg(target_os = "linux")]
pub(crate) fn descriptors_on(path: &Path) -> Checked<usize> {
    use std::os::unix::fs::MetadataExt;

    let wanted = std::fs::metadata(path)?;
    let mut found = 0;
    for descriptor in std::fs::read_dir("/proc/self/fd")? {
        // Another thread may have closed it meanwhile.
        if let Ok(file) = std::fs::metadata(descriptor?.path()) {
            found += usize::from((file.dev(), file.ino()) == (wanted.dev(), wanted.ino()));
        }
    }
    Ok(found)
}
