//! A lease and the time that passes, by the arithmetic that is used: every sequence of some delays.
//!
//! The contender is the worst that there can be: it sees each change at once, and takes the marker as soon as it was
//! unchanged for the duration. Four laws, for every interval that is shorter than the duration:
//!
//! *Alone*: as long as the delays are shorter than what the settings leave for them, nobody takes the marker of an owner that
//! believes to hold it, also where refreshes fail. *Told*: whatever the delays, the first look at a marker that was taken is
//! the last one. *Granted*: half the duration may pass over the making. *Patient*: a refresh that fails is made again as long as
//! an interval is left.
//!
//! A marker is *made* at some time after the attempt has begun, and *granted* at another; a refresh has a time to wait for its
//! worker, one until the marker is touched, and one until it has been looked at.

use std::io;
use std::time::Duration;

use super::{CompromiseReason, Health, LeaseSettings, Prognosis, Refreshed};

/// What may be otherwise than it is.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// The first heartbeat is due an interval after the making began, rather than after the grant.
    counts_from_making: bool,
    /// A pause begins when the refresh before it begins, rather than ends.
    counts_from_beginning: bool,
    /// A marker is granted as long as half the time between a heartbeat and the end of the lease is left, rather than gone.
    grants_late: bool,
}

const RULES: Rules = Rules { counts_from_making: true, counts_from_beginning: true, grants_late: true };

const DURATION: Duration = Duration::from_secs(1);
const INTERVALS: [u64; 9] = [10, 125, 250, 333, 500, 667, 800, 900, 990];
/// When all begins.
const BEGUN: Duration = Duration::from_secs(5000);
const BEATS: usize = 3;
/// Of a delay, in thousandths of its bound: nothing, half, all.
const DELAYS: [u32; 3] = [0, 495, 990];

fn settings(interval: u64) -> LeaseSettings {
    LeaseSettings { heartbeat_interval: Duration::from_millis(interval), stale_threshold: DURATION }
}

/// What the settings leave for the delays of one refresh: it may have failed before.
fn bound(settings: LeaseSettings) -> Duration {
    let interval = settings.heartbeat_interval;
    DURATION.saturating_sub(interval).min(interval * (super::SHARE - 1) / super::SHARE)
}

fn is_granted(health: &Health, now: Duration, settings: LeaseSettings, rules: Rules) -> bool {
    if rules.grants_late {
        return !health.is_late(now, settings);
    }
    now.saturating_sub(health.good) <= DURATION.saturating_sub(settings.heartbeat_interval) / 2
}

/// An owner between two refreshes.
#[derive(Debug, Clone)]
struct Owner {
    health: Health,
    /// When the marker was changed.
    changed: Duration,
    due: Duration,
    /// When the worker is free.
    free: Duration,
}

/// The delays of a refresh, of `bound` together at most.
fn delays(bound: Duration) -> impl Iterator<Item = [Duration; 3]> {
    let all = DELAYS.into_iter().flat_map(|waits| {
        DELAYS.into_iter().flat_map(move |touches| DELAYS.map(move |looks| [waits, touches, looks]))
    });
    all.filter(|delays| delays.iter().sum::<u32>() < 1000)
        .map(move |delays| delays.map(|delay| bound * delay / 1000))
}

/// Whether somebody else takes the marker while the owner believes to hold it.
fn is_taken(owner: &Owner, beats: usize, settings: LeaseSettings, rules: Rules) -> bool {
    if beats == 0 {
        return false;
    }
    let bound = bound(settings);
    // Before the first one, half the time has gone perhaps.
    let bound = if beats == BEATS { bound / 2 } else { bound };
    delays(bound).any(|[waits, touches, looks]| {
        let begun = owner.due.max(owner.free) + waits;
        let (touched, ended) = (begun + touches, begun + touches + looks);
        let taken = owner.changed + DURATION;
        [true, false].into_iter().any(|succeeds| {
            if succeeds && touched >= taken {
                return true;
            }
            let mut owner = owner.clone();
            let refreshed = if succeeds { Ok(Refreshed::Fresh) } else { Err(io::ErrorKind::Other.into()) };
            let pause = match owner.health.note(refreshed, begun, ended, settings) {
                Prognosis::Beat(pause) => pause,
                Prognosis::Over(..) => return ended > taken,
            };
            owner.due = if rules.counts_from_beginning { begun } else { ended } + pause;
            (owner.changed, owner.free) = (if succeeds { touched } else { owner.changed }, ended);
            is_taken(&owner, beats - 1, settings, rules)
        })
    })
}

/// All owners that have just been granted a lease.
fn owners(settings: LeaseSettings, rules: Rules) -> impl Iterator<Item = Owner> {
    let steps = (0..=10).flat_map(|made| (made..=10).map(move |granted| [made, granted]));
    steps.filter_map(move |moments| {
        let [changed, granted] = moments.map(|tenths| BEGUN + DURATION * tenths / 10);
        let health = Health::since(BEGUN);
        let from_making = health.due(settings);
        let from_grant = granted + settings.heartbeat_interval;
        let due = if rules.counts_from_making { from_making } else { from_grant };
        is_granted(&health, granted, settings, rules).then_some(Owner { health, changed, due, free: granted })
    })
}

/// The intervals with which the owner is not alone.
fn broken(rules: Rules) -> Vec<u64> {
    let is_broken = |interval: &u64| {
        let settings = settings(*interval);
        owners(settings, rules).any(|owner| is_taken(&owner, BEATS, settings, rules))
    };
    INTERVALS.into_iter().filter(is_broken).collect()
}

/// The intervals with which an attempt that takes half the duration is in vain.
fn refused(rules: Rules) -> Vec<u64> {
    let is_refused =
        |interval: &u64| !is_granted(&Health::since(BEGUN), BEGUN + DURATION / 2, settings(*interval), rules);
    INTERVALS.into_iter().filter(is_refused).collect()
}

#[test]
fn nobody_takes_the_marker_of_an_owner_that_believes_to_hold_it() {
    assert_eq!(broken(RULES), []);
}

#[test]
fn half_the_duration_may_pass_over_the_making() {
    assert_eq!(refused(RULES), []);
}

#[test]
fn a_marker_that_was_taken_is_not_looked_at_twice() {
    for settings in INTERVALS.map(settings) {
        for owner in owners(settings, RULES) {
            let taken = owner.changed + DURATION;
            for late in 0..30 {
                let mut health = owner.health.clone();
                let begun = owner.due.max(taken) + DURATION * late / 10;
                let lost = Ok(Refreshed::Lost(CompromiseReason::OwnerChanged));
                assert!(matches!(health.note(lost, begun, begun, settings), Prognosis::Over(..)));
            }
        }
    }
}

#[test]
fn a_refresh_that_fails_ends_a_lease_only_when_less_than_an_interval_is_left() {
    for settings in INTERVALS.map(settings) {
        let interval = settings.heartbeat_interval;
        let last = BEGUN + DURATION.saturating_sub(interval);
        let fail = |now| Health::since(BEGUN).note(Err(io::ErrorKind::Other.into()), now, now, settings);
        for now in [BEGUN, last] {
            let prognosis = fail(now);
            assert!(matches!(prognosis, Prognosis::Beat(pause) if pause == interval / super::SHARE));
        }
        let prognosis = fail(last + Duration::from_nanos(1));
        assert!(matches!(prognosis, Prognosis::Over(CompromiseReason::RefreshFailed, Some(_))));
    }
}

/// Who is about to evict it may do so any time later.
#[test]
fn whoever_was_late_once_stays_doubtful() {
    for settings in INTERVALS.map(settings) {
        let limit = BEGUN + (settings.heartbeat_interval + DURATION) / 2;
        for (now, is_late) in [(limit, false), (limit + Duration::from_nanos(1), true)] {
            let mut health = Health::since(BEGUN);
            for now in [now, now] {
                let prognosis = health.note(Ok(Refreshed::Fresh), now, now, settings);
                assert!(matches!(prognosis, Prognosis::Beat(_)));
                assert_eq!(health.is_doubtful, is_late);
            }
        }
    }
}

#[test]
fn each_of_the_rules_is_needed() {
    assert_eq!(broken(Rules { counts_from_making: false, ..RULES }), [333, 500, 667, 800, 900, 990]);
    assert!(!broken(Rules { counts_from_beginning: false, ..RULES }).is_empty());
    assert!(!refused(Rules { grants_late: false, ..RULES }).is_empty());
}
