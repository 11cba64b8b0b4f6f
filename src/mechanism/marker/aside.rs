//! The names that contenders have beside a marker's.

use std::ffi::{OsStr, OsString};

use super::site::Site;
use crate::fork::ForkMutex;
use crate::mechanism::new_file::random_hex;

/// A name beside a marker's, and the process that it names.
pub(super) enum Name {
    /// Where a contender keeps what it takes.
    Break(u32),
    /// Where a contender keeps what it is about to put back for a dead one.
    Restore(u32),
}

impl Name {
    pub(super) fn parse(site: &Site, name: &OsStr) -> Option<Self> {
        // The lock's own name may be no text at all; what follows it is.
        let end = name.as_encoded_bytes().strip_prefix(site.name.as_encoded_bytes())?;
        let end = std::str::from_utf8(end).ok()?;
        let (is_break, rest) = match end.strip_prefix(".break.") {
            Some(rest) => (true, rest),
            None => (false, end.strip_prefix(".restore.")?),
        };
        let (pid, hex) = rest.split_once('.')?;
        let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != 32 || !hex.bytes().all(is_lower_hex) || !pid.bytes().all(|byte| byte.is_ascii_digit())
        {
            return None;
        }
        let pid = pid.parse().ok().filter(|pid| (1..=i32::MAX as u32).contains(pid))?;
        Some(if is_break { Self::Break(pid) } else { Self::Restore(pid) })
    }
}

/// Where the process `pid` keeps what it takes.
pub(super) fn aside_of(site: &Site, pid: u32) -> OsString {
    site.beside(&format!(".break.{pid}.{}", random_hex()))
}

/// The names beside markers that threads of this process have. An earlier process may have had our number and died
/// over a name of its own: what that has is to be recovered, these are not.
static OWN_ASIDES: ForkMutex<Vec<OsString>> = ForkMutex::new();

/// A name beside a marker's that a thread of this process has.
pub(super) struct OwnAside {
    pub(super) name: OsString,
}

impl OwnAside {
    /// For what is taken.
    pub(super) fn new(site: &Site) -> Self {
        Self::named(aside_of(site, std::process::id()))
    }

    /// For what is about to be put back for a dead one.
    pub(super) fn to_restore(site: &Site) -> Self {
        Self::named(site.beside(&format!(".restore.{}.{}", std::process::id(), random_hex())))
    }

    fn named(name: OsString) -> Self {
        OWN_ASIDES.lock().push(name.clone());
        Self { name }
    }

    pub(super) fn is_any(name: &OsStr) -> bool {
        OWN_ASIDES.lock().iter().any(|own| own == name)
    }
}

impl Drop for OwnAside {
    fn drop(&mut self) {
        OWN_ASIDES.lock().retain(|name| *name != self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_a_marker_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::open(&folder.path().join("x.lock")).unwrap();
        let hex = "0123456789abcdef0123456789abcdef";
        let parsed = |end: &str| match Name::parse(&site, OsStr::new(&format!("x.lock{end}"))) {
            Some(Name::Break(pid)) => ("break", pid),
            Some(Name::Restore(pid)) => ("restore", pid),
            None => ("nothing", 0),
        };
        assert_eq!(parsed(&format!(".break.12.{hex}")), ("break", 12));
        assert_eq!(parsed(&format!(".restore.2147483647.{hex}")), ("restore", 2_147_483_647));
        for other in [
            format!(".break.2147483648.{hex}"),
            format!(".break.0.{hex}"),
            format!(".break.+1.{hex}"),
            format!(".break..{hex}"),
            format!(".break.12.{hex}0"),
            format!(".break.12.{}", hex.to_uppercase()),
            format!(".brake.12.{hex}"),
            ".break.12".to_owned(),
            String::new(),
        ] {
            assert_eq!(parsed(&other), ("nothing", 0), "{other}");
        }
    }
}
