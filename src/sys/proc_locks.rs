//! Linux: `/proc/locks`, the kernel's list of file locks.

use std::fs;

use rustix::fs::{major, minor};

use super::FileId;

/// The process that took the `flock` on `file`, if it is in this process's PID namespace.
pub(crate) fn possible_holder(file: FileId) -> Option<u32> {
    flock_holder(&fs::read_to_string("/proc/locks").ok()?, file)
}

/// Finds the holder in lines like `1: FLOCK  ADVISORY  WRITE 2837 fe:00:10010643 0 EOF`
/// (device numbers in hexadecimal, the inode in decimal; waiters have `->` before the kind).
fn flock_holder(locks: &str, file: FileId) -> Option<u32> {
    let wanted = format!("{:02x}:{:02x}:{}", major(file.device), minor(file.device), file.inode);
    locks.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next() != Some("FLOCK") {
            return None;
        }
        let pid = fields.nth(2)?;
        if fields.next() != Some(wanted.as_str()) {
            return None;
        }
        // 0 and -1 stand for processes that have no number here.
        pid.parse().ok().filter(|&pid| pid > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF
2: FLOCK  ADVISORY  WRITE 2837 fe:00:77 0 EOF
2: -> FLOCK  ADVISORY  WRITE 3000 fe:00:77 0 EOF
3: FLOCK  ADVISORY  WRITE 0 fe:00:78 0 EOF
4: OFDLCK ADVISORY  READ  -1 fe:00:79 0 EOF
";

    #[test]
    fn the_holder_of_the_flock_is_named_and_nobody_else() {
        let file = |inode| FileId { device: rustix::fs::makedev(0xfe, 0), inode };
        assert_eq!(flock_holder(LOCKS, file(77)), Some(2837));
        assert_eq!(flock_holder(LOCKS, file(78)), None, "outside this PID namespace");
        assert_eq!(flock_holder(LOCKS, file(79)), None, "no flock");
        assert_eq!(flock_holder(LOCKS, file(7)), None, "another inode");
        assert_eq!(flock_holder("garbage\n\n1: FLOCK", file(77)), None);
    }
}
