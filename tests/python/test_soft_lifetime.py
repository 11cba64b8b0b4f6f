"""Lifetimes: a marker that is old counts as abandoned, for who asks so, and whoever does is warned."""

from __future__ import annotations

import os
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import SoftFileLock, SoftFileLockLifetimeWarning, Timeout
from peers import LONG, Peer, still_waits
from soft_peers import NEVER_A_PROCESS, STRICT, contents, names, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def warned_here() -> Iterator[None]:
    """Check that the block warns once, and of this file."""
    with pytest.warns(SoftFileLockLifetimeWarning, match="may still be at work.*SoftFileLease frees") as caught:
        yield
    assert [warning.filename for warning in caught] == [__file__]


def expecting(path: Path, lifetime: float | None, **options: Any) -> SoftFileLock:
    """A lock with a lifetime; its warning is another test's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SoftFileLockLifetimeWarning)
        return SoftFileLock(path, lifetime=lifetime, **options)


def put(path: Path, content: bytes, age: float) -> None:
    """Leave a marker there that was written so many seconds ago."""
    path.write_bytes(content)
    written = time.time() - age
    os.utime(path, (written, written))


class Sub(SoftFileLock):
    """A subclass with a constructor of its own."""

    def __init__(self, lock_file: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(lock_file, **options)


def test_each_construction_warns_at_its_caller(lock_path: Path) -> None:
    for cls in (SoftFileLock, Sub, SoftFileLock):
        with warned_here():
            lock = cls(lock_path, lifetime=5)
        assert lock.lifetime == 5


def test_a_singleton_that_is_found_warns_as_well(lock_path: Path) -> None:
    with warned_here():
        lock = SoftFileLock(lock_path, lifetime=5, is_singleton=True)
    with warned_here():
        assert SoftFileLock(lock_path, lifetime=5, is_singleton=True) is lock
    with warned_here(), pytest.raises(ValueError, match="lifetime"):
        SoftFileLock(lock_path, lifetime=6, is_singleton=True)


def test_the_setter_warns_at_its_caller(lock_path: Path) -> None:
    lock = SoftFileLock(lock_path)
    assert lock.lifetime is None
    with warned_here():
        lock.lifetime = 1.5
    assert lock.lifetime == 1.5
    lock.lifetime = None
    assert lock.lifetime is None


def test_no_lifetime_and_a_bad_one_warn_of_nothing(lock_path: Path) -> None:
    assert SoftFileLock(lock_path, lifetime=None).lifetime is None
    construct: Any = SoftFileLock
    for bad, error in ((True, TypeError), ("1", TypeError), (-1, ValueError), (float("nan"), ValueError)):
        with pytest.raises(error, match="lifetime"):
            construct(lock_path, lifetime=bad)


def test_a_marker_that_is_old_is_taken_at_once_from_whoever_holds_it(lock_path: Path, soft: Callable[[], Peer]) -> None:
    holder = soft()
    assert holder.acquire(lock_path)
    with pytest.raises(Timeout):
        expecting(lock_path, 60).acquire(timeout=0)
    os.utime(lock_path, (0, 0))
    with pytest.raises(Timeout):
        SoftFileLock(lock_path).acquire(timeout=0)
    with expecting(lock_path, 60, timeout=0) as lock:
        successor = contents(lock_path.parent)
        assert lock.is_lock_held_by_us
        assert holder.state(lock_path) == (True, 1)
        holder.release(lock_path)
        assert contents(lock_path.parent) == successor, "the displaced holder has taken its successor's marker"
    assert names(lock_path.parent) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(record(os.getpid()), id="a-living-owners"),
        pytest.param(b"4711\nelsewhere\n", id="another-hosts"),
        pytest.param(b"", id="an-empty-one"),
        pytest.param(b"garbage\n", id="garbage"),
        pytest.param(b"4711\n", id="a-bare-number"),
    ],
)
def test_age_counts_whatever_the_marker_says(lock_path: Path, content: bytes) -> None:
    put(lock_path, content, age=10)
    lock = expecting(lock_path, 20)
    with pytest.raises(Timeout):
        lock.acquire(timeout=0)
    lock = expecting(lock_path, 5)
    with lock.acquire(timeout=0):
        assert names(lock_path.parent) == [lock_path.name]
    assert names(lock_path.parent) == []


def test_the_file_of_strict_locks_does_not_age(lock_path: Path) -> None:
    put(lock_path, STRICT, age=10**6)
    before = contents(lock_path.parent)
    with pytest.raises(Timeout):
        expecting(lock_path, 0).acquire(timeout=0.02)
    assert contents(lock_path.parent) == before


def test_a_marker_of_the_future_is_not_old(lock_path: Path) -> None:
    put(lock_path, b"4711\nelsewhere\n", age=-3600)
    before = contents(lock_path.parent)
    with pytest.raises(Timeout):
        expecting(lock_path, 1).acquire(timeout=0)
    assert contents(lock_path.parent) == before


def test_a_dead_owners_marker_is_taken_however_long_it_might_have_lived(lock_path: Path) -> None:
    put(lock_path, record(NEVER_A_PROCESS), age=0)
    with expecting(lock_path, 3600, timeout=0):
        pass


def test_a_marker_ages_while_somebody_waits_for_it(lock_path: Path, soft: Callable[[], Peer]) -> None:
    holder, lifetime = soft(), 0.3
    assert holder.acquire(lock_path)
    written = lock_path.stat().st_mtime
    with expecting(lock_path, lifetime, timeout=LONG) as lock:
        assert lock.is_lock_held_by_us
        assert time.time() - written >= lifetime


def test_a_lock_that_was_waited_for_is_fresh_when_it_is_had(lock_path: Path, soft: Callable[[], Peer]) -> None:
    """Its marker may have been written before the wait; that is not when the hold began."""
    lock, waiter = SoftFileLock(lock_path), soft()
    lock.acquire()
    wait = waiter.begin_acquire(lock_path)
    assert still_waits(wait, 0.4)
    released = time.time()
    lock.release()
    assert wait.result(LONG)
    clock_tick = 0.02  # the file system's clock is coarser than ours
    assert lock_path.stat().st_mtime >= released - clock_tick
