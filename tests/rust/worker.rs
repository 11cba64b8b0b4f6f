//! What a contender does: the same loop in a thread and in a process.
//!
//! | command | answer |
//! |---|---|
//! | `acquire once`, `acquire never`, `acquire MS` | `waiting` if it has to, then `acquired` or `timed out` |
//! | `read once`, `read never`, `read MS` | the same as a reader |
//! | `release`, `force` | `not held`, `still held` or `unlocked` |
//! | `depth` | how often it holds the lock |
//! | `work N` | acquires, works and releases N times; how often somebody else was inside |
//! | `watch N` | reads, looks whether anybody changes anything, and releases N times; how often somebody did |
//! | `descriptors` | how many descriptors of the process lead to the lock file (Linux) |

use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use ferrolock::mechanism::Mode;
use ferrolock::wait::sleep;
use ferrolock::{ErrorKind, OwnerId, Released, Stop, Timeout};

use crate::contender::{How, Subject};
use crate::support::{Asking, Checked, patience};

pub(crate) const VARIABLE: &str = "FERROLOCK_TEST_WORKER";
pub(crate) const PATH_VARIABLE: &str = "FERROLOCK_TEST_PATH";
pub(crate) const SAYS: &str = "says: ";
pub(crate) const ARGUMENTS: [&str; 4] =
    ["--exact", "worker::a_process_that_contends", "--ignored", "--nocapture"];

pub(crate) fn instruction(how: How) -> &'static str {
    match how {
        How::Kernel => "kernel",
        How::Removing => "removing",
        How::Marker => "marker",
        How::Strict => "strict",
        How::ExclusiveMarker => "exclusive marker",
        How::LeaseMarker => "lease marker",
        How::ByteRange => "byte range",
        How::Lease => "lease",
        How::NoLock => "no lock",
        How::NoReadWrite => "no readers and writers",
    }
}

/// The process of a [`crate::contender::Kind::Processes`] contender. It ends with its stdin.
#[test]
#[ignore = "no law: other tests start it as a process of its own"]
fn a_process_that_contends() -> Checked {
    let how = match std::env::var(VARIABLE).as_deref() {
        Ok("kernel") => How::Kernel,
        Ok("removing") => How::Removing,
        Ok("marker") => How::Marker,
        Ok("strict") => How::Strict,
        Ok("exclusive marker") => How::ExclusiveMarker,
        Ok("lease marker") => How::LeaseMarker,
        Ok("byte range") => How::ByteRange,
        Ok("lease") => How::Lease,
        Ok("no lock") => How::NoLock,
        Ok("no readers and writers") => How::NoReadWrite,
        _ => return Ok(()),
    };
    let path = std::env::var_os(PATH_VARIABLE).ok_or("which path?")?;
    let (told, commands) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if told.send(line).is_err() {
                break;
            }
        }
        // Also in the middle of a wait: whoever started this process has ended.
        std::process::exit(0);
    });
    let say = |line: String| Ok(writeln!(io::stdout(), "{SAYS}{line}")?);
    say("ready".into())?;
    serve(&how.subject(), Path::new(&path), &commands, &AtomicBool::new(false), &say);
    Ok(())
}

/// Does as it is told until nobody tells it anything more, or `abandoned` in a wait.
pub(crate) fn serve(
    lock: &Subject,
    path: &Path,
    commands: &Receiver<String>,
    abandoned: &AtomicBool,
    say: &dyn Fn(String) -> Checked,
) {
    let worker = Worker { lock, path, abandoned, say };
    for command in commands {
        let answer = worker.obey(&command).unwrap_or_else(|error| format!("error: {error}"));
        if say(answer).is_err() {
            break;
        }
    }
}

struct Worker<'a> {
    lock: &'a Subject,
    path: &'a Path,
    abandoned: &'a AtomicBool,
    say: &'a dyn Fn(String) -> Checked,
}

impl Worker<'_> {
    fn obey(&self, command: &str) -> Checked<String> {
        let me = OwnerId::current_thread();
        match command.split_once(' ').unwrap_or((command, "")) {
            ("acquire", limit) => self.acquire(Mode::Exclusive, timeout(limit)?),
            ("read", limit) => self.acquire(Mode::Shared, timeout(limit)?),
            ("release", _) => Ok(answer(self.lock.release(me, false, self.path)?)),
            ("force", _) => Ok(answer(self.lock.release(me, true, self.path)?)),
            ("depth", _) => Ok(self.lock.depth(me).to_string()),
            ("work", rounds) => self.work(rounds.parse()?),
            ("watch", rounds) => self.watch(rounds.parse()?),
            #[cfg(target_os = "linux")]
            ("descriptors", _) => Ok(crate::support::descriptors_on(self.path)?.to_string()),
            _ => Err(format!("what is {command:?}?").into()),
        }
    }

    fn acquire(&self, mode: Mode, timeout: Timeout) -> Checked<String> {
        match self.try_to_acquire(mode, timeout, || (self.say)("waiting".into())) {
            Ok(()) => Ok("acquired".into()),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut(_)) => Ok("timed out".into()),
            Err(error) => Err(error.into()),
        }
    }

    fn try_to_acquire(
        &self,
        mode: Mode,
        timeout: Timeout,
        waits: impl Fn() -> Checked,
    ) -> Result<(), ferrolock::Error> {
        let mut watch = Asking::new(|question| {
            if question == 1 && waits().is_err() || self.abandoned.load(Ordering::SeqCst) {
                return ControlFlow::Break(Stop::Cancelled);
            }
            ControlFlow::Continue(())
        });
        self.lock.acquire(OwnerId::current_thread(), mode, self.path, patience(timeout), &mut watch)
    }

    fn work(&self, rounds: usize) -> Checked<String> {
        let mut overlaps = 0_usize;
        for _ in 0..rounds {
            self.try_to_acquire(Mode::Exclusive, Timeout::Never, || Ok(()))?;
            overlaps += usize::from(!work_alone(self.path)?);
            self.lock.release(OwnerId::current_thread(), false, self.path)?;
        }
        Ok(overlaps.to_string())
    }

    fn watch(&self, rounds: usize) -> Checked<String> {
        let mut changes = 0_usize;
        for _ in 0..rounds {
            self.try_to_acquire(Mode::Shared, Timeout::Never, || Ok(()))?;
            let before = (counted(self.path)?, mark(self.path).exists());
            sleep(Duration::from_millis(1));
            let after = (counted(self.path)?, mark(self.path).exists());
            changes += usize::from(before != after || after.1);
            self.lock.release(OwnerId::current_thread(), false, self.path)?;
        }
        Ok(changes.to_string())
    }
}

fn timeout(limit: &str) -> Checked<Timeout> {
    Ok(match limit {
        "once" => Timeout::Once,
        "never" => Timeout::Never,
        milliseconds => Timeout::After(Duration::from_millis(milliseconds.parse()?)),
    })
}

fn answer(released: Released) -> String {
    match released {
        Released::NotHeld => "not held",
        Released::StillHeld => "still held",
        Released::Unlocked => "unlocked",
    }
    .into()
}

fn mark(path: &Path) -> PathBuf {
    path.with_extension("inside")
}

/// Adds one to a count in a file, in a way that loses some if another does the same at the same time, and
/// says whether nobody else's mark was there.
pub(crate) fn work_alone(path: &Path) -> Checked<bool> {
    let mark = mark(path);
    let alone = match File::create_new(&mark) {
        Ok(_) => true,
        // "Permission denied": Windows, while another's mark is on its way out.
        Err(error)
            if [io::ErrorKind::AlreadyExists, io::ErrorKind::PermissionDenied].contains(&error.kind()) =>
        {
            false
        }
        Err(error) => return Err(error.into()),
    };
    let seen = counted(path)?;
    sleep(Duration::from_millis(1));
    fs::write(path.with_extension("count"), (seen + 1).to_string())?;
    if alone {
        fs::remove_file(mark)?;
    }
    Ok(alone)
}

/// The count of [`work_alone`]; 0 also where another is just writing it, which none does who is alone.
pub(crate) fn counted(path: &Path) -> Checked<usize> {
    match fs::read_to_string(path.with_extension("count")) {
        Ok(count) => Ok(count.parse().unwrap_or(0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}
