//! Leases between processes: killed, stopped, forked, at their end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use ferrolock::mechanism::{Guard, LeaseSettings, Mode, remove_markers_at_exit};
use ferrolock::wait::sleep;

use super::{PATIENT, Party, Site, release, settings};
use crate::support::{Checked, LONG, until};
use crate::worker::{counted, work_alone};

const PATH: &str = "FERROLOCK_LEASE_PATH";
const SETTINGS: &str = "FERROLOCK_LEASE_SETTINGS";
const WORKER: &str = "lease::processes::a_process_that_holds";

/// What a worker is told, a line each: `read`, `write`, `release`, `exit`, `work N`.
#[test]
#[ignore = "a part of other tests"]
fn a_process_that_holds() -> Checked {
    let path = PathBuf::from(std::env::var_os(PATH).ok_or("it was started by another test")?);
    let text = std::env::var(SETTINGS)?;
    let (threshold, interval) = text.split_once(' ').ok_or("two numbers")?;
    let party = Party::new(&path, settings(threshold.parse()?, interval.parse()?));
    let say = |line: &str| -> Checked {
        let mut output = std::io::stdout().lock();
        writeln!(output, "says: {line}")?;
        Ok(output.flush()?)
    };
    let mut guard: Option<Box<dyn Guard>> = None;
    for line in std::io::stdin().lines() {
        let answer = match line?.split_once(' ').map_or(("", ""), |words| words) {
            ("read", _) => {
                guard = Some(party.hold(Mode::Shared)?);
                "held".to_owned()
            }
            ("write", _) => {
                guard = Some(party.hold(Mode::Exclusive)?);
                "held".to_owned()
            }
            ("release", _) => {
                guard.take().map_or(Ok(()), release)?;
                party.monitor.compromise().map_or("released", |lost| lost.reason.name()).to_owned()
            }
            ("exit", _) => {
                remove_markers_at_exit();
                std::process::exit(0);
            }
            ("work", rounds) => match work(&party, &path, rounds.trim().parse()?) {
                Ok(overlaps) => overlaps.to_string(),
                Err(error) => format!("{error:?}"),
            },
            (other, _) => return Err(format!("what is {other:?}?").into()),
        };
        say(&answer)?;
    }
    Ok(())
}

/// Reads and writes in turn, and says how often somebody was there who must not be.
fn work(party: &Party, path: &Path, rounds: usize) -> Checked<usize> {
    let mut overlaps = 0;
    for round in 0..rounds {
        if round % 2 == 0 {
            let guard = party.hold(Mode::Exclusive)?;
            overlaps += usize::from(!work_alone(path)?);
            release(guard)?;
        } else {
            let guard = party.hold(Mode::Shared)?;
            let before = counted(path)?;
            sleep(Duration::from_millis(1));
            overlaps += usize::from(counted(path)? != before || path.with_extension("inside").exists());
            release(guard)?;
        }
        overlaps += usize::from(party.monitor.compromise().is_some());
    }
    Ok(overlaps)
}

struct Process {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    fn start(path: &Path, settings: LeaseSettings) -> Checked<Self> {
        let LeaseSettings { stale_threshold: threshold, heartbeat_interval: interval } = settings;
        let mut child = Command::new(std::env::current_exe()?)
            .args([WORKER, "--exact", "--ignored", "--nocapture"])
            .env(PATH, path)
            .env(SETTINGS, format!("{} {}", threshold.as_millis(), interval.as_millis()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let orders = child.stdin.take().ok_or("stdin was piped")?;
        let output = BufReader::new(child.stdout.take().ok_or("stdout was piped")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once("says: ") {
                    drop(sender.send(said.to_owned()));
                }
            }
        });
        Ok(Self { child, orders, lines })
    }

    fn tell(&mut self, order: &str) -> Checked {
        Ok(writeln!(self.orders, "{order} ")?)
    }

    fn must_say(&self, expected: &str) -> Checked {
        let said = self.lines.recv_timeout(LONG)?;
        if said == expected { Ok(()) } else { Err(format!("{said:?} instead of {expected:?}").into()) }
    }

    fn ask(&mut self, order: &str, expected: &str) -> Checked {
        self.tell(order)?;
        self.must_say(expected)
    }

    fn kill(&mut self) -> Checked {
        self.child.kill()?;
        Ok(self.child.wait().map(drop)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

#[test]
fn processes_that_read_and_write_never_overlap() -> Checked {
    const ROUNDS: usize = 20;
    let site = Site::new()?;
    let mut workers = (0..4).map(|_| Process::start(&site.path, PATIENT)).collect::<Checked<Vec<_>>>()?;
    for worker in &mut workers {
        worker.tell(&format!("work {ROUNDS}"))?;
    }
    for worker in &workers {
        worker.must_say("0")?;
    }
    assert_eq!(counted(&site.path)?, workers.len() * ROUNDS / 2);
    Ok(())
}

/// On the same machine nobody has to wait for the threshold.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_holder_of_this_machine_is_proved_dead() -> Checked {
    for order in ["read", "write"] {
        let site = Site::new()?;
        let mut holder = Process::start(&site.path, settings(3_600_000, 1_200_000))?;
        holder.ask(order, "held")?;
        let party = Party::new(&site.path, settings(3_600_000, 1_200_000));
        assert!(party.within(Mode::Exclusive, Duration::from_millis(60))?.is_none());
        holder.kill()?;
        release(party.hold(Mode::Exclusive)?)?;
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_stopped_holder_loses_it_is_told_and_leaves_its_successor_alone() -> Checked {
    use rustix::process::{Pid, Signal, kill_process};

    let short = settings(400, 100);
    for order in ["read", "write"] {
        let site = Site::new()?;
        let mut holder = Process::start(&site.path, short)?;
        holder.ask(order, "held")?;
        let pid = Pid::from_raw(i32::try_from(holder.child.id())?).ok_or("a process has a number")?;
        kill_process(pid, Signal::STOP)?;
        let begin = std::time::Instant::now();
        let successor = Party::new(&site.path, short);
        let guard = successor.hold(Mode::Exclusive)?;
        assert!(begin.elapsed() + short.heartbeat_interval >= short.stale_threshold, "{:?}", begin.elapsed());
        kill_process(pid, Signal::CONT)?;
        holder.ask("release", "evicted")?;
        assert!(Party::new(&site.path, PATIENT).once(Mode::Shared)?.is_none(), "the successor has lost it");
        assert!(successor.monitor.compromise().is_none());
        release(guard)?;
    }
    Ok(())
}

#[test]
fn at_its_end_a_process_removes_its_markers() -> Checked {
    for order in ["read", "write"] {
        let site = Site::new()?;
        let mut holder = Process::start(&site.path, PATIENT)?;
        holder.ask(order, "held")?;
        holder.tell("exit")?;
        until("the process ends", || Ok(holder.child.try_wait()?.is_some()))?;
        assert!(site.readers()?.is_empty() && site.claims()?.is_empty(), "{:?}", site.names()?);
        assert!(!site.beside(".write").exists());
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_forked_child_touches_nothing_of_its_parents_and_starts_unheld() -> Checked {
    use crate::forking::fork;

    for mode in [Mode::Shared, Mode::Exclusive] {
        let site = Site::new()?;
        let party = Party::new(&site.path, settings(20_000, 50));
        let guard = party.hold(mode)?;
        let before = site.names()?;
        let child = fork(|line| {
            assert_eq!(party.monitor.generation(), None);
            assert!(party.once(Mode::Exclusive)?.is_none(), "the parent holds");
            remove_markers_at_exit();
            line.say("asked")?;
            line.must_hear("released")?;
            let own = party.hold(Mode::Exclusive)?;
            release(own)
        });
        let mut child = child?;
        child.line.must_hear("asked")?;
        assert_eq!(site.names()?, before);
        release(guard)?;
        child.line.say("released")?;
        child.finish()?;
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_forked_childs_copy_of_a_guard_or_a_bid_withdraws_nothing() -> Checked {
    use crate::forking::fork;

    let site = Site::new()?;
    let reader = site.party().hold(Mode::Shared)?;
    let waiting = site.party();
    let mut bid = Some(waiting.bid(Mode::Exclusive)?);
    let attempt = |bid: &mut Option<Box<dyn ferrolock::mechanism::Bid>>| -> Checked<bool> {
        let bid = bid.as_mut().ok_or("a bid")?;
        Ok(super::acquired(bid.attempt()?)?.is_some())
    };
    assert!(!attempt(&mut bid)?);
    let mut guard = Some(reader);
    let before = site.names()?;
    let child = fork(|_| {
        drop(guard.take());
        assert!(!attempt(&mut bid)?, "the parent's claim is another's");
        drop(bid.take());
        Ok(())
    });
    child?.finish()?;
    assert_eq!(site.names()?, before);
    guard.take().map_or(Ok(()), release)?;
    assert!(attempt(&mut bid)?);
    Ok(())
}
