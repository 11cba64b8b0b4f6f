//! macOS: processes by `proc_pidinfo`.

use std::mem;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

pub(crate) fn host_name() -> Vec<u8> {
    rustix::system::uname().nodename().to_bytes().to_vec()
}

pub(crate) fn pid_namespace() -> Option<u64> {
    None
}

pub(crate) fn boot_id() -> u128 {
    0
}

/// The time since the machine began, suspended or not: here the monotonic clock counts both.
pub(crate) fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[expect(unsafe_code, reason = "proc_pidinfo is a C function")]
fn information(pid: u32) -> Option<libc::proc_bsdinfo> {
    // SAFETY: all-zero is a valid `proc_bsdinfo`, a struct of integers.
    let mut information: libc::proc_bsdinfo = unsafe { mem::zeroed() };
    let size = libc::c_int::try_from(mem::size_of::<libc::proc_bsdinfo>()).ok()?;
    let pid = libc::c_int::try_from(pid).ok()?;
    let buffer = (&raw mut information).cast();
    // SAFETY: the buffer is ours and as large as is said.
    let filled = unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, buffer, size) };
    (filled == size).then_some(information)
}

/// When the process began, in microseconds of the calendar; `None`: not to be known.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let information = information(pid)?;
    information.pbi_start_tvsec.checked_mul(1_000_000)?.checked_add(information.pbi_start_tvusec)
}

/// Whether a process of that number runs; `None`: not to be known. A zombie does not run.
pub(crate) fn is_running(pid: u32) -> Option<bool> {
    if information(pid).is_some_and(|information| information.pbi_status == libc::SZOMB) {
        return Some(false);
    }
    match rustix::process::test_kill_process(Pid::from_raw(i32::try_from(pid).ok()?)?) {
        Err(Errno::SRCH) => Some(false),
        Ok(()) | Err(Errno::PERM) => Some(true),
        Err(_) => None,
    }
}

pub(crate) fn may_run_below(_pid: u32, _start: Option<u64>) -> bool {
    false
}
