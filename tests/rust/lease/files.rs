//! The files of a lease: their names, bytes and modes.

use std::fs;
use std::time::Duration;

use ferrolock::mechanism::Mode;
use ferrolock::record::Content;

use super::{Site, release};
use crate::support::Checked;

#[test]
fn the_files_are_filelocks_while_held_and_the_folder_stays() -> Checked {
    let site = Site::new()?;
    let party = site.party();
    let reader = party.hold(Mode::Shared)?;
    let names = site.names()?;
    assert_eq!(names.len(), 2, "{names:?}");
    let (hex, pid) = names[0][1..].split_once('.').ok_or("a uuid and a pid")?;
    assert!(hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hex}");
    assert_eq!(pid, std::process::id().to_string());
    assert_eq!(names[1], "x.lock.readers");
    release(reader)?;
    assert_eq!(site.names()?, ["x.lock.readers"]);
    let writer = party.hold(Mode::Exclusive)?;
    let names = site.names()?;
    assert_eq!(names[2..], ["x.lock.readers", "x.lock.write"]);
    assert!(names[..2].iter().all(|name| name.starts_with("/.")), "filelock passes over dots: {names:?}");
    release(writer)?;
    assert_eq!(site.names()?, ["/.generation.1", "x.lock.readers"]);
    Ok(())
}

#[test]
fn a_marker_says_a_token_the_process_and_one_word() -> Checked {
    let site = Site::new()?;
    let party = site.party();
    let writer = party.hold(Mode::Exclusive)?;
    let text = fs::read_to_string(site.beside(".write"))?;
    let lines: Vec<_> = text.split('\n').collect();
    assert_eq!(lines.len(), 4, "{text:?}");
    assert!(lines[0].len() == 32 && lines[0].bytes().all(|byte| byte.is_ascii_hexdigit()), "{text:?}");
    assert_eq!(lines[1], std::process::id().to_string());
    assert!(lines[2].len() <= 253 && lines[2].bytes().all(|byte| (0x21..=0x7E).contains(&byte)), "{text:?}");
    assert!(lines[2].contains("?lease-20000-5000"), "{text:?}");
    assert_eq!(fs::read(&site.claims()?[0])?, text.as_bytes());
    release(writer)
}

#[cfg(unix)]
#[test]
fn only_the_user_can_read_and_write_them() -> Checked {
    use std::os::unix::fs::PermissionsExt;

    let site = Site::new()?;
    let party = site.party();
    let mode =
        |path: &std::path::Path| -> Checked<u32> { Ok(fs::metadata(path)?.permissions().mode() & 0o777) };
    let reader = party.hold(Mode::Shared)?;
    assert_eq!(mode(&site.beside(".readers"))?, 0o700);
    assert_eq!(mode(&site.readers()?[0])?, 0o600);
    release(reader)?;
    let writer = party.hold(Mode::Exclusive)?;
    assert_eq!(mode(&site.beside(".write"))?, 0o600);
    release(writer)
}

/// A marker of a transition that is not over belongs to a soft lock as filelock has it.
#[test]
fn a_transition_of_a_living_process_is_waited_for() -> Checked {
    let site = Site::new()?;
    fs::write(site.beside(".state"), format!("{}\nelsewhere\n", std::process::id()))?;
    let party = site.party();
    for mode in [Mode::Shared, Mode::Exclusive] {
        assert!(party.within(mode, Duration::from_millis(60))?.is_none());
    }
    let names = site.names()?;
    assert_eq!(names, ["x.lock.readers", "x.lock.state"]);
    let content = Content::parse(&fs::read(site.beside(".state"))?);
    assert!(matches!(content, Content::Owned(record) if record.host == "elsewhere"));
    fs::remove_file(site.beside(".state"))?;
    assert!(party.once(Mode::Shared)?.is_some());
    Ok(())
}
