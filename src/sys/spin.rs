//! A raw lock that spins and yields, and never parks.

use std::hint;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::lock_api::{GuardSend, RawMutex};

/// What `parking_lot`'s own raw lock is to those who may park, for those who must not. Nobody has to be woken, so that
/// unlocking is a store; `parking_lot` looks for those who are parked, which costs as much as locking.
#[derive(Debug)]
pub struct SpinLock {
    is_locked: AtomicBool,
}

// SAFETY: whoever changes `is_locked` from false to true has the lock, and nobody can again before it is set to false by
// `unlock`, which only the holder may call. Acquire and release order what is done under it.
#[expect(unsafe_code, reason = "the trait promises exclusion")]
unsafe impl RawMutex for SpinLock {
    const INIT: Self = Self { is_locked: AtomicBool::new(false) };

    type GuardMarker = GuardSend;

    fn lock(&self) {
        let mut spins = 0_u32;
        while !self.try_lock() {
            spins = spins.saturating_add(1);
            back_off(spins);
        }
    }

    fn try_lock(&self) -> bool {
        self.is_locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock(&self) {
        self.is_locked.store(false, Ordering::Release);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a holder of lower real-time priority runs only when this thread sleeps"
)]
fn back_off(spins: u32) {
    match spins {
        0..64 => hint::spin_loop(),
        64..4096 => thread::yield_now(),
        _ => thread::sleep(Duration::from_micros(50)),
    }
}
