//! Exclusion, between lock objects, between threads of one lock object and between processes.

use std::time::{Duration, Instant};

use crate::contender::{Cast, How, Kind, Overlap};
use crate::support::{Checked, POLL};
use crate::worker::counted;

pub(crate) fn exclusive_excludes_exclusive(cast: &Cast) -> Checked {
    let (mut holder, mut other) = (cast.contender()?, cast.contender()?);
    holder.must("acquire once", "acquired")?;
    other.must("acquire once", "timed out")?;
    other.must_wait()?;
    holder.must("release", "unlocked")?;
    other.must_answer("acquired")?;
    holder.must("acquire once", "timed out")?;
    other.must("release", "unlocked")?;
    holder.must("acquire once", "acquired")
}

pub(crate) fn a_nested_hold_excludes_until_its_last_release(cast: &Cast) -> Checked {
    let (mut holder, mut other) = (cast.contender()?, cast.contender()?);
    holder.must("acquire once", "acquired")?;
    holder.must("acquire never", "acquired")?;
    other.must_wait()?;
    holder.must("release", "still held")?;
    other.must_still_wait()?;
    holder.must("release", "unlocked")?;
    other.must_answer("acquired")
}

pub(crate) fn one_release_lets_one_waiter_in(cast: &Cast) -> Checked {
    let mut holder = cast.contender()?;
    holder.must("acquire once", "acquired")?;
    let mut waiters = cast.contenders(3)?;
    for waiter in &mut waiters {
        waiter.must_wait()?;
    }
    while !waiters.is_empty() {
        holder.must("release", "unlocked")?;
        let begin = Instant::now();
        let next = loop {
            let mut admitted = Vec::new();
            for (index, waiter) in waiters.iter_mut().enumerate() {
                if waiter.hear(POLL)?.is_some_and(|answer| answer == "acquired") {
                    admitted.push(index);
                }
            }
            match admitted[..] {
                [] if begin.elapsed() > crate::support::LONG => return Err("nobody got it".into()),
                [] => {}
                [next] => break next,
                _ => return Err(Overlap(format!("{} got it", admitted.len())).into()),
            }
        };
        holder = waiters.swap_remove(next);
        for waiter in &mut waiters {
            waiter.must_still_wait()?;
        }
    }
    Ok(())
}

pub(crate) fn a_waiter_that_gave_up_holds_nothing(cast: &Cast) -> Checked {
    let (mut holder, mut waiter, mut other) = (cast.contender()?, cast.contender()?, cast.contender()?);
    holder.must("acquire once", "acquired")?;
    let begin = Instant::now();
    waiter.must("acquire 40", "waiting")?;
    waiter.must_answer("timed out")?;
    if begin.elapsed() < Duration::from_millis(40) {
        return Err(format!("gave up after {:?}", begin.elapsed()).into());
    }
    waiter.must("depth", "0")?;
    waiter.must("release", "not held")?;
    other.must("acquire once", "timed out")?;
    holder.must("release", "unlocked")?;
    other.must("acquire once", "acquired")
}

/// Runs many acquisitions at once and looks for overlaps in two ways.
fn work(cast: &Cast) -> Checked<(usize, usize)> {
    const ROUNDS: usize = 15;
    let mut contenders = cast.contenders(4)?;
    for contender in &mut contenders {
        contender.tell(&format!("work {ROUNDS}"))?;
    }
    let mut marks = 0;
    for contender in &mut contenders {
        marks += contender.answer()?.parse::<usize>()?;
    }
    // Two who write at once can also make it too high.
    Ok((marks, counted(&cast.place.path)?.abs_diff(ROUNDS * contenders.len())))
}

pub(crate) fn work_inside_never_overlaps(cast: &Cast) -> Checked {
    match work(cast)? {
        (0, 0) => Ok(()),
        (marks, wrong) => Err(Overlap(format!("{marks} marks found, {wrong} counts wrong")).into()),
    }
}

/// The hold goes with the process, and that of a thread with its lock object.
pub(crate) fn a_holder_that_dies_gives_the_lock_back(cast: &Cast) -> Checked {
    let (mut holder, mut other) = (cast.contender()?, cast.contender()?);
    holder.must("acquire once", "acquired")?;
    holder.must("acquire once", "acquired")?;
    other.must_wait()?;
    holder.die()?;
    cast.bury()?;
    other.must_answer("acquired")?;
    other.must("release", "unlocked")
}

/// The negative control: without a lock the same steps must end in an overlap, and in no other failure.
fn must_overlap(law: fn(&Cast) -> Checked, kind: Kind) -> Checked {
    match law(&Cast::new(kind, How::NoLock)?) {
        Err(error) if error.is::<Overlap>() => Ok(()),
        other => Err(format!("with a lock that does not lock: {other:?}").into()),
    }
}

macro_rules! between {
    ($room:ident, $kind:expr, $($law:ident),+) => {
        mod $room {
            use super::*;

            mod by_the_kernel {
                use super::*;
                $(
                    #[test]
                    fn $law() -> Checked {
                        super::super::$law(&Cast::new($kind, How::Kernel)?)
                    }
                )+
            }

            mod by_the_kernel_on_a_file_that_goes {
                use super::*;
                $(
                    #[test]
                    fn $law() -> Checked {
                        super::super::$law(&Cast::new($kind, How::Removing)?)
                    }
                )+
            }

            mod by_a_marker {
                use super::*;
                $(
                    #[test]
                    fn $law() -> Checked {
                        super::super::$law(&Cast::new($kind, How::Marker)?)
                    }
                )+
            }

            mod by_a_claim {
                use super::*;
                $(
                    #[test]
                    fn $law() -> Checked {
                        super::super::$law(&Cast::new($kind, How::Strict)?)
                    }
                )+
            }

            mod by_a_marker_that_says_that_it_is_exclusive {
                use super::*;
                $(
                    #[test]
                    fn $law() -> Checked {
                        super::super::$law(&Cast::new($kind, How::ExclusiveMarker)?)
                    }
                )+
            }

            mod by_a_marker_that_is_a_lease {
                use super::*;
                $(
                    #[test]
                    fn $law() -> Checked {
                        super::super::$law(&Cast::new($kind, How::LeaseMarker)?)
                    }
                )+
            }

            mod fails_with_a_lock_that_does_not_lock {
                use super::*;
                $(
                    #[test]
                    fn $law() -> Checked {
                        must_overlap(super::super::$law, $kind)
                    }
                )+

                #[test]
                fn and_is_found_out_in_both_ways() -> Checked {
                    let (marks, wrong) = work(&Cast::new($kind, How::NoLock)?)?;
                    assert!(marks > 0 && wrong > 0, "{marks} marks found, {wrong} counts wrong");
                    Ok(())
                }
            }
        }
    };
}

between!(
    between_lock_objects,
    Kind::Objects,
    exclusive_excludes_exclusive,
    a_nested_hold_excludes_until_its_last_release,
    one_release_lets_one_waiter_in,
    a_waiter_that_gave_up_holds_nothing,
    work_inside_never_overlaps,
    a_holder_that_dies_gives_the_lock_back
);

// A thread's hold outlives it where others have the lock object: see `holds`.
between!(
    between_threads_of_one_lock_object,
    Kind::OneObject,
    exclusive_excludes_exclusive,
    a_nested_hold_excludes_until_its_last_release,
    one_release_lets_one_waiter_in,
    a_waiter_that_gave_up_holds_nothing,
    work_inside_never_overlaps
);

between!(
    between_processes,
    Kind::Processes,
    exclusive_excludes_exclusive,
    a_nested_hold_excludes_until_its_last_release,
    one_release_lets_one_waiter_in,
    a_waiter_that_gave_up_holds_nothing,
    work_inside_never_overlaps,
    a_holder_that_dies_gives_the_lock_back
);
