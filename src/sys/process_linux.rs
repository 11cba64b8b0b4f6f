//! Linux: processes by pidfd and `/proc`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use once_cell::race::OnceBox;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

/// The inodes of the namespaces that a machine starts with.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
const INITIAL_TIME_NAMESPACE: u64 = 0xEFFF_FFFA;

pub(crate) fn host_name() -> Vec<u8> {
    rustix::system::uname().nodename().to_bytes().to_vec()
}

/// The number of this process's PID namespace, unless it is the machine's own: there, processes have other numbers.
pub(crate) fn pid_namespace() -> Option<u64> {
    let inode = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    (inode != INITIAL_PID_NAMESPACE).then_some(inode)
}

/// Tells this start of the machine from all others; 0 where that is unknown.
pub(crate) fn boot_id() -> u128 {
    static BOOT: OnceBox<u128> = OnceBox::new();
    // Containers may be shown one of their own.
    if !is_proc_ours() {
        return 0;
    }
    *BOOT.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Box::new(u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0))
    })
}

/// The time since the machine began, suspended or not.
pub(crate) fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// When the process began, in clock ticks since the machine did; `None`: not to be known, or not to be compared.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    if is_time_shifted() || !is_proc_ours() {
        return None;
    }
    ticks(&read(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether `/proc` shows the processes of this PID namespace. That of another, above or below, calls them by other
/// numbers, or does not have them: after `nsenter` with only some of the namespaces, for one.
fn is_proc_ours() -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    // One number for each namespace from that of the list down to the process's own. Old kernels tell the first only.
    let shown = pids(&status, b"NSpid:").or_else(|| pids(&status, b"Pid:"));
    shown.is_some_and(|pids| pids == [std::process::id()])
}

/// Reads a file that the kernel writes as it is read, and knows no length of: in one call, where `fs::read` feels its way in
/// a dozen.
fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    const PAGE: usize = 4096;
    let mut content = Vec::with_capacity(PAGE);
    File::open(path)?.take(16 * PAGE as u64).read_to_end(&mut content)?;
    Ok(content)
}

/// The 22nd field; the second, the command in brackets, may hold anything.
fn ticks(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let field = stat[end + 1..].split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).nth(19)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Whether this process counts the machine's time from another moment than the rest of the machine, or may.
fn is_time_shifted() -> bool {
    let current = match fs::metadata("/proc/self/ns/time") {
        Ok(namespace) => namespace.ino(),
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    if current == INITIAL_TIME_NAMESPACE {
        return false;
    }
    let for_children = fs::metadata("/proc/self/ns/time_for_children").map(|namespace| namespace.ino());
    if for_children.ok() != Some(current) {
        // The offsets shown are those of the children.
        return true;
    }
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    !offsets.lines().any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields == ["boottime", "0", "0"] || fields == ["7", "0", "0"]
    })
}

/// Whether a process of that number runs in this namespace; `None`: not to be known.
///
/// A process that has ended, but that nobody has asked about yet (a zombie), does not run; its pidfd is readable.
pub(crate) fn is_running(pid: u32) -> Option<bool> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => {
            let mut wanted = [PollFd::new(&process, PollFlags::IN)];
            let ended = rustix::event::poll(&mut wanted, Some(&Timespec::default())).ok()?;
            Some(ended == 0)
        }
        Err(Errno::SRCH) => Some(false),
        // A kernel without pidfds, or a number that is a thread's.
        Err(_) => match rustix::process::test_kill_process(pid) {
            Err(Errno::SRCH) => Some(false),
            Ok(()) | Err(Errno::PERM) => Some(true),
            Err(_) => None,
        },
    }
}

/// Whether a process that calls itself `pid` may run in a PID namespace below this one: containers may share the
/// host's name. `start` is when it began, where that is known.
pub(crate) fn may_run_below(pid: u32, start: Option<u64>) -> bool {
    // Without the whole list nobody can say that there is none. It may have only this user's processes (`hidepid`);
    // the first one of all is always there.
    if !is_proc_ours() {
        return true;
    }
    let (Ok(_), Ok(processes)) = (read("/proc/1/status"), fs::read_dir("/proc")) else { return true };
    let mut numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    numbers.any(|outer| match read(format!("/proc/{outer}/status")) {
        Ok(status) if innermost_pid(&status) == Some(pid) => {
            let began = start_time(outer);
            start.is_none() || began.is_none() || began == start
        }
        Ok(_) => false,
        // One that has ended meanwhile is none. Any other may be the one.
        Err(error) => {
            error.kind() != io::ErrorKind::NotFound
                && error.raw_os_error() != Some(Errno::SRCH.raw_os_error())
        }
    })
}

/// The number by which a process of a namespace below knows itself; `None` for one of this namespace.
fn innermost_pid(status: &[u8]) -> Option<u32> {
    let pids = pids(status, b"NSpid:")?;
    if pids.len() < 2 { None } else { pids.last().copied() }
}

/// The numbers in the line of a `status` that begins with `name`.
fn pids(status: &[u8], name: &[u8]) -> Option<Vec<u32>> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_found_behind_any_command() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 208065 20 21";
        assert_eq!(ticks(format!("12 (a) b) {fields}").as_bytes()), Some(208_065));
        assert_eq!(ticks(format!("12 (sh) {fields}").as_bytes()), Some(208_065));
        assert_eq!(ticks(b"12 (sh) S 1 2"), None);
        assert_eq!(ticks(b""), None);
        assert!(start_time(std::process::id()).is_some_and(|start| start > 0));
    }

    #[test]
    fn a_process_of_a_namespace_below_names_itself_otherwise() {
        assert_eq!(innermost_pid(b"Name:\tsh\nNSpid:\t4711\t12\nX:\t1\n"), Some(12));
        assert_eq!(innermost_pid(b"Name:\tsh\nNSpid:\t4711\n"), None);
        assert_eq!(innermost_pid(b"Name:\tNSpid: 1 2\n"), None);
    }

    #[test]
    fn a_zombie_does_not_run() -> io::Result<()> {
        let mut child = std::process::Command::new("true").spawn()?;
        let pid = child.id();
        assert_eq!(is_running(std::process::id()), Some(true));
        while is_running(pid) != Some(false) {
            std::thread::yield_now();
        }
        // Its number is still taken: nobody has asked about it.
        assert!(
            rustix::process::test_kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()).is_ok()
        );
        child.wait()?;
        assert_eq!(is_running(pid), Some(false));
        Ok(())
    }
}
