"""The lock of a descriptor that the caller opened."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import FileLock, Timeout, lock_descriptor, unlock_descriptor
from peers import LONG, SHORT, is_free, run_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def open_file(lock_path: Path) -> Iterator[Callable[[], int]]:
    """Opens the lock file again and again, and closes all at the end."""
    opened: list[int] = []

    def open_again() -> int:
        opened.append(os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644))
        return opened[-1]

    yield open_again
    for descriptor in opened:
        os.close(descriptor)


def test_a_locked_descriptor_excludes_locks_and_descriptors(lock_path: Path, open_file: Callable[[], int]) -> None:
    first, second = open_file(), open_file()
    assert lock_descriptor(first)
    assert not lock_descriptor(second, blocking=False)
    with pytest.raises(Timeout):
        FileLock(lock_path).acquire(timeout=0.02)
    unlock_descriptor(first)
    with FileLock(lock_path):
        assert not lock_descriptor(second, blocking=False)
    assert lock_descriptor(second, blocking=False)
    assert not is_free(lock_path)


def test_the_lock_is_the_open_files(open_file: Callable[[], int]) -> None:
    first, second = open_file(), open_file()
    assert lock_descriptor(first)
    assert lock_descriptor(first, blocking=False)
    copy = os.dup(first)
    assert lock_descriptor(copy, blocking=False)
    unlock_descriptor(copy)
    assert lock_descriptor(second, blocking=False)
    unlock_descriptor(first)
    assert not lock_descriptor(first, blocking=False)
    os.close(copy)


def test_a_wait_ends_when_the_lock_is_had(open_file: Callable[[], int]) -> None:
    first, second = open_file(), open_file()
    lock_descriptor(first)
    with ThreadPoolExecutor(1) as threads:
        wait = threads.submit(lock_descriptor, second, poll_interval=0.01)
        time.sleep(SHORT)
        assert not wait.done()
        unlock_descriptor(first)
        assert wait.result(LONG) is True
    assert not lock_descriptor(first, blocking=False)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_poll_interval_is_a_positive_time(open_file: Callable[[], int], wrong: float) -> None:
    descriptor = open_file()
    with pytest.raises(ValueError, match="poll_interval must be"):
        lock_descriptor(descriptor, poll_interval=wrong)
    assert lock_descriptor(descriptor, blocking=False, poll_interval=wrong), "it is nobody's concern then"


@pytest.mark.parametrize("wrong", [True, "1", None])
def test_a_poll_interval_is_a_number(open_file: Callable[[], int], wrong: Any) -> None:
    descriptor = open_file()
    with pytest.raises(TypeError, match="poll_interval must be a number of seconds"):
        lock_descriptor(descriptor, poll_interval=wrong)
    assert lock_descriptor(descriptor, blocking=0, poll_interval=wrong)  # type: ignore[arg-type]


def test_no_descriptor_is_an_error(open_file: Callable[[], int]) -> None:
    closed = os.dup(open_file())
    os.close(closed)
    for call in (lock_descriptor, unlock_descriptor):
        with pytest.raises(OSError, match="Bad file descriptor") as raised:
            call(closed)
        assert (raised.value.errno, raised.value.filename) == (errno.EBADF, None)


@pytest.mark.skipif(sys.platform == "win32", reason="there it is one that is not open")
def test_a_negative_descriptor_is_no_descriptor() -> None:
    for call in (lock_descriptor, unlock_descriptor):
        with pytest.raises(ValueError, match="cannot be a negative integer"):
            call(-1)


def test_unlocking_what_is_unlocked_is_fine(open_file: Callable[[], int]) -> None:
    descriptor = open_file()
    unlock_descriptor(descriptor)
    unlock_descriptor(descriptor)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_signal_handler_ends_a_wait(open_file: Callable[[], int]) -> None:
    first, second = open_file(), open_file()
    lock_descriptor(first)

    def interrupt(*_args: object) -> None:
        raise KeyError("handler")

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(SHORT, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(KeyError, match="handler"):
            lock_descriptor(second)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("version", ["3.29.0", "4.2.12"])
def test_filelock_and_a_locked_descriptor_exclude_each_other(
    lock_path: Path, open_file: Callable[[], int], filelock_folder: Callable[[str], Path], version: str
) -> None:
    theirs = f"""
import sys
sys.path.insert(0, {str(filelock_folder(version))!r})
from filelock import FileLock, Timeout
try:
    with FileLock(sys.argv[1], timeout=0.05):
        print("acquired")
except Timeout:
    print("excluded")
"""
    descriptor = open_file()
    lock_descriptor(descriptor)
    assert run_program(theirs, lock_path) == "excluded\n"
    unlock_descriptor(descriptor)
    assert run_program(theirs, lock_path) == "acquired\n"
