//! Contenders that are stopped or killed at each step, as processes of their own.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::seam::{ALL, Step, stop_at};
use super::*;
use crate::mechanism::Guard;
use crate::wait::sleep;

const LONG: Duration = Duration::from_secs(20);
const PATH: &str = "FERROLOCK_LEASE_PATH";
const PLAN: &str = "FERROLOCK_LEASE_PLAN";
const WORKER: &str = "mechanism::lease_rw::stops::a_process_that_stops";

/// Short, so that being stopped for that long is not long to wait for.
const SETTINGS: LeaseSettings = LeaseSettings {
    heartbeat_interval: Duration::from_millis(60),
    stale_threshold: Duration::from_millis(240),
};

fn lock() -> (LeaseReadWriteLock, Arc<LeaseMonitor>) {
    let monitor = Arc::new(LeaseMonitor::new(None));
    (LeaseReadWriteLock::new(SETTINGS, Arc::clone(&monitor)), monitor)
}

fn terms(mode: Mode) -> Terms {
    Terms { mode, ..Manners::Polite.into() }
}

/// Waits for the lock as the wait loop does.
fn acquire(lock: &LeaseReadWriteLock, path: &Path, mode: Mode, within: Duration) -> Option<Box<dyn Guard>> {
    let mut bid = lock.bid(path, terms(mode)).expect("there are bids");
    let begin = Instant::now();
    while begin.elapsed() < within {
        match bid.attempt().expect("no attempt fails") {
            Attempt::Acquired(guard) => return Some(guard),
            Attempt::Contended(_) | Attempt::Interrupted => sleep(Duration::from_millis(4)),
        }
    }
    None
}

/// What a worker is to do, and where it is stopped.
#[derive(Debug, Clone, Copy)]
struct Plan {
    mode: Mode,
    step: Step,
    /// Killed rather than stopped.
    dies: bool,
}

impl Plan {
    fn to_text(self) -> String {
        let step = ALL.iter().position(|step| *step == self.step).expect("all steps are listed");
        format!("{} {step} {}", u8::from(self.mode == Mode::Exclusive), u8::from(self.dies))
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<usize> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [mode, step, dies] = numbers[..] else { return None };
        let mode = if mode == 1 { Mode::Exclusive } else { Mode::Shared };
        Some(Self { mode, step: ALL[step], dies: dies == 1 })
    }
}

fn say(line: &str) {
    let mut output = io::stdout().lock();
    writeln!(output, "says: {line}").and_then(|()| output.flush()).expect("somebody listens");
}

/// Acquires, says so, releases when it is told to.
#[test]
#[ignore = "a part of other tests"]
fn a_process_that_stops() {
    let path = std::env::var_os(PATH).map(PathBuf::from).expect("it was started by another test");
    let plan = std::env::var(PLAN).ok().and_then(|plan| Plan::parse(&plan)).expect("it was given one");
    stop_at(plan.step, move || {
        say("there");
        if plan.dies {
            std::process::exit(0);
        }
        let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap();
        kill_process(own, Signal::STOP).expect("it can stop itself");
        // Another thread may be the first one to stop.
        sleep(Duration::from_millis(50));
    });
    let (lock, monitor) = lock();
    let guard = acquire(&lock, &path, plan.mode, LONG).expect("it gets it in the end");
    say(&format!("acquired {}", monitor.generation().unwrap_or(0)));
    let mut line = String::new();
    io::stdin().read_line(&mut line).expect("a line comes");
    guard.release().expect("it can release");
    say(if monitor.compromise().is_some() { "lost" } else { "released" });
}

struct Worker {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
}

impl Worker {
    fn start(path: &Path, plan: Plan) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([WORKER, "--exact", "--ignored", "--nocapture"])
            .env(PATH, path)
            .env(PLAN, plan.to_text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once("says: ") {
                    drop(sender.send(said.to_owned()));
                }
            }
        });
        Self { child, orders, lines }
    }

    fn hear(&self, within: Duration) -> Option<String> {
        self.lines.recv_timeout(within).ok()
    }

    fn must_say(&self, expected: &str) -> String {
        let said = self.hear(LONG).unwrap_or_else(|| panic!("silence instead of {expected:?}"));
        assert!(said.starts_with(expected), "{said:?} instead of {expected:?}");
        said
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    fn must_stop(&self) {
        self.must_say("there");
        let stopped = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "{stopped:?}");
    }

    fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn release(&mut self) {
        writeln!(self.orders).unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn number(said: &str) -> u64 {
    said.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap()
}

/// The marker of a holder that is gone, for those who come to a step of an eviction.
fn leave_a_dead_writer(path: &Path) {
    let lease = lease::Lease {
        token: "0123456789abcdef0123456789abcdef".to_owned(),
        pid: 4711,
        host: "elsewhere".to_owned(),
        terms: Some(lease::LeaseTerms { settings: SETTINGS, start: None }),
    };
    let rooms = Rooms::open(path).unwrap();
    let readers = rooms.make_readers().unwrap();
    let beside = |end: &str| {
        let mut path = path.as_os_str().to_owned();
        path.push(end);
        PathBuf::from(path)
    };
    drop(readers);
    let claim = beside(".readers").join(rooms::writer_name(&lease.token));
    std::fs::write(&claim, lease.to_bytes()).unwrap();
    std::fs::hard_link(claim, beside(".write")).unwrap();
}

/// And that of somebody who ended inside a transition.
fn leave_a_dead_transition(path: &Path) {
    let mut state = path.as_os_str().to_owned();
    state.push(".state");
    std::fs::write(state, "4711\nelsewhere\n").unwrap();
}

fn prepare(path: &Path, step: Step) {
    match step {
        Step::Judged | Step::Disowned | Step::Taking | Step::Aside => leave_a_dead_writer(path),
        Step::Evicting => leave_a_dead_transition(path),
        Step::Entered
        | Step::Cleared
        | Step::Publishing
        | Step::Published
        | Step::Shown
        | Step::Numbered
        | Step::Relisted
        | Step::Listed
        | Step::Confirmed
        | Step::Granted
        | Step::Leaving
        | Step::Releasing
        | Step::Released => {}
    }
}

fn is_reached(plan: Plan) -> bool {
    plan.mode == Mode::Exclusive || !matches!(plan.step, Step::Shown | Step::Numbered | Step::Relisted)
}

fn is_of_a_release(step: Step) -> bool {
    matches!(step, Step::Releasing | Step::Released)
}

fn plans(dies: bool) -> impl Iterator<Item = Plan> {
    let modes = [Mode::Shared, Mode::Exclusive];
    let plans = modes.into_iter().flat_map(move |mode| ALL.map(|step| Plan { mode, step, dies }));
    plans.filter(|plan| is_reached(*plan))
}

#[test]
fn killed_at_any_step_it_leaves_nothing_that_stays() {
    for plan in plans(true) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        prepare(&path, plan.step);
        let mut worker = Worker::start(&path, plan);
        if is_of_a_release(plan.step) {
            worker.must_say("acquired");
            worker.release();
        }
        worker.must_say("there");
        worker.child.wait().unwrap();
        let (lock, _) = lock();
        for mode in [Mode::Exclusive, Mode::Shared] {
            assert!(acquire(&lock, &path, mode, LONG).is_some(), "after {plan:?}: {mode:?}");
        }
    }
}

/// A writer gets the lock while another contender is stopped; the other goes on, and must not have it beside.
#[test]
fn stopped_at_any_step_for_longer_than_its_threshold_it_is_never_granted_beside_a_writer() {
    for plan in plans(false) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        prepare(&path, plan.step);
        let mut worker = Worker::start(&path, plan);
        let mut first = 0;
        if is_of_a_release(plan.step) {
            first = number(&worker.must_say("acquired"));
            worker.release();
        }
        worker.must_stop();
        let (lock, monitor) = lock();
        let guard = acquire(&lock, &path, Mode::Exclusive, LONG);
        let guard = guard.unwrap_or_else(|| panic!("a stopped contender keeps all out: {plan:?}"));
        let mine = monitor.generation().unwrap();
        worker.go_on();
        // Granted just before it was stopped, it may be a holder that was paused; then it learns of it.
        let was_granted = matches!(plan.step, Step::Confirmed | Step::Granted | Step::Leaving);
        if is_of_a_release(plan.step) {
            // It was done with what it held the lock for.
            worker.must_say("released");
        } else if was_granted {
            if let Some(said) = worker.hear(Duration::from_millis(300)) {
                assert!(said.starts_with("acquired"), "{said:?} of {plan:?}");
                worker.release();
                worker.must_say("lost");
            }
        } else {
            let said = worker.hear(Duration::from_millis(300));
            assert_eq!(said, None, "it has the lock beside a writer: {plan:?}");
        }
        assert!(monitor.compromise().is_none(), "the successor lost it: {plan:?}");
        let (other, _) = self::lock();
        let beside = acquire(&other, &path, Mode::Shared, Duration::from_millis(100));
        assert!(beside.is_none(), "a third one has it beside a writer: {plan:?}");
        guard.release().unwrap();
        if !is_of_a_release(plan.step) && !was_granted {
            let second = number(&worker.must_say("acquired"));
            assert!(plan.mode == Mode::Shared && second >= mine || second > mine, "{plan:?}");
            worker.release();
            worker.must_say("released");
        }
        assert!(first < mine || plan.mode == Mode::Shared, "numbers grow: {plan:?}");
    }
}
