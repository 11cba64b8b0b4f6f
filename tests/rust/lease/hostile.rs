//! Files of others at the names of a lease's.

use std::fs;
use std::os::unix::fs::symlink;

use ferrolock::mechanism::Mode;

use super::{PATIENT, Party, SHORT_LIVED, Site, release};
use crate::support::{Checked, LONG};

/// What is at the names before.
fn hostile(site: &Site, end: &str, kind: usize) -> Checked {
    let (path, elsewhere) = (site.beside(end), site.beside(".elsewhere"));
    fs::write(&elsewhere, "precious")?;
    match kind {
        0 => symlink(&elsewhere, &path)?,
        1 => symlink(site.beside(".nowhere"), &path)?,
        2 => fs::create_dir(&path)?,
        3 => assert!(std::process::Command::new("mkfifo").arg(&path).status()?.success()),
        4 => fs::write(&path, vec![b'x'; 10 << 20])?,
        5 => fs::write(&path, b"\0\xff\n1\n")?,
        _ => fs::write(&path, "")?,
    }
    Ok(())
}

const KINDS: usize = 7;

#[test]
fn what_stands_at_a_markers_name_is_never_followed_and_never_hangs() -> Checked {
    for end in [".write", ".state"] {
        for kind in 0..KINDS {
            let site = Site::new()?;
            hostile(&site, end, kind)?;
            let party = Party::new(&site.path, SHORT_LIVED);
            let got = party.within(Mode::Exclusive, LONG);
            // No file is refused; a file that says nothing is a dead contender's in the end.
            let is_file = kind >= 4;
            assert_eq!(got.is_ok(), is_file, "{end} {kind}: {:?}", got.err().map(|error| error.to_string()));
            assert!(got.map_or(true, |guard| guard.is_some()), "{end} {kind}: kept out");
            assert_eq!(fs::read(site.beside(".elsewhere"))?, b"precious", "{end} {kind}");
            assert!(!site.beside(".nowhere").exists(), "{end} {kind}");
        }
    }
    Ok(())
}

#[test]
fn what_stands_among_the_readers_is_no_reader_or_becomes_stale() -> Checked {
    for kind in 0..KINDS {
        let site = Site::new()?;
        fs::create_dir(site.beside(".readers"))?;
        hostile(&site, ".readers/0123456789abcdef0123456789abcdef.1", kind)?;
        hostile(&site, ".readers/.writer.0123456789abcdef0123456789abcdef", kind)?;
        let party = Party::new(&site.path, SHORT_LIVED);
        for mode in [Mode::Exclusive, Mode::Shared] {
            release(party.hold(mode)?)?;
        }
        assert_eq!(fs::read(site.beside(".elsewhere"))?, b"precious", "{kind}");
        assert!(!site.beside(".nowhere").exists(), "{kind}");
    }
    Ok(())
}

#[test]
fn the_folder_of_readers_is_no_link() -> Checked {
    let site = Site::new()?;
    let elsewhere = site.beside(".elsewhere");
    fs::create_dir(&elsewhere)?;
    std::os::unix::fs::symlink(&elsewhere, site.beside(".readers"))?;
    let party = Party::new(&site.path, PATIENT);
    for mode in [Mode::Shared, Mode::Exclusive] {
        let error = party.once(mode).err().ok_or("it went through a link")?;
        let error = error.downcast::<ferrolock::Error>()?;
        assert_eq!(error.kind(), ferrolock::ErrorKind::Refused);
    }
    assert_eq!(fs::read_dir(elsewhere)?.count(), 0);
    Ok(())
}

#[test]
fn an_attempt_that_fails_says_why() -> Checked {
    let site = Site::new()?;
    fs::write(&site.path, "no folder")?;
    let party = Party::new(&site.path.join("x.lock"), PATIENT);
    for mode in [Mode::Exclusive, Mode::Shared] {
        let error = party.once(mode).expect_err("there can be no such file");
        let error = error.downcast::<ferrolock::Error>()?;
        assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR), "{error}");
    }
    Ok(())
}
