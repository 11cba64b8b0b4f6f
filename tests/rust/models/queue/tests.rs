//! The laws with all that can happen, and each flaw with the law that it breaks.

use std::collections::BTreeSet;
use std::thread;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::laws::{ALONE, NO_ORPHAN, NOT_IN_VAIN, way_to_trap};
use super::state::{Pc, StandIn, State, Then, Waiter, Who};
use super::{Action, Asks, Circumstance, Config, Fate, Flaw, Outside, Process, Waits};
use crate::support::Checked;

/// Waits until it has the lock.
const STEADY: Waits = Waits { asks: Asks::Never, is_cancelled: false, times_out: false };
const ASKS: Waits = Waits { asks: Asks::Once, ..STEADY };
const TIMES_OUT: Waits = Waits { times_out: true, ..STEADY };
const ANY: Waits = Waits { asks: Asks::Once, is_cancelled: true, times_out: true };
const IS_AWAY: Waits = Waits { asks: Asks::ForEver, ..STEADY };
const IS_AWAY_BEFORE_THE_LINE: Waits = Waits { asks: Asks::ForEverBeforeTheLine, ..STEADY };

const HOLDER: Outside = Outside { holds: true, rounds: 1, is_polite: true, fate: Fate::Lives };
const CONTENDER: Outside = Outside { holds: false, ..HOLDER };
const HOLDER_ONCE: Outside = Outside { rounds: 0, ..HOLDER };

const NO_TICKS: &[Circumstance] = &[];
const TICKS: &[Circumstance] = &[Circumstance::Ticks];
const ALL: &[Circumstance] =
    &[Circumstance::Ticks, Circumstance::SignalIsTaken, Circumstance::IsToldToGoPast];

fn told(law: &str, config: &Config, way: &[Action]) -> String {
    let steps: Vec<_> = way.iter().map(|action| format!("  {action:?}")).collect();
    format!("not so: {law}\n{config:?}\n{}", steps.join("\n"))
}

fn explore(process: Process, until: HasDiscoveries) -> impl Checker<Process> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    process.checker().threads(threads).finish_when(until).spawn_bfs().join()
}

/// All laws hold in all states.
fn holds(config: &Config) -> Checked {
    let checker = explore(Process::new(config), HasDiscoveries::AnyFailures);
    let failure = checker.discoveries().into_iter().next();
    failure.map_or(Ok(()), |(law, way)| Err(told(law, config, &way.into_actions()).into()))
}

/// What must happen leads to a good end from every state.
fn ends_well(config: &Config) -> Checked {
    way_to_trap(&Process::new(config)).map_or(Ok(()), |way| Err(told("it ends well", config, &way).into()))
}

fn holds_and_ends_well(config: &Config) -> Checked {
    holds(config)?;
    ends_well(config)
}

/// The checker finds a state in which `law` does not hold.
fn breaks(law: &'static str, config: &Config) -> Checked {
    let checker = explore(Process::new(config), HasDiscoveries::AnyOf(BTreeSet::from([law])));
    checker.discovery(law).map(drop).ok_or_else(|| format!("it holds: {law}\n{config:?}").into())
}

#[test]
fn no_hand_over_needs_a_tick() -> Checked {
    for outside in [
        Outside { fate: Fate::MayBeKilled, ..HOLDER },
        Outside { rounds: 2, ..CONTENDER },
        Outside { is_polite: false, ..HOLDER },
    ] {
        holds(&Config::new(&[STEADY; 3], outside, NO_TICKS))?;
    }
    Ok(())
}

#[test]
fn no_hand_over_needs_a_tick_when_heads_come_back_from_callbacks() -> Checked {
    holds(&Config::new(&[STEADY, ASKS, ASKS], CONTENDER, NO_TICKS))?;
    holds(&Config::new(&[ASKS, ASKS], HOLDER, &[Circumstance::NoStandIns]))
}

#[test]
fn who_gives_up_leaves_nothing_behind_and_keeps_nobody_waiting() -> Checked {
    holds(&Config::new(&[ANY; 2], HOLDER, NO_TICKS))?;
    holds(&Config::new(&[STEADY, ASKS, TIMES_OUT], CONTENDER, NO_TICKS))
}

#[test]
fn ticks_see_to_a_process_that_is_stopped_or_killed_in_line() -> Checked {
    let told = [Circumstance::Ticks, Circumstance::IsToldToGoPast];
    for (fate, circumstances) in [(Fate::MayBeStopped, &told[..]), (Fate::MayBeKilled, TICKS)] {
        holds_and_ends_well(&Config::new(&[STEADY; 2], Outside { fate, ..HOLDER }, circumstances))?;
    }
    holds_and_ends_well(&Config::new(&[ANY, STEADY], CONTENDER, TICKS))
}

#[test]
fn without_ticks_a_stopped_process_in_line_keeps_all_from_the_lock() -> Checked {
    breaks(NOT_IN_VAIN, &Config::new(&[STEADY], Outside { fate: Fate::MayBeStopped, ..HOLDER }, NO_TICKS))
}

#[test]
fn a_callback_that_never_ends_keeps_nobody_from_the_lock_once_a_tick_has_come() -> Checked {
    let before = [IS_AWAY_BEFORE_THE_LINE, STEADY, STEADY];
    holds(&Config::new(&before, HOLDER, NO_TICKS))?;
    // Once its waiter is at the head of the line, nobody but a tick gets past.
    breaks(NOT_IN_VAIN, &Config::new(&[IS_AWAY, STEADY], HOLDER_ONCE, NO_TICKS))?;
    holds_and_ends_well(&Config::new(&[IS_AWAY, STEADY, STEADY], HOLDER_ONCE, TICKS))
}

#[test]
fn a_program_may_take_the_signal_and_give_it_back() -> Checked {
    holds_and_ends_well(&Config::new(&[STEADY; 2], CONTENDER, ALL))
}

#[test]
fn a_leave_that_wakes_nobody_is_found() -> Checked {
    breaks(NOT_IN_VAIN, &Config::new(&[STEADY; 2], HOLDER, NO_TICKS).with(Flaw::LeaveWakesNobody))
}

#[test]
fn a_head_that_goes_away_and_wakes_nobody_is_found() -> Checked {
    let waiters = [IS_AWAY_BEFORE_THE_LINE, STEADY];
    breaks(NOT_IN_VAIN, &Config::new(&waiters, HOLDER, NO_TICKS).with(Flaw::AwayWakesNobody))
}

#[test]
fn who_comes_back_and_does_not_wake_the_former_head_is_found() -> Checked {
    let waiters = [STEADY, ASKS, ASKS];
    breaks(NOT_IN_VAIN, &Config::new(&waiters, CONTENDER, NO_TICKS).with(Flaw::BackWakesTheHeadOnly))
}

#[test]
fn a_sleep_that_ignores_the_news_is_found() -> Checked {
    breaks(NOT_IN_VAIN, &Config::new(&[STEADY; 2], HOLDER, NO_TICKS).with(Flaw::SleepIgnoresNews))
}

#[test]
fn a_stand_in_that_wakes_nobody_is_found() -> Checked {
    breaks(NOT_IN_VAIN, &Config::new(&[STEADY, ASKS], CONTENDER, NO_TICKS).with(Flaw::StandInWakesNobody))
}

#[test]
fn a_former_head_that_keeps_its_place_is_found() -> Checked {
    let waiters = [STEADY, ASKS, ASKS];
    breaks(NOT_IN_VAIN, &Config::new(&waiters, CONTENDER, NO_TICKS).with(Flaw::FormerHeadKeepsPlace))
}

#[test]
fn a_place_that_a_timeout_leaves_behind_is_found() -> Checked {
    breaks(NOT_IN_VAIN, &Config::new(&[TIMES_OUT], HOLDER, NO_TICKS).with(Flaw::TimedOutKeepsPlace))
}

#[test]
fn a_guard_of_a_place_that_a_stand_in_shares_is_found() -> Checked {
    breaks(ALONE, &Config::new(&[STEADY; 2], CONTENDER, ALL).with(Flaw::IntoGuardShares))
}

#[test]
fn a_lock_that_stays_with_a_shared_place_is_found_and_never_ends() -> Checked {
    let flawed = Config::new(&[STEADY; 2], CONTENDER, ALL).with(Flaw::SharedPlaceKeepsLock);
    breaks(NO_ORPHAN, &flawed)?;
    if ends_well(&flawed).is_ok() {
        return Err("the other process waits for that lock, and the stand-in for the other process".into());
    }
    Ok(())
}

/// What the laws are about does happen in the model.
#[test]
fn the_model_comes_to_all_that_it_speaks_of() -> Checked {
    let config = Config::new(&[ANY; 2], HOLDER, TICKS);
    let checker = explore(Process { config, properties: sights }, HasDiscoveries::All);
    let missing: Vec<_> =
        sights().iter().map(|sight| sight.name).filter(|sight| checker.discovery(sight).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("never seen: {missing:?}").into()) }
}

fn any(state: &State, seen: impl Fn(&Waiter) -> bool) -> bool {
    state.waiters.iter().any(seen)
}

fn sights() -> Vec<Property<Process>> {
    let sight = |name, condition: fn(&Process, &State) -> bool| Property::sometimes(name, condition);
    vec![
        sight("the kernel wakes a head with the lock", |_, state| {
            (0..2).any(|number| state.flock.can_grant(Who::Waiter(number)))
        }),
        sight("two of the process are in the kernel", |_, state| {
            state.waiters.iter().all(|waiter| matches!(waiter.pc, Pc::InLine | Pc::InLock))
        }),
        sight("a head takes over from its stand-in", |_, state| {
            any(state, |waiter| waiter.pc == Pc::Joining(Then::TakeOver))
        }),
        sight("a stand-in is called off at the head of the line", |_, state| {
            let has_come = |stand_in: &StandIn| stand_in.is_called_off && stand_in.result() == Some(true);
            state.stand_ins.iter().flatten().any(has_come)
        }),
        sight("news come before the sleep", |_, state| {
            any(state, |waiter| waiter.pc == Pc::ToSleep && waiter.has_news)
        }),
        sight("a wait times out", |_, state| {
            any(state, |waiter| waiter.pc == Pc::Leave && waiter.is_timed_out && waiter.guard.is_none())
        }),
        sight("the last attempt succeeds", |_, state| {
            any(state, |waiter| waiter.pc == Pc::Leave && waiter.is_timed_out && waiter.guard.is_some())
        }),
        sight("a wait is cancelled", |_, state| {
            any(state, |waiter| waiter.pc == Pc::Leave && !waiter.is_timed_out && waiter.guard.is_none())
        }),
        sight("a newcomer meets a closed queue", |_, state| {
            any(state, |waiter| waiter.pc == Pc::UnlistClosed)
        }),
        sight("a lock found past the line is given back", |_, state| {
            any(state, |waiter| waiter.pc == Pc::GiveBack)
        }),
        sight("a waiter goes past the line", |_, state| state.goes_past_lines),
    ]
}

/// `cargo test --release --test rust -- --ignored models::queue`
#[test]
#[ignore = "minutes and gigabytes"]
fn more_waiters_that_may_give_up_lose_nothing() -> Checked {
    holds(&Config::new(&[STEADY, ASKS, TIMES_OUT], HOLDER, NO_TICKS))?;
    holds(&Config::new(&[ANY, ANY, STEADY], HOLDER, NO_TICKS))?;
    holds(&Config::new(&[ANY, ASKS, ASKS], HOLDER, NO_TICKS))
}

/// `cargo test --release --test rust -- --ignored models::queue`
#[test]
#[ignore = "minutes and gigabytes"]
fn more_waiters_lose_nothing_with_ticks() -> Checked {
    let told = [Circumstance::Ticks, Circumstance::IsToldToGoPast];
    holds_and_ends_well(&Config::new(&[ASKS; 2], Outside { fate: Fate::MayBeStopped, ..HOLDER }, &told))?;
    holds_and_ends_well(&Config::new(&[ANY; 2], HOLDER, TICKS))?;
    holds_and_ends_well(&Config::new(&[STEADY; 3], CONTENDER, ALL))?;
    // A tick mends it.
    ends_well(&Config::new(&[STEADY, ASKS, STEADY], CONTENDER, TICKS).with(Flaw::BackWakesTheHeadOnly))
}
