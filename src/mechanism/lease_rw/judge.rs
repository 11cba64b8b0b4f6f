//! Whether a marker is a dead holder's, and its eviction.

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use super::lease::Lease;
use super::observe::{self, Observer, WRITE};
use super::rooms::{Look, Marker, Readers, Rooms, look, writer_name};
use super::seam::{Step, reach};
use super::taking::take_write_away;
use crate::mechanism::monitor::LeaseSettings;
use crate::sys::names;

/// What a marker comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its holder may live.
    Live,
    /// It is stale if its stamp is old, for who can tell: that needs a file just made there.
    Due,
    Stale,
    /// It is not there any more.
    Gone,
}

/// A contender that looks at the markers of others.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) rooms: &'a Rooms,
    pub(super) readers: &'a Readers,
    pub(super) observer: &'a Observer,
    pub(super) settings: LeaseSettings,
    /// The stamp of a file that was just made beside the markers; `None` outside a transition.
    pub(super) here: Option<(i64, i64)>,
}

impl Judge<'_> {
    pub(super) fn verdict(&self, name: &str, marker: &Marker) -> Verdict {
        let lease = Lease::parse(&marker.bytes);
        if lease.as_ref().is_some_and(|lease| lease.is_proved_dead(self.rooms.is_local())) {
            return Verdict::Stale;
        }
        let theirs = lease.and_then(|lease| lease.terms).map(|terms| terms.settings);
        let own = self.settings.stale_threshold;
        let unchanged = self.observer.unchanged_for(Some(self.readers), name, marker, observe::now(), own);
        judge(own, theirs, unchanged, marker.stamp.modified, self.here)
    }

    /// Looks at the marker `name` in the folder of readers; `None`: it never was one.
    ///
    /// At a glance, one that was looked at a moment ago is taken to be as it was: a waiter waits in any case.
    pub(super) fn look_at(&self, name: &OsStr) -> io::Result<Option<(Verdict, Option<Marker>)>> {
        let key = name.to_string_lossy();
        let (threshold, is_local) = (self.settings.stale_threshold, self.rooms.is_local());
        if self.here.is_none() && self.observer.is_fresh(&key, observe::now(), threshold, is_local) {
            return Ok(Some((Verdict::Live, None)));
        }
        match look(self.readers.named(name)?)? {
            Look::Marker(marker) => Ok(Some((self.verdict(&key, &marker), Some(marker)))),
            Look::Nothing => Ok(Some((Verdict::Gone, None))),
            Look::NoFile => Ok(None),
        }
    }

    /// Looks at `x.write`; `None`: there is none.
    pub(super) fn look_at_write(&self) -> io::Result<Option<(Verdict, Marker)>> {
        match look(self.rooms.write()?)? {
            Look::Marker(marker) => Ok(Some((self.verdict(WRITE, &marker), marker))),
            Look::Nothing => Ok(None),
            Look::NoFile => Err(crate::sys::special_file_error()),
        }
    }

    /// Removes the stale marker `name` in the folder of readers, unless it was refreshed since. Nobody uses the name again.
    pub(super) fn evict(&self, name: &OsStr, judged: &Marker) -> io::Result<bool> {
        let at = self.readers.named(name)?;
        match look(at)? {
            Look::Marker(found) if !found.is_still(judged) => Ok(false),
            Look::Marker(_) => names::remove(at).map(|()| true),
            Look::Nothing | Look::NoFile => Ok(true),
        }
    }

    /// Takes a stale writer's markers away. Its claim first: a writer of ours that lives after all goes by that.
    pub(super) fn evict_writer(&self, judged: &Marker) -> io::Result<bool> {
        let is_still = matches!(look(self.rooms.write()?)?, Look::Marker(found) if found.is_still(judged));
        if !is_still {
            return Ok(false);
        }
        reach(Step::Judged);
        if let Some(lease) = Lease::parse(&judged.bytes) {
            let name = writer_name(&lease.token);
            let at = self.readers.named(&name)?;
            if let Look::Marker(claim) = look(at)? {
                // Without hard links it is another file, and may have been refreshed when the other was not.
                if claim.stamp.id == judged.stamp.id && !claim.is_still(judged) {
                    return Ok(false);
                }
                names::remove(at)?;
            }
        }
        reach(Step::Disowned);
        take_write_away(self.rooms, &judged.bytes)?;
        Ok(true)
    }
}

/// How many of its holder's heartbeats a marker that is old by its stamp may be seen unchanged.
const BEATS: u32 = 2;

fn judge(
    own: Duration,
    theirs: Option<LeaseSettings>,
    unchanged: Duration,
    stamped: (i64, i64),
    here: Option<(i64, i64)>,
) -> Verdict {
    let threshold = theirs.map_or(own, |theirs| theirs.stale_threshold.max(own));
    if unchanged >= threshold {
        return Verdict::Stale;
    }
    // Who comes late to a marker that is old need not wait for as long again. filelock's does not tell its heartbeat.
    let is_enough = theirs.is_some_and(|theirs| unchanged >= theirs.heartbeat_interval.saturating_mul(BEATS));
    match here {
        Some(here) if is_enough && age(stamped, here) > threshold => Verdict::Stale,
        None if is_enough => Verdict::Due,
        Some(_) | None => Verdict::Live,
    }
}

/// The time between two stamps; none where the first is the later one.
fn age(stamped: (i64, i64), here: (i64, i64)) -> Duration {
    let nanoseconds = |(seconds, rest): (i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let age = nanoseconds(here) - nanoseconds(stamped);
    Duration::from_nanos(u64::try_from(age.max(0)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Verdict = Verdict::Live;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn terms(threshold: u64, interval: u64) -> LeaseSettings {
        LeaseSettings { stale_threshold: seconds(threshold), heartbeat_interval: seconds(interval) }
    }

    /// By a contender with the defaults; the marker is `age` old by its stamp.
    fn judged(theirs: impl Into<Option<LeaseSettings>>, unchanged: u64, age: Option<i64>) -> Verdict {
        judge(seconds(90), theirs.into(), seconds(unchanged), (1000, 0), age.map(|age| (1000 + age, 0)))
    }

    #[test]
    fn a_marker_is_stale_when_it_was_seen_unchanged_for_the_longer_threshold() {
        assert_eq!(judged(None, 89, Some(1_000_000)), LIVE);
        assert_eq!(judged(None, 90, Some(0)), Verdict::Stale);
        assert_eq!(judged(terms(360, 120), 359, Some(0)), LIVE);
        assert_eq!(judged(terms(360, 120), 360, Some(0)), Verdict::Stale);
        assert_eq!(judged(terms(3, 1), 89, Some(0)), LIVE, "the contender's is the longer one");
        assert_eq!(judged(terms(3, 1), 90, Some(0)), Verdict::Stale);
    }

    #[test]
    fn who_comes_late_waits_for_two_heartbeats() {
        assert_eq!(judged(terms(90, 30), 59, Some(1_000_000)), LIVE);
        assert_eq!(judged(terms(90, 30), 60, Some(1_000_000)), Verdict::Stale);
        assert_eq!(judged(terms(90, 30), 60, Some(90)), LIVE, "it is not old");
        assert_eq!(judged(terms(360, 120), 240, Some(361)), Verdict::Stale);
        assert_eq!(judged(terms(360, 120), 239, Some(361)), LIVE);
    }

    #[test]
    fn stamps_alone_evict_nobody_and_keep_nobody() {
        for age in [-1_000_000, 0, 1_000_000, i64::MAX / 2] {
            assert_eq!(judged(terms(90, 30), 0, Some(age)), LIVE, "{age}");
            assert_eq!(judged(terms(90, 30), 90, Some(age)), Verdict::Stale, "{age}");
        }
    }

    #[test]
    fn who_has_made_no_file_there_does_not_know_its_age() {
        assert_eq!(judged(terms(90, 30), 60, None), Verdict::Due);
        assert_eq!(judged(terms(90, 30), 59, None), LIVE);
        assert_eq!(judged(None, 60, None), LIVE);
    }
}
