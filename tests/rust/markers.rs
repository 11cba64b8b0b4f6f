//! Laws of the marker: what is held, what is stale, and whose files are left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ferrolock::mechanism::{Attempt, Guard, Holder, Manners, MarkerLock, Mechanism, Terms};
use ferrolock::record::{Content, Record, StartToken};
use ferrolock::{Error, ErrorKind, Lock, Scope, Timeout};

use crate::contender::How;
use crate::support::{AskedOnce, Checked, LATE, Place, acquire, me, patience};
use crate::worker;

fn attempt(path: &Path) -> Result<Attempt, Error> {
    MarkerLock::default().try_acquire(path, Manners::Hasty.into())
}

fn held(path: &Path) -> Checked<Box<dyn Guard>> {
    match attempt(path)? {
        Attempt::Acquired(guard) => Ok(guard),
        other @ (Attempt::Contended(_) | Attempt::Interrupted) => {
            Err(format!("not acquired: {other:?}").into())
        }
    }
}

fn is_held(path: &Path) -> Checked<bool> {
    Ok(matches!(attempt(path)?, Attempt::Contended(_)))
}

/// A lock object that has found the name free when it last asked, if another name.
fn trusting(place: &Place) -> Checked<MarkerLock> {
    let lock = MarkerLock::default();
    match lock.try_acquire(&beside(place, ".before"), Manners::Hasty.into())? {
        Attempt::Acquired(guard) => guard.release().map_err(|failed| failed.error)?,
        other @ (Attempt::Contended(_) | Attempt::Interrupted) => return Err(format!("{other:?}").into()),
    }
    Ok(lock)
}

fn own_record(place: &Place) -> Checked<Record> {
    let guard = held(&place.path)?;
    let content = MarkerLock::content(&place.path);
    drop(guard);
    let Some(Content::Owned(record)) = content else { return Err(format!("{content:?}").into()) };
    Ok(record)
}

/// A process of this machine that has ended, and that was not this one.
fn dead_pid() -> Checked<u32> {
    let mut child = Command::new(std::env::current_exe()?).arg("--list").stdout(Stdio::null()).spawn()?;
    child.wait()?;
    Ok(child.id())
}

fn dead_record(place: &Place) -> Checked<Record> {
    Ok(Record { pid: dead_pid()?, start: None, ..own_record(place)? })
}

fn names(place: &Place) -> Checked<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(place.folder())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn beside(place: &Place, end: &str) -> PathBuf {
    let mut path = place.path.clone().into_os_string();
    path.push(end);
    path.into()
}

const HEX: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn the_marker_names_this_process_as_long_as_it_is_held() -> Checked {
    let place = Place::new()?;
    let guard = held(&place.path)?;
    let bytes = fs::read(&place.path)?;
    let Content::Owned(record) = Content::parse(&bytes) else { return Err("no record".into()) };
    assert_eq!(record.pid, std::process::id());
    assert_eq!(record.to_bytes(), bytes);
    assert!(MarkerLock::is_held_by_this_process(&place.path));
    assert!(is_held(&place.path)?);
    assert_eq!(MarkerLock::default().holder(&place.path), Some(Holder::Here { pid: std::process::id() }));
    guard.release().map_err(|error| error.error)?;
    assert!(names(&place)?.is_empty());
    assert!(!MarkerLock::is_held_by_this_process(&place.path));
    Ok(())
}

#[test]
fn a_dead_owners_marker_is_taken_over_in_the_same_attempt() -> Checked {
    let place = Place::new()?;
    fs::write(&place.path, dead_record(&place)?.to_bytes())?;
    let guard = held(&place.path)?;
    assert!(MarkerLock::is_held_by_this_process(&place.path));
    assert_eq!(names(&place)?, ["x.lock"]);
    drop(guard);
    assert!(names(&place)?.is_empty());
    Ok(())
}

#[test]
fn what_may_be_somebodys_is_held_and_stays_as_it_is() -> Checked {
    let place = Place::new()?;
    let own = own_record(&place)?;
    let foreign = Record { host: "elsewhere".to_owned(), pid: dead_pid()?, start: None };
    let live = Record { start: None, ..own };
    let strict = b"1\nfilelock-strict-v1\0\n0\n".to_vec();
    let bare = format!("{}\n", std::process::id()).into_bytes();
    let malformed = b"garbage\n".to_vec();
    for bytes in [foreign.to_bytes(), live.to_bytes(), strict, bare, malformed, Vec::new()] {
        fs::write(&place.path, &bytes)?;
        assert!(is_held(&place.path)?, "{}", bytes.escape_ascii());
        assert_eq!(fs::read(&place.path)?, bytes);
        assert_eq!(names(&place)?, ["x.lock"]);
        fs::remove_file(&place.path)?;
    }
    Ok(())
}

fn brief_attempt(path: &Path, lifetime: Option<Duration>) -> Result<Option<Attempt>, Error> {
    MarkerLock::default().try_acquire_briefly(path, Terms { lifetime, ..Manners::Hasty.into() })
}

#[test]
fn a_brief_attempt_takes_what_is_free() -> Checked {
    let place = Place::new()?;
    let first = brief_attempt(&place.path, None)?;
    assert!(matches!(first, Some(Attempt::Acquired(_))), "{first:?}");
    assert!(is_held(&place.path)?);
    Ok(())
}

/// Nobody knows how long it takes to get the place of somebody: others may be about to.
#[test]
fn a_brief_attempt_judges_nobody_and_takes_nobodys_place() -> Checked {
    let place = Place::new()?;
    let own = own_record(&place)?;
    let live = Record { start: None, ..own };
    let dead = dead_record(&place)?;
    for bytes in [live.to_bytes(), dead.to_bytes(), b"filelock/released\n".to_vec(), Vec::new()] {
        fs::write(&place.path, &bytes)?;
        let attempt = brief_attempt(&place.path, None)?;
        assert!(attempt.is_none(), "{}: {attempt:?}", bytes.escape_ascii());
        assert_eq!(fs::read(&place.path)?, bytes);
        assert_eq!(names(&place)?, ["x.lock"]);
        fs::remove_file(&place.path)?;
    }
    let _guard = held(&place.path)?;
    assert!(brief_attempt(&place.path, Some(Duration::ZERO))?.is_none(), "aged");
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn a_brief_attempt_knows_a_marker_that_its_owner_has_locked() -> Checked {
    let place = Place::new()?;
    let guard = held(&place.path)?;
    let attempt = brief_attempt(&place.path, None)?;
    assert!(matches!(attempt, Some(Attempt::Contended(Some(file))) if file == guard.file()), "{attempt:?}");
    Ok(())
}

/// It begins to make its marker without a look, and judges all the same what keeps it from the name.
#[test]
fn who_has_found_the_name_free_before_judges_what_has_come_since() -> Checked {
    let place = Place::new()?;
    let ask = |lock: &MarkerLock| lock.try_acquire(&place.path, Manners::Hasty.into());
    let dead = dead_record(&place)?;
    let foreign = Record { host: "elsewhere".to_owned(), ..dead.clone() };
    for bytes in [foreign.to_bytes(), b"garbage\n".to_vec(), Vec::new()] {
        fs::write(&place.path, &bytes)?;
        let lock = trusting(&place)?;
        for attempt in [ask(&lock)?, ask(&lock)?] {
            assert!(matches!(attempt, Attempt::Contended(Some(_))), "{attempt:?}");
        }
        assert_eq!(fs::read(&place.path)?, bytes);
        assert_eq!(names(&place)?, ["x.lock"]);
    }
    fs::write(&place.path, dead.to_bytes())?;
    let taken = ask(&trusting(&place)?)?;
    assert!(matches!(taken, Attempt::Acquired(_)), "{taken:?}");
    assert!(MarkerLock::is_held_by_this_process(&place.path));
    drop(taken);
    assert!(names(&place)?.is_empty());
    fs::create_dir(&place.path)?;
    assert_eq!(ask(&trusting(&place)?).unwrap_err().kind(), ErrorKind::Refused);
    Ok(())
}

#[test]
fn a_bare_number_is_a_process_of_this_machine() -> Checked {
    let place = Place::new()?;
    let says = |pid: u32| fs::write(&place.path, format!("{pid}\n"));
    says(std::process::id())?;
    assert!(MarkerLock::is_held_by_this_process(&place.path));
    assert_eq!(MarkerLock::default().holder(&place.path), Some(Holder::Here { pid: std::process::id() }));
    says(std::process::id() + 1)?;
    assert!(!MarkerLock::is_held_by_this_process(&place.path));
    // Whose machine it means is not known, so a process that is gone is no proof at once.
    says(dead_pid()?)?;
    assert!(is_held(&place.path)?);
    let lock = Lock::new(Box::new(MarkerLock::default()), Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::After(Duration::from_secs(30)))?;
    Ok(())
}

#[test]
fn a_marker_is_this_processs_only_if_all_that_it_says_fits() -> Checked {
    let place = Place::new()?;
    let own = own_record(&place)?;
    let is_ours = |record: Record| -> Checked<bool> {
        fs::write(&place.path, record.to_bytes())?;
        Ok(MarkerLock::is_held_by_this_process(&place.path))
    };
    assert!(is_ours(own.clone())?);
    assert!(is_ours(Record { start: None, ..own.clone() })?, "it does not tell its start");
    assert!(!is_ours(Record { host: "elsewhere".to_owned(), ..own.clone() })?);
    assert!(!is_ours(Record { pid: own.pid + 1, ..own.clone() })?);
    let Some(start) = own.start else { return Ok(()) };
    let start = Some(StartToken { time: start.time + 1, ..start });
    assert!(!is_ours(Record { start, ..own })?, "an earlier process of the same number");
    Ok(())
}

#[test]
fn a_lock_object_says_whom_its_marker_names() -> Checked {
    let place = Place::new()?;
    let lock = Lock::new(Box::new(MarkerLock::default()), Scope::PerOwner);
    assert_eq!(lock.holder(&place.path), None);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    assert_eq!(lock.holder(&place.path), Some(Holder::Here { pid: std::process::id() }));
    Ok(())
}

/// They go first for a moment only, which may be over on a slow machine.
#[cfg(target_os = "linux")]
#[test]
fn who_gives_a_marker_back_lets_those_who_wait_go_first_unless_it_is_hasty() -> Checked {
    let place = Place::new()?;
    let mut refused = 0;
    for _ in 0..50 {
        let guard = held(&place.path)?;
        let waiting = MarkerLock::default().open_place(&place.path, Manners::Hasty.into())?;
        assert!(waiting.as_ref().is_some_and(|waiting| waiting.file() == Some(guard.file())));
        guard.release().map_err(|error| error.error)?;
        match MarkerLock::default().try_acquire(&place.path, Manners::Polite.into())? {
            Attempt::Acquired(_) => {}
            Attempt::Contended(_) | Attempt::Interrupted => refused += 1,
        }
        drop(held(&place.path)?);
    }
    assert!(refused > 0);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn who_cannot_open_a_place_to_wait_at_learns_why() -> Checked {
    let place = Place::new()?;
    fs::write(&place.path, "no folder")?;
    let opened = MarkerLock::default().open_place(&place.path.join("x.lock"), Manners::Polite.into());
    let error = opened.err().ok_or("it was opened")?;
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTDIR.raw_os_error()));
    Ok(())
}

#[test]
fn a_free_lock_is_had_without_a_wait() -> Checked {
    let place = Place::new()?;
    let lock = Lock::new(Box::new(MarkerLock::default()), Scope::PerOwner);
    let mut has_waited = false;
    lock.acquire(me(), &place.path, patience(LATE), &mut AskedOnce(|| has_waited = true))?;
    assert!(!has_waited);
    Ok(())
}

#[test]
fn breaking_a_lock_removes_whatever_stands_there_and_nothing_is_fine() -> Checked {
    let place = Place::new()?;
    MarkerLock::remove(&place.path)?;
    fs::write(&place.path, "7\nelsewhere\n")?;
    MarkerLock::remove(&place.path)?;
    assert!(names(&place)?.is_empty());
    fs::create_dir(&place.path)?;
    assert!(MarkerLock::remove(&place.path).is_err());
    assert!(place.path.is_dir());
    Ok(())
}

#[cfg(unix)]
#[test]
fn the_marker_names_this_machine() -> Checked {
    let place = Place::new()?;
    let output = Command::new("uname").arg("-n").output()?;
    let name = String::from_utf8(output.stdout)?;
    let host = own_record(&place)?.host;
    assert!(host == name.trim() || host.starts_with(&format!("{}?pidns-", name.trim())), "{host} on {name}");
    Ok(())
}

#[test]
fn a_holder_that_nobody_here_can_ask_is_named() -> Checked {
    let place = Place::new()?;
    let holder = || MarkerLock::default().holder(&place.path);
    assert_eq!(holder(), None, "nobody");
    fs::write(&place.path, "7\nelsewhere\n")?;
    assert_eq!(holder(), Some(Holder::Elsewhere { pid: 7, host: "elsewhere".to_owned() }));
    fs::write(&place.path, "")?;
    assert_eq!(holder(), Some(Holder::Unnamed));
    fs::write(&place.path, "garbage\n")?;
    assert_eq!(holder(), None);
    Ok(())
}

#[test]
fn what_is_no_marker_is_taken_over_when_it_has_not_changed_for_two_seconds() -> Checked {
    let place = Place::new()?;
    fs::write(&place.path, "garbage\n")?;
    let begin = Instant::now();
    assert!(is_held(&place.path)?);
    // What changes begins anew: only content counts that was there all the while.
    let changed = begin + Duration::from_millis(500);
    let lock = Lock::new(Box::new(MarkerLock::default()), Scope::PerOwner);
    let limit = changed.saturating_duration_since(Instant::now());
    assert!(acquire(&lock, me(), &place.path, Timeout::After(limit)).is_err());
    fs::write(&place.path, "other garbage\n")?;
    assert!(is_held(&place.path)?);
    acquire(&lock, me(), &place.path, Timeout::After(Duration::from_secs(30)))?;
    assert!(begin.elapsed() >= Duration::from_millis(2500), "{:?}", begin.elapsed());
    lock.release(me(), false)?;
    assert!(names(&place)?.is_empty());
    Ok(())
}

#[test]
fn the_last_word_of_an_owner_frees_the_lock_at_once() -> Checked {
    let place = Place::new()?;
    fs::write(&place.path, "filelock/released\n")?;
    drop(held(&place.path)?);
    assert!(names(&place)?.is_empty());
    Ok(())
}

#[test]
fn a_lifetime_takes_the_lock_from_a_living_owner_and_not_before() -> Checked {
    let place = Place::new()?;
    let guard = held(&place.path)?;
    let terms = |lifetime| Terms { lifetime: Some(lifetime), ..Manners::Hasty.into() };
    let young = MarkerLock::default().try_acquire(&place.path, terms(Duration::from_secs(3600)))?;
    assert!(matches!(young, Attempt::Contended(Some(_))), "{young:?}");
    let old = MarkerLock::default().try_acquire(&place.path, terms(Duration::ZERO))?;
    let Attempt::Acquired(successor) = old else { return Err(format!("{old:?}").into()) };
    assert_ne!(successor.file(), guard.file());
    // Its late release leaves the successor alone.
    guard.release().map_err(|error| error.error)?;
    assert!(is_held(&place.path)?);
    drop(successor);
    assert!(names(&place)?.is_empty());
    Ok(())
}

#[test]
fn a_strict_locks_file_has_no_lifetime() -> Checked {
    let place = Place::new()?;
    fs::write(&place.path, b"1\nfilelock-strict-v1\0\n0\n")?;
    let terms = Terms { lifetime: Some(Duration::ZERO), ..Manners::Hasty.into() };
    let attempt = MarkerLock::default().try_acquire(&place.path, terms)?;
    assert!(matches!(attempt, Attempt::Contended(_)), "{attempt:?}");
    Ok(())
}

#[test]
fn a_release_removes_its_own_marker_and_no_other() -> Checked {
    let place = Place::new()?;
    let guard = held(&place.path)?;
    MarkerLock::remove(&place.path)?;
    let successor = held(&place.path)?;
    guard.release().map_err(|error| error.error)?;
    assert!(MarkerLock::is_held_by_this_process(&place.path), "the successor's stays");
    drop(successor);
    assert!(names(&place)?.is_empty());
    Ok(())
}

#[test]
fn an_owner_whose_marker_is_aside_leaves_its_last_word_in_it() -> Checked {
    let place = Place::new()?;
    let guard = held(&place.path)?;
    let aside = beside(&place, &format!(".break.1.{HEX}"));
    fs::rename(&place.path, &aside)?;
    guard.release().map_err(|error| error.error)?;
    assert_eq!(fs::read(&aside)?, b"filelock/released\n");
    Ok(())
}

#[test]
fn a_release_finds_the_marker_in_a_folder_that_was_renamed() -> Checked {
    let place = Place::new()?;
    let folder = place.folder().join("before");
    let guard = held(&folder.join("x.lock"))?;
    let renamed = place.folder().join("after");
    fs::rename(&folder, &renamed)?;
    assert!(renamed.join("x.lock").exists());
    guard.release().map_err(|error| error.error)?;
    assert!(!renamed.join("x.lock").exists());
    Ok(())
}

#[test]
fn a_live_owners_marker_that_somebody_died_over_is_put_back() -> Checked {
    let place = Place::new()?;
    let breaker = dead_record(&place)?;
    let stranded = Record { host: "elsewhere".to_owned(), pid: 7, start: None };
    fs::write(&place.path, breaker.to_bytes())?;
    fs::write(beside(&place, &format!(".break.{}.{HEX}", breaker.pid)), stranded.to_bytes())?;
    assert!(is_held(&place.path)?);
    assert_eq!(MarkerLock::content(&place.path), Some(Content::Owned(stranded)));
    assert_eq!(names(&place)?, ["x.lock"]);
    Ok(())
}

#[test]
fn what_nobody_holds_is_not_put_back() -> Checked {
    let place = Place::new()?;
    let breaker = dead_record(&place)?;
    let strays = [breaker.to_bytes(), b"filelock/released\n".to_vec(), b"garbage\n".to_vec()];
    for stray in strays {
        fs::write(&place.path, breaker.to_bytes())?;
        fs::write(beside(&place, &format!(".break.{}.{HEX}", breaker.pid)), &stray)?;
        drop(held(&place.path)?);
        assert!(names(&place)?.is_empty(), "{}", stray.escape_ascii());
    }
    Ok(())
}

#[test]
fn what_is_no_breakers_aside_is_left_alone() -> Checked {
    let place = Place::new()?;
    let breaker = dead_record(&place)?;
    let others = [
        format!(".break.{}.{HEX}0", breaker.pid),
        format!(".break.{}.{}", breaker.pid, HEX.to_uppercase()),
        format!(".break.{}", breaker.pid),
        format!(".break.1{}.{HEX}", breaker.pid),
        format!(".restore.0.{HEX}"),
        format!(".kept.{}.{HEX}", breaker.pid),
    ];
    fs::write(&place.path, breaker.to_bytes())?;
    for other in &others {
        fs::write(beside(&place, other), "7\nelsewhere\n")?;
    }
    drop(held(&place.path)?);
    let mut expected: Vec<_> = others.iter().map(|other| format!("x.lock{other}")).collect();
    expected.sort();
    assert_eq!(names(&place)?, expected);
    Ok(())
}

#[test]
fn a_living_process_that_restores_a_marker_is_not_disturbed_and_a_dead_one_is_helped() -> Checked {
    let place = Place::new()?;
    let breaker = dead_record(&place)?;
    let stranded = Record { host: "elsewhere".to_owned(), pid: 7, start: None };
    // It lives as long as its stdin is open.
    let mut living = Command::new(std::env::current_exe()?)
        .args(worker::ARGUMENTS)
        .env(worker::VARIABLE, worker::instruction(How::NoLock))
        .env(worker::PATH_VARIABLE, &place.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let by_living = beside(&place, &format!(".restore.{}.{HEX}", living.id()));
    fs::write(&place.path, breaker.to_bytes())?;
    fs::write(&by_living, stranded.to_bytes())?;
    let was_held = is_held(&place.path)?;
    drop(living.stdin.take());
    living.wait()?;
    assert!(was_held);
    assert_eq!(fs::read(&place.path)?, breaker.to_bytes());
    fs::rename(&by_living, beside(&place, &format!(".restore.{}.{HEX}", dead_pid()?)))?;
    assert!(is_held(&place.path)?);
    assert_eq!(MarkerLock::content(&place.path), Some(Content::Owned(stranded)));
    assert_eq!(names(&place)?, ["x.lock"]);
    Ok(())
}

#[cfg(unix)]
#[test]
fn what_can_never_be_a_marker_is_refused_and_stays() -> Checked {
    use std::os::unix::fs::{FileTypeExt, symlink};

    let place = Place::new()?;
    let refused = |what: &str| match attempt(&place.path) {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Refused, "{what}: {error}");
            error.raw_os_error()
        }
        Ok(attempt) => panic!("{what}: {attempt:?}"),
    };
    symlink("nowhere", &place.path)?;
    assert_eq!(refused("a link"), Some(libc_number("ELOOP")));
    assert!(fs::symlink_metadata(&place.path)?.is_symlink());
    fs::remove_file(&place.path)?;
    fs::create_dir(&place.path)?;
    assert_eq!(refused("a folder"), Some(libc_number("EISDIR")));
    fs::remove_dir(&place.path)?;
    assert!(Command::new("mkfifo").arg(&place.path).status()?.success());
    assert_eq!(refused("a FIFO"), Some(libc_number("EINVAL")));
    assert!(fs::symlink_metadata(&place.path)?.file_type().is_fifo());
    Ok(())
}

#[cfg(unix)]
fn libc_number(name: &str) -> i32 {
    use rustix::io::Errno;

    match name {
        "ELOOP" => Errno::LOOP,
        "EISDIR" => Errno::ISDIR,
        _ => Errno::INVAL,
    }
    .raw_os_error()
}

#[cfg(unix)]
#[test]
fn nobody_else_may_write_a_marker() -> Checked {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new()?;
    for (mode, expected) in [(Some(0o666), 0o644), (Some(0o777), 0o755), (Some(0o600), 0o600)] {
        let attempt = MarkerLock::new(mode).try_acquire(&place.path, Manners::Hasty.into())?;
        assert_eq!(fs::metadata(&place.path)?.permissions().mode() & 0o7777, expected);
        drop(attempt);
    }
    let guard = held(&place.path)?;
    assert_eq!(fs::metadata(&place.path)?.permissions().mode() & 0o022, 0);
    drop(guard);
    Ok(())
}

#[test]
fn missing_folders_are_made_and_a_name_that_is_none_is_refused() -> Checked {
    let place = Place::new()?;
    let deep = place.folder().join("a/b/x.lock");
    drop(held(&deep)?);
    assert!(place.folder().join("a/b").is_dir());
    for path in ["", "/", "..", "x/"] {
        let Err(error) = attempt(Path::new(path)) else { return Err(format!("{path:?} was locked").into()) };
        assert_eq!(error.kind(), ErrorKind::Refused, "{path:?}: {error}");
    }
    Ok(())
}
