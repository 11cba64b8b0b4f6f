//! Taking `x.write` away, a name that others use again.

use std::io;

use super::rooms::{Look, Rooms, look};
use super::seam::{Step, reach};
use crate::mechanism::new_file::random_hex;
use crate::sys::{self, names};

/// How often a step is tried that the file system says nothing certain of.
const ROUNDS: usize = 4;

/// Takes `x.write` away, if it says `bytes`.
///
/// By a rename, and a look at what came out: since the last look it may have become a successor's, whose marker is put back.
/// Meanwhile that one has no `x.write`; those of ours see its claim in the folder of readers all the same.
pub(super) fn take_write_away(rooms: &Rooms, bytes: &[u8]) -> io::Result<()> {
    let at = rooms.write()?;
    // "Not there" can be wrong once.
    match again(|| found(look(at)?)) {
        Ok(Some(there)) if there == bytes => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => return Ok(()),
    }
    reach(Step::Taking);
    let mut aside = rooms.write.clone();
    aside.push(format!(".break.{}.{}", std::process::id(), random_hex()));
    match names::rename(at, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    reach(Step::Aside);
    let aside = rooms.state.named(&aside)?;
    // Nobody comes back for it: a moment of trouble must not leave it, or take another's for one's own.
    match again(|| found(look(aside)?)) {
        Ok(Some(aside)) if aside == bytes => {}
        // If somebody is there by now, its owner's claim in the folder is what is left of it; filelock's owner is told by
        // its heartbeat.
        Ok(_) => drop(again(|| names::link(aside, &rooms.write))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    again(|| names::remove(aside))
}

/// What stands there, if it is a marker; nothing there is an error.
fn found(look: Look) -> io::Result<Option<Vec<u8>>> {
    match look {
        Look::Marker(marker) => Ok(Some(marker.bytes)),
        Look::NoFile => Ok(None),
        Look::Nothing => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Does `step` until the file system says something that lasts, or has said often enough that it does not.
pub(super) fn again<T>(mut step: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..ROUNDS {
        match step() {
            Err(error) if is_passing(&error) => {}
            done => return done,
        }
    }
    step()
}

fn is_passing(error: &io::Error) -> bool {
    sys::is_transient(error) || error.kind() == io::ErrorKind::NotFound
}
