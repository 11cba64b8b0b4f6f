"""Signals that come in the middle of a wait, and the threads that run meanwhile."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import FileLock
from peers import LONG, Peer, PeerError, is_free, still_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals that can be sent to another process")

PRELUDE = """
import gc, logging, os, signal, threading, time

class Announce(logging.Handler):
    "Tells that the first attempt has failed; a cancel_check would be one more reason for the wait to wake up."
    def emit(self, record):
        if "not acquired" in record.msg:
            logger.removeHandler(self)
            waits.set()
            tell("waiting")

waits = threading.Event()
logger = logging.getLogger("filelock")
logger.setLevel(logging.DEBUG)
logger.propagate = False

lock = FileLock(path, **options)

def state():
    return lock.is_locked, lock.lock_counter, descriptors(path)

def wait(**limit):
    logger.addHandler(Announce())
    lock.acquire(**limit)
    return state()[:2]
"""
UNHELD = [False, 0, []]

KINDS = pytest.mark.parametrize("options", [{}, {"thread_local": False}, {"poll_interval": 5}], ids=repr)


@pytest.fixture
def held(lock_path: Path) -> Iterator[FileLock]:
    """A lock object of this process that holds the lock."""
    lock = FileLock(lock_path)
    with lock:
        yield lock


@pytest.fixture
def waiter(spawn: Callable[..., Peer]) -> Peer:
    """Who gets the signals."""
    return spawn()


def begin(waiter: Peer, path: Path, source: str = "answer = wait()", **options: Any) -> Future[Any]:
    """Have it wait; returns when it does."""
    waiter.run(PRELUDE, path=path, options=options)
    wait = waiter.begin_run(source)
    waiter.heard("waiting", unless=wait)
    assert still_waits(wait)
    return wait


def check_that_it_works_afterwards(waiter: Peer, held: FileLock) -> None:
    """Nothing is left of the wait, and the same lock object can be acquired."""
    assert waiter.run("answer = state()") == UNHELD
    held.release()
    assert is_free(Path(held.lock_file))
    assert waiter.run("lock.acquire(timeout=0); answer = state()[:2]") == [True, 1]
    waiter.run("lock.release()")


CATCH = """
try:
    answer = wait(**limit)
except KeyboardInterrupt:
    answer = time.monotonic(), "KeyboardInterrupt"
"""


@KINDS
@pytest.mark.parametrize("limit", [{}, {"timeout": 60}], ids=["for ever", "with a limit"])
def test_ctrl_c_ends_a_wait_soon(
    waiter: Peer, lock_path: Path, held: FileLock, options: dict[str, Any], limit: dict[str, float]
) -> None:
    wait = begin(waiter, lock_path, f"limit = {limit}\n{CATCH}", **options)
    begun = time.monotonic()
    os.kill(waiter.pid, signal.SIGINT)
    ended, how = wait.result(LONG)
    assert how == "KeyboardInterrupt"
    assert ended - begun < 1
    check_that_it_works_afterwards(waiter, held)


def test_ctrl_c_ends_a_wait_with_a_cancel_check(waiter: Peer, lock_path: Path, held: FileLock) -> None:
    wait = begin(waiter, lock_path, f"limit = dict(cancel_check=lambda: False)\n{CATCH}", poll_interval=5)
    begun = time.monotonic()
    os.kill(waiter.pid, signal.SIGINT)
    ended, how = wait.result(LONG)
    assert how == "KeyboardInterrupt"
    assert ended - begun < 1
    check_that_it_works_afterwards(waiter, held)


def test_a_ctrl_c_that_nobody_catches_ends_the_program(waiter: Peer, lock_path: Path, held: FileLock) -> None:
    wait = begin(waiter, lock_path)
    os.kill(waiter.pid, signal.SIGINT)
    with pytest.raises(PeerError) as caught:
        wait.result(LONG)
    assert caught.value.kind == "KeyboardInterrupt"
    assert waiter.exit() == (0, "")
    held.release()
    assert is_free(lock_path)


def test_ctrl_c_in_a_with_statement_never_enters_its_block(waiter: Peer, lock_path: Path, held: FileLock) -> None:
    source = """
        logger.addHandler(Announce())
        entered = False
        try:
            with lock:
                entered = True
        except KeyboardInterrupt:
            answer = entered
    """
    wait = begin(waiter, lock_path, source)
    os.kill(waiter.pid, signal.SIGINT)
    assert wait.result(LONG) is False
    check_that_it_works_afterwards(waiter, held)


HANDLERS = """
handled = []

def count(signum, frame):
    handled.append(threading.current_thread() is threading.main_thread())
    tell("handled")

def fail(signum, frame):
    raise ZeroDivisionError("out of the handler")
"""


@KINDS
def test_a_wait_goes_on_after_a_handler_that_returns(
    waiter: Peer, lock_path: Path, held: FileLock, options: dict[str, Any]
) -> None:
    waiter.run(HANDLERS)
    wait = begin(waiter, lock_path, "signal.signal(signal.SIGUSR1, count); answer = wait(), handled", **options)
    for _ in range(3):
        os.kill(waiter.pid, signal.SIGUSR1)
        waiter.heard("handled", unless=wait)  # while it waits, and not when it is over
    assert still_waits(wait)
    held.release()
    assert wait.result(LONG) == [[True, 1], [True] * 3]
    assert not is_free(lock_path)


def test_a_flood_of_signals_neither_ends_nor_starves_a_wait(waiter: Peer, lock_path: Path, held: FileLock) -> None:
    source = """
        count = 0
        def handle(signum, frame):
            global count
            count += 1
            if count == 10:
                tell("flooded")
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            answer = wait()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    """
    wait = begin(waiter, lock_path, source)
    waiter.heard("flooded", unless=wait)
    assert still_waits(wait)
    held.release()
    assert wait.result(LONG) == [True, 1]


@KINDS
def test_what_a_handler_raises_comes_out_of_the_wait(
    waiter: Peer, lock_path: Path, held: FileLock, options: dict[str, Any]
) -> None:
    waiter.run(HANDLERS)
    wait = begin(waiter, lock_path, "signal.signal(signal.SIGUSR1, fail); wait()", **options)
    os.kill(waiter.pid, signal.SIGUSR1)
    with pytest.raises(PeerError, match="out of the handler") as caught:
        wait.result(LONG)
    assert caught.value.kind == "ZeroDivisionError"
    check_that_it_works_afterwards(waiter, held)


def test_a_wait_in_another_thread_does_not_end_by_ctrl_c(waiter: Peer, lock_path: Path, held: FileLock) -> None:
    """Python runs its handlers in the main thread, and only there."""
    source = """
        over = threading.Event()

        def wait_and_tell():
            wait()
            lock.release()
            over.set()

        threading.Thread(target=wait_and_tell).start()
        try:
            over.wait()
        except KeyboardInterrupt:
            answer = "interrupted"
    """
    wait = begin(waiter, lock_path, source)
    os.kill(waiter.pid, signal.SIGINT)
    assert wait.result(LONG) == "interrupted"
    assert not waiter.run("answer = over.wait(0.06)")
    held.release()
    assert waiter.run("answer = over.wait(8)")
    assert is_free(lock_path)


COUNT = """
def count():
    waits.wait()
    for _ in range(1000):
        time.sleep(0)  # gives the GIL away, and needs it back, each time
    tell("counted")

threading.Thread(target=count).start()
"""


def test_other_threads_run_while_one_waits(waiter: Peer, lock_path: Path, held: FileLock) -> None:
    """One call that blocks: its thread never comes back to Python, where the others would get their turn anyway."""
    waiter.run(PRELUDE, path=lock_path, options={"poll_interval": 5})
    waiter.run(COUNT)
    wait = waiter.begin_run("answer = wait()")
    waiter.heard("counted", unless=wait)
    assert still_waits(wait)
    held.release()
    assert wait.result(LONG) == [True, 1]


def test_a_thread_may_release_what_another_one_waits_for(waiter: Peer, lock_path: Path) -> None:
    """With the GIL kept in a wait this would be a deadlock."""
    waiter.run(PRELUDE, path=lock_path, options={"poll_interval": 5})
    source = """
        holder = FileLock(path, thread_local=False)
        holder.acquire()

        def release():
            waits.wait()
            holder.release()

        threading.Thread(target=release).start()
        answer = wait(timeout=20)
    """
    assert waiter.run(source) == [True, 1]
