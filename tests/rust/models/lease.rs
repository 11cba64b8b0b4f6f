//! The leases of readers and writers: every interleaving of the system calls of three contenders.
//!
//! A state is the files and where each contender stands; a step is one system call, a heartbeat, a stop for longer than the
//! threshold, the going on after one, or a death. The steps are those of `mechanism/lease_rw/`, under its names. Staleness is
//! a contender's being stopped or dead: that a marker which goes on changing is never taken for stale is arithmetic, and
//! tested beside it.
//!
//! | what is left out ([`Rules`]) | among ours | beside filelock |
//! |---|---|---|
//! | nothing | all laws | all laws, as long as only one of ours is stopped, and not in an eviction |
//! | `confirm_state` | all laws: claims and numbers are enough | a writer beside a reader |
//! | `list_claims` | a reader beside a writer whose `x.write` was taken for another's | |
//! | `list_again` | two who saw each other's absence | |
//! | `compare` | a late release takes its successor's `x.write` | |
//! | `fresh_lists` | as if nobody had listed | |
//!
//! Listings may be old (they miss everybody, and numbers) unless the lister has just made a file there.
//!
//! Bounds. Small: three contenders that each hold once, one stop (beside filelock also no death). Ignored, for they take
//! longer: two writers and a reader; and large ones with two holds, three stops, a death.
//!
//! Not modelled: file systems without hard links; contenders of filelock that evict; more than one folder.

#![expect(clippy::expect_used, reason = "a model that outgrows its tables has to be changed")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "`Step::make` lists all steps; a group's last one is the rest"
)]

mod laws;
mod state;
mod steps;

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use laws::{ALONE, LAWS, Leases, NUMBERS};
use state::{Kind, Role};
use steps::Rules;

const READER: (Kind, Role) = (Kind::Ours, Role::Reader);
const WRITER: (Kind, Role) = (Kind::Ours, Role::Writer);
const THEIR_READER: (Kind, Role) = (Kind::Filelock, Role::Reader);
const THEIR_WRITER: (Kind, Role) = (Kind::Filelock, Role::Writer);

const WHOLE: Rules = Rules {
    confirm_state: true,
    own_clock: true,
    list_claims: true,
    list_again: true,
    compare: true,
    fresh_lists: true,
    confirm_number: true,
};

fn model(rules: Rules, cast: [(Kind, Role); 3]) -> Leases {
    Leases { rules, cast, holds: 1, stops: 1, deaths: 0, is_exact: false }
}

/// Beside filelock, whose steps rest on `x.state` alone.
fn beside_filelock(rules: Rules, cast: [(Kind, Role); 3]) -> Leases {
    Leases { is_exact: true, ..model(rules, cast) }
}

/// Tries everything. All laws hold, and everybody holds at some time.
fn check(model: Leases) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
}

/// Tries until this law is broken.
fn finds(model: Leases, law: &'static str) {
    let broken = HasDiscoveries::AllOf(BTreeSet::from([law]));
    let checker = model.checker().threads(2).finish_when(broken).spawn_bfs().join();
    assert!(checker.discovery(law).is_some(), "nothing breaks: {law}");
    assert!(LAWS.contains(&law));
}

#[test]
fn a_writer_and_readers_keep_all_laws() {
    check(model(WHOLE, [WRITER, READER, READER]));
}

/// ```text
/// cargo test --release --test rust -- --ignored models::lease::
/// ```
#[test]
#[ignore = "takes minutes in a debug build"]
fn writers_and_a_reader_keep_all_laws() {
    check(model(WHOLE, [WRITER, WRITER, READER]));
}

#[test]
fn also_beside_a_reader_of_filelock() {
    check(beside_filelock(WHOLE, [WRITER, THEIR_READER, READER]));
    check(beside_filelock(WHOLE, [WRITER, THEIR_READER, WRITER]));
}

#[test]
fn also_beside_a_writer_of_filelock() {
    check(beside_filelock(WHOLE, [READER, THEIR_WRITER, READER]));
    check(beside_filelock(WHOLE, [WRITER, THEIR_WRITER, READER]));
}

#[test]
fn beside_filelock_it_is_needed_that_the_transition_is_still_ones_own() {
    finds(
        beside_filelock(
            Rules { confirm_state: false, own_clock: false, ..WHOLE },
            [WRITER, THEIR_READER, READER],
        ),
        ALONE,
    );
}

/// Claims and the second listing do among ours what `x.state` does for filelock.
#[test]
fn among_ours_alone_it_is_not() {
    check(model(Rules { confirm_state: false, ..WHOLE }, [WRITER, READER, READER]));
}

/// ```text
/// cargo test --release --test rust -- --ignored models::lease::
/// ```
#[test]
#[ignore = "takes minutes in a debug build"]
fn it_is_needed_that_readers_list_the_claims_of_writers() {
    finds(model(Rules { list_claims: false, ..WHOLE }, [WRITER, WRITER, READER]), ALONE);
}

#[test]
fn it_is_needed_that_writers_list_again() {
    finds(model(Rules { list_again: false, ..WHOLE }, [WRITER, READER, READER]), ALONE);
}

#[test]
fn it_is_needed_that_listings_are_fresh() {
    let rules = Rules { fresh_lists: false, confirm_state: false, ..WHOLE };
    finds(model(rules, [WRITER, WRITER, READER]), ALONE);
}

/// ```text
/// cargo test --release --test rust -- --ignored models::lease::
/// ```
#[test]
#[ignore = "takes minutes in a debug build"]
fn it_is_needed_that_a_number_is_the_greatest_when_it_counts() {
    let rules = Rules { confirm_number: false, confirm_state: false, list_again: false, ..WHOLE };
    finds(Leases { holds: 2, stops: 1, deaths: 0, ..model(rules, [WRITER, WRITER, READER]) }, NUMBERS);
}

/// ```text
/// cargo test --release --test rust -- --ignored --exact models::lease::large
/// ```
#[test]
#[ignore = "takes minutes, and gigabytes"]
fn large() {
    let more = |model| Leases { holds: 2, stops: 3, deaths: 1, ..model };
    check(more(model(WHOLE, [WRITER, WRITER, READER])));
    check(more(model(WHOLE, [WRITER, READER, READER])));
    check(more(model(WHOLE, [WRITER, WRITER, WRITER])));
}
