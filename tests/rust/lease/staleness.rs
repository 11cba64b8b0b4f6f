//! When a marker is a dead holder's: by change, never by clocks.

use std::fs::{self, File};
use std::time::{Duration, Instant, SystemTime};

use ferrolock::mechanism::Mode;
use ferrolock::wait::sleep;

use super::{PATIENT, Party, SHORT_LIVED, Site, release, settings};
use crate::support::{Checked, LONG};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The marker of a holder on another machine.
fn marker(host: &str) -> String {
    format!("{TOKEN}\n4711\n{host}\n")
}

/// What the file system takes for now.
#[expect(clippy::disallowed_methods, reason = "stamps are set by it, and nothing is judged")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn leave_writer(site: &Site, host: &str) -> Checked {
    Ok(fs::write(site.beside(".write"), marker(host))?)
}

fn leave_reader(site: &Site, host: &str) -> Checked {
    fs::create_dir(site.beside(".readers"))?;
    Ok(fs::write(site.beside(".readers").join(format!("{TOKEN}.4711")), marker(host))?)
}

type Leave = fn(&Site, &str) -> Checked;

/// Those that keep a writer out.
const LEFT: [Leave; 2] = [leave_writer, leave_reader];

#[test]
fn a_holder_that_does_not_change_its_marker_is_evicted_after_the_threshold_and_not_before() -> Checked {
    for leave in LEFT {
        let site = Site::new()?;
        leave(&site, "elsewhere")?;
        let begin = Instant::now();
        let party = Party::new(&site.path, SHORT_LIVED);
        let guard = party.hold(Mode::Exclusive)?;
        assert!(begin.elapsed() >= SHORT_LIVED.stale_threshold, "{:?}", begin.elapsed());
        release(guard)?;
        assert_eq!(site.names()?, ["/.generation.1", "x.lock.readers"], "nothing is left of it");
    }
    Ok(())
}

#[test]
fn stamps_that_are_hours_off_evict_nobody_and_keep_nobody() -> Checked {
    let hours = Duration::from_secs(8 * 3600);
    let now = now();
    for stamp in [now - hours, now + hours, SystemTime::UNIX_EPOCH, now + 100_000 * hours] {
        for leave in LEFT {
            let site = Site::new()?;
            leave(&site, "elsewhere")?;
            for file in [site.beside(".write"), site.beside(".readers").join(format!("{TOKEN}.4711"))] {
                if let Ok(file) = File::options().write(true).open(file) {
                    file.set_modified(stamp)?;
                }
            }
            let begin = Instant::now();
            let party = Party::new(&site.path, SHORT_LIVED);
            release(party.hold(Mode::Exclusive)?)?;
            assert!(begin.elapsed() >= SHORT_LIVED.stale_threshold, "{:?}", begin.elapsed());
        }
    }
    Ok(())
}

#[test]
fn a_marker_that_goes_on_changing_is_a_living_holders_whatever_it_is_stamped() -> Checked {
    let site = Site::new()?;
    leave_writer(&site, "elsewhere")?;
    let file = File::options().write(true).open(site.beside(".write"))?;
    let party = Party::new(&site.path, SHORT_LIVED);
    let begin = Instant::now();
    let mut bid = party.bid(Mode::Exclusive)?;
    let mut back = 0;
    while begin.elapsed() < 4 * SHORT_LIVED.stale_threshold {
        back += 1;
        // It goes backwards, in a time long past.
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - back))?;
        assert!(super::acquired(bid.attempt()?)?.is_none(), "a living holder was evicted");
        sleep(Duration::from_millis(5));
    }
    drop(bid);
    assert_eq!(fs::read_to_string(site.beside(".write"))?, marker("elsewhere"));
    Ok(())
}

#[test]
fn the_longer_one_of_the_two_thresholds_counts() -> Checked {
    for leave in LEFT {
        let site = Site::new()?;
        leave(&site, "elsewhere?lease-900-890")?;
        let begin = Instant::now();
        let party = Party::new(&site.path, SHORT_LIVED);
        release(party.hold(Mode::Exclusive)?)?;
        assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    }
    Ok(())
}

#[test]
fn who_comes_late_to_an_old_marker_waits_for_two_heartbeats_only() -> Checked {
    for leave in LEFT {
        let site = Site::new()?;
        leave(&site, "elsewhere?lease-60000-100")?;
        for file in [site.beside(".write"), site.beside(".readers").join(format!("{TOKEN}.4711"))] {
            if let Ok(file) = File::options().write(true).open(file) {
                file.set_modified(now() - Duration::from_secs(61))?;
            }
        }
        let begin = Instant::now();
        let party = Party::new(&site.path, settings(60_000, 100));
        release(party.hold(Mode::Exclusive)?)?;
        assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
        assert!(begin.elapsed() < LONG);
    }
    Ok(())
}

#[test]
fn contenders_with_short_timeouts_evict_together() -> Checked {
    if !cfg!(target_os = "linux") {
        // Nobody else counts time from the same moment.
        return Ok(());
    }
    for leave in LEFT {
        let site = Site::new()?;
        leave(&site, "elsewhere")?;
        let stamped = now() - Duration::from_secs(3600);
        for file in [site.beside(".write"), site.beside(".readers").join(format!("{TOKEN}.4711"))] {
            if let Ok(file) = File::options().write(true).open(file) {
                file.set_modified(stamped)?;
            }
        }
        let begin = Instant::now();
        // Each is another lock object, as if each were another process, and makes one attempt.
        while Party::new(&site.path, SHORT_LIVED).once(Mode::Exclusive)?.is_none() {
            assert!(begin.elapsed() < LONG, "nobody gets it");
            sleep(Duration::from_millis(20));
        }
        assert!(begin.elapsed() >= SHORT_LIVED.stale_threshold);
    }
    Ok(())
}

#[test]
fn a_holder_that_refreshes_is_never_evicted_by_the_impatient() -> Checked {
    let site = Site::new()?;
    // Its threshold is long, so that a busy machine does no harm; it is the contender that is impatient.
    let holder = Party::new(&site.path, settings(20_000, 50));
    let impatient = Party::new(&site.path, settings(90, 30));
    for mode in [Mode::Shared, Mode::Exclusive] {
        let guard = holder.hold(mode)?;
        assert!(impatient.within(Mode::Exclusive, Duration::from_millis(500))?.is_none());
        assert!(holder.monitor.compromise().is_none());
        release(guard)?;
    }
    Ok(())
}

#[test]
fn a_writer_that_waits_is_kept_fresh() -> Checked {
    let site = Site::new()?;
    let reader = Party::new(&site.path, PATIENT).hold(Mode::Shared)?;
    let waiting = Party::new(&site.path, settings(1_000, 50));
    let mut bid = waiting.bid(Mode::Exclusive)?;
    assert!(super::acquired(bid.attempt()?)?.is_none());
    let first = fs::metadata(site.beside(".write"))?.modified()?;
    crate::support::until("the claim is refreshed", || {
        Ok(fs::metadata(site.beside(".write"))?.modified()? != first)
    })?;
    release(reader)?;
    assert!(super::acquired(bid.attempt()?)?.is_some());
    Ok(())
}

#[test]
fn a_dead_transition_is_evicted_after_the_threshold() -> Checked {
    for content in ["4711\nelsewhere\n", "", "garbage"] {
        let site = Site::new()?;
        fs::write(site.beside(".state"), content)?;
        let begin = Instant::now();
        let party = Party::new(&site.path, SHORT_LIVED);
        release(party.hold(Mode::Shared)?)?;
        assert!(begin.elapsed() >= SHORT_LIVED.stale_threshold, "{content:?}: {:?}", begin.elapsed());
        assert_eq!(site.names()?.iter().filter(|name| name.contains("state")).count(), 0);
    }
    Ok(())
}
