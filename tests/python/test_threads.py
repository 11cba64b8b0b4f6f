"""One lock object, many threads: holds of their own by default, one shared hold with thread_local=False."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from ferrolock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")
LONG = 10.0


class Worker:
    """A live thread that does what it is told, one thing after the other."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)

    def start(self, function: Callable[[], Result]) -> Future[Result]:
        """Begin, for calls that wait."""
        return self.pool.submit(function)

    def do(self, function: Callable[[], Result]) -> Result:
        """Do it and return its result, or raise its exception here."""
        return self.start(function).result(LONG)


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A second thread, which stays alive for the whole test."""
    second = Worker()
    yield second
    second.pool.shutdown(wait=True)


def in_a_thread_that_exits(function: Callable[[], object]) -> None:
    """Run to the end in a thread and see that thread out."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the lock file is."""
    return tmp_path / "x.lock"


@pytest.fixture
def own(path: Path) -> FileLock:
    """A lock with a hold for each thread."""
    return FileLock(path)


@pytest.fixture
def shared(path: Path) -> FileLock:
    """A lock with one hold for all threads."""
    return FileLock(path, thread_local=False)


def state(lock: FileLock) -> tuple[bool, int]:
    """What the calling thread sees."""
    return lock.is_locked, lock.lock_counter


def is_free(path: Path) -> bool:
    """Whether a lock object of no concern to the test can take the path right now."""
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


class Started:
    """A cancel_check that says that the wait has begun, and ends it when the test is over."""

    def __init__(self) -> None:
        self.waiting, self.abandoned = threading.Event(), threading.Event()

    def __call__(self) -> bool:
        self.waiting.set()
        return self.abandoned.is_set()


@pytest.fixture
def started() -> Iterator[Started]:
    """A cancel_check for a wait that must not outlast the test."""
    check = Started()
    yield check
    check.abandoned.set()


def test_a_thread_sees_its_own_hold_only(own: FileLock, worker: Worker) -> None:
    with own, own:
        assert state(own) == (True, 2)
        assert worker.do(lambda: state(own)) == (False, 0)
    worker.do(own.acquire)
    assert state(own) == (False, 0)
    assert worker.do(lambda: state(own)) == (True, 1)
    worker.do(own.release)
    assert worker.do(lambda: state(own)) == (False, 0)


@pytest.mark.parametrize("limit", [{"timeout": 0}, {"timeout": 0.05}, {"blocking": False}], ids=repr)
def test_threads_exclude_each_other_through_one_object(own: FileLock, worker: Worker, limit: dict[str, Any]) -> None:
    with own:
        with pytest.raises(Timeout):
            worker.do(lambda: own.acquire(**limit))
        assert worker.do(lambda: state(own)) == (False, 0)
        assert state(own) == (True, 1)
    worker.do(lambda: own.acquire(**limit))
    with pytest.raises(Timeout):
        own.acquire(**limit)
    worker.do(own.release)


def test_a_thread_waits_for_another_ones_hold(own: FileLock, worker: Worker, started: Started) -> None:
    with own:
        waiter = worker.start(lambda: own.acquire(timeout=-1, poll_interval=0.01, cancel_check=started))
        assert started.waiting.wait(LONG)
        with pytest.raises(StillRunning):
            waiter.result(0.05)
        assert state(own) == (True, 1)
    waiter.result(LONG)
    assert worker.do(lambda: state(own)) == (True, 1)
    assert not is_free(Path(own.lock_file))
    worker.do(own.release)


@pytest.mark.parametrize("force", [False, True], ids=["release", "force"])
def test_a_release_by_a_thread_that_does_not_hold_does_nothing(own: FileLock, worker: Worker, force: bool) -> None:
    with own:
        worker.do(lambda: own.release(force=force))
        assert state(own) == (True, 1)
        assert not worker.do(lambda: is_free(Path(own.lock_file)))


def test_a_setter_is_for_the_calling_thread(path: Path, worker: Worker) -> None:
    lock = FileLock(path, timeout=3, poll_interval=0.5)

    def settings() -> tuple[float, bool, float]:
        return lock.timeout, lock.blocking, lock.poll_interval

    def change() -> None:
        lock.timeout, lock.blocking, lock.poll_interval = 0, False, 0.25

    worker.do(change)
    assert worker.do(settings) == (0.0, False, 0.25)
    assert settings() == (3.0, True, 0.5)
    in_a_thread_that_exits(lambda: check_equal(settings(), (3.0, True, 0.5)))
    lock.timeout = 9
    assert worker.do(settings) == (0.0, False, 0.25)
    assert settings() == (9.0, True, 0.5)


def check_equal(left: object, right: object) -> None:
    """Assert in a function, for use in a lambda."""
    assert left == right


def test_a_setter_governs_the_acquisitions_of_its_thread_only(path: Path, worker: Worker) -> None:
    lock = FileLock(path, timeout=0)

    def set_nan() -> None:
        lock.timeout = math.nan

    worker.do(set_nan)
    with lock:
        assert lock.is_locked
    with pytest.raises(ValueError, match="nan"):
        worker.do(lock.acquire)


def test_settings_are_common_to_all_threads_of_a_shared_lock(path: Path, worker: Worker) -> None:
    lock = FileLock(path, timeout=3, thread_local=False)

    def change() -> None:
        lock.timeout, lock.blocking, lock.poll_interval = 0, False, 0.25

    worker.do(change)
    assert (lock.timeout, lock.blocking, lock.poll_interval) == (0.0, False, 0.25)


def test_a_shared_hold_is_seen_and_nested_into_by_every_thread(shared: FileLock, worker: Worker) -> None:
    with shared:
        assert worker.do(lambda: state(shared)) == (True, 1)
        worker.do(lambda: shared.acquire(timeout=0))
        assert state(shared) == (True, 2)
        assert not is_free(Path(shared.lock_file))
    assert state(shared) == (True, 1)
    worker.do(shared.release)
    assert state(shared) == (False, 0)
    assert is_free(Path(shared.lock_file))


@pytest.mark.parametrize("force", [False, True], ids=["release", "force"])
def test_any_thread_releases_a_shared_hold(shared: FileLock, worker: Worker, force: bool) -> None:
    shared.acquire()
    if force:
        shared.acquire()
    worker.do(lambda: shared.release(force=force))
    assert state(shared) == (False, 0)
    assert is_free(Path(shared.lock_file))


def test_a_shared_hold_outlives_the_thread_that_took_it(shared: FileLock) -> None:
    in_a_thread_that_exits(shared.acquire)
    assert state(shared) == (True, 1)
    assert not is_free(Path(shared.lock_file))
    shared.release()
    assert is_free(Path(shared.lock_file))


def test_a_second_thread_does_not_queue_behind_a_polling_one_without_blocking(
    shared: FileLock, worker: Worker, started: Started
) -> None:
    with FileLock(shared.lock_file):
        waiter = worker.start(lambda: shared.acquire(timeout=-1, poll_interval=0.01, cancel_check=started))
        assert started.waiting.wait(LONG)
        for limit in ({"blocking": False}, {"timeout": 0}, {"timeout": 0.05}):
            with pytest.raises(Timeout):
                shared.acquire(**limit)
        assert shared.is_locked is False
    waiter.result(LONG)
    assert state(shared) == (True, 1)
    shared.release()


def test_two_threads_waiting_with_a_shared_lock_end_up_in_one_hold(
    shared: FileLock, worker: Worker, started: Started
) -> None:
    second, second_started = Worker(), Started()
    try:
        with FileLock(shared.lock_file):
            waits = [
                one.start(partial(shared.acquire, timeout=-1, poll_interval=0.01, cancel_check=check))
                for one, check in ((worker, started), (second, second_started))
            ]
            assert started.waiting.wait(LONG)
        for wait in waits:
            wait.result(LONG)
        assert state(shared) == (True, 2)
        shared.release(force=True)
        assert is_free(Path(shared.lock_file))
    finally:
        second_started.abandoned.set()
        second.pool.shutdown()


def test_a_forced_release_frees_the_holds_of_threads_that_have_exited(own: FileLock) -> None:
    in_a_thread_that_exits(own.acquire)
    assert state(own) == (False, 0)
    assert not is_free(Path(own.lock_file))
    own.release()
    assert not is_free(Path(own.lock_file))
    own.release(force=True)
    assert is_free(Path(own.lock_file))


@pytest.mark.skipif(sys.platform != "linux", reason="needs the C library's way to slow a thread's end down")
def test_a_thread_that_python_calls_finished_has_exited(own: FileLock) -> None:
    """Python's join returns before the operating system's thread has run its last destructors."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "__cxa_thread_atexit_impl"):
        pytest.skip("this C library has no __cxa_thread_atexit_impl")
    microseconds, somewhere_in_libc = ctypes.c_void_p(200_000), ctypes.cast(libc.usleep, ctypes.c_void_p)

    def acquire_and_end_slowly() -> None:
        own.acquire()
        # The destructor registered last runs first, so this one delays any that the lock relies on.
        libc.__cxa_thread_atexit_impl(libc.usleep, microseconds, somewhere_in_libc)

    in_a_thread_that_exits(acquire_and_end_slowly)
    own.release(force=True)
    assert is_free(Path(own.lock_file))


def test_a_thread_that_ends_with_a_lock_of_its_own_leaves_nothing(path: Path) -> None:
    own = threading.local()

    def keep() -> None:
        own.lock = FileLock(path)
        own.lock.acquire()

    def run(threads: int) -> int:
        for _ in range(threads):
            thread = threading.Thread(target=keep)
            thread.start()
            thread.join()
        gc.collect()
        return len(gc.get_objects())

    run(20)
    before = run(50)
    assert run(50) - before < 50


def test_a_forced_release_frees_the_callers_hold_and_nobody_elses(tmp_path: Path, worker: Worker) -> None:
    lock = FileLock(tmp_path / "x.lock")
    worker.do(lock.acquire)
    worker.do(lock.acquire)
    lock.release(force=True)
    assert worker.do(lambda: state(lock)) == (True, 2)
    assert not is_free(tmp_path / "x.lock")
    worker.do(lambda: lock.release(force=True))
    assert is_free(tmp_path / "x.lock")


@pytest.mark.parametrize("thread_local", [True, False], ids=["own", "shared"])
def test_a_collected_lock_lets_go_of_every_threads_hold(path: Path, worker: Worker, thread_local: bool) -> None:
    lock = FileLock(path, thread_local=thread_local)
    held = [lock]
    del lock
    worker.do(lambda: held[0].acquire() and None)
    assert not is_free(path)
    held.clear()
    gc.collect()
    assert is_free(path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file system is known to be of this machine")
def test_a_cycle_without_a_wait_lets_no_other_thread_run(path: Path) -> None:
    # A thread that computes keeps the interpreter for its whole turn once it has it, each time.
    turns, is_over = [0], threading.Event()

    def compute() -> None:
        while not is_over.is_set():
            turns[0] += 1
            if turns[0] % 10_000 == 0:
                time.sleep(0)

    lock = FileLock(path)
    with lock:
        pass  # from now on the lock knows where its file is
    thread, interval = threading.Thread(target=compute), sys.getswitchinterval()
    thread.start()
    sys.setswitchinterval(3600)
    try:
        time.sleep(0.05)  # until then the thread may have waited for its turn on the old terms
        while (seen := turns[0]) < 20_000:
            time.sleep(0.05)
        for _ in range(200):
            with lock:
                pass
        assert turns[0] == seen
    finally:
        sys.setswitchinterval(interval)
        is_over.set()
        thread.join()


def test_a_thread_may_wait_for_another_object_of_another_thread(path: Path, worker: Worker, started: Started) -> None:
    mine, theirs = FileLock(path), FileLock(path)
    with mine:
        waiter = worker.start(lambda: theirs.acquire(poll_interval=0.01, cancel_check=started))
        assert started.waiting.wait(LONG)
    waiter.result(LONG)
    assert not mine.is_locked
    worker.do(theirs.release)


def lost_updates(tmp_path: Path, lock_for: Callable[[], AbstractContextManager[object]]) -> int:
    """Let 8 threads count together in a file, each reading, yielding and writing; return how many counts got lost."""
    threads, rounds = 8, 25
    counter = tmp_path / "counter"
    counter.write_text("0")
    barrier = threading.Barrier(threads)
    yielding = threading.Event()

    def count() -> None:
        lock = lock_for()
        barrier.wait(LONG)
        for _ in range(rounds):
            with lock:
                value = int(counter.read_text() or 0)
                yielding.wait(0.0002)
                counter.write_text(str(value + 1))

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(count) for _ in range(threads)]:
            future.result(3 * LONG)
    return threads * rounds - int(counter.read_text())


def test_no_count_is_lost_by_threads_that_share_an_object(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "x.lock", poll_interval=0.001)
    assert lost_updates(tmp_path, lambda: lock) == 0
    assert is_free(tmp_path / "x.lock")


def test_no_count_is_lost_by_threads_with_objects_of_their_own(tmp_path: Path) -> None:
    assert lost_updates(tmp_path, lambda: FileLock(tmp_path / "x.lock", poll_interval=0.001)) == 0
    assert is_free(tmp_path / "x.lock")


def test_counts_are_lost_without_a_lock(tmp_path: Path) -> None:
    assert lost_updates(tmp_path, nullcontext) != 0
