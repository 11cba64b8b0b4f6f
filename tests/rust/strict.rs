//! Laws of strict locks: who is kept out by what, and what is left for whom to clear.

use std::fs;
use std::path::{Path, PathBuf};

use ferrolock::ErrorKind;
use ferrolock::mechanism::{
    Attempt, ClaimState, Guard, Holder, Manners, MarkerLock, Mechanism, StrictClaim, StrictLock,
};

use crate::contender::{Cast, How, Kind};
#[cfg(target_os = "linux")]
use crate::support::descriptors_on;
use crate::support::{Checked, Place};

const SENTINEL: &[u8] = b"1\nfilelock-strict-v1\0\n0\n";

fn attempt(mechanism: &dyn Mechanism, path: &Path) -> Result<Option<Box<dyn Guard>>, ferrolock::Error> {
    match mechanism.try_acquire(path, Manners::Hasty.into())? {
        Attempt::Acquired(guard) => Ok(Some(guard)),
        Attempt::Contended(_) | Attempt::Interrupted => Ok(None),
    }
}

fn strict(place: &Place) -> Result<Option<Box<dyn Guard>>, ferrolock::Error> {
    attempt(&StrictLock::default(), &place.path)
}

fn held(place: &Place) -> Checked<Box<dyn Guard>> {
    Ok(strict(place)?.ok_or("not acquired")?)
}

fn refusal(place: &Place) -> Checked<ferrolock::Error> {
    match strict(place) {
        Err(error) => Ok(error),
        Ok(_) => Err("it is not refused".into()),
    }
}

fn claims_folder(place: &Place) -> PathBuf {
    place.folder().join("x.lock.filelock").join("claims")
}

fn names(folder: &Path) -> Checked<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn release(guard: Box<dyn Guard>) -> Checked {
    Ok(guard.release().map_err(|error| error.error)?)
}

/// The claims of a process that was killed with the lock.
fn left_by_a_dead_one(cast: &Cast) -> Checked<Vec<StrictClaim>> {
    let mut holder = cast.contender()?;
    holder.must("acquire once", "acquired")?;
    holder.die()?;
    Ok(StrictLock::claims(&cast.place.path)?)
}

#[test]
fn a_holder_has_two_claims_that_name_it_and_takes_them_along() -> Checked {
    let place = Place::new()?;
    assert_eq!(StrictLock::claims(&place.path)?, []);
    assert_eq!(names(place.folder())?, [""; 0], "asking makes nothing");
    let guard = held(&place)?;
    let claims = StrictLock::claims(&place.path)?;
    let [first, second] = &claims[..] else { return Err(format!("{claims:?}").into()) };
    assert_eq!((first.state, second.state), (ClaimState::Held, ClaimState::Intent));
    assert_eq!((&first.token, &first.owner), (&second.token, &second.owner));
    assert_eq!(first.owner.pid, std::process::id());
    assert_eq!(names(&claims_folder(&place))?, [first.name.clone(), second.name.clone()]);
    assert_eq!(fs::read(&place.path)?, SENTINEL);
    release(guard)?;
    assert_eq!(names(&claims_folder(&place))?, [""; 0]);
    assert_eq!(names(place.folder())?, ["x.lock", "x.lock.filelock"]);
    drop(held(&place)?);
    assert_eq!(names(&claims_folder(&place))?, [""; 0], "a guard that is dropped leaves none either");
    Ok(())
}

#[test]
fn a_strict_lock_and_a_soft_lock_exclude_each_other() -> Checked {
    let place = Place::new()?;
    let soft = MarkerLock::default();
    let marker = attempt(&soft, &place.path)?.ok_or("nobody has it")?;
    assert!(strict(&place)?.is_none());
    let what = StrictLock::occupant(&place.path)?.unwrap_or_default();
    assert!(what.contains(&format!("held by process {}", std::process::id())), "{what}");
    release(marker)?;
    let guard = held(&place)?;
    assert!(attempt(&soft, &place.path)?.is_none());
    release(guard)?;
    assert!(attempt(&soft, &place.path)?.is_none(), "the path is a strict lock's for good");
    assert_eq!(StrictLock::occupant(&place.path)?, None);
    Ok(())
}

#[test]
fn the_claim_of_a_dead_one_keeps_everybody_out_until_it_is_removed_by_hand() -> Checked {
    let cast = Cast::new(Kind::Processes, How::Strict)?;
    let path = &cast.place.path;
    let claims = left_by_a_dead_one(&cast)?;
    let pid = claims.first().ok_or("no claim is left")?.owner.pid;
    assert_eq!(StrictLock::default().holder(path), Some(Holder::Gone { pid }));
    for claim in &claims {
        assert!(strict(&cast.place)?.is_none());
        assert!(StrictLock::force_break(path, claim.name.as_ref())?);
        assert!(!StrictLock::force_break(path, claim.name.as_ref())?, "it is gone");
    }
    assert_eq!(claims.len(), 2);
    release(held(&cast.place)?)
}

#[test]
fn a_release_that_fails_leaves_the_lock_held_as_long_as_it_excludes() -> Checked {
    let place = Place::new()?;
    let (folder, guard) = (claims_folder(&place), held(&place)?);
    let [held_name, intent_name] = &names(&folder)?[..] else { return Err("two names".into()) };
    // What is no file cannot be removed as one.
    let spoil = |name: &str| -> Checked {
        fs::remove_file(folder.join(name))?;
        Ok(fs::create_dir(folder.join(name))?)
    };
    spoil(held_name)?;
    let failed = guard.release().err().ok_or("it is released")?;
    assert_eq!(failed.error.kind(), ErrorKind::Io);
    let guard = failed.guard.ok_or("it is still held")?;
    fs::remove_dir(folder.join(held_name))?;
    spoil(intent_name)?;
    let failed = guard.release().err().ok_or("it is released")?;
    assert!(failed.guard.is_none(), "a smaller token can win by now");
    fs::remove_dir(folder.join(intent_name))?;
    release(held(&place)?)
}

#[test]
fn a_claim_that_could_not_be_withdrawn_is_withdrawn_by_the_next_attempt() -> Checked {
    let place = Place::new()?;
    let (folder, guard) = (claims_folder(&place), held(&place)?);
    let [_, intent_name] = &names(&folder)?[..] else { return Err("two names".into()) };
    let (intent, kept) = (folder.join(intent_name), place.folder().join("kept"));
    fs::rename(&intent, &kept)?;
    fs::create_dir(&intent)?;
    assert!(guard.release().is_err());
    fs::remove_dir(&intent)?;
    fs::rename(&kept, &intent)?;
    let guard = held(&place)?;
    assert!(!names(&folder)?.contains(intent_name));
    release(guard)
}

/// There may be many, each in a folder of its own, and nobody who ever comes back to it.
#[cfg(target_os = "linux")]
#[test]
fn a_claim_that_could_not_be_withdrawn_keeps_nothing_open() -> Checked {
    let place = Place::new()?;
    let (folder, guard) = (claims_folder(&place), held(&place)?);
    let [_, intent_name] = &names(&folder)?[..] else { return Err("two names".into()) };
    fs::remove_file(folder.join(intent_name))?;
    fs::create_dir(folder.join(intent_name))?;
    assert!(guard.release().is_err());
    assert!(refusal(&place).is_ok(), "it is tried again, in vain");
    assert_eq!(descriptors_on(&folder)?, 0);
    fs::remove_dir(folder.join(intent_name))?;
    release(held(&place)?)
}

#[test]
fn what_is_no_claim_stops_everybody_and_is_named() -> Checked {
    let token = "0123456789abcdef0123456789abcdef";
    let name = format!("held-v1-{token}.claim");
    let others = [
        ("garbage".to_owned(), Vec::new()),
        (format!("held-v2-{token}.claim"), Vec::new()),
        (name.clone(), Vec::new()),
        (name.clone(), vec![b'x'; 100_000]),
        (name.clone(), format!("filelock-strict-v1\n{}\n1\n766d\n\n", "0".repeat(32)).into_bytes()),
    ];
    for (name, bytes) in others {
        let place = Place::new()?;
        release(held(&place)?)?;
        let file = claims_folder(&place).join(&name);
        fs::write(&file, bytes)?;
        let refused = refusal(&place)?;
        assert_eq!((refused.kind(), refused.name()), (ErrorKind::Protocol, Some(&*name)), "{refused}");
        assert_eq!(
            StrictLock::claims(&place.path).err().map(|error| error.kind()),
            Some(ErrorKind::Protocol)
        );
        assert!(StrictLock::force_break(&place.path, name.as_ref())?);
        assert!(strict(&place)?.is_some());
    }
    Ok(())
}

#[test]
fn a_soft_lock_that_a_dead_one_left_is_nobodys_to_take() -> Checked {
    let cast = Cast::new(Kind::Processes, How::Marker)?;
    let mut holder = cast.contender()?;
    holder.must("acquire once", "acquired")?;
    holder.die()?;
    let before = fs::read(&cast.place.path)?;
    let refused = refusal(&cast.place)?;
    assert_eq!(refused.kind(), ErrorKind::Protocol);
    assert!(refused.to_string().contains("which has ended"), "{refused}");
    assert_eq!(fs::read(&cast.place.path)?, before);
    // A soft lock takes it over, and leaves the path free.
    release(attempt(&MarkerLock::default(), &cast.place.path)?.ok_or("not taken over")?)?;
    release(held(&cast.place)?)
}

#[test]
fn what_a_contender_that_died_has_left_on_its_way_is_cleared() -> Checked {
    let place = Place::new()?;
    release(held(&place)?)?;
    let folder = claims_folder(&place);
    let token = "0123456789abcdef0123456789abcdef";
    let private = format!(".intent-v1-{token}.claim.private-v1-{token}.tmp");
    let make = |folder: &Path, name: &str, is_old: bool| -> Checked {
        let file = fs::File::create(folder.join(name))?;
        let age = std::time::Duration::from_secs(if is_old { 10 } else { 0 });
        let modified = file.metadata()?.modified()? - age;
        Ok(file.set_modified(modified)?)
    };
    make(&folder, &private, true)?;
    make(&folder, ".probe-v1-00000000000000000000000000000000.tmp", false)?;
    make(&folder, ".probe-v1-11111111111111111111111111111111.tmp", false)?;
    fs::hard_link(
        folder.join(".probe-v1-11111111111111111111111111111111.tmp"),
        place.folder().join("another name"),
    )?;
    make(&folder, ".other", true)?;
    release(held(&place)?)?;
    assert_eq!(names(&folder)?, [".other", ".probe-v1-00000000000000000000000000000000.tmp"]);
    make(place.folder(), &format!(".x.lock.private-v1-{token}.tmp"), true)?;
    make(place.folder(), &format!(".y.lock.private-v1-{token}.tmp"), true)?;
    fs::remove_file(&place.path)?;
    release(held(&place)?)?;
    let left = [&*format!(".y.lock.private-v1-{token}.tmp"), "another name", "x.lock", "x.lock.filelock"];
    assert_eq!(names(place.folder())?, left);
    Ok(())
}

#[cfg(unix)]
#[test]
fn the_folders_are_their_owners_to_clear() -> Checked {
    use std::os::unix::fs::PermissionsExt;

    let mode = |path: &Path| -> Checked<u32> { Ok(fs::metadata(path)?.permissions().mode() & 0o7777) };
    let place = Place::new()?;
    let guard = attempt(&StrictLock::new(Some(0o600)), &place.path)?.ok_or("not acquired")?;
    let folder = claims_folder(&place);
    for name in names(&folder)? {
        assert_eq!(mode(&folder.join(name))?, 0o600);
    }
    assert_eq!(mode(&place.path)?, 0o600);
    assert_eq!((mode(&folder)?, mode(&place.folder().join("x.lock.filelock"))?), (0o1700, 0o1700));
    release(guard)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775))?;
    release(held(&place)?)?;
    assert_eq!(mode(&folder)?, 0o3775, "what it is not asked to restrict stays");
    release(attempt(&StrictLock::new(Some(0o640)), &place.path)?.ok_or("not acquired")?)?;
    assert_eq!(mode(&folder)?, 0o3750);
    Ok(())
}

#[cfg(unix)]
#[test]
fn what_is_no_folder_is_refused_where_the_folders_should_be() -> Checked {
    for name in ["x.lock.filelock", "x.lock.filelock/claims"] {
        for is_link in [false, true] {
            let place = Place::new()?;
            let odd = place.folder().join(name);
            fs::create_dir_all(odd.parent().ok_or("a parent")?)?;
            fs::create_dir(place.folder().join("folder"))?;
            if is_link {
                std::os::unix::fs::symlink(place.folder().join("folder"), &odd)?;
            } else {
                fs::write(&odd, "")?;
            }
            let refused = refusal(&place)?;
            assert_eq!(refused.kind(), ErrorKind::Protocol, "{refused}");
            assert_eq!(names(&place.folder().join("folder"))?, [""; 0]);
            assert!(!place.path.exists(), "nothing is left that keeps soft locks out");
        }
    }
    Ok(())
}
