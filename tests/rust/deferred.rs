//! Waiters without a thread: each gets the lock in its turn, or leaves nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ferrolock::mechanism::{KernelLock, MarkerLock, Mechanism};
use ferrolock::{Deferred, Error, ErrorKind, Lock, News, OwnerId, Request, Scope, Timeout};

use crate::contender::Overlap;
use crate::mechanisms::{Faulty, NoLock, Step};
use crate::support::{Checked, LONG, Place, SHORT, is_free, kernel_lock, patience, until};

/// A waiter with a lock object of its own, as a task has one.
pub(crate) struct Task {
    pub(crate) lock: Arc<Lock>,
    pub(crate) owner: OwnerId,
    pub(crate) waiter: Deferred,
    pub(crate) rung: Receiver<()>,
}

impl Task {
    pub(crate) fn of(lock: Arc<Lock>, place: &Place, timeout: Timeout, has_questions: bool) -> Self {
        Self::listening(lock, place, timeout, has_questions, Arc::new(AtomicBool::new(true)))
    }

    pub(crate) fn listening(
        lock: Arc<Lock>,
        place: &Place,
        timeout: Timeout,
        has_questions: bool,
        is_heard: Arc<AtomicBool>,
    ) -> Self {
        let owner = OwnerId::unique();
        let request = request(owner, place, timeout);
        let (bell, rung) = mpsc::channel();
        let bell = Box::new(move || is_heard.load(Ordering::SeqCst) && bell.send(()).is_ok());
        let waiter = Deferred::for_lock(Arc::clone(&lock), &request, has_questions, bell);
        Self { lock, owner, waiter, rung }
    }

    pub(crate) fn new(place: &Place) -> Self {
        Self::of(kernel(), place, Timeout::Never, false)
    }

    /// Makes an attempt in vain, and joins the queue.
    pub(crate) fn waits(self) -> Checked<Self> {
        if self.waiter.attempt().map_err(|unmet| unmet.error)? {
            return Err(Overlap("an attempt succeeded although the lock is held".into()).into());
        }
        self.waiter.wait().map_err(|unmet| unmet.error)?;
        Ok(self)
    }

    pub(crate) fn news(&self, within: Duration) -> Checked<Option<News>> {
        match self.rung.recv_timeout(within) {
            Ok(()) => Ok(Some(self.waiter.news())),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("the bell is gone".into()),
        }
    }

    pub(crate) fn must_still_wait(&self) -> Checked {
        match self.news(SHORT)? {
            None => Ok(()),
            Some(News::Granted) => Err(Overlap("granted although the lock is held".into()).into()),
            Some(news) => Err(format!("{news:?}").into()),
        }
    }

    pub(crate) fn must_be_granted(&self) -> Checked {
        match self.news(LONG)? {
            Some(News::Granted) => Ok(()),
            other => Err(format!("{other:?} instead of the lock").into()),
        }
    }

    pub(crate) fn must_get_it(&self) -> Checked {
        self.must_be_granted()?;
        assert!(self.waiter.accept()?.is_some());
        assert!(self.lock.depth(self.owner) > 0);
        Ok(())
    }

    pub(crate) fn must_fail(&self) -> Checked<Error> {
        match self.news(LONG)? {
            Some(News::Failed(unmet)) => Ok(unmet.error),
            other => Err(format!("{other:?} instead of an error").into()),
        }
    }

    pub(crate) fn release(&self) -> Checked {
        self.lock.release(self.owner, false)?;
        Ok(())
    }
}

pub(crate) fn kernel() -> Arc<Lock> {
    Arc::new(kernel_lock(Scope::Shared))
}

pub(crate) fn request(owner: OwnerId, place: &Place, timeout: Timeout) -> Request<'_> {
    Request { owner, debtor: owner, path: &place.path, patience: patience(timeout) }
}

/// Whether somebody new gets the lock, or a share, at the first attempt.
fn at_once(lock: &Arc<Lock>, place: &Place) -> Result<bool, Error> {
    at_once_for(OwnerId::unique(), lock, place)
}

fn at_once_for(owner: OwnerId, lock: &Arc<Lock>, place: &Place) -> Result<bool, Error> {
    let request = request(owner, place, Timeout::Never);
    let waiter = Deferred::for_lock(Arc::clone(lock), &request, false, Box::new(|| true));
    if waiter.attempt().map_err(|unmet| unmet.error)? {
        waiter.accept().map(|level| level.is_some())
    } else {
        Ok(false)
    }
}

/// A lock object that holds the lock.
fn holder(place: &Place) -> Checked<Arc<Lock>> {
    let lock = kernel();
    assert!(at_once(&lock, place)?, "nobody has it");
    Ok(lock)
}

fn mechanisms() -> [fn() -> Box<dyn Mechanism>; 2] {
    [|| Box::new(KernelLock::default()), || Box::new(MarkerLock::default())]
}

#[test]
fn waiters_get_the_lock_in_their_order() -> Checked {
    for mechanism in mechanisms() {
        let place = Place::new()?;
        let new = || Arc::new(Lock::new(mechanism(), Scope::Shared));
        let holder = new();
        assert!(at_once(&holder, &place)?);
        let mut tasks = Vec::new();
        for _ in 0..5 {
            tasks.push(Task::of(new(), &place, Timeout::Never, false).waits()?);
        }
        tasks[0].must_still_wait()?;
        holder.release_all()?;
        for (task, number) in tasks.iter().zip(1..) {
            task.must_get_it()?;
            for next in tasks.iter().skip(number).take(1) {
                next.must_still_wait()?;
            }
            task.release()?;
        }
        until("the lock is free", || Ok(at_once(&holder, &place)?))?;
    }
    Ok(())
}

#[test]
fn a_lock_that_does_not_lock_is_noticed() -> Checked {
    let place = Place::new()?;
    let new = || Arc::new(Lock::new(Box::new(NoLock), Scope::Shared));
    assert!(at_once(&new(), &place)?);
    match Task::of(new(), &place, Timeout::Never, false).waits() {
        Err(error) if error.is::<Overlap>() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err("it waits for a lock that does not lock".into()),
    }
}

#[test]
fn who_comes_later_does_not_overtake_who_waits() -> Checked {
    let place = Place::new()?;
    let holder = holder(&place)?;
    let first = Task::new(&place).waits()?;
    holder.release_all()?;
    // The lock is on its way to the first, or has arrived.
    let second = Task::new(&place).waits()?;
    first.must_get_it()?;
    second.must_still_wait()?;
    first.release()?;
    second.must_get_it()
}

#[test]
fn what_is_granted_is_no_hold_until_it_is_accepted_and_goes_back_if_it_is_not() -> Checked {
    let place = Place::new()?;
    let holder = holder(&place)?;
    let first = Task::new(&place).waits()?;
    let second = Task::new(&place).waits()?;
    holder.release_all()?;
    first.must_be_granted()?;
    assert_eq!(first.lock.depth(first.owner), 0);
    second.must_still_wait()?;
    first.waiter.withdraw();
    second.must_be_granted()?;
    drop(second);
    assert_eq!(first.waiter.accept().map_err(|error| error.kind()), Err(ErrorKind::Cancelled));
    until("the lock is free", || is_free(&place.path))
}

#[test]
fn who_has_withdrawn_gets_nothing_and_is_no_bar_to_the_others() -> Checked {
    let place = Place::new()?;
    let holder = holder(&place)?;
    let first = Task::new(&place).waits()?;
    let second = Task::new(&place).waits()?;
    first.must_still_wait()?;
    first.waiter.withdraw();
    holder.release_all()?;
    second.must_get_it()?;
    assert!(first.news(Duration::ZERO)?.is_none());
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn when_nobody_waits_nothing_is_left() -> Checked {
    use crate::support::descriptors_on;

    crate::alone::alone(|| {
        let threads = || Ok::<_, std::io::Error>(std::fs::read_dir("/proc/self/task")?.count());
        let before = threads()?;
        let place = Place::new()?;
        let holder = holder(&place)?;
        let mut soonest = Duration::MAX;
        for _ in 0..3 {
            let tasks: Vec<_> = (0..50).map(|_| Task::new(&place).waits()).collect::<Result<_, _>>()?;
            tasks[0].must_still_wait()?;
            assert!(threads()? <= before + 2, "one porter, and who stands in line for it");
            drop(tasks);
            let begin = Instant::now();
            until("only the holder's descriptor is left", || Ok(descriptors_on(&place.path)? == 1))?;
            soonest = soonest.min(begin.elapsed());
            ferrolock::wait::end_idle_porters();
            assert_eq!(threads()?, before);
        }
        assert!(soonest < Duration::from_millis(20), "the porter was not told: {soonest:?}");
        let task = Task::new(&place).waits()?;
        drop(task);
        until("the porter has ended by itself", || Ok(threads()? == before))?;
        holder.release_all()?;
        Ok(())
    })
}

#[test]
fn a_wait_ends_at_its_deadline_and_not_before() -> Checked {
    let place = Place::new()?;
    let holder = holder(&place)?;
    let limit = Duration::from_millis(60);
    let begin = Instant::now();
    let patient = Task::new(&place).waits()?;
    let late = Task::of(kernel(), &place, Timeout::After(limit), false).waits()?;
    let error = late.must_fail()?;
    assert!(begin.elapsed() >= limit, "{:?}", begin.elapsed());
    assert!(matches!(error.kind(), ErrorKind::TimedOut(Some(_))), "{error:?}");
    assert_eq!(error.path(), place.path);
    holder.release_all()?;
    patient.must_get_it()
}

#[test]
fn a_deadline_that_is_over_is_no_wait() -> Checked {
    let place = Place::new()?;
    let _holder = holder(&place)?;
    let task = Task::of(kernel(), &place, Timeout::After(Duration::ZERO), false);
    assert!(!task.waiter.attempt().map_err(|unmet| unmet.error)?);
    let Err(unmet) = task.waiter.wait() else { return Err("it waits".into()) };
    assert!(matches!(unmet.error.kind(), ErrorKind::TimedOut(_)));
    let once = Task::of(kernel(), &place, Timeout::Once, false);
    let Err(unmet) = once.waiter.attempt() else { return Err("it was not told".into()) };
    assert!(matches!(unmet.error.kind(), ErrorKind::TimedOut(_)));
    Ok(())
}

#[test]
fn a_lock_whose_waiter_cannot_be_told_goes_to_the_next() -> Checked {
    let place = Place::new()?;
    let holder = holder(&place)?;
    let is_heard = Arc::new(AtomicBool::new(false));
    let deaf = Task::listening(kernel(), &place, Timeout::Never, false, is_heard).waits()?;
    let second = Task::new(&place).waits()?;
    holder.release_all()?;
    second.must_get_it()?;
    assert_eq!(deaf.waiter.accept().map_err(|error| error.kind()), Err(ErrorKind::Cancelled));
    Ok(())
}

#[test]
fn tasks_that_share_a_lock_object_share_its_hold() -> Checked {
    let place = Place::new()?;
    let holder = holder(&place)?;
    let shared = kernel();
    let of_shared = || Task::of(Arc::clone(&shared), &place, Timeout::Never, false).waits();
    let tasks = [of_shared()?, of_shared()?, of_shared()?];
    let stranger = Task::new(&place).waits()?;
    holder.release_all()?;
    for (task, depth) in tasks.iter().zip([3, 3, 3]) {
        task.must_get_it()?;
        assert_eq!(shared.depth(task.owner), depth, "the hold counts all of them at once");
    }
    stranger.must_still_wait()?;
    tasks[1].release()?;
    tasks[0].release()?;
    stranger.must_still_wait()?;
    tasks[2].release()?;
    stranger.must_get_it()
}

#[test]
fn a_share_that_is_not_accepted_is_given_back() -> Checked {
    let place = Place::new()?;
    let holder = holder(&place)?;
    let shared = kernel();
    let first = Task::of(Arc::clone(&shared), &place, Timeout::Never, false).waits()?;
    let second = Task::of(Arc::clone(&shared), &place, Timeout::Never, false).waits()?;
    holder.release_all()?;
    first.must_get_it()?;
    second.must_be_granted()?;
    drop(second);
    assert_eq!(shared.depth(first.owner), 1);
    first.release()?;
    until("the lock is free", || is_free(&place.path))
}

#[test]
fn questions_come_every_poll_interval_and_only_to_who_has_some() -> Checked {
    let place = Place::new()?;
    let holder = holder(&place)?;
    let curious = Task::of(kernel(), &place, Timeout::Never, true).waits()?;
    let silent = Task::new(&place).waits()?;
    for _ in 0..3 {
        let news = curious.news(LONG)?;
        assert!(matches!(news, Some(News::Question)), "{news:?}");
    }
    silent.must_still_wait()?;
    holder.release_all()?;
    until("the lock is granted", || Ok(matches!(curious.news(LONG)?, Some(News::Granted))))
}

#[test]
fn more_lines_than_porters_are_all_served() -> Checked {
    let places: Vec<_> = (0..40).map(|_| Place::new()).collect::<Result<_, _>>()?;
    let holders: Vec<_> = places.iter().map(holder).collect::<Result<_, _>>()?;
    let tasks: Vec<_> = places.iter().map(|place| Task::new(place).waits()).collect::<Result<_, _>>()?;
    let late = Task::of(kernel(), &places[39], Timeout::After(SHORT), true).waits()?;
    let begin = Instant::now();
    until("the one whose time is over is told", || Ok(matches!(late.news(LONG)?, Some(News::Failed(_)))))?;
    assert!(begin.elapsed() >= SHORT / 2);
    for (holder, task) in holders.iter().zip(&tasks).rev() {
        task.must_still_wait()?;
        holder.release_all()?;
        task.must_get_it()?;
    }
    Ok(())
}

#[test]
fn an_error_of_the_wait_is_the_first_ones_and_the_next_goes_on() -> Checked {
    let faulty = |step: fn(usize) -> Step| {
        let faulty = Faulty::attempting(step);
        Arc::new(faulty.lock(Scope::Shared))
    };
    for step in [
        |number| if number > 2 { Step::Fail } else { Step::Proceed },
        |number| {
            if number > 2 { Step::Panic } else { Step::Proceed }
        },
    ] {
        let place = Place::new()?;
        let holder = holder(&place)?;
        // It waits by itself: the locks of this mechanism are as good as no others.
        let failing = Task::of(faulty(step), &place, Timeout::Never, false).waits()?;
        let other = Task::new(&place).waits()?;
        assert_eq!(failing.must_fail()?.kind(), ErrorKind::Io);
        holder.release_all()?;
        other.must_get_it()?;
    }
    Ok(())
}

#[test]
fn a_wait_for_oneself_is_refused() -> Checked {
    let place = Place::new()?;
    let [held, other] = [kernel(), kernel()];
    let me = OwnerId::unique();
    assert!(at_once_for(me, &held, &place)?);
    let refused = at_once_for(me, &other, &place);
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::Deadlock));
    // The same behind somebody who waits already, and without an attempt.
    let _waiting = Task::new(&place).waits()?;
    let refused = at_once_for(me, &other, &place);
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::Deadlock));
    assert!(!at_once(&other, &place)?);
    Ok(())
}

#[test]
fn nobody_is_ever_inside_twice_however_waiters_come_and_go() -> Checked {
    let place = Place::new()?;
    let inside = AtomicUsize::new(0);
    let turns = AtomicUsize::new(0);
    let run = |seed: u64| -> Checked<Vec<Task>> {
        let mut random = fastrand::Rng::with_seed(seed);
        let begin = Instant::now();
        // They stay, so that what is given to one that has withdrawn is not given back by its end.
        let mut withdrawn = Vec::new();
        while begin.elapsed() < Duration::from_millis(800) {
            let task = Task::new(&place);
            let mut is_had = task.waiter.attempt().map_err(|unmet| unmet.error)?;
            if !is_had {
                task.waiter.wait().map_err(|unmet| unmet.error)?;
                // Give up at any moment: before, while and after the lock comes.
                let patience = Duration::from_micros(random.u64(0..400));
                is_had = matches!(task.news(patience)?, Some(News::Granted));
            }
            if is_had && random.bool() {
                assert!(task.waiter.accept()?.is_some());
                if inside.fetch_add(1, Ordering::SeqCst) != 0 {
                    return Err(Overlap("two are inside".into()).into());
                }
                turns.fetch_add(1, Ordering::SeqCst);
                thread::yield_now();
                inside.fetch_sub(1, Ordering::SeqCst);
                task.release()?;
            } else {
                task.waiter.withdraw();
                withdrawn.push(task);
            }
        }
        Ok(withdrawn)
    };
    let withdrawn = thread::scope(|scope| -> Checked<Vec<_>> {
        let threads: Vec<_> = (0..8).map(|seed| scope.spawn(move || run(seed))).collect();
        threads.into_iter().map(crate::support::join).collect()
    })?;
    assert!(turns.into_inner() > 50, "hardly anybody came in");
    until("the lock is free", || is_free(&place.path))?;
    drop(withdrawn);
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_forked_child_has_no_part_in_the_waits_of_its_parent() -> Checked {
    use crate::forking::fork;

    crate::alone::alone(|| {
        let place = Place::new()?;
        let holder = holder(&place)?;
        let task = Task::new(&place).waits()?;
        task.must_still_wait()?;
        let child = fork(|line| {
            assert_eq!(task.waiter.accept().map_err(|error| error.kind()), Err(ErrorKind::Cancelled));
            assert!(matches!(task.waiter.news(), News::Nothing));
            task.waiter.withdraw();
            // Its own waits work, also through the lock object that it inherited.
            let own = Task::of(Arc::clone(&task.lock), &place, Timeout::Never, false).waits()?;
            own.must_still_wait()?;
            line.say("waiting")?;
            own.must_get_it()?;
            own.release()
        })?;
        let mut child = child;
        child.line.must_hear("waiting")?;
        holder.release_all()?;
        task.must_get_it()?;
        task.release()?;
        child.finish()
    })
}
