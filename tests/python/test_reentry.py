"""Code that Python runs in the middle of an acquire or release may use the same lock: it may be refused, never hang.

Each test is a program of its own, so that a deadlock is an end with a traceback and not the end of the test run.
"""

from __future__ import annotations

import signal
import textwrap
from typing import TYPE_CHECKING

import pytest

from peers import run_program

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
import contextlib, faulthandler, gc, logging, os, signal, sys, threading, weakref
from ferrolock import FileLock, Timeout
from peers import held_by_a_thread

faulthandler.dump_traceback_later(15, exit=True)  # its watchdog needs no GIL, so it also ends a hang that keeps it
path, thread_local = sys.argv[1], sys.argv[2] == "own"
lock = FileLock(path, thread_local=thread_local)
main = threading.main_thread()
let_go = threading.Event()
outcomes = []

def look():
    lock.timeout = lock.timeout
    repr(lock)
    return lock.is_locked, lock.lock_counter, lock.blocking, lock.poll_interval, lock.lock_file

def attempt():
    with lock.acquire(timeout=0):
        assert lock.is_locked

def take():
    with lock:
        assert lock.is_locked

def release():
    lock.release()

def force():
    lock.release(force=True)

inside = False

def use():
    "What runs in the middle; not in the middle of itself, and not for the thread that holds the lock elsewhere."
    global inside
    if inside or threading.current_thread() is not main:
        return
    inside = True
    try:
        globals()[sys.argv[3]]()
    except (RuntimeError, Timeout) as error:
        outcomes.append(type(error).__name__)
    else:
        outcomes.append("done")
    finally:
        inside = False

class Handler(logging.Handler):
    react = staticmethod(use)

    def handle(self, record):
        "In place of emit: the lock that logging holds around that would make a deadlock that is none of ours."
        if not inside and threading.current_thread() is main:
            self.react()

def listen():
    logger = logging.getLogger("filelock")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(Handler())

class Garbage:
    "In a cycle, so that only the collector ends it, whenever that comes by."
    def __init__(self):
        self.itself = self

    def __del__(self):
        use()

class FinalizedGarbage:
    def __init__(self):
        self.itself = self
        weakref.finalize(self, use)

def finish():
    "The lock is as good as new, and the file is free for others."
    global inside
    inside = True
    assert (lock.is_locked, lock.lock_counter) == (False, 0)
    with FileLock(path, timeout=10), contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
        raise SystemExit("both hold the lock")
    with lock:
        assert lock.lock_counter == 1
    assert outcomes, "the code in the middle never ran"
    print(*outcomes)
"""

OWN_AND_SHARED = pytest.mark.parametrize("scope", ["own", "shared"])
UNIX = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals can be sent to a thread only on Unix")


def run(tmp_path: Path, scope: str, use: str, program: str) -> list[str]:
    """Run the program to its end; return what the uses of the lock in the middle came to."""
    source = PRELUDE + textwrap.dedent(program) + "\nfinish()\n"
    return run_program(source, tmp_path / "x.lock", scope, use, options=("-W", "error")).split()


@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["look", "attempt", "take"])
def test_a_logging_handler_may_use_the_lock_it_is_told_about(tmp_path: Path, scope: str, use: str) -> None:
    program = """
        listen()
        for _ in range(3):
            lock.acquire()
            assert lock.lock_counter == 1
            with lock:
                assert lock.lock_counter == 2
            lock.release()
            assert lock.lock_counter == 0
    """
    outcomes = run(tmp_path, scope, use, program)
    assert len(outcomes) >= 12
    if use == "look":
        assert set(outcomes) == {"done"}


@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["attempt", "take"])
def test_a_logging_handler_may_use_another_object_on_the_path(tmp_path: Path, scope: str, use: str) -> None:
    program = """
        other = FileLock(path)
        listen()
        for _ in range(3):
            with other:
                assert other.lock_counter == 1
            assert other.lock_counter == 0
    """
    assert {"RuntimeError", "Timeout"} & set(run(tmp_path, scope, use, program))


@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["release", "force"])
def test_a_logging_handler_may_release_the_lock_it_is_told_about(tmp_path: Path, scope: str, use: str) -> None:
    program = """
        listen()
        for _ in range(3):
            lock.acquire()
            lock.release()
    """
    run(tmp_path, scope, use, program)


@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["look", "attempt", "take", "release", "force"])
def test_a_logging_handler_may_use_the_lock_that_is_waited_for(tmp_path: Path, scope: str, use: str) -> None:
    program = """
        def react():
            let_go.set()
            use()

        Handler.react = staticmethod(react)
        with held_by_a_thread(FileLock(path), let_go):
            listen()
            lock.acquire(poll_interval=0.01)
            inside = True
            lock.release(force=True)
    """
    run(tmp_path, scope, use, program)


@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["look", "attempt", "take", "release", "force"])
def test_a_cancel_check_may_use_the_lock_that_is_waited_for(tmp_path: Path, scope: str, use: str) -> None:
    program = """
        def check():
            use()
            let_go.set()

        def check_that_frees_it_first():
            let_go.set()
            use()

        checks = [check_that_frees_it_first]
        if sys.argv[3] != "take":  # which would wait for the holder, who would wait for it
            checks.append(check)
        for cancel_check in checks:
            let_go.clear()
            with held_by_a_thread(FileLock(path), let_go):
                lock.acquire(poll_interval=0.01, cancel_check=cancel_check)
                assert lock.lock_counter == 1
                lock.release()
    """
    outcomes = run(tmp_path, scope, use, program)
    if use in {"look", "release", "force"}:
        assert set(outcomes) == {"done"}


@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["look", "attempt", "take", "release", "force"])
@pytest.mark.parametrize("garbage", ["Garbage", "FinalizedGarbage"])
def test_a_finalizer_may_use_the_lock_that_is_waited_for(tmp_path: Path, scope: str, use: str, garbage: str) -> None:
    program = f"""
        def collect():
            let_go.set()
            {garbage}()
            gc.collect()

        with held_by_a_thread(FileLock(path), let_go):
            lock.acquire(poll_interval=0.01, cancel_check=collect)
            assert lock.lock_counter == 1
            lock.release()
    """
    run(tmp_path, scope, use, program)


@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["look", "attempt", "take"])
@pytest.mark.parametrize("garbage", ["Garbage", "FinalizedGarbage"])
def test_a_finalizer_may_use_the_lock_at_any_allocation(tmp_path: Path, scope: str, use: str, garbage: str) -> None:
    program = f"""
        listen()
        Handler.react = staticmethod({garbage})
        gc.set_threshold(1)
        for _ in range(50):
            {garbage}()
            lock.acquire()
            assert lock.lock_counter == 1
            with lock:
                {garbage}()
            lock.release()
            assert lock.lock_counter == 0
        gc.collect()
    """
    run(tmp_path, scope, use, program)


@OWN_AND_SHARED
def test_a_held_lock_that_is_collected_during_a_wait_ends_it(tmp_path: Path, scope: str) -> None:
    program = """
        def abandon():
            holder = FileLock(path, thread_local=thread_local)
            holder.itself = holder
            holder.acquire()

        def collect():
            gc.collect()
            outcomes.append("collected")

        gc.disable()
        abandon()
        lock.acquire(timeout=10, poll_interval=0.01, cancel_check=collect)
        assert lock.lock_counter == 1
        lock.release()
    """
    assert run(tmp_path, scope, "look", program)


SIGNAL_DURING_A_WAIT = """
    waiting, handled = threading.Event(), threading.Event()

    def handler(number, frame):
        use()
        handled.set()

    def interrupt():
        waiting.wait(10)
        signal.pthread_kill(main.ident, signal.SIGUSR1)
        handled.wait(10)
        let_go.set()

    signal.signal(signal.SIGUSR1, handler)
    sender = threading.Thread(target=interrupt)
    sender.start()
    with held_by_a_thread(FileLock(path), let_go):
        lock.acquire(poll_interval=0.01, cancel_check=waiting.set)
        assert handled.is_set()
        assert lock.lock_counter == 1
        lock.release()
    sender.join(10)
"""


@UNIX
@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["attempt", "take"])
def test_a_signal_handler_is_refused_the_lock_that_is_waited_for(tmp_path: Path, scope: str, use: str) -> None:
    assert run(tmp_path, scope, use, SIGNAL_DURING_A_WAIT) == ["RuntimeError"]


@UNIX
@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["look", "release", "force"])
def test_a_signal_handler_may_look_at_the_lock_that_is_waited_for(tmp_path: Path, scope: str, use: str) -> None:
    assert run(tmp_path, scope, use, SIGNAL_DURING_A_WAIT) == ["done"]


@UNIX
@OWN_AND_SHARED
def test_a_signal_handler_may_take_another_lock_during_a_wait(tmp_path: Path, scope: str) -> None:
    program = """
    other = FileLock(path + ".other")

    def look():
        with other:
            assert other.is_locked
    """
    assert run(tmp_path, scope, "look", textwrap.dedent(program) + textwrap.dedent(SIGNAL_DURING_A_WAIT)) == ["done"]


@UNIX
@OWN_AND_SHARED
@pytest.mark.parametrize("use", ["look", "attempt", "take"])
def test_a_signal_handler_nests_into_a_lock_that_is_held(tmp_path: Path, scope: str, use: str) -> None:
    program = """
        signal.signal(signal.SIGUSR1, lambda number, frame: use())
        with lock:
            signal.pthread_kill(main.ident, signal.SIGUSR1)
            assert lock.lock_counter == 1
    """
    assert run(tmp_path, scope, use, program) == ["done"]
