//! Protocol 2: a marker that also says on what terms its owner has the lock, a `key=value` a line.

use std::fmt;

use super::{Record, StartToken, digits, parse_pid};

/// The first line of such a marker.
pub(super) const MAGIC: &str = "filelock/2";

/// On what terms a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerMode {
    /// Until the owner gives it back, or is proved dead.
    Exclusive,
    /// For as long as the owner refreshes its marker.
    Lease,
    /// Those of a later protocol: nobody may judge them.
    Unknown,
}

impl OwnerMode {
    /// The word for it, in markers too but for the unknown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Lease => "lease",
            Self::Unknown => "unknown",
        }
    }
}

/// A number of seconds, not negative, as exact as it is written. It may be infinite; a lease is not.
#[derive(Clone, Copy, PartialEq)]
pub struct Seconds(f64);

// It is never "not a number".
impl Eq for Seconds {}

impl Seconds {
    /// `None` for what is no length of time.
    #[must_use]
    pub fn new(seconds: f64) -> Option<Self> {
        // A negative zero would be written with its sign.
        (seconds >= 0.0).then(|| Self(seconds.abs()))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// What a filelock reads too: digits, perhaps a fraction, perhaps an exponent with its sign.
    fn parse(text: &str) -> Option<Self> {
        let (number, exponent) = match text.split_once('e') {
            Some((number, exponent)) => (number, Some(exponent)),
            None => (text, None),
        };
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (number, None),
        };
        digits(whole)?;
        fraction.map_or(Some(""), digits)?;
        if let Some(exponent) = exponent {
            digits(exponent.strip_prefix(['+', '-'])?)?;
        }
        Self::new(text.parse().ok()?)
    }
}

impl fmt::Display for Seconds {
    /// As Python's `repr` writes it; what is infinite as a number that is too large for one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_infinite() {
            return f.write_str("1e+999");
        }
        let shortest = format!("{:e}", self.0);
        let (number, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
        let exponent: i32 = exponent.parse().map_err(|_| fmt::Error)?;
        if (-4..16).contains(&exponent) {
            let plain = self.0.to_string();
            return write!(f, "{plain}{}", if plain.contains('.') { "" } else { ".0" });
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(f, "{number}e{sign}{:02}", exponent.abs())
    }
}

impl fmt::Debug for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} s")
    }
}

/// The owner of a marker of protocol 2, and its terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenancy {
    /// The owner.
    pub owner: Record,
    /// Its terms. A lease has a token and a duration.
    pub mode: OwnerMode,
    /// What this one acquisition is known by.
    pub token: Option<String>,
    /// For how long others must have seen the marker unchanged to take the owner for dead.
    pub duration: Option<Seconds>,
}

impl Tenancy {
    /// The bytes of the marker.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Record { pid, host, start } = &self.owner;
        let mode = self.mode.name();
        let token = line("token", self.token.as_ref());
        let duration = line("duration", self.duration);
        let start = line("start", start.as_ref());
        format!("{MAGIC}\npid={pid}\nhost={host}\nmode={mode}\n{token}{duration}{start}").into_bytes()
    }

    /// Reads the lines after the first. Of a key that comes twice the last one counts, and an unknown one is passed over.
    pub(super) fn parse(lines: &[&str]) -> Option<Self> {
        let [mut pid, mut host, mut mode, mut token, mut duration, mut start] = [None; 6];
        for line in lines {
            let (key, value) = line.split_once('=')?;
            let field = match key {
                "pid" => &mut pid,
                "host" => &mut host,
                "mode" => &mut mode,
                "token" => &mut token,
                "duration" => &mut duration,
                "start" => &mut start,
                _ => continue,
            };
            *field = Some(value);
        }
        let mode = match mode? {
            "exclusive" => OwnerMode::Exclusive,
            "lease" => OwnerMode::Lease,
            _ => OwnerMode::Unknown,
        };
        let duration = duration.map_or(Some(None), |text| Seconds::parse(text).map(Some))?;
        let has_terms = token.is_some_and(|token: &str| !token.is_empty())
            && duration.is_some_and(|duration: Seconds| duration.get() > 0.0 && duration.get().is_finite());
        if mode == OwnerMode::Lease && !has_terms {
            return None;
        }
        let start = start.map_or(Some(None), |text| digits(text).map(StartToken::parse))?;
        let host = host.filter(|host| !host.is_empty())?.to_owned();
        let owner = Record { pid: parse_pid(pid?)?, host, start };
        Some(Self { owner, mode, token: token.map(str::to_owned), duration })
    }
}

fn line(key: &str, value: Option<impl fmt::Display>) -> String {
    value.map(|value| format!("{key}={value}\n")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::Content;
    use super::*;

    const START: &str = "2247087193759956303936445054322192173384370228849832820386";

    fn read(lines: &str) -> Option<Tenancy> {
        let content = Content::parse(format!("filelock/2\n{lines}").as_bytes());
        if let Content::Tenant(tenancy) = content { Some(*tenancy) } else { None }
    }

    #[test]
    fn the_markers_that_filelock_was_seen_to_write_are_read_and_written() {
        let exclusive = format!("pid=20264\nhost=vm\nmode=exclusive\nstart={START}\n");
        let lease = format!(
            "pid=20276\nhost=vm\nmode=lease\ntoken=5f7dbcc41ec1f5e7455cdbcf8ef66026\nduration=30.0\nstart={START}\n"
        );
        for (text, mode, length) in [(exclusive, OwnerMode::Exclusive, 109), (lease, OwnerMode::Lease, 158)] {
            let tenancy = read(&text).expect("it is a marker");
            assert_eq!((tenancy.mode, tenancy.owner.host.as_str()), (mode, "vm"));
            assert_eq!(tenancy.owner.start.map(|start| start.to_string()).as_deref(), Some(START));
            let bytes = format!("filelock/2\n{text}").into_bytes();
            assert_eq!(tenancy.to_bytes(), bytes);
            assert_eq!(bytes.len(), length);
        }
    }

    #[test]
    fn seconds_are_written_as_python_writes_them() {
        let texts = [
            "0.0",
            "30.0",
            "0.1",
            "0.0001",
            "1e-05",
            "1e-07",
            "1e+16",
            "1.5e+16",
            "1000000000000000.0",
            "9999999999999998.0",
            "123456789.123",
            "5e-324",
            "1.7976931348623157e+308",
            "1e+100",
            "1.25e-10",
        ];
        for text in texts {
            let seconds = Seconds::new(text.parse().unwrap()).unwrap();
            assert_eq!(seconds.to_string(), text);
            assert_eq!(Seconds::parse(text), Some(seconds));
        }
        assert_eq!(Seconds::new(-0.0).unwrap().to_string(), "0.0");
        for none in [f64::NAN, -1.0] {
            assert_eq!(Seconds::new(none), None);
        }
        let infinite = Seconds::new(f64::INFINITY).unwrap();
        assert_eq!(Seconds::parse(&infinite.to_string()), Some(infinite));
    }

    #[test]
    fn what_filelock_does_not_read_is_malformed() {
        for text in [
            "pid=5\nhost=vm\n",
            "pid=5\nmode=exclusive\n",
            "host=vm\nmode=exclusive\n",
            "pid=5\nhost=\nmode=exclusive\n",
            "pid=0\nhost=vm\nmode=exclusive\n",
            "pid= 5\nhost=vm\nmode=exclusive\n",
            "pid=5\nhost=vm\nmode=exclusive\nnonsense\n",
            "pid=5\nhost=vm\nmode=exclusive\n\nx=\n",
            "pid=5\nhost=vm\nmode=exclusive\nstart=x\n",
            "pid=5\nhost=vm\nmode=exclusive\nstart=\n",
            "pid=5\nhost=vm\nmode=exclusive\nduration=x\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\n",
            "pid=5\nhost=vm\nmode=lease\nduration=3\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=\nduration=3\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\nduration=0\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\nduration=1e-400\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\nduration=1e+400\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\nduration=3e5\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\nduration=3E+5\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\nduration=.3\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\nduration=3.\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\nduration=+3\n",
            "pid=5\nhost=vm\nmode=lease\ntoken=a\nduration=inf\n",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_new_to_us_is_passed_over_or_held_for_ever() {
        let tenancy = read("pid=5\nx=y\npid=07\nhost=a=b\nmode=odd\ntoken=\n=\n").expect("it is a marker");
        assert_eq!((tenancy.owner.pid, tenancy.owner.host.as_str()), (7, "a=b"));
        assert_eq!((tenancy.mode, tenancy.token.as_deref()), (OwnerMode::Unknown, Some("")));
        assert_eq!(
            read("pid=5\r\nhost=vm\r\nmode=lease\r\ntoken=a b\r\nduration=3\r\n\n").unwrap().mode,
            OwnerMode::Lease
        );
    }
}
