//! What a claim says, and what its name does: filelock's, byte for byte.
//!
//! ```text
//! filelock-strict-v1
//! <token>
//! <process id>
//! <host field, in hexadecimal>
//! <start token, or nothing>
//! ```

use std::ffi::OsStr;

use crate::process;
use crate::record::{LARGEST_PID, LONGEST, Record, StartToken};

const VERSION: &str = "filelock-strict-v1";
const END: &str = ".claim";
const TOKEN_LENGTH: usize = 32;

/// How far a claim has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimState {
    /// Its owner has won, or is about to find out.
    Held,
    /// Its owner wants the lock, or has it: this one stays until the release.
    Intent,
}

impl ClaimState {
    /// As the names have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Intent => "intent",
        }
    }

    /// The name of a claim in this state.
    pub(super) fn claim(self, token: &str) -> String {
        format!("{}-v1-{token}{END}", self.name())
    }
}

/// A claim that somebody has published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrictClaim {
    /// Its name in the folder of claims.
    pub name: String,
    /// How far it has come.
    pub state: ClaimState,
    /// What tells its owner's attempt from all others. The smallest one of several wins.
    pub token: String,
    /// Its owner.
    pub owner: Record,
}

/// State and token, if this is the name of a claim.
pub(super) fn parse_name(name: &OsStr) -> Option<(ClaimState, &str)> {
    let name = name.to_str()?;
    let parse = |state: ClaimState| {
        let token = name.strip_prefix(state.name())?.strip_prefix("-v1-")?.strip_suffix(END)?;
        is_token(token).then_some((state, token))
    };
    parse(ClaimState::Held).or_else(|| parse(ClaimState::Intent))
}

/// The name of a file that is to become the claim `public`, for as long as it is written.
pub(super) fn private_name(public: &str, token: &str) -> String {
    format!(".{public}.private-v1-{token}.tmp")
}

/// The name by which a contender proves that the server has a claim.
pub(super) fn probe_name(token: &str) -> String {
    format!(".probe-v1-{token}.tmp")
}

/// Whether this is a private name or a probe's of somebody who makes the claims of a lock.
pub(super) fn is_scrap(name: &OsStr) -> bool {
    let parse = || {
        let name = name.to_str()?.strip_prefix('.')?.strip_suffix(".tmp")?;
        let (before, token) = name.rsplit_once("-v1-")?;
        let is_scrap = match before.strip_suffix(".private") {
            Some(public) => parse_name(OsStr::new(public)).is_some(),
            None => before == "probe",
        };
        Some(is_scrap && is_token(token))
    };
    parse().unwrap_or(false)
}

/// Whether this is a private name of somebody who makes the file `public`.
pub(super) fn is_scrap_of(name: &OsStr, public: &OsStr) -> bool {
    let parse = || {
        let rest = name.as_encoded_bytes().strip_prefix(b".")?.strip_prefix(public.as_encoded_bytes())?;
        let token = std::str::from_utf8(rest).ok()?.strip_prefix(".private-v1-")?.strip_suffix(".tmp")?;
        Some(is_token(token))
    };
    parse().unwrap_or(false)
}

fn is_token(text: &str) -> bool {
    text.len() == TOKEN_LENGTH && text.bytes().all(is_lower_hex)
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// The bytes of this process's claim `token`.
pub(super) fn own_bytes(token: &str) -> Vec<u8> {
    let Record { pid, host, start } = process::own_record();
    let mut hex = String::with_capacity(2 * host.len());
    host.bytes().for_each(|byte| process::push_hex(&mut hex, byte));
    let start = start.map(|start| start.to_string()).unwrap_or_default();
    format!("{VERSION}\n{token}\n{pid}\n{hex}\n{start}\n").into_bytes()
}

/// Whose the claim `token` is, if `bytes` are one's. Of a file longer than [`LONGEST`] give one byte more.
pub(super) fn parse(bytes: &[u8], token: &str) -> Option<Record> {
    if bytes.len() > LONGEST || !bytes.is_ascii() {
        return None;
    }
    let lines: Vec<_> = std::str::from_utf8(bytes).ok()?.split('\n').collect();
    let [VERSION, named, pid, host, start, ""] = lines[..] else { return None };
    if named != token {
        return None;
    }
    let pid = canonical(pid)?.parse().ok().filter(|pid| (1..=LARGEST_PID).contains(pid))?;
    // One that no system has is as good as none.
    let start = if start.is_empty() { None } else { StartToken::parse(canonical(start)?) };
    Some(Record { pid, host: parse_host(host)?, start })
}

/// A number as it is written, without anything in front of it.
fn canonical(text: &str) -> Option<&str> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && (text == "0" || !text.starts_with('0'))).then_some(text)
}

fn parse_host(hex: &str) -> Option<String> {
    if hex.len() % 2 != 0 || !hex.bytes().all(is_lower_hex) {
        return None;
    }
    let byte = |place: usize| u8::from_str_radix(hex.get(place..place + 2)?, 16).ok();
    let bytes: Option<Vec<_>> = (0..hex.len()).step_by(2).map(byte).collect();
    let host = String::from_utf8(bytes?).ok()?;
    let is_fine = |character: char| !character.is_whitespace() && !character.is_control();
    host.chars().all(is_fine).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "3ab8a01768e64f7260f96471a190d0ea";
    const CAPTURED: &[u8] = b"filelock-strict-v1\n3ab8a01768e64f7260f96471a190d0ea\n10923\n766d\n\
        2247087193759956303936445054322192173384370228849833053189\n";

    #[test]
    fn what_filelock_was_seen_to_write_is_read() {
        let owner = parse(CAPTURED, TOKEN).expect("it is a claim");
        assert_eq!((owner.pid, owner.host.as_str()), (10923, "vm"));
        let start = owner.start.map(|start| start.to_string());
        assert_eq!(start.as_deref(), Some("2247087193759956303936445054322192173384370228849833053189"));
        let without_start = [b"filelock-strict-v1\n", TOKEN.as_bytes(), b"\n1\n766d\n\n"].concat();
        assert_eq!(parse(&without_start, TOKEN).map(|owner| owner.start), Some(None));
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parse(&own_bytes(TOKEN), TOKEN), Some(process::own_record()));
    }

    #[test]
    fn what_is_no_claim_is_none() {
        let with =
            |pid: &str, host: &str, start: &str| format!("{VERSION}\n{TOKEN}\n{pid}\n{host}\n{start}\n");
        let long = with("1", &"76".repeat(600), "");
        let others = [
            String::new(),
            with("01", "766d", ""),
            with("0", "766d", ""),
            with("+1", "766d", ""),
            with("2147483648", "766d", ""),
            with("1", "766D", ""),
            with("1", "766", ""),
            with("1", "ff", ""),
            with("1", "7620", ""),
            with("1", "7600", ""),
            with("1", "766d", "01"),
            with("1", "766d", "-1"),
            with("1", "766d", "1 "),
            with("1", "766d", "1\n"),
            with("1", "766d", "1").trim_end().to_owned(),
            with("1", "766d", "1").replace('\n', "\r\n"),
            with("1", "766d", "1").replace("v1", "v2"),
            with("1", "766d", "1").replace(TOKEN, &"0".repeat(32)),
            long,
        ];
        for text in others {
            assert_eq!(parse(text.as_bytes(), TOKEN), None, "{text:?}");
        }
        assert!(parse(with("1", "", "").as_bytes(), TOKEN).is_some(), "filelock takes it too");
        assert!(parse(with("1", "766d", "0").as_bytes(), TOKEN).is_some());
        assert!(parse(with("2147483647", "c3a9", "").as_bytes(), TOKEN).is_some());
    }

    #[test]
    fn names_are_told_apart() {
        let name = |text: &str| parse_name(OsStr::new(text)).map(|(state, token)| (state, token.to_owned()));
        let token = "0".repeat(32);
        assert_eq!(name(&ClaimState::Held.claim(&token)), Some((ClaimState::Held, token.clone())));
        assert_eq!(name(&ClaimState::Intent.claim(&token)), Some((ClaimState::Intent, token.clone())));
        for other in ["", "held", "held-v1-.claim", "garbage"] {
            assert_eq!(name(other), None, "{other}");
        }
        for other in [
            format!("held-v2-{token}.claim"),
            format!("held-v1-{}.claim", "A".repeat(32)),
            format!("held-v1-0{token}.claim"),
            format!("HELD-v1-{token}.claim"),
            format!("held-v1-{token}.claim "),
        ] {
            assert_eq!(name(&other), None, "{other}");
        }
    }

    #[test]
    fn scraps_are_told_apart() {
        let token = "0".repeat(32);
        let is = |text: &str| is_scrap(OsStr::new(text));
        assert!(is(&probe_name(&token)));
        assert!(is(&private_name(&ClaimState::Intent.claim(&token), &token)));
        for other in
            [".probe-v1-0.tmp", ".other", ".x.private-v1-00000000000000000000000000000000.tmp", ".tmp"]
        {
            assert!(!is(other), "{other}");
        }
        assert!(!is(&ClaimState::Held.claim(&token)));
        let of = |text: &str| is_scrap_of(OsStr::new(text), OsStr::new("x"));
        assert!(of(&private_name("x", &token)));
        assert!(
            !of(&private_name("y", &token)) && !of(&private_name("x.y", &token)) && !of(".x") && !of("x")
        );
    }
}
