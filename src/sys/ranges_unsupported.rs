//! Systems without locks of open file descriptions on byte ranges.
//!
//! Record locks (`F_SETLK`) would be the same bytes, but they do not exclude the threads of a process, and any close of
//! the file gives them up: a lock that might not hold is none.

#![cfg_attr(
    not(force_unsupported),
    allow(dead_code, reason = "some platforms take the functions that wait from here")
)]

use std::fs::File;
use std::io;
use std::time::Duration;

use super::Others;

/// Whether a close of any descriptor of a file gives up the record locks that the process has on it.
pub(crate) const CLOSE_GIVES_UP: bool = false;

/// What a writer that claims the lock step by step has so far.
#[derive(Debug, Default)]
pub(crate) struct Claim(());

fn unsupported() -> io::Error {
    io::Error::from(io::ErrorKind::Unsupported)
}

pub(crate) fn try_read(_file: &File) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn try_read_past_writer(_file: &File) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn try_write(_file: &File) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn claim(_file: &File, _claim: &mut Claim) -> io::Result<()> {
    Err(unsupported())
}

/// Nothing is locked.
#[expect(clippy::unnecessary_wraps, reason = "other platforms can fail")]
pub(crate) fn unlock(_file: &File) -> io::Result<()> {
    Ok(())
}

/// A close of one handle gives up no locks of another's here.
pub(crate) fn others(_file: &File) -> Others {
    Others::Nobody
}

pub(crate) fn read_start(_file: &File, _buffer: &mut [u8]) -> io::Result<usize> {
    Err(unsupported())
}

pub(crate) fn wait_to_read(_file: &File, _limit: Duration) -> io::Result<bool> {
    Err(unsupported())
}

pub(crate) fn wait_to_write(_file: &File, _limit: Duration) -> io::Result<bool> {
    Err(unsupported())
}
