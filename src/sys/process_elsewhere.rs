//! Other systems: whether a process of a number is there is all that is known.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The time since this process first asked.
pub(crate) fn since_boot() -> Duration {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST.elapsed()
}

pub(crate) fn boot_id() -> u128 {
    0
}

pub(crate) fn pid_namespace() -> Option<u64> {
    None
}

pub(crate) fn start_time(_pid: u32) -> Option<u64> {
    None
}

pub(crate) fn may_run_below(_pid: u32, _start: Option<u64>) -> bool {
    false
}

#[cfg(all(unix, not(force_unsupported)))]
pub(crate) fn host_name() -> Vec<u8> {
    rustix::system::uname().nodename().to_bytes().to_vec()
}

#[cfg(all(unix, not(force_unsupported)))]
pub(crate) fn is_running(pid: u32) -> Option<bool> {
    use rustix::io::Errno;
    use rustix::process::Pid;

    match rustix::process::test_kill_process(Pid::from_raw(i32::try_from(pid).ok()?)?) {
        Err(Errno::SRCH) => Some(false),
        Ok(()) | Err(Errno::PERM) => Some(true),
        Err(_) => None,
    }
}

#[cfg(not(all(unix, not(force_unsupported))))]
pub(crate) fn host_name() -> Vec<u8> {
    Vec::new()
}

#[cfg(not(all(unix, not(force_unsupported))))]
pub(crate) fn is_running(_pid: u32) -> Option<bool> {
    None
}
