//! What is read of a marker, for whatever bytes: the parser against a second, naive one that says the same rules in
//! another way, and what a marker that was cut or added to may still be taken for.
//!
//! The cases are the same in each run; `PROPTEST_CASES` makes them more.

use std::collections::BTreeMap;

use ferrolock::record::{Content, LONGEST, OwnerMode, RELEASED, Record, Seconds, StartToken, Tenancy};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestRunner};

use crate::support::Checked;

const STRICT: &[u8] = b"1\nfilelock-strict-v1\0\n0\n";
const LARGEST_PID: u32 = 0x7fff_ffff;

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = default.cases.max(2048);
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..default }
}

/// The rules once more, character by character: `strip`, `splitlines` and `isdigit` as Python has them.
mod naive {
    use std::collections::HashMap;

    use super::{Content, LARGEST_PID, OwnerMode, RELEASED, Record, STRICT, Seconds, StartToken, Tenancy};

    /// Where `isspace()` is true, as CPython 3.11 lists them.
    const SPACES: [u32; 29] = [
        0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x85, 0xA0, 0x1680, 0x2000, 0x2001,
        0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A, 0x2028, 0x2029, 0x202F,
        0x205F, 0x3000,
    ];
    /// Where `splitlines` breaks, as CPython 3.11 lists them.
    pub(super) const BREAKS: [u32; 10] = [0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029];

    pub(super) fn parse(bytes: &[u8]) -> Content {
        if bytes.is_empty() {
            return Content::Empty;
        }
        if bytes == STRICT {
            return Content::Strict;
        }
        if bytes == RELEASED {
            return Content::Released;
        }
        if bytes.len() > 1024 || bytes[bytes.len() - 1] != b'\n' {
            return Content::Malformed;
        }
        let Ok(text) = String::from_utf8(bytes.to_vec()) else { return Content::Malformed };
        let lines = splitlines(strip(text.chars().collect()));
        if lines.first().is_some_and(|line| line == "filelock/2") {
            return tenancy(&lines[1..])
                .map_or(Content::Malformed, |tenancy| Content::Tenant(Box::new(tenancy)));
        }
        if lines.is_empty() || lines.len() > 3 {
            return Content::Malformed;
        }
        let Some(pid) = pid(&lines[0]) else { return Content::Malformed };
        if lines.len() == 1 {
            return Content::Bare(pid);
        }
        let mut record = Record { pid, host: lines[1].clone(), start: None };
        if lines.len() == 3 {
            if !is_digits(&lines[2]) {
                return Content::Malformed;
            }
            record.start = token(&lines[2]);
        }
        Content::Owned(record)
    }

    fn tenancy(lines: &[String]) -> Option<Tenancy> {
        let mut values = HashMap::new();
        for line in lines {
            let equals = line.find('=')?;
            values.insert(line[..equals].to_owned(), line[equals + 1..].to_owned());
        }
        let mode = match values.get("mode")?.as_str() {
            "lease" => OwnerMode::Lease,
            "exclusive" => OwnerMode::Exclusive,
            _ => OwnerMode::Unknown,
        };
        let duration = match values.get("duration") {
            Some(text) => Some(seconds(text)?),
            None => None,
        };
        let token = values.remove("token");
        if mode == OwnerMode::Lease {
            let number = duration?.get();
            if number == 0.0 || number.is_infinite() || token.as_ref()?.is_empty() {
                return None;
            }
        }
        let start = match values.get("start") {
            Some(digits) if is_digits(digits) => self::token(digits),
            Some(_) => return None,
            None => None,
        };
        let host = values.get("host").filter(|host| !host.is_empty())?.clone();
        let owner = Record { pid: pid(values.get("pid")?)?, host, start };
        Some(Tenancy { owner, mode, token, duration })
    }

    /// A number as Python's regular expression would have it, `\d+(\.\d+)?(e[+-]\d+)?`: a machine of states, of which
    /// the odd ones are ends.
    fn seconds(text: &str) -> Option<Seconds> {
        let mut state = 0;
        for character in text.chars() {
            state = match (state, character) {
                (0 | 1, '0'..='9') => 1,
                (1, '.') => 2,
                (2 | 3, '0'..='9') => 3,
                (1 | 3, 'e') => 4,
                (4, '+' | '-') => 6,
                (6 | 7, '0'..='9') => 7,
                _ => return None,
            };
        }
        if state % 2 == 0 {
            return None;
        }
        Seconds::new(text.parse().ok()?)
    }

    fn strip(mut characters: Vec<char>) -> Vec<char> {
        while characters.first().is_some_and(|first| SPACES.contains(&u32::from(*first))) {
            characters.remove(0);
        }
        while characters.last().is_some_and(|last| SPACES.contains(&u32::from(*last))) {
            characters.pop();
        }
        characters
    }

    fn splitlines(characters: Vec<char>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = String::new();
        let mut follows_return = false;
        for character in characters {
            let is_second_half = follows_return && character == '\n';
            follows_return = character == '\r';
            if is_second_half {
                continue;
            }
            if BREAKS.contains(&u32::from(character)) {
                lines.push(std::mem::take(&mut line));
            } else {
                line.push(character);
            }
        }
        if !line.is_empty() {
            lines.push(line);
        }
        lines
    }

    fn is_digits(text: &str) -> bool {
        !text.is_empty() && text.chars().all(|character| "0123456789".contains(character))
    }

    fn pid(text: &str) -> Option<u32> {
        if !is_digits(text) {
            return None;
        }
        let mut number: u64 = 0;
        for digit in text.bytes() {
            number = number * 10 + u64::from(digit - b'0');
            if number > u64::from(LARGEST_PID) {
                return None;
            }
        }
        if number == 0 { None } else { u32::try_from(number).ok() }
    }

    /// By long division, as on paper: half of the number again and again, and what is left over are its bits.
    fn token(digits: &str) -> Option<StartToken> {
        let mut number: Vec<u8> = digits.bytes().map(|digit| digit - b'0').collect();
        let mut bits = [false; 192];
        for bit in &mut bits {
            let mut rest = 0;
            for digit in &mut number {
                let value = rest * 10 + *digit;
                *digit = value / 2;
                rest = value % 2;
            }
            *bit = rest == 1;
        }
        if number.iter().any(|digit| *digit != 0) {
            return None;
        }
        let time = (0..64).filter(|place| bits[*place]).map(|place| 1_u64 << place).sum();
        let boot = (0..128).filter(|place| bits[64 + place]).map(|place| 1_u128 << place).sum();
        Some(StartToken { boot, time })
    }
}

fn any_token() -> impl Strategy<Value = StartToken> {
    let boot = prop_oneof![3 => any::<u128>(), 1 => Just(0), 1 => Just(1), 1 => Just(u128::MAX)];
    let time = prop_oneof![3 => any::<u64>(), 1 => Just(0), 1 => 1..100_u64, 1 => Just(u64::MAX)];
    (boot, time).prop_map(|(boot, time)| StartToken { boot, time })
}

/// A name of a host: as filelock 4 and we write it, and as filelock 3 does, raw.
fn any_host() -> impl Strategy<Value = String> {
    let printable =
        vec(0x21..=0x7E_u8, 1..=253).prop_map(|bytes| bytes.into_iter().map(char::from).collect());
    let raw = vec(any::<char>(), 1..40).prop_map(|characters| {
        let is_kept = |character: &char| !naive::BREAKS.contains(&u32::from(*character));
        let host: String = characters.into_iter().filter(is_kept).collect();
        format!("a{host}b")
    });
    prop_oneof![3 => printable, 1 => raw]
}

fn any_pid() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 1..=LARGEST_PID, 1 => 1..100_u32, 1 => Just(LARGEST_PID)]
}

fn any_record() -> impl Strategy<Value = Record> {
    (any_pid(), any_host(), proptest::option::weighted(0.7, any_token()))
        .prop_map(|(pid, host, start)| Record { pid, host, start })
}

const BREAKS: [&str; 11] =
    ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\u{85}", "\u{2028}", "\u{2029}"];
/// The last two are none to Python.
const SPACES: [&str; 10] =
    [" ", "\t", "\x1f", "\u{a0}", "\u{1680}", "\u{2003}", "\u{202f}", "\u{3000}", "\u{feff}", "\u{180e}"];
const WORDS: [&str; 7] = [
    "vm",
    "filelock/released",
    "filelock-strict-v1\0",
    "filelock/2",
    "filelock/break",
    "?pidns-f0000152",
    "h\u{e9}",
];
/// Some that are none, the largest pid and the one after it, and the largest token and the one after it.
const NUMBERS: [&str; 14] = [
    "1",
    "0",
    "4711",
    "007",
    "+5",
    "-1",
    "1_0",
    "\u{663}",
    "\u{b2}",
    "2147483647",
    "2147483648",
    "18446744073709551617",
    "6277101735386680763835789423207666416102355444464034512895",
    "6277101735386680763835789423207666416102355444464034512896",
];

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    select(texts).prop_map(|text| text.as_bytes().to_vec())
}

/// What markers and near misses are made of.
fn any_piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(b"\n".to_vec()),
        3 => one_of(&BREAKS),
        2 => one_of(&SPACES),
        3 => one_of(&WORDS),
        4 => one_of(&NUMBERS),
        1 => vec(any::<u8>(), 1..4),
        1 => (250..600_usize).prop_map(|count| b"x".repeat(count)),
    ]
}

/// Pieces in any order, mostly with the end that a marker needs.
fn any_assembly() -> impl Strategy<Value = Vec<u8>> {
    (vec(any_piece(), 0..10), proptest::bool::weighted(0.8)).prop_map(|(pieces, is_ended)| {
        let mut bytes = pieces.concat();
        if is_ended {
            bytes.push(b'\n');
        }
        bytes
    })
}

/// Lines as a marker has them, whatever stands between them.
fn any_layout() -> impl Strategy<Value = Vec<u8>> {
    let line =
        |content| (one_of(&BREAKS), content).prop_map(|(end, content): (Vec<u8>, _)| [end, content].concat());
    let after = prop_oneof![2 => Just(Vec::new()), 1 => one_of(&SPACES)];
    let lines = (one_of(&NUMBERS), line(one_of(&WORDS).boxed()), line(one_of(&NUMBERS).boxed()), after);
    lines.prop_map(|(pid, host, start, after)| [&pid[..], &host, &start, &after, b"\n"].concat())
}

/// A marker, or another known content, of which some bytes were replaced, taken out or put in.
fn any_damaged_marker() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop_oneof![
        8 => any_record().prop_map(|record| record.to_bytes()),
        6 => any_tenancy().prop_map(|tenancy| tenancy.to_bytes()),
        1 => Just(STRICT.to_vec()),
        1 => Just(RELEASED.to_vec()),
    ];
    let damage = (any::<Index>(), 0..2_usize, prop_oneof![Just(Vec::new()), any_piece()]);
    (whole, vec(damage, 0..3)).prop_map(|(mut bytes, damages)| {
        for (place, width, piece) in damages {
            let begin = place.index(bytes.len() + 1);
            let end = bytes.len().min(begin + width);
            bytes.splice(begin..end, piece);
        }
        bytes
    })
}

fn any_seconds() -> impl Strategy<Value = Seconds> {
    let any = any::<f64>().prop_filter_map("a length of time", |number| Seconds::new(number.abs()));
    let usual = (1..100_000_u32).prop_filter_map("one too", |number| Seconds::new(f64::from(number) / 100.0));
    prop_oneof![1 => any, 2 => usual].prop_filter("longer than none", |seconds| seconds.get() > 0.0)
}

/// Terms as they are written, by us or by filelock.
fn any_tenancy() -> impl Strategy<Value = Tenancy> {
    let lease = ("[0-9a-f]{32}", any_seconds()).prop_map(|terms| (OwnerMode::Lease, Some(terms)));
    let terms = prop_oneof![2 => lease, 1 => Just((OwnerMode::Exclusive, None))];
    (any_record(), terms).prop_map(|(owner, (mode, terms))| {
        let (token, duration) = terms.unzip();
        Tenancy { owner, mode, token, duration }
    })
}

const TERMS: [&str; 24] = [
    "mode=lease",
    "mode=exclusive",
    "mode=odd",
    "mode=",
    "token=a",
    "token=",
    "token=a b",
    "duration=30.0",
    "duration=3",
    "duration=0",
    "duration=1e-07",
    "duration=1e5",
    "duration=1E+5",
    "duration=1e+400",
    "duration=.5",
    "duration=5.",
    "duration=",
    "start=5",
    "start=x",
    "start=",
    "host=a=b",
    "host=",
    "x=y",
    "nonsense",
];

/// Lines of terms in any order, behind what a marker needs or nearly.
fn any_terms() -> impl Strategy<Value = Vec<u8>> {
    let begins =
        ["filelock/2\npid=4711\nhost=vm\nmode=exclusive\n", "filelock/2\npid=7\nhost=vm\n", "filelock/2\n"];
    let pid = one_of(&NUMBERS).prop_map(|number| [b"pid=", &number[..]].concat());
    let line = prop_oneof![3 => one_of(&TERMS), 1 => pid];
    let lines = vec((line, one_of(&BREAKS)), 0..6);
    (select(begins.to_vec()), lines).prop_map(|(begin, lines)| {
        let lines: Vec<u8> = lines.into_iter().flat_map(|(line, end)| [line, end].concat()).collect();
        [begin.as_bytes(), &lines, b"\n"].concat()
    })
}

fn any_content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => vec(any::<u8>(), 0..1100),
        4 => any_assembly(),
        4 => any_layout(),
        3 => any_damaged_marker(),
        3 => any_terms(),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_read_as_the_naive_parser_reads_them(bytes in any_content()) {
        let content = Content::parse(&bytes);
        prop_assert_eq!(&content, &naive::parse(&bytes));
        let owner = match &content {
            Content::Owned(record) => Some(record.pid),
            Content::Bare(pid) => Some(*pid),
            Content::Empty | Content::Tenant(_) | Content::Released | Content::Strict | Content::Malformed => None,
        };
        prop_assert_eq!(content.pid(), owner);
    }

    #[test]
    fn a_record_is_read_as_it_was_written(record in any_record()) {
        let bytes = record.to_bytes();
        prop_assert!(bytes.len() <= LONGEST);
        prop_assert_eq!(Content::parse(&bytes), Content::Owned(record));
    }

    #[test]
    fn terms_are_read_as_they_were_written(tenancy in any_tenancy()) {
        let bytes = tenancy.to_bytes();
        prop_assert!(bytes.len() <= LONGEST);
        prop_assert_eq!(Content::parse(&bytes), Content::Tenant(Box::new(tenancy)));
    }

    /// Cut behind a line that could have been the last one it says less; elsewhere it says nothing.
    #[test]
    fn terms_that_were_cut_name_no_others(tenancy in any_tenancy()) {
        let bytes = tenancy.to_bytes();
        for length in 1..bytes.len() {
            let content = Content::parse(&bytes[..length]);
            if let Content::Tenant(read) = content {
                prop_assert_eq!(&read.owner.host, &tenancy.owner.host);
                prop_assert_eq!((read.owner.pid, read.mode), (tenancy.owner.pid, tenancy.mode));
                prop_assert_eq!((&read.token, read.duration), (&tenancy.token, tenancy.duration));
            } else {
                prop_assert_eq!(content, Content::Malformed, "the first {} bytes", length);
            }
        }
    }

    /// Cut behind a line it says less, but nothing else; cut within a line it says nothing.
    #[test]
    fn a_marker_that_was_cut_names_no_other_owner(record in any_record()) {
        let bytes = record.to_bytes();
        let pid_line = record.pid.to_string().len() + 1;
        let host_line = pid_line + record.host.len() + 1;
        for length in 0..bytes.len() {
            let expected = match length {
                0 => Content::Empty,
                _ if length == pid_line => Content::Bare(record.pid),
                _ if length == host_line => Content::Owned(Record { start: None, ..record.clone() }),
                _ => Content::Malformed,
            };
            prop_assert_eq!(Content::parse(&bytes[..length]), expected, "the first {} bytes", length);
        }
    }

    /// Only what a marker does not say, when its owner began, can be added to it.
    #[test]
    fn a_marker_that_was_added_to_names_no_other_owner(
        record in any_record(),
        addition in prop_oneof![1 => vec(any::<u8>(), 1..80), 3 => any_assembly()],
    ) {
        let content = Content::parse(&[record.to_bytes(), addition].concat());
        if let Content::Owned(read) = &content {
            prop_assert_eq!((read.pid, &read.host), (record.pid, &record.host));
            prop_assert!(record.start.is_none() || read.start == record.start);
        } else {
            prop_assert_eq!(content, Content::Malformed);
        }
    }

    #[test]
    fn a_marker_is_read_up_to_its_longest_and_no_further(record in any_record()) {
        let mut bytes = record.to_bytes();
        bytes.resize(LONGEST, b'\n');
        prop_assert_eq!(Content::parse(&bytes), Content::Owned(record));
        bytes.push(b'\n');
        prop_assert_eq!(Content::parse(&bytes), Content::Malformed);
    }
}

/// The cases are worth their number: each answer is among them more than once.
#[test]
fn the_cases_lead_to_every_answer() -> Checked {
    let mut runner = TestRunner::new(config());
    let strategy = any_content();
    let mut answers = BTreeMap::new();
    for _ in 0..runner.config().cases {
        let bytes = strategy.new_tree(&mut runner).map_err(|reason| reason.to_string())?.current();
        let answer = match Content::parse(&bytes) {
            Content::Empty => "empty",
            Content::Owned(Record { start: None, .. }) => "owned, no token",
            Content::Owned(Record { start: Some(_), .. }) => "owned",
            Content::Tenant(tenancy) if tenancy.mode == OwnerMode::Unknown => "unknown terms",
            Content::Tenant(tenancy) if tenancy.mode == OwnerMode::Lease => "a lease",
            Content::Tenant(_) => "exclusive",
            Content::Bare(_) => "bare",
            Content::Released => "released",
            Content::Strict => "strict",
            Content::Malformed => "malformed",
        };
        *answers.entry(answer).or_insert(0) += 1;
    }
    assert_eq!(answers.len(), 10, "{answers:?}");
    assert!(answers.values().all(|count| *count >= 5), "{answers:?}");
    Ok(())
}
