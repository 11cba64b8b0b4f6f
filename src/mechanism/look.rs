//! What stands at a name, by opening it: NFS may know an old answer of `stat`.

use std::io::{self, Read};

use crate::fork::Tracked;
use crate::record::LONGEST;
use crate::sys::{self, At, Kind, Stamp, names};

/// What stands at a name.
#[derive(Debug)]
pub(super) enum Look {
    Nothing,
    /// A link, a folder, a FIFO, a device: never a marker.
    NoFile,
    Marker(Marker),
}

/// A file at the name of a marker, whatever it says.
#[derive(Debug)]
pub(super) struct Marker {
    pub(super) bytes: Vec<u8>,
    pub(super) stamp: Stamp,
}

/// How often a name is looked at again, because what seemed to be there is gone.
const LOOKS: usize = 4;

/// Opens and reads what stands at the name.
pub(super) fn look(at: At<'_>) -> io::Result<Look> {
    let mut round = 0;
    loop {
        round += 1;
        match look_once(at) {
            Err(error) if names::is_stale(&error) && round < LOOKS => {
                names::forget(at);
            }
            looked => return looked,
        }
    }
}

fn look_once(at: At<'_>) -> io::Result<Look> {
    let tracked = match Tracked::open(|| names::open_to_read(at)) {
        Ok(tracked) => tracked,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Nothing),
        Err(error) => {
            let is_other = names::look(at)?.is_some_and(|stamp| stamp.kind != Kind::Regular);
            return if is_other { Ok(Look::NoFile) } else { Err(error) };
        }
    };
    let stamp = *tracked.stamp();
    if stamp.kind != Kind::Regular {
        return Ok(Look::NoFile);
    }
    Ok(Look::Marker(Marker { bytes: read(&tracked)?, stamp }))
}

/// What the file of a marker says, or more than any marker does. Whatever is written after it was opened makes another stamp.
///
/// # Errors
/// `StaleNetworkFileHandle`: another machine has removed it.
pub(super) fn read(marker: &Tracked) -> io::Result<Vec<u8>> {
    let (file, stamp) = (marker.own_file()?, marker.stamp());
    let is_local = sys::is_known_local(file, stamp.id);
    // What this machine says of the length is true at that moment, and spares a call that finds the end.
    let end = if is_local { stamp.size } else { u64::MAX };
    let mut bytes = Vec::with_capacity(256);
    file.take(end.min(LONGEST as u64 + 1)).read_to_end(&mut bytes).map_err(names::of_open_file)?;
    if !is_local {
        names::check_with_server(file)?;
    }
    Ok(bytes)
}

impl Marker {
    /// Whether nothing was written, refreshed or replaced between the two looks.
    pub(super) fn is_still(&self, later: &Self) -> bool {
        self.bytes == later.bytes && self.stamp.is_same_content(&later.stamp)
    }
}
