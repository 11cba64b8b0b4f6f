"""The messages on the logger "filelock": their words, their arguments, and when they come."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import FileLock, Timeout
from peers import held_by_a_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ATTEMPT = "Attempting to acquire lock %s on %s"
ACQUIRED = "Lock %s acquired on %s"
FAILED = "Failed to immediately acquire lock %s on %s"
CANCELLED = "Cancellation requested for lock %s on %s"
TIMED_OUT = "Timeout on acquiring lock %s on %s"
WAITING = "Lock %s not acquired on %s, waiting %s seconds ..."
WAITS_BY = "Lock %s on %s is waited for by %s"
RELEASING = "Attempting to release lock %s on %s"
RELEASED = "Lock %s released on %s"

Record = tuple[str, tuple[Any, ...]]


class Log:
    """What the locks of one test said."""

    def __init__(self, captured: pytest.LogCaptureFixture) -> None:
        self.captured = captured

    def take(self) -> list[Record]:
        """The records since the last call, each a message and its arguments; all of them at DEBUG."""
        records = [record for record in self.captured.records if record.name == "filelock"]
        assert {record.levelno for record in records} <= {logging.DEBUG}
        self.captured.clear()
        return [(record.msg, record.args if isinstance(record.args, tuple) else ()) for record in records]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    """Listen to "filelock" at DEBUG."""
    with caplog.at_level(logging.DEBUG, logger="filelock"):
        yield Log(caplog)


@pytest.fixture
def lock(tmp_path: Path) -> FileLock:
    """An unheld lock."""
    return FileLock(tmp_path / "x.lock")


def said(lock: FileLock, *messages: str) -> list[Record]:
    """The given messages about this lock."""
    return [(message, (id(lock), lock.lock_file)) for message in messages]


@contextmanager
def held_by_a_silent_thread(path: str, log: Log) -> Iterator[None]:
    """Hold the path in another thread, and leave nothing of that in the log."""
    with held_by_a_thread(FileLock(path)):
        log.take()
        yield


def test_an_acquisition_and_its_release_are_told(lock: FileLock, log: Log) -> None:
    lock.acquire()
    assert log.take() == said(lock, ATTEMPT, ACQUIRED)
    lock.release()
    assert log.take() == said(lock, RELEASING, RELEASED)


def test_the_path_is_told_as_it_was_given(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lock = FileLock("./x.lock")
    with lock:
        pass
    assert log.take() == [(message, (id(lock), "./x.lock")) for message in (ATTEMPT, ACQUIRED, RELEASING, RELEASED)]


def test_a_nested_acquisition_is_told_without_an_attempt(lock: FileLock, log: Log) -> None:
    with lock:
        log.take()
        lock.acquire()
        assert log.take() == said(lock, ACQUIRED)
        lock.release()
        assert log.take() == []
    assert log.take() == said(lock, RELEASING, RELEASED)


def test_a_forced_release_is_told_once(lock: FileLock, log: Log) -> None:
    lock.acquire()
    lock.acquire()
    log.take()
    lock.release(force=True)
    assert log.take() == said(lock, RELEASING, RELEASED)


def test_a_release_of_what_is_not_held_is_not_told(lock: FileLock, log: Log) -> None:
    lock.release()
    lock.release(force=True)
    assert log.take() == []


def test_constructing_is_not_told(tmp_path: Path, log: Log) -> None:
    FileLock(tmp_path / "x.lock")
    assert log.take() == []


def test_a_failed_immediate_attempt_is_told(lock: FileLock, log: Log) -> None:
    with held_by_a_silent_thread(lock.lock_file, log):
        with pytest.raises(Timeout):
            lock.acquire(blocking=False)
        assert log.take() == said(lock, ATTEMPT, FAILED)


def test_a_timeout_is_told(lock: FileLock, log: Log) -> None:
    with held_by_a_silent_thread(lock.lock_file, log):
        with pytest.raises(Timeout):
            lock.acquire(timeout=0)
        assert log.take() == said(lock, ATTEMPT, TIMED_OUT)


def test_a_cancellation_is_told(lock: FileLock, log: Log) -> None:
    with held_by_a_silent_thread(lock.lock_file, log):
        with pytest.raises(Timeout):
            lock.acquire(cancel_check=lambda: True)
        records = [record for record in log.take() if record[0] not in {WAITING, WAITS_BY}]
        assert records[0] == said(lock, ATTEMPT)[0]
        assert records[-1] == said(lock, CANCELLED)[0]
        assert set(records) == set(said(lock, ATTEMPT, CANCELLED))


def test_a_wait_is_told_between_its_attempt_and_its_end(lock: FileLock, log: Log) -> None:
    with held_by_a_silent_thread(lock.lock_file, log):
        with pytest.raises(Timeout):
            lock.acquire(timeout=0.2, poll_interval=0.05)
        records = log.take()
        assert records[0] == said(lock, ATTEMPT)[0]
        assert records[-1] == said(lock, TIMED_OUT)[0]
        waits = [arguments for message, arguments in records if message == WAITING]
        assert waits
        for identity, path, seconds in waits:
            assert (identity, path) == (id(lock), lock.lock_file)
            assert 0 <= seconds <= 0.2
        assert {message for message, _ in records} == {ATTEMPT, WAITS_BY, WAITING, TIMED_OUT}


def test_a_wait_says_once_how_it_goes_on(lock: FileLock, log: Log) -> None:
    with held_by_a_silent_thread(lock.lock_file, log):
        with pytest.raises(Timeout):
            lock.acquire(timeout=0.2, poll_interval=0.05)
        told = [arguments for message, arguments in log.take() if message == WAITS_BY]
        assert told == [(id(lock), lock.lock_file, lock.waits_by)]


def test_a_wait_that_succeeds_ends_with_the_acquisition(lock: FileLock, log: Log) -> None:
    checks: list[None] = []
    waiting, let_go = threading.Event(), threading.Event()

    def started() -> bool:
        checks.append(None)
        let_go.set()
        return len(checks) > 10_000

    def hold() -> None:
        with FileLock(lock.lock_file):
            waiting.set()
            let_go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert waiting.wait(10)
        with lock.acquire(poll_interval=0.001, cancel_check=started):
            mine = [record for record in log.take() if record[1][0] == id(lock)]
        assert mine[0] == said(lock, ATTEMPT)[0]
        assert mine[-1] == said(lock, ACQUIRED)[0]
        assert {message for message, _ in mine} <= {ATTEMPT, WAITS_BY, WAITING, ACQUIRED}
    finally:
        let_go.set()
        thread.join(10)


def test_a_refused_wait_for_oneself_tells_of_no_wait(lock: FileLock, log: Log) -> None:
    other = FileLock(lock.lock_file)
    with lock:
        log.take()
        with pytest.raises(RuntimeError):
            other.acquire()
        assert log.take() == [("Attempting to acquire lock %s on %s", (id(other), other.lock_file))]


def test_a_subclass_tells_under_its_own_identity(tmp_path: Path, log: Log) -> None:
    class Sub(FileLock):
        pass

    lock = Sub(tmp_path / "x.lock")
    with lock:
        assert log.take() == said(lock, ATTEMPT, ACQUIRED)


def test_nothing_is_told_above_debug(lock: FileLock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="filelock"):
        with lock, lock, pytest.raises(Timeout):
            FileLock(lock.lock_file).acquire(timeout=0)
        assert [record for record in caplog.records if record.name == "filelock"] == []


def test_the_level_is_asked_anew_each_time(lock: FileLock, caplog: pytest.LogCaptureFixture) -> None:
    with lock:
        pass
    with caplog.at_level(logging.DEBUG, logger="filelock"), lock:
        pass
    with caplog.at_level(logging.WARNING, logger="filelock"), lock:
        pass
    assert [record.msg for record in caplog.records if record.name == "filelock"] == [
        ATTEMPT,
        ACQUIRED,
        RELEASING,
        RELEASED,
    ]


def test_a_message_formats_to_a_line_with_the_path(lock: FileLock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="filelock"), lock:
        pass
    assert f"Lock {id(lock)} acquired on {lock.lock_file}" in caplog.messages
