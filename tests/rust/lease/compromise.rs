//! Holds that are lost: who is told, and whose files are left alone.

use std::fs;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ferrolock::mechanism::{Compromise, CompromiseReason, Mode};
use ferrolock::wait::sleep;

use super::{PATIENT, Party, SHORT_LIVED, Site, release, settings};
use crate::support::{Checked, LONG, until};

/// A holder that refreshes often, and is told of its loss by the channel.
fn told(site: &Site) -> (Party, mpsc::Receiver<(Compromise, thread::ThreadId)>) {
    let (sender, receiver) = mpsc::channel();
    let on_compromise = Arc::new(move |compromise| {
        drop(sender.send((compromise, thread::current().id())));
    });
    (Party::told(&site.path, settings(20_000, 30), Some(on_compromise)), receiver)
}

#[test]
fn a_holder_whose_marker_is_gone_is_told_on_a_thread_of_its_own() -> Checked {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let site = Site::new()?;
        let (party, news) = told(&site);
        let guard = party.hold(mode)?;
        assert!(party.monitor.compromise().is_none());
        let marker = if mode == Mode::Shared { site.readers()? } else { site.claims()? }.remove(0);
        let token = fs::read_to_string(&marker)?[..32].to_owned();
        fs::remove_file(marker)?;
        let (compromise, thread) = news.recv_timeout(LONG)?;
        assert_eq!(compromise.reason, CompromiseReason::Evicted);
        assert_eq!(compromise.reason.name(), "evicted");
        assert_eq!((compromise.lock_file, compromise.token), (site.path.clone(), token));
        assert_ne!(thread, thread::current().id());
        assert!(party.monitor.compromise().is_some());
        until("what is left of the claim goes", || Ok(!site.beside(".write").exists()))?;
        release(guard)?;
        assert!(party.monitor.compromise().is_some(), "it stands until the next hold");
        let again = party.hold(mode)?;
        assert!(party.monitor.compromise().is_none());
        release(again)?;
        assert!(news.try_recv().is_err(), "told once");
    }
    Ok(())
}

#[test]
fn a_callback_that_takes_long_keeps_no_heart_from_beating() -> Checked {
    let site = Site::new()?;
    let (release_it, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let on_compromise = Arc::new(move |_| {
        let wait = wait.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Until the test is done with it.
        assert!(wait.recv_timeout(LONG).is_ok());
    });
    let party = Party::told(&site.path, settings(20_000, 30), Some(on_compromise));
    let lost = party.hold(Mode::Shared)?;
    fs::remove_file(&site.readers()?[0])?;
    until("the loss is seen", || Ok(party.monitor.compromise().is_some()))?;
    let other = Site::new()?;
    let healthy = Party::new(&other.path, settings(20_000, 30)).hold(Mode::Shared)?;
    let marker = other.readers()?.remove(0);
    let first = fs::metadata(&marker)?.modified()?;
    until("another marker is refreshed", || Ok(fs::metadata(&marker)?.modified()? != first))?;
    release_it.send(())?;
    release(lost)?;
    release(healthy)
}

#[test]
fn a_folder_that_is_gone_is_told_apart() -> Checked {
    let site = Site::new()?;
    let (party, news) = told(&site);
    let guard = party.hold(Mode::Shared)?;
    fs::remove_dir_all(site.beside(".readers"))?;
    assert_eq!(news.recv_timeout(LONG)?.0.reason, CompromiseReason::MarkerMissing);
    release(guard)
}

/// The hold is nobody's any more, and whoever had it must be able to go on.
#[cfg(unix)]
#[test]
fn what_is_lost_can_be_released_also_where_nothing_can_be_removed() -> Checked {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let site = Site::new()?;
        let party = Party::new(&site.path, settings(400, 30));
        let guard = party.hold(mode)?;
        fs::rename(site.beside(".readers"), site.beside(".elsewhere"))?;
        fs::write(site.beside(".readers"), "no folder")?;
        until("it is lost", || Ok(party.monitor.compromise().is_some()))?;
        let lost = party.monitor.compromise().map(|lost| lost.reason);
        assert_eq!(lost, Some(CompromiseReason::RefreshFailed));
        release(guard)?;
    }
    Ok(())
}

#[test]
fn a_stranger_at_the_name_is_told_apart_and_left_alone() -> Checked {
    let site = Site::new()?;
    let (party, news) = told(&site);
    let guard = party.hold(Mode::Exclusive)?;
    let strangers = "0123456789abcdef0123456789abcdef\n4711\nelsewhere\n";
    fs::remove_file(site.beside(".write"))?;
    fs::write(site.beside(".write"), strangers)?;
    assert_eq!(news.recv_timeout(LONG)?.0.reason, CompromiseReason::OwnerChanged);
    release(guard)?;
    assert_eq!(fs::read_to_string(site.beside(".write"))?, strangers);
    Ok(())
}

#[test]
fn a_writer_whose_public_name_was_taken_away_keeps_all_out_and_brings_it_back() -> Checked {
    let site = Site::new()?;
    let holder = Party::new(&site.path, settings(20_000, 400));
    let guard = holder.hold(Mode::Exclusive)?;
    fs::remove_file(site.beside(".write"))?;
    let other = Party::new(&site.path, PATIENT);
    assert!(other.once(Mode::Shared)?.is_none(), "a reader beside a writer");
    assert!(other.once(Mode::Exclusive)?.is_none(), "a writer beside a writer");
    until("the name is back", || Ok(site.beside(".write").exists()))?;
    assert_eq!(fs::read(site.beside(".write"))?, fs::read(&site.claims()?[0])?);
    assert!(holder.monitor.compromise().is_none());
    release(guard)?;
    assert!(other.once(Mode::Exclusive)?.is_some());
    Ok(())
}

#[test]
fn a_late_release_leaves_the_successors_markers_and_tells_of_the_loss() -> Checked {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let site = Site::new()?;
        // Its heart does not beat before it releases.
        let late = Party::new(&site.path, PATIENT);
        let guard = late.hold(mode)?;
        let markers = if mode == Mode::Shared { site.readers()? } else { site.claims()? };
        fs::remove_file(&markers[0])?;
        if mode == Mode::Exclusive {
            fs::remove_file(site.beside(".write"))?;
        }
        let successor = site.party();
        let held = successor.hold(Mode::Exclusive)?;
        let before = site.names()?;
        release(guard)?;
        assert_eq!(site.names()?, before);
        assert_eq!(late.monitor.compromise().map(|lost| lost.reason), Some(CompromiseReason::Evicted));
        assert!(site.party().once(Mode::Shared)?.is_none(), "the successor has lost it");
        assert!(successor.monitor.compromise().is_none());
        release(held)?;
    }
    Ok(())
}

#[test]
fn a_marker_that_is_missing_for_a_moment_is_not_lost() -> Checked {
    let site = Site::new()?;
    let party = Party::new(&site.path, settings(20_000, 1_000));
    let guard = party.hold(Mode::Shared)?;
    let marker = site.readers()?.remove(0);
    let aside = site.beside(".elsewhere");
    fs::rename(&marker, &aside)?;
    sleep(Duration::from_millis(1_050));
    fs::rename(&aside, &marker)?;
    let first = fs::metadata(&marker)?.modified()?;
    until("it is refreshed again", || Ok(fs::metadata(&marker)?.modified()? != first))?;
    assert!(party.monitor.compromise().is_none());
    release(guard)
}

#[test]
fn a_waiter_that_was_evicted_claims_again() -> Checked {
    let site = Site::new()?;
    let reader = site.party().hold(Mode::Shared)?;
    let waiting = Party::new(&site.path, SHORT_LIVED);
    let mut bid = waiting.bid(Mode::Exclusive)?;
    assert!(super::acquired(bid.attempt()?)?.is_none());
    fs::remove_file(&site.claims()?[0])?;
    fs::remove_file(site.beside(".write"))?;
    until("it claims again", || {
        assert!(super::acquired(bid.attempt()?)?.is_none());
        Ok(site.claims()?.len() == 1 && site.beside(".write").exists())
    })?;
    release(reader)?;
    until("it gets it", || Ok(super::acquired(bid.attempt()?)?.is_some()))?;
    assert!(waiting.monitor.compromise().is_none(), "nothing was held");
    Ok(())
}
