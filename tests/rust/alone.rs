//! Tests that concern a whole process, each in a process of its own.

use std::env;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::thread;

use crate::support::{Checked, until};

const VARIABLE: &str = "FERROLOCK_TEST_ALONE";

/// Runs `body`, the whole of a test, in a process where no other test runs beside it.
///
/// That is this binary, executed again for this one test, whose name is that of its thread.
pub(crate) fn alone(body: impl FnOnce() -> Checked) -> Checked {
    if env::var_os(VARIABLE).is_some() {
        return body();
    }
    let thread = thread::current();
    let law = thread.name().ok_or("a test runs in a thread of its name")?;
    // A file and no pipe: a forked child that is left over does not keep this process waiting.
    let mut output = tempfile::tempfile()?;
    let mut process = Command::new(env::current_exe()?)
        .args([law, "--exact", "--nocapture"])
        .env(VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()?;
    let mut status = None;
    // Longer than the bounds of what the test itself waits for.
    for _ in 0..2 {
        let ended = until("the test ends", || {
            status = process.try_wait()?;
            Ok(status.is_some())
        });
        if ended.is_ok() {
            break;
        }
    }
    if status.is_none() {
        process.kill()?;
        process.wait()?;
    }
    let mut said = String::new();
    output.rewind()?;
    output.read_to_string(&mut said)?;
    let passed = status.is_some_and(|status| status.success()) && said.contains("1 passed");
    assert!(passed, "the process of its own ended with {status:?} and said:\n{said}");
    Ok(())
}
