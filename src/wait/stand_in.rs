//! A thread that keeps a place in the line of a long wait.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::fork::{self, ForkMutex};
use crate::mechanism::Place;
use crate::sys;

/// A thread that stands in line for a head whose wait is a long one: the head looks up now and then, and who
/// comes back to the line stands at its end.
#[derive(Debug)]
pub(super) struct StandIn {
    thread: Option<JoinHandle<io::Result<bool>>>,
    orders: Arc<Orders>,
    generation: u64,
}

/// What a head and its stand-in tell each other.
#[derive(Debug, Default)]
struct Orders {
    is_called_off: AtomicBool,
    /// Set before the head is woken: a thread has not finished yet when it does its last work.
    is_done: AtomicBool,
}

/// How often a stand-in that is called off is interrupted until it has ended.
const BETWEEN_CALLS: Duration = Duration::from_micros(50);

/// The most stand-ins at a time; further heads do without.
const MOST_STAND_INS: usize = 16;
static STAND_INS: ForkMutex<usize> = ForkMutex::new();

impl StandIn {
    /// Sends somebody to the line, who calls `wake` when he has come to its head. `None`: nobody is to be had.
    pub(super) fn start(place: &Arc<dyn Place>, wake: impl FnOnce() + Send + 'static) -> Option<Self> {
        {
            let mut stand_ins = STAND_INS.lock();
            if *stand_ins >= MOST_STAND_INS {
                return None;
            }
            *stand_ins += 1;
        }
        let orders = Arc::new(Orders::default());
        let run = {
            let (place, orders) = (Arc::clone(place), Arc::clone(&orders));
            move || {
                let waited = loop {
                    match place.wait_for_turn(None) {
                        Ok(false) if !orders.is_called_off.load(Ordering::Acquire) => {}
                        waited => break waited,
                    }
                };
                drop(place);
                *STAND_INS.lock() -= 1;
                orders.is_done.store(true, Ordering::Release);
                wake();
                waited
            }
        };
        let Ok(thread) = sys::spawn("ferrolock-line", run) else {
            *STAND_INS.lock() -= 1;
            return None;
        };
        Some(Self { thread: Some(thread), orders, generation: fork::generation() })
    }

    pub(super) fn is_done(&self) -> bool {
        self.orders.is_done.load(Ordering::Acquire)
    }

    /// Whether it has come to the head of the line.
    pub(super) fn result(mut self) -> io::Result<bool> {
        let Some(thread) = self.thread.take() else { return Ok(false) };
        thread.join().unwrap_or(Ok(false))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.generation != fork::generation() {
            // A forked child has no such thread.
            mem::forget(thread);
            return;
        }
        self.orders.is_called_off.store(true, Ordering::Release);
        while !thread.is_finished() {
            if !sys::interrupt(&thread) {
                // The program has taken the signal for itself, or may send none: the thread ends when the line has moved.
                return;
            }
            super::sleep(BETWEEN_CALLS);
        }
        drop(thread.join());
    }
}
