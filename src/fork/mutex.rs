//! A mutex, and in it state that a forked child finds fresh.

use once_cell::race::OnceBox;
use parking_lot::lock_api::{Mutex, MutexGuard};

use super::generation;
use crate::sys::SpinLock;

/// A mutex whose content a forked child finds as `T::default()`, and unlocked.
///
/// At a fork another thread may hold the mutex, or have half changed the content, and it will never
/// come to finish in the child. So the child leaks the inherited node and makes a new one.
///
/// The sections it guards are a few instructions long and call nothing that blocks. A contender
/// therefore spins and yields, and never parks: the table of parked threads is one for the whole
/// process, and a fork can copy it in the middle of a change.
#[derive(Debug)]
pub struct ForkMutex<T> {
    /// Made when the mutex is first locked, by a cell that never blocks: a fork at that moment leaves nothing half done.
    first: OnceBox<Node<T>>,
}

#[derive(Debug)]
struct Node<T> {
    generation: u64,
    content: Mutex<SpinLock, T>,
    /// That of the next generation in which this object was used.
    successor: OnceBox<Node<T>>,
}

impl<T: Default> Node<T> {
    fn new() -> Self {
        Self { generation: generation(), content: Mutex::new(T::default()), successor: OnceBox::new() }
    }
}

impl<T> Default for ForkMutex<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> ForkMutex<T> {
    /// A mutex of a content that is made when it is first locked.
    #[must_use]
    pub const fn new() -> Self {
        Self { first: OnceBox::new() }
    }

    /// Whether it was never locked: its content is what a new one has.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.first.get().is_none()
    }
}

impl<T: Default> ForkMutex<T> {
    /// Locks it, for a few instructions that call nothing.
    pub fn lock(&self) -> MutexGuard<'_, SpinLock, T> {
        let now = generation();
        let mut node = self.first.get_or_init(|| Box::new(Node::new()));
        while node.generation != now {
            node = node.successor.get_or_init(|| Box::new(Node::new()));
        }
        node.content.lock()
    }
}

impl<T> Drop for ForkMutex<T> {
    fn drop(&mut self) {
        let is_inherited = |node: &Node<T>| node.generation != generation();
        if self.first.get().is_some_and(is_inherited) {
            // Dropping a content that another thread may have half changed is not safe.
            std::mem::forget(std::mem::take(&mut self.first));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_mutex_excludes() {
        let counter = ForkMutex::<u64>::new();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let mut count = counter.lock();
                        let seen = *count;
                        std::hint::black_box(&count);
                        *count = seen + 1;
                    }
                });
            }
        });
        assert_eq!(*counter.lock(), 8000);
    }
}
