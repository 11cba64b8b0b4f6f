//! The leases of readers and writers: every interleaving of the system calls of three contenders.
//!
//! A state is the files and where each contender stands; a step is one system call, a heartbeat, a stop for longer than the
//! threshold, the going on after one, or a death; anywhere, also inside `x.state`. The steps are those of
//! `mechanism/lease_rw/`, under its names. Staleness is a contender's being stopped or dead, or that a name is left of a claim
//! that is none any more: that a marker which goes on changing is never taken for stale is arithmetic, and tested beside it.
//! A *nested* reader is a thread of a reader's process that reads once more; both are stopped, go on and die together, but
//! the other's hold may be released at any time.
//!
//! The laws ([`laws`]): a writer is alone, apart from holders that were stopped; these can be told, and are, at the latest when
//! they release; no number is granted twice, and each to a greater one than before, but for those who were stopped between
//! a look at their clock and the grant.
//!
//! | what is left out ([`Rules`]) | what breaks |
//! |---|---|
//! | `confirm_state` | beside filelock: a writer beside a reader. Among ours nothing: claims and numbers are enough |
//! | `own_clock` | a claim is granted that somebody is about to remove |
//! | `list_claims` | a reader beside a writer whose `x.write` was taken for another's |
//! | `list_again` | two who saw each other's absence |
//! | `list_until_alone` | a writer beside a nested reader, of a process that the writer has listed by its other hold |
//! | `join_last` | the same, for the other hold was looked for too early |
//! | `compare` | a late release takes its successor's `x.write` |
//! | `fresh_lists` | as if nobody had listed |
//! | `claim_number`, `confirm_number` | a number twice, or a smaller one after a greater |
//! | `told_late` | who releases before its heartbeat comes is never told |
//!
//! Listings may be late unless the lister has just made a file there: by up to [`state::LAG`] changes of the folder where the
//! model says so, and always as if nobody had ever been there.
//!
//! Bounds. Small: three contenders that each hold once, one stop and one death; or late listings, and one death. Ignored, for
//! they take longer: two and three writers; late listings and a stop; two stops; two holds.
//!
//! Not modelled: file systems without hard links; contenders of filelock that evict, or are stopped; more than one folder.

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

use laws::{ALONE, LAWS, Leases, NUMBERS, TOLD};
use state::{Kind, LAG, Role};
use steps::Rules;

const READER: (Kind, Role) = (Kind::Ours, Role::Reader);
const WRITER: (Kind, Role) = (Kind::Ours, Role::Writer);
/// A thread of the process of the reader before it.
const NESTED: (Kind, Role) = (Kind::Ours, Role::Nested);
const THEIR_READER: (Kind, Role) = (Kind::Filelock, Role::Reader);
const THEIR_WRITER: (Kind, Role) = (Kind::Filelock, Role::Writer);

const WHOLE: Rules = Rules {
    confirm_state: true,
    own_clock: true,
    list_claims: true,
    list_again: true,
    list_until_alone: true,
    compare: true,
    fresh_lists: true,
    claim_number: true,
    confirm_number: true,
    join_last: true,
    told_late: true,
};

fn model(rules: Rules, cast: [(Kind, Role); 3]) -> Leases {
    Leases { rules, cast, holds: 1, stops: 1, deaths: 1, lag: 0, is_exact: false }
}

/// Where nobody is stopped, but listings are late.
fn late(rules: Rules, cast: [(Kind, Role); 3]) -> Leases {
    Leases { stops: 0, lag: LAG, ..model(rules, cast) }
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

#[test]
fn a_reader_that_comes_in_once_more_keeps_all_laws() {
    check(model(WHOLE, [WRITER, READER, NESTED]));
}

#[test]
fn late_listings_break_no_law() {
    for cast in [[WRITER, READER, READER], [WRITER, READER, NESTED], [WRITER, WRITER, READER], [WRITER; 3]] {
        check(late(WHOLE, cast));
    }
}

#[test]
fn beside_filelock_all_laws_hold_too() {
    check(beside_filelock(WHOLE, [WRITER, THEIR_READER, READER]));
    check(beside_filelock(WHOLE, [WRITER, THEIR_READER, WRITER]));
    check(beside_filelock(WHOLE, [READER, THEIR_WRITER, READER]));
    check(beside_filelock(WHOLE, [WRITER, THEIR_WRITER, READER]));
}

#[test]
fn beside_filelock_it_is_needed_that_the_transition_is_still_ones_own() {
    let rules = Rules { confirm_state: false, own_clock: false, ..WHOLE };
    finds(beside_filelock(rules, [WRITER, THEIR_READER, READER]), ALONE);
}

/// Claims and the second listing do among ours what `x.state` does for filelock.
#[test]
fn among_ours_alone_it_is_not() {
    check(model(Rules { confirm_state: false, ..WHOLE }, [WRITER, READER, NESTED]));
}

#[test]
fn it_is_needed_that_one_asks_ones_own_clock() {
    finds(model(Rules { own_clock: false, ..WHOLE }, [WRITER, READER, READER]), ALONE);
}

#[test]
fn it_is_needed_that_writers_list_again() {
    finds(model(Rules { list_again: false, ..WHOLE }, [WRITER, READER, READER]), ALONE);
}

#[test]
fn it_is_needed_that_a_listing_counts_only_if_nobody_in_it_is_gone() {
    finds(late(Rules { list_until_alone: false, ..WHOLE }, [WRITER, READER, NESTED]), ALONE);
}

#[test]
fn it_is_needed_that_who_nests_looks_for_the_other_hold_last() {
    finds(model(Rules { join_last: false, ..WHOLE }, [WRITER, READER, NESTED]), ALONE);
}

#[test]
fn it_is_needed_that_listings_are_fresh() {
    let rules = Rules { fresh_lists: false, confirm_state: false, ..WHOLE };
    finds(Leases { deaths: 0, ..model(rules, [WRITER, WRITER, READER]) }, ALONE);
}

#[test]
fn it_is_needed_that_only_one_can_claim_a_number() {
    finds(model(Rules { claim_number: false, ..WHOLE }, [WRITER, WRITER, READER]), NUMBERS);
}

#[test]
fn it_is_needed_that_a_number_is_the_greatest_when_it_counts() {
    finds(late(Rules { confirm_number: false, ..WHOLE }, [WRITER, WRITER, READER]), NUMBERS);
}

#[test]
fn it_is_needed_that_who_releases_late_is_told() {
    finds(model(Rules { told_late: false, ..WHOLE }, [WRITER, READER, READER]), TOLD);
}

/// ```text
/// cargo test --release --test rust -- --ignored models::lease::
/// ```
#[test]
#[ignore = "takes minutes in a debug build"]
fn it_is_needed_that_readers_list_the_claims_of_writers() {
    finds(model(Rules { list_claims: false, ..WHOLE }, [WRITER, WRITER, READER]), ALONE);
}

/// ```text
/// cargo test --release --test rust -- --ignored models::lease::
/// ```
#[test]
#[ignore = "takes minutes in a debug build"]
fn writers_keep_all_laws() {
    check(model(WHOLE, [WRITER, WRITER, READER]));
    check(model(WHOLE, [WRITER; 3]));
}

/// ```text
/// cargo test --release --test rust -- --ignored --exact models::lease::large
/// ```
#[test]
#[ignore = "takes minutes, and gigabytes"]
fn large() {
    for cast in [[WRITER, READER, NESTED], [WRITER, READER, READER], [WRITER, WRITER, READER], [WRITER; 3]] {
        check(Leases { lag: LAG, ..model(WHOLE, cast) });
        check(Leases { stops: 2, ..model(WHOLE, cast) });
        check(Leases { holds: 2, ..model(WHOLE, cast) });
    }
}
