//! Who this process is to others, and whether the owner that a marker names still lives.
//!
//! A number alone does not name a process: others had it before, other machines have it too, and so have other PID
//! namespaces of one machine. So an owner is a number, a *host field* and a *start token*. What is asked here is
//! only ever whether an owner is *proved* dead; whatever cannot be known counts as alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::fork::ForkMutex;
use crate::record::{Record, StartToken};
use crate::sys;
use crate::sys::process as os;

/// The longest host field; a longer one is cut and told apart by a digest.
const LONGEST_HOST: usize = 253;
const CUT_HOST: usize = 244;

/// What became of the owner that a record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not proved dead.
    Alive,
    /// It ended, and nothing else can have its name.
    Dead,
    /// Of another machine or PID namespace: nobody here can tell.
    Foreign,
}

/// What does not change as long as this process lives.
#[derive(Debug, Clone, Copy)]
struct Birth {
    pid_namespace: Option<u64>,
    start: Option<StartToken>,
}

/// Asked once a process: a forked child finds nothing here and asks for itself.
static BIRTH: ForkMutex<Option<Birth>> = ForkMutex::new();

fn birth() -> Birth {
    let known = *BIRTH.lock();
    known.unwrap_or_else(|| {
        let birth = Birth { pid_namespace: os::pid_namespace(), start: start_of(std::process::id()) };
        *BIRTH.lock() = Some(birth);
        birth
    })
}

fn start_of(pid: u32) -> Option<StartToken> {
    os::start_time(pid).map(|time| StartToken { boot: os::boot_id(), time })
}

/// This process, as its markers name it. The host's name is asked for each time: it can change.
pub(crate) fn own_record() -> Record {
    let birth = birth();
    Record { pid: sys::own_pid(), host: own_host(birth), start: birth.start }
}

/// For how long the host is taken to be called as before. A marker that is made so soon after a change is as one that was
/// made just before it: others do not judge it, as long as they call the host by its new name.
const SAME_HOST: Duration = Duration::from_millis(100);

/// What the markers of this process say.
#[derive(Debug)]
struct OwnBytes {
    pid: u32,
    /// When the host's name was asked for.
    asked: Instant,
    bytes: Arc<[u8]>,
}

static OWN_BYTES: ForkMutex<Option<OwnBytes>> = ForkMutex::new();

/// [`own_record`], as its bytes.
pub(crate) fn own_bytes() -> Arc<[u8]> {
    bytes_at(Instant::now(), &OWN_BYTES, own_record)
}

fn bytes_at(now: Instant, known: &ForkMutex<Option<OwnBytes>>, record: impl FnOnce() -> Record) -> Arc<[u8]> {
    // A fork that nobody has noticed yet is seen by the number.
    let pid = sys::own_pid();
    let is_valid = |own: &&OwnBytes| own.pid == pid && now.saturating_duration_since(own.asked) < SAME_HOST;
    if let Some(own) = known.lock().as_ref().filter(is_valid) {
        return Arc::clone(&own.bytes);
    }
    let bytes: Arc<[u8]> = record().to_bytes().into();
    *known.lock() = Some(OwnBytes { pid, asked: now, bytes: Arc::clone(&bytes) });
    bytes
}

fn own_host(birth: Birth) -> String {
    host_field(&os::host_name(), birth.pid_namespace)
}

/// What became of the owner that `record` names.
///
/// `is_local`: the marker lies on a file system of this machine, so that an owner under another start of the machine
/// is gone. Elsewhere it may be another machine of the same name.
pub(crate) fn fate(record: &Record, is_local: bool) -> Fate {
    let (birth, boot) = (birth(), os::boot_id());
    let gone = || if is_gone(record.pid, record.start, boot, birth) { Fate::Dead } else { Fate::Alive };
    fate_by_name(record, is_local, birth, boot).unwrap_or_else(gone)
}

/// Whether `record` names somebody of whom nobody here can tell. Looks at no process: that is dear.
pub(crate) fn is_foreign(record: &Record, is_local: bool) -> bool {
    fate_by_name(record, is_local, birth(), os::boot_id()) == Some(Fate::Foreign)
}

/// The fate of an owner that cannot be a process of this machine since its present start; `None`: it may be one.
fn fate_by_name(record: &Record, is_local: bool, birth: Birth, boot: u128) -> Option<Fate> {
    let is_of_another_boot = |start: StartToken| start.boot != 0 && boot != 0 && start.boot != boot;
    match record.start {
        _ if record.host != own_host(birth) => Some(Fate::Foreign),
        Some(start) if is_of_another_boot(start) => Some(if is_local { Fate::Dead } else { Fate::Foreign }),
        Some(_) | None => None,
    }
}

/// What became of the process `pid`, if it is one of this machine.
pub(crate) fn fate_of_bare(pid: u32) -> Fate {
    if is_gone(pid, None, 0, birth()) { Fate::Dead } else { Fate::Alive }
}

/// Whether no process of this machine can be the one that was called `pid`, here or in a namespace below, and that
/// began at `start`.
///
/// `boot`: this start of the machine.
fn is_gone(pid: u32, start: Option<StartToken>, boot: u128, birth: Birth) -> bool {
    let is_another = match os::is_running(pid) {
        None => return false,
        Some(false) => true,
        Some(true) => start.is_some_and(|start| {
            let current = os::start_time(pid).map(|time| StartToken { boot, time });
            current.is_some_and(|current| !current.matches(&start))
        }),
    };
    // Who is in a namespace names it in the host field, so those below matter to the machine's own only.
    let is_below = || birth.pid_namespace.is_none() && os::may_run_below(pid, start.map(|start| start.time));
    is_another && !is_below()
}

/// The host field: printable ASCII without spaces, so that it is one line whatever the machine is called.
fn host_field(name: &[u8], pid_namespace: Option<u64>) -> String {
    let mut field = String::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'?' => field.push_str("?3f"),
            0x21..=0x7E => field.push(char::from(byte)),
            _ => {
                field.push('?');
                push_hex(&mut field, byte);
            }
        }
    }
    if field.is_empty() {
        field.push('?');
    }
    if let Some(inode) = pid_namespace {
        field = format!("{field}?pidns-{inode:x}");
    }
    if field.len() <= LONGEST_HOST {
        return field;
    }
    let rest = field.split_off(CUT_HOST);
    let digest = Sha256::digest(rest.as_bytes());
    field.push('-');
    digest[..4].iter().for_each(|&byte| push_hex(&mut field, byte));
    field
}

pub(crate) fn push_hex(text: &mut String, byte: u8) {
    let digits = [byte >> 4, byte & 0xF].map(|digit| char::from_digit(digit.into(), 16));
    text.extend(digits.into_iter().flatten());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_field_is_one_word_and_what_filelock_makes_of_the_name() {
        assert_eq!(host_field(b"vm", None), "vm");
        assert_eq!(host_field(b"my host?x", None), "my?20host?3fx");
        assert_eq!(host_field(b"a\nb", None), "a?0ab");
        assert_eq!(host_field(b"h\xe9", None), "h?e9");
        assert_eq!(host_field(b"", None), "?");
        assert_eq!(host_field(b"vm", Some(0xf000_0152)), "vm?pidns-f0000152");
        let long = host_field("x".repeat(300).as_bytes(), None);
        assert_eq!(long.len(), 253);
        assert!(long.starts_with(&"x".repeat(244)) && long.as_bytes()[244] == b'-', "{long}");
    }

    #[test]
    fn this_process_is_alive_to_itself() {
        assert_eq!(fate(&own_record(), true), Fate::Alive);
        assert_eq!(fate(&Record { start: None, ..own_record() }, true), Fate::Alive);
        assert_eq!(fate_of_bare(std::process::id()), Fate::Alive);
    }

    #[test]
    fn markers_have_another_name_of_the_host_soon() {
        let now = Instant::now();
        let named = |host: &str| Record { host: host.to_owned(), ..own_record() };
        let known = ForkMutex::new();
        let ask = |after, host| bytes_at(now + after, &known, || named(host)).to_vec();
        assert_eq!(ask(Duration::ZERO, "before"), named("before").to_bytes());
        assert_eq!(ask(SAME_HOST / 2, "after"), named("before").to_bytes());
        assert_eq!(ask(SAME_HOST, "after"), named("after").to_bytes());
        assert_eq!(ask(SAME_HOST, "later"), named("after").to_bytes());
    }

    #[test]
    fn another_machine_is_not_judged() {
        let elsewhere = Record { host: "elsewhere".to_owned(), ..own_record() };
        assert_eq!(fate(&Record { pid: 4_000_000, ..elsewhere }, true), Fate::Foreign);
    }

    #[test]
    fn who_is_not_of_here_is_known_by_name() {
        let gone = Record { pid: 4_000_000, ..own_record() };
        assert!(!is_foreign(&gone, false), "whether it lives is not asked");
        assert!(is_foreign(&Record { host: "elsewhere".to_owned(), ..gone }, true));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_number_that_was_given_anew_is_seen_through() {
        let own = own_record();
        let start = own.start.expect("Linux tells");
        let earlier = Record { start: Some(StartToken { time: start.time - 1, ..start }), ..own.clone() };
        assert_eq!(fate(&earlier, true), Fate::Dead);
        let unknown_boot = Record { start: Some(StartToken { boot: 0, ..start }), ..own.clone() };
        assert_eq!(fate(&unknown_boot, true), Fate::Alive);
        let other_boot = Record { start: Some(StartToken { boot: start.boot ^ 1, ..start }), ..own };
        assert_eq!(fate(&other_boot, true), Fate::Dead);
        assert_eq!(fate(&other_boot, false), Fate::Foreign, "a machine of the same name");
        assert_eq!([true, false].map(|is_local| is_foreign(&other_boot, is_local)), [false, true]);
    }

    #[test]
    fn an_ended_process_is_dead() -> std::io::Result<()> {
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .spawn()?;
        let record = Record { pid: child.id(), start: start_of(child.id()), ..own_record() };
        child.wait()?;
        assert_eq!(fate(&record, true), Fate::Dead);
        Ok(())
    }
}
