//! What a marker says: the bytes of a file whose existence is the lock.
//!
//! The bytes are filelock's, so that its programs and ours judge each other's markers: the owner's process id, its
//! host, and when that process began, a line each. Programs of older releases wrote less.

mod protocol_2;

use std::fmt;

pub use protocol_2::{OwnerMode, Seconds, Tenancy};

/// What is read of a marker at the most; a longer file is none.
pub const LONGEST: usize = 1024;

/// What an owner writes into its own marker when somebody else has it aside: put back, it holds nothing any more.
pub const RELEASED: &[u8] = b"filelock/released\n";

/// The permanent file of strict locks.
pub(crate) const STRICT: &[u8] = b"1\nfilelock-strict-v1\0\n0\n";

/// The largest process id that any system gives.
pub(crate) const LARGEST_PID: u32 = i32::MAX as u32;

/// When a process began, told apart from any other process that had the same number, here or after a restart of
/// the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StartToken {
    /// Which start of the machine; 0 where that is unknown or told by `time` itself.
    pub boot: u128,
    /// When the process began, in the platform's units.
    pub time: u64,
}

impl StartToken {
    /// Whether both can be the start of one process. Where one does not tell the machine's start, the time decides.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.time == other.time && (self.boot == other.boot || self.boot == 0 || other.boot == 0)
    }

    /// A number of up to 192 bits, the machine's start above the process's.
    pub(crate) fn parse(digits: &str) -> Option<Self> {
        let mut parts = [0_u64; 3];
        for digit in digits.bytes() {
            let mut carry = u128::from(digit - b'0');
            for part in &mut parts {
                let value = u128::from(*part) * 10 + carry;
                *part = low(value);
                carry = value >> 64;
            }
            if carry > 0 {
                return None;
            }
        }
        Some(Self { boot: u128::from(parts[2]) << 64 | u128::from(parts[1]), time: parts[0] })
    }
}

/// As many digits as fit into 64 bits, at once.
const CHUNK: u128 = 10_u128.pow(19);
const CHUNK_DIGITS: usize = 19;

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low(value: u128) -> u64 {
    value as u64
}

impl fmt::Display for StartToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = [low(self.boot >> 64), low(self.boot), self.time];
        // 192 bits are 58 digits at the most.
        let mut chunks = [0_u64; 4];
        for chunk in chunks.iter_mut().rev() {
            for part in &mut parts {
                let value = u128::from(*chunk) << 64 | u128::from(*part);
                *part = low(value / CHUNK);
                *chunk = low(value % CHUNK);
            }
        }
        let leading = chunks.iter().position(|&chunk| chunk != 0).unwrap_or(3);
        write!(f, "{}", chunks[leading])?;
        chunks[leading + 1..].iter().try_for_each(|chunk| write!(f, "{chunk:0CHUNK_DIGITS$}"))
    }
}

impl fmt::Debug for StartToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StartToken({:x}:{})", self.boot, self.time)
    }
}

/// The owner of a marker, as the marker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The process, by its number in its own namespace.
    pub pid: u32,
    /// The machine, and the namespace if it is not the machine's own, escaped. Compared as a whole.
    pub host: String,
    /// When the process began. `None`: the owner could not tell, or a number that no system has.
    pub start: Option<StartToken>,
}

impl Record {
    /// The bytes of the marker.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let start = self.start.map(|start| format!("{start}\n")).unwrap_or_default();
        format!("{}\n{}\n{start}", self.pid, self.host).into_bytes()
    }
}

/// What a file at the path of a marker turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing was recorded: an owner of filelock before 3.22, one that has created the file and not written yet,
    /// one that died in between, or the file of a kernel lock.
    Empty,
    /// A marker with its owner.
    Owned(Record),
    /// A marker with its owner, and on what terms that has the lock.
    Tenant(Box<Tenancy>),
    /// Only a process id: lockfile's `PIDLockFile`.
    Bare(u32),
    /// The owner has released it.
    Released,
    /// The permanent file of strict locks: it belongs to all of them.
    Strict,
    /// Anything else.
    Malformed,
}

impl Content {
    /// Reads the content of a file, whatever it is. Of a file longer than [`LONGEST`] give one byte more.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self::Empty,
            STRICT => Self::Strict,
            RELEASED => Self::Released,
            _ if bytes.len() > LONGEST => Self::Malformed,
            _ => parse_lines(bytes).unwrap_or(Self::Malformed),
        }
    }

    /// The process that is named as the owner, to those who know no terms.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Owned(record) => Some(record.pid),
            Self::Bare(pid) => Some(*pid),
            Self::Empty | Self::Tenant(_) | Self::Released | Self::Strict | Self::Malformed => None,
        }
    }

    /// The owner, where it is named so that it can be told from others.
    #[must_use]
    pub fn owner(&self) -> Option<&Record> {
        match self {
            Self::Owned(record) => Some(record),
            Self::Tenant(tenancy) => Some(&tenancy.owner),
            Self::Empty | Self::Bare(_) | Self::Released | Self::Strict | Self::Malformed => None,
        }
    }
}

fn parse_lines(bytes: &[u8]) -> Option<Content> {
    let text = std::str::from_utf8(bytes).ok()?;
    // Without its end the last line may be the beginning of a longer one.
    if !text.ends_with('\n') {
        return None;
    }
    let lines: Vec<_> = lines(text.trim_matches(is_space)).collect();
    let content = match lines[..] {
        [protocol_2::MAGIC, ref terms @ ..] => Content::Tenant(Box::new(Tenancy::parse(terms)?)),
        [pid] => Content::Bare(parse_pid(pid)?),
        [pid, host] => Content::Owned(Record { pid: parse_pid(pid)?, host: host.to_owned(), start: None }),
        [pid, host, start] => {
            let start = StartToken::parse(digits(start)?);
            Content::Owned(Record { pid: parse_pid(pid)?, host: host.to_owned(), start })
        }
        _ => return None,
    };
    Some(content)
}

fn digits(text: &str) -> Option<&str> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(text)
}

fn parse_pid(text: &str) -> Option<u32> {
    digits(text)?.parse().ok().filter(|pid| (1..=LARGEST_PID).contains(pid))
}

/// What Python's `str.strip` takes away.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// The lines as Python's `str.splitlines` finds them; `text` does not end with a line's end.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(ENDS) else {
            rest = None;
            return Some(text);
        };
        let (line, after) = text.split_at(end);
        let width =
            if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        rest = Some(&after[width..]);
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(pid: u32, host: &str, start: Option<StartToken>) -> Content {
        Content::Owned(Record { pid, host: host.to_owned(), start })
    }

    #[test]
    fn the_markers_that_filelock_was_seen_to_write_are_read() {
        let start = StartToken { boot: 0x5ba4_af5a_1b79_430a_ac7c_7cdd_773c_22ef, time: 0x32cc1 };
        assert_eq!(Content::parse(b"17451\nvm\n"), owned(17451, "vm", None));
        let text = start.to_string();
        assert_eq!(text.len(), 58);
        assert_eq!(Content::parse(format!("12\nvm\n{text}\n").as_bytes()), owned(12, "vm", Some(start)));
        let captured = b"17467\nvm\n2247087193759956303936445054322192173384370228849832810585\n";
        let Content::Owned(record) = Content::parse(captured) else { panic!("it is a marker") };
        assert_eq!(record.start.map(|start| start.boot), Some(start.boot));
        assert_eq!(record.to_bytes(), captured);
        assert_eq!(Content::parse(b"1\nvm?pidns-f0000152\n"), owned(1, "vm?pidns-f0000152", None));
        assert_eq!(Content::parse(b""), Content::Empty);
        assert_eq!(Content::parse(b"1\nfilelock-strict-v1\0\n0\n"), Content::Strict);
        assert_eq!(Content::parse(b"filelock/released\n"), Content::Released);
        assert_eq!(Content::parse(b"4711\n"), Content::Bare(4711));
    }

    #[test]
    fn what_is_no_marker_is_malformed() {
        let long = [b"1\n", "x".repeat(LONGEST).as_bytes(), b"\n"].concat();
        let malformed: [&[u8]; 17] = [
            b"garbage\n",
            b"1\nvm",
            b"1\nvm\n12",
            b"0\nvm\n",
            b"+5\nvm\n",
            b"-1\nvm\n",
            b"1_0\nvm\n",
            b"2147483648\nvm\n",
            b"99999999999999999999999\nvm\n",
            b"1\nvm\n12x\n",
            b"1\nvm\n1\n2\n",
            b"\n",
            b"1\n\xff\n",
            b"filelock/break\n12\n",
            b"filelock/2\npid=20264\nhost=vm\nmode=exclusive",
            b"filelock/released",
            &long,
        ];
        for bytes in malformed {
            assert_eq!(Content::parse(bytes), Content::Malformed, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn lines_are_split_and_stripped_as_python_does() {
        assert_eq!(Content::parse(b"\n 007\r\nvm\r\n5\n \x1c\n"), owned(7, "vm", StartToken::parse("5")));
        assert_eq!(Content::parse("7\u{2028}vm\u{85}\n".as_bytes()), owned(7, "vm", None));
        assert_eq!(Content::parse(b"7\n\n5\n"), owned(7, "", StartToken::parse("5")));
        assert_eq!(Content::parse(b"7\x1fvm\n"), Content::Malformed, "a separator of fields ends no line");
    }

    #[test]
    fn a_token_that_no_system_has_tells_nothing() {
        let largest = StartToken { boot: u128::MAX, time: u64::MAX };
        assert_eq!(StartToken::parse(&largest.to_string()), Some(largest));
        let beyond = "6277101735386680763835789423207666416102355444464034512896";
        assert_eq!(StartToken::parse(beyond), None);
        assert_eq!(Content::parse(format!("7\nvm\n{beyond}\n").as_bytes()), owned(7, "vm", None));
        assert_eq!(StartToken { boot: 0, time: 0 }.to_string(), "0");
    }

    #[test]
    fn tokens_match_by_time_where_one_does_not_know_the_machines_start() {
        let token = |boot, time| StartToken { boot, time };
        assert!(token(1, 5).matches(&token(1, 5)));
        assert!(token(0, 5).matches(&token(1, 5)) && token(1, 5).matches(&token(0, 5)));
        assert!(!token(2, 5).matches(&token(1, 5)));
        assert!(!token(0, 6).matches(&token(1, 5)));
    }
}
