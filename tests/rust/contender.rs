//! Who contends for a lock: threads of this process and other processes, told what to do in the same words.
//!
//! A contender is told one command at a time, a line, and answers with lines; see [`crate::worker`].

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ferrolock::mechanism::{
    ByteRangeLock, KernelLock, LeaseMonitor, LeaseReadWriteLock, LeaseSettings, LeaseTerms, MarkerLock,
    Mechanism, Mode, StrictLock,
};
use ferrolock::record::Seconds;
use ferrolock::{Error, ErrorKind, Lock, OwnerId, Patience, ReadWrite, Released, Scope, Watch};

use crate::mechanisms::NoLock;
use crate::support::{Checked, LONG, Place, SHORT};
use crate::worker;

/// Two were inside at once: what every law of exclusion fails with, and nothing else does.
#[derive(Debug)]
pub(crate) struct Overlap(pub(crate) String);

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "overlap: {}", self.0)
    }
}

impl std::error::Error for Overlap {}

pub(crate) trait Contender {
    fn tell(&mut self, command: &str) -> Checked;

    /// The next line of the answer; `None` if none comes `within` the time.
    fn hear(&mut self, within: Duration) -> Checked<Option<String>>;

    /// Ends without a release: a process is killed, a thread ends and drops its lock object.
    fn die(&mut self) -> Checked;
}

impl dyn Contender {
    pub(crate) fn answer(&mut self) -> Checked<String> {
        self.hear(LONG)?.ok_or_else(|| format!("no answer within {LONG:?}").into())
    }

    pub(crate) fn ask(&mut self, command: &str) -> Checked<String> {
        self.tell(command)?;
        self.answer()
    }

    /// Asks for what must be answered with `expected`. "acquired" instead is an overlap.
    pub(crate) fn must(&mut self, command: &str, expected: &str) -> Checked {
        let answer = self.ask(command)?;
        self.compare(command, &answer, expected)
    }

    pub(crate) fn must_answer(&mut self, expected: &str) -> Checked {
        let answer = self.answer()?;
        self.compare("(the wait)", &answer, expected)
    }

    #[expect(clippy::unused_self, reason = "reads as a sentence, and a dyn type has no other place for it")]
    fn compare(&self, command: &str, answer: &str, expected: &str) -> Checked {
        if answer == expected {
            return Ok(());
        }
        let told = format!("{command}: {answer:?} instead of {expected:?}");
        if answer == "acquired" { Err(Overlap(told).into()) } else { Err(told.into()) }
    }

    /// Starts to wait for the lock, says so, and has not got it a moment later.
    pub(crate) fn must_wait(&mut self) -> Checked {
        self.must("acquire never", "waiting")?;
        self.must_still_wait()
    }

    pub(crate) fn must_still_wait(&mut self) -> Checked {
        match self.hear(SHORT)? {
            None => Ok(()),
            Some(answer) => self.compare("(still waiting)", &answer, "(silence)"),
        }
    }
}

/// Between whom a law is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Threads of this process, each with a lock object of its own.
    Objects,
    /// Threads of this process that share one lock object, each with a hold of its own.
    OneObject,
    /// Processes.
    Processes,
}

/// By what they lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Kernel,
    /// The same, and the file goes with the hold.
    Removing,
    Marker,
    Strict,
    /// A marker that says that it is exclusive.
    ExclusiveMarker,
    /// A marker that is a lease.
    LeaseMarker,
    /// A lock of readers and writers.
    ByteRange,
    /// One by leases.
    Lease,
    /// Not at all.
    NoLock,
    /// Not at all, neither readers nor writers.
    NoReadWrite,
}

/// A lock object of either kind.
pub(crate) enum Subject {
    Lock(Lock),
    ReadWrite(ReadWrite),
}

impl Subject {
    pub(crate) fn acquire(
        &self,
        owner: OwnerId,
        mode: Mode,
        path: &Path,
        patience: Patience,
        watch: &mut dyn Watch,
    ) -> Result<(), Error> {
        match self {
            Self::Lock(lock) => lock.acquire(owner, path, patience, watch).map(drop),
            Self::ReadWrite(lock) => lock.acquire(owner, mode, path, patience, watch),
        }
    }

    pub(crate) fn release(&self, owner: OwnerId, force: bool, path: &Path) -> Result<Released, Error> {
        match self {
            Self::Lock(lock) => lock.release(owner, force),
            Self::ReadWrite(lock) => match lock.release(owner, force, path) {
                Err(error) if error.kind() == ErrorKind::NotHeld => Ok(Released::NotHeld),
                released => released,
            },
        }
    }

    pub(crate) fn depth(&self, owner: OwnerId) -> u32 {
        match self {
            Self::Lock(lock) => lock.depth(owner),
            Self::ReadWrite(lock) => lock.held_by(owner).map_or(0, |(_, depth)| depth),
        }
    }
}

impl How {
    pub(crate) fn subject(self) -> Subject {
        let alone = |mechanism: Box<dyn Mechanism>| Subject::Lock(Lock::new(mechanism, Scope::PerOwner));
        match self {
            Self::Kernel => alone(Box::<KernelLock>::default()),
            Self::Removing => alone(Box::new(KernelLock::default().removing_file())),
            Self::Marker => alone(Box::<MarkerLock>::default()),
            Self::Strict => alone(Box::<StrictLock>::default()),
            Self::ExclusiveMarker => alone(Box::new(MarkerLock::exclusive(None))),
            Self::LeaseMarker => {
                // Longer than any pause of a busy machine.
                let duration = Seconds::new(20.0).unwrap_or_else(|| unreachable!("a length of time"));
                let monitor = Arc::new(LeaseMonitor::per_owner(None));
                let terms = LeaseTerms { duration, heartbeat_interval: Duration::from_millis(50), monitor };
                alone(Box::new(MarkerLock::lease(None, terms)))
            }
            Self::ByteRange => Subject::ReadWrite(ReadWrite::new(Box::<ByteRangeLock>::default())),
            Self::Lease => {
                let monitor = Arc::new(LeaseMonitor::new(None));
                let lease = LeaseReadWriteLock::new(LeaseSettings::default(), monitor);
                Subject::ReadWrite(ReadWrite::new(Box::new(lease)))
            }
            Self::NoLock => alone(Box::new(NoLock)),
            Self::NoReadWrite => Subject::ReadWrite(ReadWrite::new(Box::new(NoLock))),
        }
    }
}

/// A lock file and those who contend for it.
pub(crate) struct Cast {
    kind: Kind,
    how: How,
    pub(crate) place: Place,
    shared: Arc<Subject>,
}

impl Cast {
    pub(crate) fn new(kind: Kind, how: How) -> Checked<Self> {
        Ok(Self { kind, how, place: Place::new()?, shared: Arc::new(how.subject()) })
    }

    pub(crate) fn contender(&self) -> Checked<Box<dyn Contender>> {
        Ok(match self.kind {
            Kind::Objects => Box::new(InThread::start(Arc::new(self.how.subject()), &self.place)?),
            Kind::OneObject => Box::new(InThread::start(Arc::clone(&self.shared), &self.place)?),
            Kind::Processes => Box::new(InProcess::start(self.how, &self.place)?),
        })
    }

    /// Removes what a dead one has left that nobody takes away by himself.
    pub(crate) fn bury(&self) -> Checked {
        if self.how == How::Strict && self.kind == Kind::Processes {
            for claim in StrictLock::claims(&self.place.path)? {
                StrictLock::force_break(&self.place.path, claim.name.as_ref())?;
            }
        }
        Ok(())
    }

    pub(crate) fn contenders(&self, number: usize) -> Checked<Vec<Box<dyn Contender>>> {
        (0..number).map(|_| self.contender()).collect()
    }
}

fn hear(lines: &Receiver<String>, within: Duration) -> Checked<Option<String>> {
    match lines.recv_timeout(within) {
        Ok(line) => Ok(Some(line)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err("the contender has ended".into()),
    }
}

struct InThread {
    /// `None` once it was told to end.
    commands: Option<Sender<String>>,
    lines: Receiver<String>,
    abandoned: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl InThread {
    fn start(lock: Arc<Subject>, place: &Place) -> Checked<Self> {
        let (commands, to_do) = mpsc::channel();
        let (say, lines) = mpsc::channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let thread = {
            let (path, abandoned) = (place.path.clone(), Arc::clone(&abandoned));
            thread::Builder::new().name("contender".into()).spawn(move || {
                let say = |line: String| say.send(line).map_err(Into::into);
                worker::serve(&lock, &path, &to_do, &abandoned, &say);
            })?
        };
        Ok(Self { commands: Some(commands), lines, abandoned, thread: Some(thread) })
    }
}

impl Contender for InThread {
    fn tell(&mut self, command: &str) -> Checked {
        let commands = self.commands.as_ref().ok_or("the contender was told to end")?;
        Ok(commands.send(command.to_owned())?)
    }

    fn hear(&mut self, within: Duration) -> Checked<Option<String>> {
        hear(&self.lines, within)
    }

    fn die(&mut self) -> Checked {
        self.abandoned.store(true, Ordering::SeqCst);
        self.commands = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err("the contender's thread panicked".into()),
            _ => Ok(()),
        }
    }
}

impl Drop for InThread {
    fn drop(&mut self) {
        drop(self.die());
    }
}

struct InProcess {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
}

impl InProcess {
    fn start(how: How, place: &Place) -> Checked<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(worker::ARGUMENTS)
            .env(worker::VARIABLE, worker::instruction(how))
            .env(worker::PATH_VARIABLE, &place.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (commands, output) = (child.stdin.take(), child.stdout.take());
        let (say, lines) = mpsc::channel();
        let reader = output.map(|output| {
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    // The test harness has its say on the same stream.
                    if let Some((_, said)) = line.split_once(worker::SAYS) {
                        if say.send(said.to_owned()).is_err() {
                            break;
                        }
                    }
                }
            })
        });
        let commands = commands.ok_or("stdin was piped")?;
        let mut process = Self { child, commands, lines, reader };
        match process.hear(LONG)?.as_deref() {
            Some("ready") => Ok(process),
            other => Err(format!("the worker started with {other:?}").into()),
        }
    }
}

impl Contender for InProcess {
    fn tell(&mut self, command: &str) -> Checked {
        Ok(writeln!(self.commands, "{command}")?)
    }

    fn hear(&mut self, within: Duration) -> Checked<Option<String>> {
        hear(&self.lines, within)
    }

    fn die(&mut self) -> Checked {
        // Killing what is already reaped does nothing.
        self.child.kill()?;
        self.child.wait()?;
        match self.reader.take().map(JoinHandle::join) {
            Some(Err(_)) => Err("the reader panicked".into()),
            _ => Ok(()),
        }
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        drop(self.die());
    }
}
