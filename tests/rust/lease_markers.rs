//! Laws of markers that state their terms: when a lease may be taken, by whom, and what becomes of its holder.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ferrolock::mechanism::{
    Attempt, Compromise, CompromiseReason, Guard, Holder, LeaseMonitor, LeaseTerms, Manners, MarkerLock,
    Mechanism, OnCompromise,
};
use ferrolock::record::{Content, OwnerMode, RELEASED, Record, Seconds, Tenancy};
use ferrolock::wait::sleep;
use ferrolock::{Error, ErrorKind, Lock, Released, Scope, Timeout};

use crate::support::{Checked, LONG, Place, acquire, greenlet, me, until};

/// Of the contenders, in seconds.
const DURATION: f64 = 0.3;
const PATIENT: f64 = 30.0;
const BEAT: Duration = Duration::from_millis(20);

struct Party {
    lock: MarkerLock,
    monitor: Arc<LeaseMonitor>,
}

fn seconds(number: f64) -> Seconds {
    Seconds::new(number).unwrap_or_else(|| unreachable!("a length of time"))
}

fn party(duration: f64, heartbeat_interval: Duration, on_compromise: Option<OnCompromise>) -> Party {
    let monitor = Arc::new(LeaseMonitor::per_owner(on_compromise));
    let terms = LeaseTerms { duration: seconds(duration), heartbeat_interval, monitor: Arc::clone(&monitor) };
    Party { lock: MarkerLock::lease(None, terms), monitor }
}

/// One that never beats while the test runs: as one that is stopped.
fn stopped() -> Party {
    party(PATIENT, Duration::from_secs(20), None)
}

fn attempt(lock: &MarkerLock, path: &Path) -> Result<Option<Box<dyn Guard>>, Error> {
    Ok(match lock.try_acquire(path, Manners::Hasty.into())? {
        Attempt::Acquired(guard) => Some(guard),
        Attempt::Contended(_) | Attempt::Interrupted => None,
    })
}

fn held(lock: &MarkerLock, path: &Path) -> Checked<Box<dyn Guard>> {
    attempt(lock, path)?.ok_or_else(|| "contended".into())
}

/// How long it took to take what stands at the path.
fn taken_after(lock: &MarkerLock, path: &Path) -> Checked<(Duration, Box<dyn Guard>)> {
    let begin = Instant::now();
    loop {
        if let Some(guard) = attempt(lock, path)? {
            return Ok((begin.elapsed(), guard));
        }
        if begin.elapsed() > LONG {
            return Err("never taken".into());
        }
        sleep(Duration::from_millis(3));
    }
}

fn release(guard: Box<dyn Guard>) -> Checked {
    guard.release().map_err(|error| error.error.into())
}

fn names(place: &Place) -> Checked<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(place.folder())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn tenancy(mode: OwnerMode, duration: Option<f64>) -> Tenancy {
    let owner = Record { pid: 4711, host: "elsewhere".to_owned(), start: None };
    let duration = duration.and_then(Seconds::new);
    Tenancy { owner, mode, token: Some("a".to_owned()), duration }
}

/// A marker that a process of another machine has left.
fn write(place: &Place, tenancy: &Tenancy) -> Checked {
    Ok(fs::write(&place.path, tenancy.to_bytes())?)
}

fn beside(place: &Place, name: &str) -> PathBuf {
    place.folder().join(name)
}

#[test]
fn the_marker_says_its_terms_as_long_as_it_is_held() -> Checked {
    let place = Place::new()?;
    let lease = party(PATIENT, BEAT, None);
    let guard = held(&lease.lock, &place.path)?;
    let read = MarkerLock::tenancy(&place.path).ok_or("a marker")?;
    assert_eq!((read.mode, read.duration), (OwnerMode::Lease, Seconds::new(PATIENT)));
    assert_eq!((read.owner.pid, read.token.as_deref()), (std::process::id(), guard.token()));
    assert_eq!(read.to_bytes(), fs::read(&place.path)?);
    assert!(MarkerLock::is_held_by_this_process(&place.path));
    assert_eq!(lease.lock.holder(&place.path), Some(Holder::Here { pid: std::process::id() }));
    release(guard)?;
    assert!(names(&place)?.is_empty());
    let exclusive = MarkerLock::exclusive(None);
    let guard = held(&exclusive, &place.path)?;
    let read = MarkerLock::tenancy(&place.path).ok_or("a marker")?;
    assert_eq!((read.mode, read.token, read.duration), (OwnerMode::Exclusive, None, None));
    assert_eq!(guard.token(), None);
    release(guard)
}

#[test]
fn no_two_holds_have_one_token() -> Checked {
    let place = Place::new()?;
    let lease = party(PATIENT, BEAT, None);
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let guard = held(&lease.lock, &place.path)?;
        tokens.push(guard.token().ok_or("a token")?.to_owned());
        release(guard)?;
    }
    assert!(tokens[0] != tokens[1] && tokens.iter().all(|token| token.len() == 32), "{tokens:?}");
    Ok(())
}

#[test]
fn a_lease_that_is_refreshed_is_nobody_elses() -> Checked {
    let place = Place::new()?;
    // Longer than most pauses of a busy machine.
    let (holder, other) = (party(1.0, BEAT, None), party(1.0, BEAT, None));
    let guard = held(&holder.lock, &place.path)?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(2500) {
        for lock in [&other.lock, &MarkerLock::default(), &MarkerLock::exclusive(None)] {
            assert!(attempt(lock, &place.path)?.is_none());
        }
        sleep(Duration::from_millis(2));
    }
    assert!(!guard.is_lost() && holder.monitor.compromise().is_none());
    release(guard)?;
    release(held(&other.lock, &place.path)?)
}

/// By the clock of who contends, whatever the times of the file.
#[test]
fn a_lease_is_taken_when_it_was_seen_unchanged_for_its_duration() -> Checked {
    for stamp in [0, 1 << 33].map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)) {
        let place = Place::new()?;
        write(&place, &tenancy(OwnerMode::Lease, Some(DURATION)))?;
        File::options().write(true).open(&place.path)?.set_times(FileTimes::new().set_modified(stamp))?;
        let (after, guard) = taken_after(&party(DURATION, BEAT, None).lock, &place.path)?;
        assert!(after.as_secs_f64() >= DURATION, "{after:?}");
        assert_eq!(names(&place)?, ["x.lock"]);
        release(guard)?;
        assert!(names(&place)?.is_empty());
    }
    Ok(())
}

#[test]
fn any_change_begins_the_lease_anew() -> Checked {
    let place = Place::new()?;
    write(&place, &tenancy(OwnerMode::Lease, Some(DURATION)))?;
    let lock = party(DURATION, BEAT, None).lock;
    let file = File::options().write(true).open(&place.path)?;
    let begin = Instant::now();
    for round in 0..8 {
        assert!(attempt(&lock, &place.path)?.is_none(), "after {:?}", begin.elapsed());
        sleep(Duration::from_secs_f64(DURATION / 4.0));
        // A clock that is set back is a change too.
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - round);
        file.set_times(FileTimes::new().set_modified(time))?;
    }
    taken_after(&lock, &place.path)?;
    Ok(())
}

#[test]
fn who_has_not_agreed_on_a_duration_goes_by_the_holders_but_never_by_less_than_two_seconds() -> Checked {
    let place = Place::new()?;
    write(&place, &tenancy(OwnerMode::Lease, Some(0.01)))?;
    let exclusive = MarkerLock::exclusive(None);
    assert!(attempt(&exclusive, &place.path)?.is_none());
    let (after, guard) = taken_after(&MarkerLock::default(), &place.path)?;
    assert!(after >= Duration::from_secs(2), "{after:?}");
    release(guard)?;
    // Others do not take leases at all.
    write(&place, &tenancy(OwnerMode::Lease, Some(0.01)))?;
    assert!(attempt(&exclusive, &place.path)?.is_none());
    sleep(Duration::from_millis(50));
    assert!(attempt(&exclusive, &place.path)?.is_none());
    assert!(attempt(&MarkerLock::default(), &place.path)?.is_none());
    Ok(())
}

#[test]
fn what_is_no_lease_never_ends_by_its_age() -> Checked {
    for (mode, duration) in
        [(OwnerMode::Exclusive, None), (OwnerMode::Exclusive, Some(0.01)), (OwnerMode::Unknown, Some(0.01))]
    {
        let place = Place::new()?;
        write(&place, &tenancy(mode, duration))?;
        let bytes = fs::read(&place.path)?;
        let lease = party(0.01, Duration::from_millis(5), None).lock;
        for lock in [&lease, &MarkerLock::default(), &MarkerLock::exclusive(None)] {
            for _ in 0..3 {
                assert!(attempt(lock, &place.path)?.is_none());
                sleep(Duration::from_millis(20));
            }
        }
        assert_eq!(fs::read(&place.path)?, bytes);
    }
    Ok(())
}

#[test]
fn a_dead_owners_lease_is_taken_at_once_whatever_its_duration() -> Checked {
    let place = Place::new()?;
    let guard = held(&MarkerLock::default(), &place.path)?;
    let Some(Content::Owned(own)) = MarkerLock::content(&place.path) else { return Err("a marker".into()) };
    release(guard)?;
    // No process has this number.
    let owner = Record { pid: 0x7fff_fff0, start: None, ..own };
    for (mode, is_taken) in
        [(OwnerMode::Lease, true), (OwnerMode::Exclusive, true), (OwnerMode::Unknown, false)]
    {
        let dead = Tenancy { owner: owner.clone(), ..tenancy(mode, Some(3600.0)) };
        for lock in [&party(DURATION, BEAT, None).lock, &MarkerLock::default(), &MarkerLock::exclusive(None)]
        {
            fs::write(&place.path, dead.to_bytes())?;
            assert_eq!(attempt(lock, &place.path)?.is_some(), is_taken, "{mode:?}");
        }
    }
    Ok(())
}

#[test]
fn a_lease_of_another_duration_is_refused_and_stays() -> Checked {
    let place = Place::new()?;
    let guard = held(&stopped().lock, &place.path)?;
    let bytes = fs::read(&place.path)?;
    let refused = attempt(&party(DURATION, BEAT, None).lock, &place.path);
    let Err(error) = refused else { return Err("not refused".into()) };
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let explanation = error.explanation().unwrap_or_default();
    assert!(explanation.contains("30.0 s") && explanation.contains("0.3 s"), "{explanation}");
    assert_eq!(fs::read(&place.path)?, bytes);
    release(guard)
}

#[test]
fn the_successor_of_a_stopped_holder_is_left_alone_by_the_late_release() -> Checked {
    let place = Place::new()?;
    // Its first heartbeat is far away; it holds no lock on the file that would keep the others out.
    let holder = party(DURATION, Duration::from_secs_f64(DURATION * 0.99), None);
    let guard = held(&holder.lock, &place.path)?;
    let token = guard.token().ok_or("a token")?.to_owned();
    let aside = beside(&place, "successor");
    fs::write(&aside, tenancy(OwnerMode::Exclusive, None).to_bytes())?;
    fs::rename(&aside, &place.path)?;
    let successor = fs::read(&place.path)?;
    release(guard)?;
    assert_eq!(fs::read(&place.path)?, successor);
    let compromise = holder.monitor.compromise().ok_or("it is told, late")?;
    assert_eq!((compromise.reason, compromise.token), (CompromiseReason::OwnerChanged, token));
    Ok(())
}

/// A contender has judged the marker, and may exchange it any moment: its place must not be emptied by name.
#[cfg(unix)]
#[test]
fn a_marker_that_is_being_reclaimed_is_given_up_where_it_lies() -> Checked {
    let place = Place::new()?;
    let holder = stopped();
    let guard = held(&holder.lock, &place.path)?;
    let contender = File::open(&place.path)?;
    rustix::fs::flock(&contender, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    release(guard)?;
    assert_eq!(fs::read(&place.path)?, RELEASED);
    drop(contender);
    release(held(&MarkerLock::default(), &place.path)?)?;
    assert!(names(&place)?.is_empty());
    Ok(())
}

/// A contender that exchanges after the release has begun gets a marker that has changed since it judged it.
#[test]
fn what_a_contender_has_aside_holds_nothing_after_the_release() -> Checked {
    let place = Place::new()?;
    let guard = held(&stopped().lock, &place.path)?;
    let before = fs::metadata(&place.path)?.modified()?;
    let aside = beside(&place, "aside");
    fs::hard_link(&place.path, &aside)?;
    sleep(Duration::from_millis(20));
    release(guard)?;
    assert!(!place.path.exists());
    assert_eq!(fs::read(&aside)?, RELEASED);
    assert_ne!(fs::metadata(&aside)?.modified()?, before);
    Ok(())
}

#[test]
fn a_holder_whose_marker_is_gone_or_replaced_is_told_once_on_a_thread_of_its_own() -> Checked {
    for reason in [CompromiseReason::MarkerMissing, CompromiseReason::OwnerChanged] {
        let place = Place::new()?;
        let (sender, news) = mpsc::channel();
        let tell: OnCompromise = Arc::new(move |compromise: Compromise| {
            drop(sender.send((compromise, thread::current().id())));
        });
        let holder = party(PATIENT, BEAT, Some(tell));
        let guard = held(&holder.lock, &place.path)?;
        let kept = beside(&place, "kept");
        fs::rename(&place.path, &kept)?;
        if reason == CompromiseReason::OwnerChanged {
            write(&place, &tenancy(OwnerMode::Exclusive, None))?;
        }
        let (compromise, thread) = news.recv_timeout(LONG)?;
        assert_eq!((compromise.reason, Some(compromise.token.as_str())), (reason, guard.token()));
        assert_eq!(compromise.lock_file, place.path);
        assert_ne!(thread, thread::current().id());
        assert!(guard.is_lost());
        until("what somebody has aside holds nothing", || Ok(fs::read(&kept)? == RELEASED))?;
        let token = compromise.token;
        assert!(holder.monitor.compromise_of(Some(&token)).is_some());
        release(guard)?;
        assert!(holder.monitor.compromise_of(None).is_some(), "it stands until the next hold");
        assert_eq!(place.path.exists(), reason == CompromiseReason::OwnerChanged);
        MarkerLock::remove(&place.path)?;
        let again = held(&holder.lock, &place.path)?;
        assert!(holder.monitor.compromise_of(again.token()).is_none());
        assert!(holder.monitor.compromise_of(None).is_none());
        release(again)?;
        assert!(news.try_recv().is_err(), "told once");
    }
    Ok(())
}

/// As a contender does that took it for another's and puts it back.
#[test]
fn a_holder_whose_marker_was_away_for_one_look_has_lost_nothing() -> Checked {
    let place = Place::new()?;
    // The next looks follow after 200 ms.
    let holder = party(PATIENT, Duration::from_millis(1600), None);
    let guard = held(&holder.lock, &place.path)?;
    let refreshed = |path: &Path| -> Checked {
        let before = fs::metadata(path)?.modified()?;
        until("a heartbeat", || Ok(fs::metadata(path)?.modified()? != before))
    };
    let aside = beside(&place, "aside");
    fs::rename(&place.path, &aside)?;
    refreshed(&aside)?;
    fs::rename(&aside, &place.path)?;
    refreshed(&place.path)?;
    assert!(!guard.is_lost() && holder.monitor.compromise().is_none());
    release(guard)?;
    assert!(names(&place)?.is_empty());
    Ok(())
}

#[test]
fn there_is_no_further_level_of_a_lost_hold_until_it_is_released() -> Checked {
    let place = Place::new()?;
    for scope in [Scope::PerOwner, Scope::Shared] {
        let holder = party(PATIENT, BEAT, None);
        let monitor = holder.monitor;
        let lock = Lock::new(Box::new(holder.lock), scope);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        let token = lock.token(me()).ok_or("a token")?;
        fs::remove_file(&place.path)?;
        until("it is lost", || Ok(monitor.compromise_of(Some(&token)).is_some()))?;
        for timeout in [Timeout::Once, Timeout::Never] {
            let refused = acquire(&lock, me(), &place.path, timeout).map_err(|error| error.to_string());
            assert!(refused.is_err_and(|text| text.contains("lost")));
        }
        assert!(!lock.nest(me()));
        assert_eq!(lock.depth(me()), 2);
        assert!(!place.path.exists(), "nothing was acquired");
        assert_eq!(lock.release(me(), true)?, Released::Unlocked);
        acquire(&lock, me(), &place.path, Timeout::Once)?;
        lock.release_lost()?;
        assert_eq!(lock.depth(me()), 1, "this one is not lost");
        lock.release(me(), false)?;
    }
    Ok(())
}

#[test]
fn who_is_told_releases_what_was_lost_and_nothing_else() -> Checked {
    let place = Place::new()?;
    let holder = party(PATIENT, BEAT, None);
    let monitor = holder.monitor;
    let lock = Lock::new(Box::new(holder.lock), Scope::PerOwner);
    let (one, two) = (greenlet(1), greenlet(2));
    acquire(&lock, one, &place.path, Timeout::Once)?;
    let lost = lock.token(one).ok_or("a token")?;
    fs::remove_file(&place.path)?;
    until("it is lost", || Ok(monitor.compromise_of(Some(&lost)).is_some()))?;
    acquire(&lock, two, &place.path, Timeout::Once)?;
    let held = lock.token(two).ok_or("a token")?;
    assert!(monitor.compromise_of(Some(&held)).is_none() && monitor.compromise_of(Some(&lost)).is_some());
    lock.release(two, false)?;
    acquire(&lock, two, &place.path, Timeout::Once)?;
    let held = lock.token(two).ok_or("a token")?;
    fs::remove_file(&place.path)?;
    until("that is lost too", || Ok(monitor.compromise_of(Some(&held)).is_some()))?;
    lock.release(two, false)?;
    acquire(&lock, two, &place.path, Timeout::Once)?;
    lock.release_lost()?;
    assert_eq!((lock.depth(one), lock.depth(two)), (0, 1));
    assert!(place.path.exists());
    lock.release(two, false)?;
    Ok(())
}
