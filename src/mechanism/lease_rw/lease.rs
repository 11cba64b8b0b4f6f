//! What the marker of a reader or writer says.
//!
//! The bytes are filelock's of releases 3.27 to 3.32: a token, the process, the host, a line each. Those releases read
//! any printable word as the host, so what a contender of ours has to know of a holder stands behind its host's name:
//! `vm?lease-90000-30000-<boot>-<start>`, the threshold and the heartbeat interval in milliseconds, and when its process
//! began. A host name of filelock's has no `?` before a letter other than `a` to `f` but in `?pidns-`.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::mechanism::Holder;
use crate::mechanism::monitor::LeaseSettings;
use crate::mechanism::new_file::random_hex;
use crate::process::{self, Fate};
use crate::record::{Record, StartToken};

/// What is read of a marker at the most; a longer file is none.
pub(super) const LONGEST: usize = 1024;

const LONGEST_HOST: usize = 253;
/// A cut host name ends with `-` and this many digits of a digest.
const DIGEST: usize = 8;
const MARK: &str = "?lease-";

/// The owner of a marker, as the marker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    /// 32 digits that nobody else draws: this claim and no other. It fences nothing.
    pub(super) token: String,
    pub(super) pid: u32,
    /// Without the terms.
    pub(super) host: String,
    /// `None`: filelock's.
    pub(super) terms: Option<LeaseTerms>,
}

/// What the holder goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeaseTerms {
    pub(super) settings: LeaseSettings,
    pub(super) start: Option<StartToken>,
}

impl LeaseTerms {
    fn to_suffix(&self) -> String {
        let LeaseSettings { stale_threshold, heartbeat_interval } = self.settings;
        let start = self.start.map(|start| format!("-{:x}-{:x}", start.boot, start.time)).unwrap_or_default();
        // Rounded up: nobody may count on less than the holder does.
        let milliseconds = |duration: Duration| duration.as_nanos().div_ceil(1_000_000);
        format!("{MARK}{}-{}{start}", milliseconds(stale_threshold), milliseconds(heartbeat_interval))
    }

    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<_> = text.split('-').collect();
        let (threshold, interval, start) = match fields[..] {
            [threshold, interval] => (threshold, interval, None),
            [threshold, interval, boot, time] => {
                let boot = u128::from_str_radix(boot, 16).ok()?;
                (threshold, interval, Some(StartToken { boot, time: u64::from_str_radix(time, 16).ok()? }))
            }
            _ => return None,
        };
        let milliseconds = |digits: &str| digits.parse().ok().map(Duration::from_millis);
        let settings = LeaseSettings {
            stale_threshold: milliseconds(threshold)?,
            heartbeat_interval: milliseconds(interval)?,
        };
        Some(Self { settings, start })
    }
}

impl Lease {
    /// A new claim of this process.
    pub(super) fn of_this_process(settings: LeaseSettings) -> Self {
        let Record { pid, host, start } = process::own_record();
        let terms = LeaseTerms { settings, start };
        Self { token: random_hex(), pid, host, terms: Some(terms) }
    }

    /// The bytes of the marker.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let suffix = self.terms.as_ref().map(LeaseTerms::to_suffix).unwrap_or_default();
        let host = fitting(&self.host, suffix.len());
        format!("{}\n{}\n{host}{suffix}\n", self.token, self.pid).into_bytes()
    }

    /// Reads the content of a file, whatever it is; `None`: not a marker.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > LONGEST {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let (token, rest) = text.split_once('\n')?;
        let (pid, rest) = rest.split_once('\n')?;
        let field = rest.trim_end_matches('\n');
        let is_token = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_printable = |byte: u8| (0x21..=0x7E).contains(&byte);
        let is_marker = token.len() == 32
            && token.bytes().all(is_token)
            && pid.len() <= 10
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && !pid.starts_with('0')
            && (1..=LONGEST_HOST).contains(&field.len())
            && field.bytes().all(is_printable);
        if !is_marker {
            return None;
        }
        let pid = pid.parse().ok().filter(|pid: &u32| i32::try_from(*pid).is_ok())?;
        let terms = field.rsplit_once(MARK).and_then(|(host, terms)| Some((host, LeaseTerms::parse(terms)?)));
        let (host, terms) = terms.map_or((field, None), |(host, terms)| (host, Some(terms)));
        Some(Self { token: token.to_owned(), pid, host: host.to_owned(), terms })
    }

    /// The owner, for who is told why it was in vain.
    pub(super) fn into_holder(self) -> Holder {
        let suffix = self.terms.as_ref().map_or(0, |terms| terms.to_suffix().len());
        let is_of_here = self.host == fitting(&process::own_record().host, suffix);
        if is_of_here {
            Holder::Here { pid: self.pid }
        } else {
            Holder::Elsewhere { pid: self.pid, host: self.host }
        }
    }

    /// Whether the owner is proved dead. `is_local`: the marker lies on a file system of this machine.
    pub(super) fn is_proved_dead(&self, is_local: bool) -> bool {
        let Some(terms) = &self.terms else { return false };
        let own = process::own_record();
        // A cut name is compared with our own, cut in the same way.
        if self.host != fitting(&own.host, terms.to_suffix().len()) {
            return false;
        }
        is_proved_dead(&Record { pid: self.pid, host: own.host, start: terms.start }, is_local)
    }
}

/// Whether the owner that `record` names is proved dead, to somebody who shares the file system with other machines:
/// they may have this one's name, so only the number of the machine's start tells that it means this one.
pub(super) fn is_proved_dead(record: &Record, is_local: bool) -> bool {
    let boot = |record: &Record| record.start.map(|start| start.boot).filter(|boot| *boot != 0);
    let is_of_here = || boot(record).is_some_and(|there| boot(&process::own_record()) == Some(there));
    (is_local || is_of_here()) && process::fate(record, is_local) == Fate::Dead
}

/// The host's name, or as much as there is room for beside the terms, and a digest of the whole.
fn fitting(host: &str, terms: usize) -> String {
    let room = LONGEST_HOST.saturating_sub(terms);
    if host.len() <= room || !host.is_ascii() {
        return host.to_owned();
    }
    let digest = Sha256::digest(host.as_bytes());
    let digits: String =
        digest.iter().flat_map(|byte| [byte >> 4, byte & 0xF]).take(DIGEST).map(hex).collect();
    format!("{}-{digits}", &host[..room.saturating_sub(DIGEST + 1)])
}

fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "025b9fd33b0299f3c6126caf4305530b";

    fn settings(threshold: u64, interval: u64) -> LeaseSettings {
        LeaseSettings {
            stale_threshold: Duration::from_millis(threshold),
            heartbeat_interval: Duration::from_millis(interval),
        }
    }

    /// What 3.x asks of a marker.
    fn is_read_by_filelock(bytes: &[u8]) -> bool {
        let text = std::str::from_utf8(bytes).unwrap();
        let lines: Vec<_> = text.trim_end_matches('\n').split('\n').collect();
        lines.len() == 3
            && lines[0].len() == 32
            && lines[0].bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
            && lines[1].parse::<u32>().is_ok_and(|pid| pid > 0)
            && (1..=253).contains(&lines[2].len())
            && lines[2].bytes().all(|byte| (0x21..=0x7E).contains(&byte))
            && bytes.len() <= 1024
    }

    #[test]
    fn the_markers_that_filelock_was_seen_to_write_are_read() {
        let expected = Lease { token: TOKEN.to_owned(), pid: 4645, host: "vm".to_owned(), terms: None };
        let captured = b"025b9fd33b0299f3c6126caf4305530b\n4645\nvm\n";
        assert_eq!(Lease::parse(captured), Some(expected.clone()));
        assert_eq!(expected.to_bytes(), captured);
        assert_eq!(Lease::parse(&captured[..captured.len() - 1]), Some(expected.clone()));
        assert_eq!(Lease::parse(&[&captured[..], b"\n\n"].concat()), Some(expected));
    }

    #[test]
    fn what_a_holder_goes_by_is_read_back_whatever_its_host_is_called() {
        for host in ["vm", "a?20b", "vm?pidns-f0000152", &"h".repeat(160), &"h".repeat(253)] {
            for start in [None, Some(StartToken { boot: u128::MAX, time: u64::MAX })] {
                let terms = LeaseTerms { settings: settings(360_000, 120_000), start };
                let lease = Lease {
                    token: TOKEN.to_owned(),
                    pid: 2_147_483_647,
                    host: host.to_owned(),
                    terms: Some(terms.clone()),
                };
                let bytes = lease.to_bytes();
                assert!(is_read_by_filelock(&bytes), "{}", bytes.escape_ascii());
                let read = Lease::parse(&bytes).expect("it is a marker");
                assert_eq!(read.terms, Some(terms));
                assert_eq!(read.host, fitting(host, lease.terms.unwrap().to_suffix().len()));
            }
        }
    }

    #[test]
    fn what_is_no_marker_is_none() {
        let long = format!("{TOKEN}\n1\n{}\n", "h".repeat(254));
        let blank = format!("{TOKEN}\n1\nvm{}", "\n".repeat(LONGEST));
        let others = [
            String::new(),
            "garbage\n".to_owned(),
            format!("{TOKEN}\n1\n"),
            format!("{TOKEN}\n0\nvm\n"),
            format!("{TOKEN}\n01\nvm\n"),
            format!("{TOKEN}\n+1\nvm\n"),
            format!("{TOKEN}\n2147483648\nvm\n"),
            format!("{TOKEN}\n99999999999\nvm\n"),
            format!("{TOKEN}\n1\nv m\n"),
            format!("{TOKEN}\n1\nvm\nx\n"),
            format!("{}\n1\nvm\n", TOKEN.to_uppercase()),
            format!("{}\n1\nvm\n", &TOKEN[1..]),
            format!("{TOKEN}\n1\nv\u{e9}\n"),
            long,
            blank,
        ];
        for text in others {
            assert_eq!(Lease::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Lease::parse(b"\xff"), None);
    }

    #[test]
    fn terms_that_are_none_belong_to_the_host() {
        for host in ["vm?lease-", "vm?lease-1", "vm?lease-1-2-3", "vm?lease-x-2", "vm?lease-1-2-g-1"] {
            let lease = Lease::parse(format!("{TOKEN}\n1\n{host}\n").as_bytes()).expect("it is a marker");
            assert_eq!((lease.host.as_str(), lease.terms), (host, None));
        }
    }

    #[test]
    fn a_living_process_is_not_proved_dead_and_a_dead_one_of_another_machine_neither() {
        let own = Lease::of_this_process(settings(90_000, 30_000));
        assert!(!own.is_proved_dead(false) && !own.is_proved_dead(true));
        let mut dead = own.clone();
        dead.pid = 4_000_000;
        let knows_boots =
            dead.terms.as_ref().and_then(|terms| terms.start).is_some_and(|start| start.boot != 0);
        assert_eq!(dead.is_proved_dead(false), knows_boots);
        let namesake = dead.terms.as_mut().and_then(|terms| terms.start.as_mut());
        if let Some(start) = namesake {
            start.boot ^= 1;
        }
        assert!(!dead.is_proved_dead(false), "a machine of the same name");
        dead.terms = None;
        assert!(!dead.is_proved_dead(false), "a marker that does not tell its machine");
    }
}
