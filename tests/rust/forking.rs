//! `fork`, and what the two processes then say to each other; signals for one thread: the only module with `unsafe`.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::support::{Checked, LONG, until};

/// The last resort against a child that hangs, in seconds: longer than all bounds of a test.
const ALARM: u32 = 60;

/// One end of a line between two processes. Nothing waits for longer than [`LONG`] on it.
pub(crate) struct Line(BufReader<UnixStream>);

impl Line {
    pub(crate) fn pair() -> Checked<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        one.set_read_timeout(Some(LONG))?;
        other.set_read_timeout(Some(LONG))?;
        Ok((Self(BufReader::new(one)), Self(BufReader::new(other))))
    }

    pub(crate) fn say(&mut self, words: &str) -> Checked {
        Ok(writeln!(self.0.get_mut(), "{}", words.replace('\n', " "))?)
    }

    pub(crate) fn hear(&mut self) -> Checked<String> {
        let mut words = String::new();
        match self.0.read_line(&mut words)? {
            0 => Err("the other end is gone".into()),
            _ => Ok(words.trim_end().to_owned()),
        }
    }

    pub(crate) fn must_hear(&mut self, expected: &str) -> Checked {
        let words = self.hear()?;
        if words == expected {
            return Ok(());
        }
        Err(format!("{words:?} instead of {expected:?}").into())
    }
}

/// A forked child. Dropping it kills it.
pub(crate) struct Forked {
    pub(crate) line: Line,
    pub(crate) pid: Pid,
    reaped: bool,
}

impl Forked {
    /// The child's body succeeds, and the child exits by itself.
    pub(crate) fn finish(mut self) -> Checked {
        self.line.must_hear(FINISHED)?;
        let mut status = None;
        until("the child exits", || {
            status = waitpid(Some(self.pid), WaitOptions::NOHANG)?;
            Ok(status.is_some())
        })?;
        self.reaped = true;
        match status.and_then(|(_, status)| status.exit_status()) {
            Some(0) => Ok(()),
            other => Err(format!("the child exited with {other:?}").into()),
        }
    }

    /// Kills the child, without a chance for it to do anything more.
    pub(crate) fn kill(mut self) -> Checked {
        self.end()
    }

    fn end(&mut self) -> Checked {
        if !self.reaped {
            kill_process(self.pid, Signal::KILL)?;
            waitpid(Some(self.pid), WaitOptions::empty())?;
            self.reaped = true;
        }
        Ok(())
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        drop(self.end());
    }
}

const FINISHED: &str = "finished";

/// Forks. The child runs `body`, tells how that ended and exits; nothing else of this process runs in it.
#[expect(unsafe_code, reason = "fork is a C function")]
pub(crate) fn fork(body: impl FnOnce(&mut Line) -> Checked) -> Checked<Forked> {
    // SAFETY: the child runs `body` on this thread and exits. It allocates, which the C library allows in
    // the child of a process with threads, and waits for no lock of the standard library that another
    // thread may have had.
    both_sides(body, || unsafe { libc::fork() })
}

/// The two that come out of a fork.
#[cfg(target_os = "linux")]
pub(crate) enum Side {
    Parent(Forked),
    /// What it goes on with has to end in [`be_child`].
    Child(Line),
}

/// Forks, and both processes go on where they are.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "fork is a C function")]
pub(crate) fn split() -> Checked<Side> {
    let (mine, theirs) = Line::pair()?;
    // SAFETY: as in [`fork`]; the child exits where it says how its work has ended.
    match unsafe { libc::fork() } {
        0 => {
            set_alarm();
            Ok(Side::Child(theirs))
        }
        pid => parent_of(pid, mine).map(Side::Parent),
    }
}

/// Forks as a C program may that goes past the C library: no handler of `pthread_atfork` runs.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "syscall is a C function")]
pub(crate) fn fork_past_the_handlers(body: impl FnOnce(&mut Line) -> Checked) -> Checked<Forked> {
    both_sides(body, || {
        // SAFETY: no new stack and no sharing, so this is a fork: the child has copies of everything. No
        // other thread allocates in the processes that use this, so the allocator is in order there.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0) };
        i32::try_from(pid).unwrap_or(-1)
    })
}

fn both_sides(
    body: impl FnOnce(&mut Line) -> Checked,
    split: impl FnOnce() -> libc::pid_t,
) -> Checked<Forked> {
    let (mine, theirs) = Line::pair()?;
    match split() {
        0 => {
            drop(mine);
            be_child(body, theirs)
        }
        pid => parent_of(pid, mine),
    }
}

fn parent_of(pid: libc::pid_t, line: Line) -> Checked<Forked> {
    match Pid::from_raw(pid) {
        Some(pid) if pid.as_raw_nonzero().get() > 0 => Ok(Forked { line, pid, reaped: false }),
        _ => Err(io::Error::last_os_error().into()),
    }
}

/// What a child does: it tells how `body` ended, and exits.
pub(crate) fn be_child(body: impl FnOnce(&mut Line) -> Checked, mut line: Line) -> ! {
    set_alarm();
    let words = match catch_unwind(AssertUnwindSafe(|| body(&mut line))) {
        Ok(Ok(())) => FINISHED.to_owned(),
        Ok(Err(error)) => format!("failed: {error}"),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("panicked: {}", said.unwrap_or("(no words)"))
        }
    };
    exit(i32::from(line.say(&words).is_err()))
}

#[expect(unsafe_code, reason = "alarm is a C function")]
fn set_alarm() {
    // SAFETY: it takes a number, and the default action of its signal, to kill the process, is intended.
    unsafe {
        libc::alarm(ALARM);
    }
}

/// Exits without what `exit` runs: the destructors and buffers are the parent's.
#[expect(unsafe_code, reason = "_exit is a C function")]
fn exit(status: i32) -> ! {
    // SAFETY: it takes a number and does not return; nobody counts on destructors in a forked child.
    unsafe { libc::_exit(status) }
}

/// A thread, to be sent signals by another one.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
pub(crate) struct Addressee(libc::pthread_t);

#[cfg(target_os = "linux")]
impl Addressee {
    #[expect(unsafe_code, reason = "pthread_self is a C function")]
    pub(crate) fn me() -> Self {
        // SAFETY: it takes nothing and cannot fail.
        Self(unsafe { libc::pthread_self() })
    }

    /// Sends the signal by which system calls are cut short here: its handler does nothing. Who asks sees to it that
    /// the thread has not ended.
    #[expect(unsafe_code, reason = "pthread_kill is a C function")]
    pub(crate) fn interrupt(self) -> bool {
        // SAFETY: the thread has not ended, says the caller.
        let sent = unsafe { libc::pthread_kill(self.0, libc::SIGURG) };
        sent == 0
    }
}
