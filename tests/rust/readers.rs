//! Readers and writers, between lock objects and between processes: any number of readers, or one writer.

use std::time::Instant;

use crate::contender::{Cast, Contender, How, Kind, Overlap};
use crate::exclusion;
use crate::support::{Checked, LONG, until};
use crate::worker::counted;

fn shared_admits_shared(cast: &Cast) -> Checked {
    let mut readers = cast.contenders(3)?;
    for reader in &mut readers {
        reader.must("read once", "acquired")?;
    }
    for reader in &mut readers {
        reader.must("release", "unlocked")?;
    }
    Ok(())
}

fn shared_excludes_exclusive(cast: &Cast) -> Checked {
    let (mut reader, mut second, mut writer) = (cast.contender()?, cast.contender()?, cast.contender()?);
    reader.must("read once", "acquired")?;
    second.must("read once", "acquired")?;
    writer.must("acquire once", "timed out")?;
    writer.must_wait()?;
    reader.must("release", "unlocked")?;
    writer.must_still_wait()?;
    second.must("release", "unlocked")?;
    writer.must_answer("acquired")
}

fn exclusive_excludes_shared(cast: &Cast) -> Checked {
    let (mut writer, mut reader, mut second) = (cast.contender()?, cast.contender()?, cast.contender()?);
    writer.must("acquire once", "acquired")?;
    reader.must("read once", "timed out")?;
    must_wait_to_read(&mut *reader)?;
    must_wait_to_read(&mut *second)?;
    writer.must("release", "unlocked")?;
    reader.must_answer("acquired")?;
    second.must_answer("acquired")
}

fn must_wait_to_read(reader: &mut (dyn Contender + 'static)) -> Checked {
    reader.must("read never", "waiting")?;
    reader.must_still_wait()
}

fn a_nested_reader_excludes_until_its_last_release(cast: &Cast) -> Checked {
    let (mut reader, mut writer) = (cast.contender()?, cast.contender()?);
    reader.must("read once", "acquired")?;
    reader.must("read never", "acquired")?;
    writer.must_wait()?;
    reader.must("release", "still held")?;
    writer.must_still_wait()?;
    reader.must("release", "unlocked")?;
    writer.must_answer("acquired")
}

/// Or a stream of readers would keep it out for ever.
fn a_waiting_writer_keeps_new_readers_out(cast: &Cast) -> Checked {
    let (mut reader, mut writer, mut late) = (cast.contender()?, cast.contender()?, cast.contender()?);
    reader.must("read once", "acquired")?;
    writer.must_wait()?;
    let begin = Instant::now();
    while late.ask("read once")? == "acquired" {
        late.must("release", "unlocked")?;
        if begin.elapsed() > LONG {
            return Err(Overlap("the writer never claimed".into()).into());
        }
    }
    must_wait_to_read(&mut *late)?;
    reader.must("release", "unlocked")?;
    writer.must_answer("acquired")?;
    late.must_still_wait()?;
    writer.must("release", "unlocked")?;
    late.must_answer("acquired")
}

/// A reader waits behind the writer and the writer behind a reader that stays: when the writer gives up, the one that
/// waits is woken, and who comes is let in.
fn a_writer_that_gives_up_lets_readers_in(cast: &Cast) -> Checked {
    let (mut reader, mut writer) = (cast.contender()?, cast.contender()?);
    let (mut waiting, mut late) = (cast.contender()?, cast.contender()?);
    reader.must("read once", "acquired")?;
    writer.must("acquire 200", "waiting")?;
    until("the writer claims", || Ok(must_not_read(&mut *late).is_ok()))?;
    waiting.must("read never", "waiting")?;
    writer.must_answer("timed out")?;
    let begin = Instant::now();
    waiting.must_answer("acquired")?;
    if begin.elapsed() > LONG / 4 {
        return Err(format!("it took {:?}", begin.elapsed()).into());
    }
    late.must("read once", "acquired")
}

fn must_not_read(reader: &mut (dyn Contender + 'static)) -> Checked {
    if reader.ask("read once")? == "acquired" {
        reader.must("release", "unlocked")?;
        return Err(Overlap("read".into()).into());
    }
    Ok(())
}

fn a_reader_or_writer_that_dies_gives_its_part_back(cast: &Cast) -> Checked {
    let (mut reader, mut writer, mut next) = (cast.contender()?, cast.contender()?, cast.contender()?);
    reader.must("read once", "acquired")?;
    writer.must_wait()?;
    reader.die()?;
    writer.must_answer("acquired")?;
    must_wait_to_read(&mut *next)?;
    writer.die()?;
    next.must_answer("acquired")?;
    next.must("release", "unlocked")
}

/// Also one that has claimed, and waits.
fn a_waiting_writer_that_dies_lets_readers_in(cast: &Cast) -> Checked {
    let (mut reader, mut writer, mut next) = (cast.contender()?, cast.contender()?, cast.contender()?);
    reader.must("read once", "acquired")?;
    writer.must_wait()?;
    must_wait_to_read(&mut *next)?;
    writer.die()?;
    next.must_answer("acquired")
}

/// Writers write, readers look, and nobody sees anything change that should not.
fn run_together(cast: &Cast) -> Checked<(usize, usize, usize)> {
    const ROUNDS: usize = 15;
    let (mut writers, mut readers) = (cast.contenders(2)?, cast.contenders(4)?);
    for writer in &mut writers {
        writer.tell(&format!("work {ROUNDS}"))?;
    }
    for reader in &mut readers {
        reader.tell(&format!("watch {ROUNDS}"))?;
    }
    let (mut marks, mut changes) = (0, 0);
    for writer in &mut writers {
        marks += writer.answer()?.parse::<usize>()?;
    }
    for reader in &mut readers {
        changes += reader.answer()?.parse::<usize>()?;
    }
    Ok((marks, counted(&cast.place.path)?.abs_diff(ROUNDS * writers.len()), changes))
}

fn nobody_reads_while_one_writes(cast: &Cast) -> Checked {
    match run_together(cast)? {
        (0, 0, 0) => Ok(()),
        found => Err(Overlap(format!("marks, wrong counts and changes: {found:?}")).into()),
    }
}

/// The negative control.
fn must_overlap(law: fn(&Cast) -> Checked, kind: Kind) -> Checked {
    match law(&Cast::new(kind, How::NoReadWrite)?) {
        Err(error) if error.is::<Overlap>() => Ok(()),
        other => Err(format!("with a lock that does not lock: {other:?}").into()),
    }
}

macro_rules! between {
    ($room:ident, $kind:expr, [$($law:path as $name:ident),+ $(,)?]) => {
        mod $room {
            use super::*;

            mod by_byte_ranges {
                use super::*;

                #[test]
                fn shared_admits_shared() -> Checked {
                    super::super::shared_admits_shared(&Cast::new($kind, How::ByteRange)?)
                }

                $(
                    #[test]
                    fn $name() -> Checked {
                        $law(&Cast::new($kind, How::ByteRange)?)
                    }
                )+
            }

            mod by_leases {
                use super::*;

                #[test]
                fn shared_admits_shared() -> Checked {
                    super::super::shared_admits_shared(&Cast::new($kind, How::Lease)?)
                }

                $(
                    #[test]
                    fn $name() -> Checked {
                        $law(&Cast::new($kind, How::Lease)?)
                    }
                )+
            }

            mod fails_with_a_lock_that_does_not_lock {
                use super::*;
                $(
                    #[test]
                    fn $name() -> Checked {
                        must_overlap($law, $kind)
                    }
                )+

                #[test]
                fn and_readers_and_writers_both_notice() -> Checked {
                    let (marks, wrong, changes) = run_together(&Cast::new($kind, How::NoReadWrite)?)?;
                    assert!(marks > 0 && wrong > 0 && changes > 0, "{marks}, {wrong}, {changes}");
                    Ok(())
                }
            }
        }
    };
}

macro_rules! laws_between {
    ($room:ident, $kind:expr) => {
        between!(
            $room,
            $kind,
            [
                super::super::shared_excludes_exclusive as shared_excludes_exclusive,
                super::super::exclusive_excludes_shared as exclusive_excludes_shared,
                super::super::a_nested_reader_excludes_until_its_last_release
                    as a_nested_reader_excludes_until_its_last_release,
                super::super::a_waiting_writer_keeps_new_readers_out
                    as a_waiting_writer_keeps_new_readers_out,
                super::super::a_writer_that_gives_up_lets_readers_in
                    as a_writer_that_gives_up_lets_readers_in,
                super::super::a_reader_or_writer_that_dies_gives_its_part_back
                    as a_reader_or_writer_that_dies_gives_its_part_back,
                super::super::a_waiting_writer_that_dies_lets_readers_in
                    as a_waiting_writer_that_dies_lets_readers_in,
                super::super::nobody_reads_while_one_writes as nobody_reads_while_one_writes,
                exclusion::exclusive_excludes_exclusive as exclusive_excludes_exclusive,
                exclusion::a_nested_hold_excludes_until_its_last_release
                    as a_nested_hold_excludes_until_its_last_release,
                exclusion::one_release_lets_one_waiter_in as one_release_lets_one_waiter_in,
                exclusion::a_waiter_that_gave_up_holds_nothing as a_waiter_that_gave_up_holds_nothing,
                exclusion::work_inside_never_overlaps as work_inside_never_overlaps,
                exclusion::a_holder_that_dies_gives_the_lock_back as a_holder_that_dies_gives_the_lock_back,
            ]
        );
    };
}

laws_between!(between_lock_objects, Kind::Objects);
laws_between!(between_processes, Kind::Processes);

/// Waits in turn: whoever comes back stands behind those who wait, readers as well as writers.
#[cfg(target_os = "linux")]
#[test]
fn neither_readers_nor_writers_are_passed_over() -> Checked {
    let cast = Cast::new(Kind::Processes, How::ByteRange)?;
    let (mut writers, mut readers) = (cast.contenders(2)?, cast.contenders(6)?);
    let begin = Instant::now();
    for writer in &mut writers {
        writer.tell("work 30")?;
    }
    for reader in &mut readers {
        reader.tell("watch 300")?;
    }
    for writer in &mut writers {
        writer.must_answer("0")?;
    }
    // Thirty turns of two writers, each behind a turn of the readers: a writer that is passed over takes as long as
    // the three hundred.
    let needed = begin.elapsed();
    for reader in &mut readers {
        reader.must_answer("0")?;
    }
    let all = begin.elapsed();
    if needed * 5 > all * 4 {
        return Err(format!("the writers needed {needed:?} of {all:?}").into());
    }
    if needed > LONG / 2 {
        return Err(format!("the writers needed {needed:?}").into());
    }
    Ok(())
}
