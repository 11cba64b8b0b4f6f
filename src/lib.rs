//! Advisory file locks: the core of the Python package `ferrolock`.
//!
//! A [`Lock`] is a lock object: it counts how often each of its owners holds it, and asks a
//! [`Mechanism`](mechanism::Mechanism) for the lock itself. There is one loop that waits, for all
//! mechanisms; things flow one way: `hold` -> (`wait` ->) `mechanism` -> `sys`.
//!
//! ```
//! use std::time::Duration;
//! use ferrolock::mechanism::KernelLock;
//! use ferrolock::{Lock, OwnerId, Patience, Released, Scope, Timeout, Unwatched};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("x.lock");
//! let lock = Lock::new(Box::new(KernelLock::default()), Scope::PerOwner);
//! let me = OwnerId::current_thread();
//! let patience = Patience {
//!     timeout: Timeout::After(Duration::from_secs(5)),
//!     poll_interval: Duration::from_millis(50),
//!     lifetime: None,
//! };
//! lock.acquire(me, &path, patience, &mut Unwatched)?;
//! assert_eq!(lock.release(me, false)?, Released::Unlocked);
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//! While one owner holds a lock, no other owner, lock object, process or program that asks for the same
//! file in the same way gets it. A holder that dies gives it back.
//!
//! # What is not
//! Advisory locks bind only those who ask. A file that is removed while it is held frees its path.
//! Nothing is promised on file systems whose locks do nothing. A fork that has to wait for longer than
//! five seconds for a file that is being opened goes on without.

mod descriptor;
mod error;
mod fork;
mod heartbeat;
mod hold;
mod local;
pub mod mechanism;
mod notice;
mod owner;
pub mod path;
mod process;
mod read_write;
pub mod record;
mod registry;
mod sys;
mod time;
pub mod wait;

pub use descriptor::{descriptor_of, lock_descriptor, unlock_descriptor};
pub use error::{Error, ErrorKind};
pub use fork::{ForkMutex, Listed, watch_forks};
pub use hold::{Begun, Level, Lock, Pending, Released, Scope, Unnesting};
pub use local::{is_known_quick, learn_quickness};
pub use notice::take_notices;
pub use owner::OwnerId;
pub use read_write::{Door, ReadWrite};
pub use registry::is_held_here;
pub use sys::{Descriptor, ERRORS_ARE_WIN32, FileId, MECHANISM, possible_holder};
pub use time::Timeout;
pub use wait::{Deferred, News, Patience, Request, Stop, Unmet, Unwatched, WaitsBy, Watch};
