//! The marker protocol: every interleaving of the system calls of a few contenders.
//!
//! A state is a folder and where each contender stands; a step is one system call, an end of a process, or the passing
//! of time. A contender may be stopped for any time between two of its calls: the others just go on.
//!
//! What our contenders do is a parameter ([`Rules`]). Three ways to take the place of a stale marker are modelled:
//!
//! | | one's own marker is | others of ours | a release |
//! |---|---|---|---|
//! | [`EXCHANGE`] | made aside, and exchanged with it | may do the same at the same time | unlinks |
//! | [`LOCKED`] | the same | do not: who reclaims has locked the stale marker's inode | unlinks |
//! | [`IN_PLACE`] | the stale one, overwritten | the same | unlinks, or leaves a released record if somebody has a marker aside |
//!
//! `mechanism/marker/` does [`LOCKED`]. It did [`EXCHANGE`], which is filelock's way, until this model showed what that
//! costs; [`IN_PLACE`] is not built.
//!
//! What holds of them, and is tested here with its limits:
//!
//! | contenders | `EXCHANGE` | `LOCKED` | `IN_PLACE` |
//! |---|---|---|---|
//! | ours | one holder, as long as no process ends | all laws | all laws |
//! | ours and one filelock | may lose a holder | may lose one | all laws |
//! | two of filelock, and ours | may lose one | may lose one | one holder, as long as no process ends |
//!
//! Three of filelock's alone may lose a holder: that is their own protocol.
//!
//! Bounds. Small, in each run: three contenders, each of which gets the lock twice at most, any number of attempts that
//! fail, two crashes, one that gives up putting back. Large, ignored: four contenders, three holds, three crashes.
//! "10 ms" and "2 s" of putting back may be over at any time, a malformed marker may be stale at any time, an empty one
//! never is. All files have the same times, unless a time is set on purpose.
//!
//! Not modelled: `lifetime`, `break_lock`, filelock 3.x, systems without an exchange, files of other users, two hosts.

#![expect(clippy::expect_used, reason = "a model that outgrows its tables has to be changed")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "`Step::make` lists all steps; a group's last one is the rest"
)]

mod canon;
mod laws;
mod put_back;
mod reclaim;
mod recover;
mod state;
mod steps;

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use laws::{FREE, Marker, NAMED, NEVER_EMPTY, ONE_HOLDER, Start};
use state::Kind::{self, Filelock, Ours};
use steps::{Rules, Way};

const EXCHANGE: Rules = Rules {
    way: Way::Exchange,
    pin: true,
    lock: false,
    recover: true,
    recheck: true,
    verify: true,
    touch: true,
    survey: false,
    compare: true,
    torn: false,
};

const LOCKED: Rules = Rules { lock: true, ..EXCHANGE };

const IN_PLACE: Rules = Rules { way: Way::InPlace, lock: true, survey: true, ..EXCHANGE };

const STARTS: [Start; 4] = [Start::Absent, Start::Dead, Start::Malformed, Start::Stranded];

/// Contenders whose processes may end in any way.
fn model(rules: Rules, kinds: &[Kind]) -> Marker {
    Marker {
        rules,
        kinds: kinds.to_vec(),
        is_shared: false,
        holds: 2,
        crashes: 2,
        give_ups: 1,
        exits: true,
        starts: STARTS.to_vec(),
    }
}

/// Contenders whose processes do not end, and which never give up.
fn endless(rules: Rules, kinds: &[Kind]) -> Marker {
    Marker { crashes: 0, give_ups: 0, exits: false, ..model(rules, kinds) }
}

/// Tries everything. All laws hold, and what should happen happens.
fn check(model: Marker) {
    model.checker().threads(2).spawn_bfs().join().assert_properties();
}

/// Tries everything. These laws hold, whatever the others do.
fn check_only(model: Marker, laws: &[&'static str]) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    for law in laws {
        checker.assert_no_discovery(law);
    }
}

/// Tries until all these laws are broken.
fn finds(model: Marker, laws: &[&'static str]) {
    let broken = HasDiscoveries::AllOf(laws.iter().copied().collect::<BTreeSet<_>>());
    let checker = model.checker().threads(2).finish_when(broken).spawn_bfs().join();
    for law in laws {
        assert!(checker.discovery(law).is_some(), "nothing breaks: {law}");
    }
}

#[test]
fn reclaiming_under_a_lock_of_the_stale_marker_keeps_all_laws() {
    check(model(LOCKED, &[Ours; 3]));
}

#[test]
fn also_when_two_contenders_are_one_process() {
    check(Marker { is_shared: true, crashes: 1, ..model(LOCKED, &[Ours; 3]) });
}

#[test]
fn also_when_a_listing_misses_names() {
    check(model(Rules { torn: true, ..LOCKED }, &[Ours; 3]));
}

#[test]
fn reclaiming_in_place_keeps_all_laws() {
    check(model(IN_PLACE, &[Ours; 3]));
}

#[test]
fn also_with_a_contender_of_filelock() {
    check(model(IN_PLACE, &[Filelock, Ours, Ours]));
}

#[test]
fn with_two_of_filelock_there_is_one_holder_as_long_as_no_process_ends() {
    let model = Marker { starts: vec![Start::Dead], ..endless(IN_PLACE, &[Filelock, Filelock, Ours]) };
    check_only(model, &[ONE_HOLDER, NAMED, NEVER_EMPTY]);
}

/// Then filelock's own steps are to blame: it has no others to wait for.
#[test]
fn three_of_filelock_lose_a_holder() {
    finds(endless(EXCHANGE, &[Filelock; 3]), &[ONE_HOLDER]);
}

#[test]
fn an_exchange_without_a_lock_keeps_one_holder_as_long_as_no_process_ends() {
    check_only(endless(EXCHANGE, &[Ours; 3]), &[ONE_HOLDER, NEVER_EMPTY]);
}

/// A releaser looks at the path, somebody exchanges by mistake, and it unlinks his marker. While he puts the released
/// one back somebody else links, and is displaced by a record that nobody stands for.
#[test]
fn and_loses_a_holder_when_one_ends() {
    let model = Marker { exits: true, holds: 1, ..endless(EXCHANGE, &[Ours; 3]) };
    finds(model, &[ONE_HOLDER, NAMED, FREE]);
}

#[test]
fn and_loses_one_to_filelock() {
    finds(Marker { starts: vec![Start::Dead], ..endless(EXCHANGE, &[Filelock, Ours, Ours]) }, &[ONE_HOLDER]);
}

/// The laws that a mutation of the exchange is measured by: they hold without one.
const MEASURE: [&str; 2] = [ONE_HOLDER, NEVER_EMPTY];

#[test]
fn it_is_needed_that_the_exchanged_marker_is_verified() {
    finds(endless(Rules { verify: false, ..EXCHANGE }, &[Ours; 3]), &MEASURE);
}

#[test]
fn and_checked_again_and_verified() {
    finds(endless(Rules { recheck: false, verify: false, ..EXCHANGE }, &[Ours; 3]), &MEASURE);
}

#[test]
fn it_is_needed_that_stranded_markers_are_recovered() {
    for rules in [EXCHANGE, LOCKED, IN_PLACE] {
        finds(endless(Rules { recover: false, ..rules }, &[Ours; 3]), &[ONE_HOLDER]);
    }
}

#[test]
fn it_is_needed_that_a_judged_marker_is_kept_open() {
    finds(endless(Rules { pin: false, ..EXCHANGE }, &[Ours; 3]), &MEASURE);
}

/// Who claims a stranded marker renames it. A listing may then have neither name.
#[test]
fn it_is_needed_that_a_listing_is_whole_or_reclaiming_locked() {
    finds(endless(Rules { torn: true, ..EXCHANGE }, &[Ours; 3]), &MEASURE);
}

#[test]
fn in_place_it_is_needed_that_reclaiming_is_locked() {
    finds(endless(Rules { lock: false, ..IN_PLACE }, &[Ours; 3]), &MEASURE);
}

#[test]
fn in_place_it_is_needed_that_the_time_changes() {
    finds(endless(Rules { touch: false, ..IN_PLACE }, &[Filelock, Ours, Ours]), &MEASURE);
}

#[test]
fn in_place_it_is_needed_that_the_path_is_verified() {
    finds(endless(Rules { verify: false, ..IN_PLACE }, &[Filelock, Ours, Ours]), &MEASURE);
}

#[test]
fn in_place_it_is_needed_that_a_contested_holder_does_not_unlink() {
    finds(model(Rules { survey: false, ..IN_PLACE }, &[Filelock, Ours, Ours]), &[FREE]);
}

#[test]
fn it_is_needed_that_a_releaser_compares() {
    finds(model(Rules { compare: false, ..IN_PLACE }, &[Ours; 3]), &[ONE_HOLDER, FREE]);
}

/// ```text
/// cargo test --release --test rust -- --ignored --exact models::marker::large
/// ```
#[test]
#[ignore = "takes minutes, and gigabytes"]
fn large() {
    let more = |model| Marker { holds: 3, crashes: 3, ..model };
    check(more(model(LOCKED, &[Ours; 4])));
    check(more(model(IN_PLACE, &[Ours; 4])));
    check(more(model(IN_PLACE, &[Filelock, Ours, Ours, Ours])));
    check_only(endless(EXCHANGE, &[Ours; 4]), &MEASURE);
    check_only(Marker { give_ups: 2, ..endless(EXCHANGE, &[Ours; 3]) }, &MEASURE);
}
