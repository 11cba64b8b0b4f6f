//! Linux: a mark that a forked child finds wiped off, so that looking for it takes no system call.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// The mark: the number of the process that made it, or 0. In a page of its own, if the kernel gives one that it
/// empties in every child; otherwise a child finds its parent's number, and has to compare.
static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
static NUMBER: AtomicU32 = AtomicU32::new(0);

const SIZE: usize = size_of::<AtomicU32>();

/// Whether this process, and not an ancestor of it, was the last to call [`mark_process`].
pub(crate) fn is_process_marked() -> bool {
    match page() {
        Some(mark) => mark.load(Ordering::Relaxed) != 0,
        None => NUMBER.load(Ordering::Relaxed) == std::process::id(),
    }
}

/// Marks this process; `false`: it was marked already. The first call must be over before there is another.
pub(crate) fn mark_process() -> bool {
    if PAGE.load(Ordering::Acquire).is_null() {
        PAGE.store(map_page(), Ordering::Release);
    }
    let own = std::process::id();
    page().unwrap_or(&NUMBER).swap(own, Ordering::Relaxed) != own
}

/// The number of this process. Where it is marked, its mark is that number, and the operating system need not be asked.
pub(crate) fn own_pid() -> u32 {
    match page().map(|mark| mark.load(Ordering::Relaxed)) {
        Some(marked) if marked != 0 => marked,
        Some(_) | None => std::process::id(),
    }
}

#[expect(unsafe_code, reason = "a pointer to a page of memory")]
fn page() -> Option<&'static AtomicU32> {
    // SAFETY: null, or a page from `map_page`: aligned, readable and writable, never unmapped, and used through this
    // reference only.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

#[expect(unsafe_code, reason = "mmap and madvise are about memory")]
fn map_page() -> *mut AtomicU32 {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new anonymous mapping, at an address that the kernel chooses, overlaps with no other memory.
    let mapped = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), SIZE, access, MapFlags::PRIVATE) };
    let Ok(page) = mapped else { return ptr::null_mut() };
    // SAFETY: the mapping is ours, and nobody knows it yet; the kernel rounds its length up to the page.
    let wiped = unsafe { rustix::mm::madvise(page, SIZE, Advice::LinuxWipeOnFork) };
    if wiped.is_ok() {
        return page.cast();
    }
    // Before Linux 4.14.
    // SAFETY: the mapping is ours, and nobody has a pointer into it.
    let _kept = unsafe { rustix::mm::munmap(page, SIZE) };
    ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gives_a_page_that_a_child_finds_empty() {
        let page = map_page();
        assert!(!page.is_null());
        assert_eq!(page.align_offset(align_of::<AtomicU32>()), 0);
    }
}
