//! For how long a marker has been seen unchanged, by the observer's own clock.
//!
//! Whose clock stamps a file is not known, the server's or the writing machine's, and it may be hours off. That a stamp
//! *changes* is all that a heartbeat has to tell, and an observer needs no other clock than its own to see that it does not.
//!
//! What is seen outlives the observer: a file in the folder of readers keeps it for others that count from the same start of
//! the same machine, so that contenders with short timeouts evict together.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::lease::Lease;
use super::rooms::{self, Look, Marker, Readers};
use crate::fork::ForkMutex;
pub(super) use crate::mechanism::health::now;
use crate::mechanism::new_file::random_hex;
use crate::process;
use crate::sys::{self, names};

/// What of a marker changes when its owner lives, or is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    digest: u64,
    inode: u64,
    modified: (i64, i64),
}

impl Sight {
    fn of(marker: &Marker) -> Self {
        let digest = Sha256::digest(&marker.bytes);
        let digest = digest[..8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Self { digest, inode: marker.stamp.id.inode, modified: marker.stamp.modified }
    }
}

#[derive(Debug, Clone)]
struct Seen {
    name: String,
    sight: Sight,
    since: Duration,
    looked: Duration,
    lease: Option<Lease>,
    is_shared: bool,
}

impl Seen {
    fn to_line(&self) -> String {
        let Sight { digest, inode, modified: (seconds, nanoseconds) } = self.sight;
        // Rounded up: nothing may seem older than it was seen.
        let since = self.since.as_millis() + 1;
        format!("{since} {seconds} {nanoseconds} {inode} {digest:x} {}\n", self.name)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let since = Duration::from_millis(fields.next()?.parse().ok()?);
        let modified = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let inode = fields.next()?.parse().ok()?;
        let digest = u64::from_str_radix(fields.next()?, 16).ok()?;
        let name = fields.next()?.to_owned();
        let sight = Sight { digest, inode, modified };
        Some(Self { name, sight, since, looked: since, lease: None, is_shared: true })
    }
}

/// What the contenders of one lock object have seen.
#[derive(Debug)]
pub(super) struct Observer {
    seen: ForkMutex<Vec<Seen>>,
}

/// More are not remembered, here or in the file.
const MOST: usize = 4096;

/// A share of the threshold: how often an unchanged marker is looked at, and how long it must have been seen so for the
/// others to be told.
const SHARE: u32 = 16;

impl Observer {
    pub(super) fn new() -> Self {
        Self { seen: ForkMutex::new() }
    }

    /// For how long `marker` has been seen as it is.
    pub(super) fn unchanged_for(
        &self,
        readers: Option<&Readers>,
        name: &str,
        marker: &Marker,
        now: Duration,
        threshold: Duration,
    ) -> Duration {
        let sight = Sight::of(marker);
        let known = {
            let mut seen = self.seen.lock();
            let known = seen.iter_mut().find(|seen| seen.name == name && seen.sight == sight);
            known.map(|known| {
                known.looked = now;
                known.clone()
            })
        };
        let mut known = known.unwrap_or_else(|| {
            let shared = readers.and_then(shared).unwrap_or_default().into_iter();
            // A time to come was written by somebody who counts from another moment.
            let same = |seen: &Seen| seen.name == name && seen.sight == sight && seen.since <= now;
            let since = shared.filter(same).map(|seen| seen.since).min();
            let is_shared = since.is_some();
            let lease = Lease::parse(&marker.bytes);
            let since = since.unwrap_or(now);
            Seen { name: name.to_owned(), sight, since, looked: now, lease, is_shared }
        });
        let unchanged = now.saturating_sub(known.since);
        if !known.is_shared
            && (unchanged >= threshold / SHARE || looks_old(sight.modified, threshold / SHARE))
        {
            // The others would only have to wait for longer.
            known.is_shared = readers.is_some_and(|readers| share(readers, &known, now).is_ok());
        }
        let mut seen = self.seen.lock();
        seen.retain(|seen| seen.name != name);
        if seen.len() == MOST {
            seen.remove(0);
        }
        seen.push(known);
        unchanged
    }

    /// Whether the marker `name` was looked at a moment ago, and its owner is not proved dead since.
    pub(super) fn is_fresh(&self, name: &str, now: Duration, threshold: Duration, is_local: bool) -> bool {
        let known = self.seen.lock().iter().find(|seen| seen.name == name).cloned();
        known.is_some_and(|known| {
            let is_recent = now.saturating_sub(known.looked) < threshold / SHARE;
            is_recent && !known.lease.is_some_and(|lease| lease.is_proved_dead(is_local))
        })
    }

    /// Forgets what was seen: the lock is had. What was shared is of no use to anybody any more.
    pub(super) fn settle(&self, readers: &Readers) {
        let seen = std::mem::take(&mut *self.seen.lock());
        if seen.iter().any(|seen| seen.is_shared) {
            if let Some(name) = shared_name() {
                drop(readers.named(&name).and_then(names::remove));
            }
        }
    }
}

/// Whether the marker seems to be older than `age`, or to come from the future: then it may be a dead holder's, and it is
/// worth a file to have it seen by others. Nothing is judged by it.
#[expect(clippy::disallowed_methods, reason = "a wrong answer costs a file, or a little time")]
fn looks_old((seconds, _): (i64, i64), age: Duration) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let stamped = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    now.abs_diff(stamped) > age.max(Duration::from_secs(2))
}

/// The file of those who count time from the same moment; `None`: nobody knows who does.
fn shared_name() -> Option<OsString> {
    let boot = process::own_record().start?.boot;
    (boot != 0).then(|| OsString::from(format!(".seen.{boot:x}")))
}

/// What others of this machine have seen.
fn shared(readers: &Readers) -> Option<Vec<Seen>> {
    let name = shared_name()?;
    let mut bytes = Vec::new();
    let file = crate::fork::Tracked::open(|| names::open_to_read(readers.named(&name)?)).ok()?;
    if file.stamp().kind != sys::Kind::Regular {
        return None;
    }
    let file = file.file()?;
    io::Read::read_to_end(&mut io::Read::take(file, (MOST * 128) as u64), &mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.lines().filter_map(Seen::parse).take(MOST).collect())
}

/// Adds `seen` to what others of this machine know. Two at once lose one of the two: it is seen again.
fn share(readers: &Readers, seen: &Seen, now: Duration) -> io::Result<()> {
    let Some(name) = shared_name() else { return Err(io::ErrorKind::Unsupported.into()) };
    let others = shared(readers).unwrap_or_default();
    let is_there = |name: &str| match name {
        WRITE | STATE => true,
        name => !matches!(readers.named(OsStr::new(name)).and_then(rooms::look), Ok(Look::Nothing)),
    };
    let others = others.into_iter().filter(|other| other.name != seen.name && other.since <= now);
    let lines: String =
        others.filter(|other| is_there(&other.name)).take(MOST - 1).map(|other| other.to_line()).collect();
    let private = OsString::from(format!(".seen.{}.{}", std::process::id(), random_hex()));
    let at = readers.named(&private)?;
    let make = || {
        let file = crate::fork::Tracked::open(|| names::create_new(at, 0o600))?;
        file.own_file().and_then(|mut file| file.write_all(format!("{lines}{}", seen.to_line()).as_bytes()))
    };
    make().and_then(|()| names::rename(at, &name)).inspect_err(|_| drop(names::remove(at)))
}

/// How the marker of the writer is called here.
pub(super) const WRITE: &str = "write";
/// How the marker of a transition is called here.
pub(super) const STATE: &str = "state";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanism::lease_rw::rooms::Rooms;
    use crate::sys::{FileId, Kind, Stamp};

    const SECOND: Duration = Duration::from_secs(1);
    const THRESHOLD: Duration = Duration::from_secs(90);

    fn marker(bytes: &[u8], modified: i64) -> Marker {
        let id = FileId { device: 1, inode: 2 };
        let modified = (modified, 0);
        let stamp = Stamp {
            id,
            kind: Kind::Regular,
            mode: 0,
            links: 1,
            owner: 0,
            size: 0,
            modified,
            changed: modified,
        };
        Marker { bytes: bytes.to_owned(), stamp }
    }

    #[test]
    fn only_what_does_not_change_ages_and_by_the_observers_clock() {
        let observer = Observer::new();
        let at = |second: u32, marker: &Marker| {
            observer.unchanged_for(None, "a", marker, second * SECOND, THRESHOLD)
        };
        let far = i64::MAX / 2;
        assert_eq!(at(100, &marker(b"x", far)), Duration::ZERO);
        assert_eq!(at(150, &marker(b"x", far)), 50 * SECOND);
        assert_eq!(at(160, &marker(b"x", -5)), Duration::ZERO, "a stamp that goes back is a change");
        assert_eq!(at(200, &marker(b"x", -5)), 40 * SECOND);
        assert_eq!(at(201, &marker(b"y", -5)), Duration::ZERO, "another owner");
        assert_eq!(at(150, &marker(b"y", -5)), Duration::ZERO, "a clock that goes back");
    }

    #[test]
    fn what_is_seen_outlives_the_observer() -> io::Result<()> {
        if shared_name().is_none() {
            return Ok(());
        }
        let folder = tempfile::tempdir()?;
        let rooms = Rooms::open(&folder.path().join("x.lock")).expect("the folder is there");
        let readers = rooms.make_readers()?;
        let look = |second: u32, marker: &Marker| {
            let observer = Observer::new();
            let unchanged = observer.unchanged_for(Some(&readers), WRITE, marker, second * SECOND, THRESHOLD);
            (unchanged, observer)
        };
        assert_eq!(look(100, &marker(b"x", 5)).0, Duration::ZERO);
        let nearly = |seconds: u64| Duration::from_millis(seconds * 1000 - 1);
        assert_eq!(look(130, &marker(b"x", 5)).0, nearly(30));
        assert_eq!(look(50, &marker(b"x", 5)).0, Duration::ZERO, "from a time to come");
        assert_eq!(look(131, &marker(b"x", 6)).0, Duration::ZERO, "it has changed");
        let (unchanged, observer) = look(141, &marker(b"x", 6));
        assert_eq!(unchanged, nearly(10));
        observer.settle(&readers);
        assert_eq!(look(142, &marker(b"x", 6)).0, Duration::ZERO, "the lock was had in between");
        Ok(())
    }

    #[test]
    fn a_file_of_others_can_say_anything() -> io::Result<()> {
        let Some(name) = shared_name() else { return Ok(()) };
        let folder = tempfile::tempdir()?;
        let rooms = Rooms::open(&folder.path().join("x.lock")).expect("the folder is there");
        let readers = rooms.make_readers()?;
        let path = folder.path().join("x.lock.readers").join(name);
        let contents: [&[u8]; 4] =
            [b"", b"\xff\xfe\n1 2\n", b"1 2 3 4 5\nx y z a b write\n", &vec![b'7'; 1 << 20]];
        for content in contents {
            std::fs::write(&path, content)?;
            let observer = Observer::new();
            let unchanged =
                observer.unchanged_for(Some(&readers), WRITE, &marker(b"x", 5), 100 * SECOND, THRESHOLD);
            assert_eq!(unchanged, Duration::ZERO);
        }
        Ok(())
    }
}
