//! The laws of the core: what must hold for whoever uses it, one module a topic.
//!
//! What is said of contenders is run between lock objects, between threads of one lock object and between
//! processes (`exclusion`), and again with a lock that does not lock, where it must fail. Processes are
//! this binary, executed again (`worker`, and `alone` for what concerns a whole process).

mod alone;
mod contender;
mod deferred;
mod descriptors;
mod doors;
mod exclusion;
mod failures;
mod farewells;
mod holds;
mod lease;
mod lease_markers;
mod markers;
mod mechanisms;
mod models;
mod read_write;
mod readers;
mod record_laws;
mod records;
mod strict;
mod support;
mod waits;
mod worker;

#[cfg(unix)]
mod forking;
#[cfg(unix)]
mod forks;
#[cfg(unix)]
mod forks_under_load;
#[cfg(unix)]
mod kernel;
#[cfg(unix)]
mod kernel_files;
#[cfg(target_os = "linux")]
mod lines;
#[cfg(unix)]
mod paths;
#[cfg(target_os = "linux")]
mod queues;
#[cfg(unix)]
mod removal;
#[cfg(target_os = "linux")]
mod removal_in_line;
