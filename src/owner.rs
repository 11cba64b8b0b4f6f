//! Who asks for a lock inside this process: a thread, or a greenlet where threads are patched.

use std::cell::{OnceCell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::fork::ForkMutex;

/// An owner's name, never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerId(u64);

impl OwnerId {
    /// The calling thread.
    #[must_use]
    pub fn current_thread() -> Self {
        // A thread that is running its last destructors has no name any more; all such share one that
        // no living thread has.
        THREAD.try_with(|thread| thread.get_or_init(Thread::new).id).unwrap_or(Self(0))
    }

    /// An owner that is no thread, such as a greenlet: another one at each call.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Says that the calling thread counts as exited while `token` is dead.
    ///
    /// For an embedding whose threads end before the operating system's do: who has joined a Python thread
    /// may find it still running its last destructors. A thread may be given another token later.
    pub fn thread_lives_as(token: &Weak<()>) {
        // Where the thread has no name any more, it is past caring.
        let _unnamed = THREAD.try_with(|thread| {
            let thread = thread.get_or_init(Thread::new);
            *thread.token.borrow_mut() = Some(token.clone());
            *thread.life.token.lock() = Some(token.clone());
        });
    }

    /// Whether [`OwnerId::thread_lives_as`] was called on this thread, with a token that is still alive.
    #[must_use]
    pub fn thread_has_token() -> bool {
        let is_alive = |token: &Weak<()>| token.strong_count() > 0;
        let has_token = |thread: &Thread| thread.token.borrow().as_ref().is_some_and(is_alive);
        THREAD.try_with(|thread| thread.get().is_some_and(has_token)).unwrap_or(true)
    }
}

/// Tells whether the thread that took a hold still runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Liveness(Option<Weak<Life>>);

impl Liveness {
    /// That of `owner` where it is the calling thread; any other kind of owner counts as alive for ever.
    pub(crate) fn of(owner: OwnerId) -> Self {
        let life = THREAD.try_with(|thread| {
            let thread = thread.get_or_init(Thread::new);
            (thread.id == owner).then(|| Arc::downgrade(&thread.life))
        });
        Self(life.ok().flatten())
    }

    pub(crate) fn has_exited(&self) -> bool {
        let Some(life) = &self.0 else { return false };
        let Some(life) = life.upgrade() else { return true };
        let token = life.token.lock();
        token.as_ref().is_some_and(|token| token.strong_count() == 0)
    }
}

/// Ends with its thread.
#[derive(Debug)]
struct Life {
    /// What the embedding said.
    token: ForkMutex<Option<Weak<()>>>,
}

struct Thread {
    id: OwnerId,
    life: Arc<Life>,
    /// The token in `life`, for the thread itself to look at.
    token: RefCell<Option<Weak<()>>>,
}

impl Thread {
    fn new() -> Self {
        let life = Arc::new(Life { token: ForkMutex::new() });
        Self { id: OwnerId::unique(), life, token: RefCell::new(None) }
    }
}

thread_local! {
    static THREAD: OnceCell<Thread> = const { OnceCell::new() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_is_another_owner_and_is_known_to_have_exited() {
        let here = OwnerId::current_thread();
        assert_eq!(here, OwnerId::current_thread());
        let (there, liveness) = std::thread::spawn(|| {
            let owner = OwnerId::current_thread();
            (owner, Liveness::of(owner))
        })
        .join()
        .expect("the thread only reads its own name");
        assert_ne!(here, there);
        assert!(liveness.has_exited());
        assert!(!Liveness::of(here).has_exited());
    }

    #[test]
    fn a_thread_can_count_as_exited_before_it_has() {
        let token = Arc::new(());
        std::thread::spawn(move || {
            OwnerId::thread_lives_as(&Arc::downgrade(&token));
            let liveness = Liveness::of(OwnerId::current_thread());
            assert!(!liveness.has_exited());
            drop(token);
            assert!(liveness.has_exited());
            let token = Arc::new(());
            OwnerId::thread_lives_as(&Arc::downgrade(&token));
            assert!(!liveness.has_exited(), "the thread was in the embedding again");
        })
        .join()
        .expect("no assertion fails");
    }

    #[test]
    fn an_owner_that_is_no_thread_counts_as_alive() {
        assert!(!Liveness::of(OwnerId::unique()).has_exited());
    }
}
