//! Linux: what the list of mounts says about a file system's locks.

use std::fs;

use rustix::fs::{major, minor};

use super::{FileId, Mount};

/// Options by which a network file system keeps its locks to itself: NFS, old NFS, Lustre.
const LOCAL: [&str; 4] = ["local_lock=flock", "local_lock=all", "nolock", "localflock"];

/// The mount of `file`, if its locks are honoured on this host only.
pub(crate) fn locks_of_this_host_only(file: FileId) -> Option<Mount> {
    local_locks(&fs::read_to_string("/proc/self/mountinfo").ok()?, file)
}

/// Looks for the device in lines like
/// `36 35 0:45 / /home rw,relatime shared:1 - nfs server:/home rw,vers=3,nolock,local_lock=none`.
fn local_locks(mounts: &str, file: FileId) -> Option<Mount> {
    let device = format!("{}:{}", major(file.device), minor(file.device));
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        if fields.next() != Some(&device) {
            return None;
        }
        let point = fields.nth(1)?;
        let options = file_system.split(' ').nth(2)?;
        let option = options.split(',').find(|option| LOCAL.contains(option))?;
        Some(Mount { point: unescaped(point), option: option.to_owned() })
    })
}

/// Spaces and the like are written as three octal digits behind a backslash.
fn unescaped(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (escaped, character)| text.replace(escaped, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
36 25 0:45 / /mnt/my\\040home rw shared:2 - nfs server:/home rw,vers=3,nolock,local_lock=none
37 25 0:46 / /mnt/a rw - nfs4 server:/a rw,vers=4.2,local_lock=posix,addr=10.0.0.1
38 25 0:47 / /mnt/b rw - lustre mgs:/b rw,localflock
39 25 0:48 / /mnt/c rw - nfs server:/c rw,local_lock=all
";

    #[test]
    fn mounts_that_keep_locks_to_this_host_are_named() {
        let on = |minor| {
            let id = FileId { device: rustix::fs::makedev(0, minor), inode: 1 };
            local_locks(MOUNTS, id).map(|mount| (mount.point, mount.option))
        };
        assert_eq!(on(45), Some(("/mnt/my home".to_owned(), "nolock".to_owned())));
        assert_eq!(on(46), None, "flock goes to the server");
        assert_eq!(on(47), Some(("/mnt/b".to_owned(), "localflock".to_owned())));
        assert_eq!(on(48), Some(("/mnt/c".to_owned(), "local_lock=all".to_owned())));
        assert_eq!(on(49), None, "not in the list");
        assert_eq!(local_locks("garbage\n - \n1 2 0:45", FileId { device: 45, inode: 1 }).map(|_| ()), None);
    }
}
