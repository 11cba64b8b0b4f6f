//! Linux: an end for system calls that block without one.
//!
//! `flock` and `F_OFD_SETLKW` take no time limit. But a signal whose handler does nothing makes them return
//! `EINTR`, and a timer can send one to a single thread. So a thread that waits for a lock sets such a timer:
//! it needs no other thread to wait in its place, and leaves nothing behind when it gives up.
//!
//! The signal is one that next to nobody uses, and that does nothing by default: should the program reset its
//! action while a timer runs, a wait takes longer, and nothing dies. It is taken only where its action is the
//! default one.
//! The timer sends it again and again, for the first may come just before the call begins to block. When it has
//! been deleted none is left over: a signal for a thread is delivered when that thread leaves the kernel.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// "Urgent data on a socket", which comes only to those who ask for it; the one that Go takes for the same end.
const SIGNAL: libc::c_int = libc::SIGURG;

/// The time between two signals, once the first has come.
const AGAIN: Duration = Duration::from_millis(10);

/// Makes the blocking call `call` once; `false` if it was interrupted, after about `limit` or by another signal.
///
/// # Errors
/// Those of the call; `Unsupported`, without making it, where somebody else handles the signal or no timer can
/// be had.
pub(super) fn after(limit: Duration, call: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    let timer = Timer::start(limit)?;
    let done = call();
    drop(timer);
    false_if_interrupted(done)
}

/// `false` for a call that was interrupted.
pub(super) fn false_if_interrupted(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Starts a thread that no signal reaches but the one of [`interrupt`].
///
/// # Errors
/// `Unsupported` where somebody else handles the signal; those of starting a thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    take_signal()?;
    spawn_with_mask(name, run, true)
}

/// Starts a thread that no signal reaches; but where nobody else handles it, the one of [`interrupt`] does.
///
/// # Errors
/// Those of starting a thread.
pub(crate) fn spawn_quiet<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    spawn_with_mask(name, run, take_signal().is_ok())
}

#[expect(unsafe_code, reason = "pthread_sigmask is a C function")]
fn spawn_with_mask<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
    lets_signal_through: bool,
) -> io::Result<JoinHandle<T>> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours, and the call fills it.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
    }
    if lets_signal_through {
        // SAFETY: the set was filled above, and the number is a signal's.
        unsafe {
            libc::sigdelset(all.as_mut_ptr(), SIGNAL);
        }
    }
    // SAFETY: `all` was filled above; `before` is ours, and the call fills it. A new thread inherits the mask.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let spawned = thread::Builder::new().name(name.to_owned()).stack_size(128 << 10).spawn(run);
    // SAFETY: `before` was filled by the call above, which fails only where its first argument is wrong.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
    }
    spawned
}

/// Has a system call in which the thread blocks return `EINTR`, or says that it cannot. It may come just before
/// the call begins to block, so repeat it until the thread has ended.
#[expect(unsafe_code, reason = "pthread_kill is a C function")]
pub(crate) fn interrupt<T>(thread: &JoinHandle<T>) -> bool {
    if take_signal().is_err() {
        return false;
    }
    // SAFETY: the handle was neither joined nor detached, so the thread's name is valid, also if it has ended.
    let sent = unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGNAL) };
    // A sandbox may forbid it. Old C libraries say so of a thread that has ended.
    sent == 0
}

/// A timer that interrupts the thread that started it.
struct Timer {
    id: libc::timer_t,
    /// The thread's signal mask before: somebody may have blocked all signals.
    mask: libc::sigset_t,
}

#[expect(unsafe_code, reason = "signals and timers are C functions")]
impl Timer {
    fn start(limit: Duration) -> io::Result<Self> {
        take_signal()?;
        // SAFETY: all-zero is a valid `sigevent`; the fields that matter are set below.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGNAL;
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut id = ptr::null_mut();
        // SAFETY: both pointers are to variables of ours.
        let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) };
        if made != 0 {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        let timer = Self { id, mask: unblock_signal() };
        let times = libc::itimerspec { it_value: timespec(limit), it_interval: timespec(AGAIN) };
        // SAFETY: the timer exists, and `times` is ours; the old times are not asked for.
        let started = unsafe { libc::timer_settime(id, 0, &raw const times, ptr::null_mut()) };
        if started != 0 {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        Ok(timer)
    }
}

#[expect(unsafe_code, reason = "signals and timers are C functions")]
impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer was made by this thread and is deleted only here.
        unsafe {
            libc::timer_delete(self.id);
        }
        // SAFETY: the mask was filled when the timer was started; the old one is not asked for.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask, ptr::null_mut());
        }
    }
}

/// A time of zero would stop the timer instead of ending at once.
fn timespec(time: Duration) -> libc::timespec {
    let time = time.max(Duration::from_nanos(1));
    libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// Lets the signal through on this thread, and gives the mask from before.
#[expect(unsafe_code, reason = "signal sets are filled by C functions")]
fn unblock_signal() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours, and the call fills it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
    }
    // SAFETY: the set was filled above, and the number is a signal's.
    unsafe {
        libc::sigaddset(set.as_mut_ptr(), SIGNAL);
    }
    // SAFETY: the first set was filled above; the second is ours, and the call fills it: it fails only where
    // its first argument is wrong.
    unsafe {
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), before.as_mut_ptr());
    }
    // SAFETY: filled by the call above.
    unsafe { before.assume_init() }
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// Sees to it that the signal is handled by [`do_nothing`]. Asked each time: others may come to use it.
#[expect(unsafe_code, reason = "sigaction is a C function")]
fn take_signal() -> io::Result<()> {
    let ours = do_nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the action is ours, and the call fills it; it fails only for a wrong number.
    unsafe {
        libc::sigaction(SIGNAL, ptr::null(), action.as_mut_ptr());
    }
    // SAFETY: filled by the call above.
    let mut action = unsafe { action.assume_init() };
    if action.sa_sigaction == ours {
        return Ok(());
    }
    if action.sa_sigaction != libc::SIG_DFL {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    action.sa_sigaction = ours;
    // Without SA_RESTART the call returns; with SA_ONSTACK the handler may run on an alternate stack.
    action.sa_flags = libc::SA_ONSTACK;
    // SAFETY: the action is a valid one: it was read from the system, and its handler lives as long as the
    // process, for Python never unloads an extension module.
    let taken = unsafe { libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) };
    if taken == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn block() -> io::Result<()> {
        rustix::event::pause();
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }

    #[test]
    fn a_call_that_blocks_for_ever_ends_at_its_limit() -> io::Result<()> {
        for _ in 0..20 {
            let begin = Instant::now();
            assert!(!after(Duration::from_millis(5), block)?);
            assert!(begin.elapsed() >= Duration::from_millis(5));
        }
        Ok(())
    }

    #[test]
    fn a_limit_of_nothing_ends_it_too() -> io::Result<()> {
        assert!(!after(Duration::ZERO, block)?);
        Ok(())
    }

    #[test]
    fn a_call_that_succeeds_is_told_of_and_no_signal_comes_late() -> io::Result<()> {
        assert!(after(Duration::from_millis(1), || Ok(()))?);
        let begin = Instant::now();
        std::thread::park_timeout(Duration::from_millis(30));
        assert!(begin.elapsed() >= Duration::from_millis(30), "nothing woke the thread");
        Ok(())
    }
}
