"""One holder at a time: the same laws for threads and for processes, each with a lock that breaks it.

The checks are functions, so that the negative controls can give the very same ones a lock that does not lock.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from peers import LONG, OURS, blocks_then_proceeds, is_free, still_waits, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from peers import Contender

    Make = Callable[..., Contender]

NO_LOCK = "peers.NoLock"
TRUSTING = "peers.TrustingLock"
UNIX = pytest.mark.skipif(os.name != "posix", reason="Windows lets nobody replace a file that is open")
POLLING = 0.01


def check_that_a_hold_is_refused_to_others(make: Make, path: Path, lock: str) -> None:
    """While one holds, the other gets nothing; afterwards it does, and the first gets nothing."""
    one, other = make(path, lock), make(path, lock)
    for holder, loser in ((one, other), (other, one), (one, other)):
        assert holder.acquire(timeout=0)
        assert not loser.acquire(timeout=0)
        assert not loser.acquire(timeout=POLLING)
        holder.release()


def check_that_a_waiter_waits_for_the_release(make: Make, path: Path, lock: str) -> None:
    """A waiter is blocked until the holder releases, and then holds."""
    holder, waiter, third = make(path, lock), make(path, lock), make(path, lock)
    assert holder.acquire()
    assert blocks_then_proceeds(waiter.begin_acquire(), holder.release)
    assert not third.acquire(timeout=0)
    waiter.release()
    assert third.acquire(timeout=0)
    third.release()


def contend(make: Make, path: Path, lock: str) -> tuple[int, int]:
    """Let several take turns; return how often two were inside, and how many counts were lost."""
    party, rounds = 4, 25
    folder = path.parent / "turns"
    folder.mkdir()
    (folder / "counter").touch()
    turns = [make(path, lock).begin_turns(folder, rounds, party) for _ in range(party)]
    overlaps = sum(turn.result(3 * LONG) for turn in turns)
    return overlaps, party * rounds - int((folder / "counter").read_text() or 0)


def check_that_turns_do_not_overlap(make: Make, path: Path, lock: str) -> None:
    """Nobody finds the mark of another inside, and no count is lost."""
    assert contend(make, path, lock) == (0, 0)


LAWS = pytest.mark.parametrize(
    "check",
    [
        check_that_a_hold_is_refused_to_others,
        check_that_a_waiter_waits_for_the_release,
        check_that_turns_do_not_overlap,
    ],
)


@LAWS
def test_a_lock_excludes(contender: Make, lock_path: Path, check: Callable[[Make, Path, str], None]) -> None:
    check(contender, lock_path, OURS)
    assert is_free(lock_path)


@LAWS
def test_what_does_not_lock_is_found_out(
    contender: Make, lock_path: Path, check: Callable[[Make, Path, str], None]
) -> None:
    with pytest.raises(AssertionError):
        check(contender, lock_path, NO_LOCK)


def test_each_detector_of_overlaps_works_alone(contender: Make, lock_path: Path) -> None:
    overlaps, lost = contend(contender, lock_path, NO_LOCK)
    assert overlaps > 0
    assert lost != 0, "two at once can also leave a mixture of two numbers, larger than both"


def test_threads_and_processes_exclude_each_other(lock_path: Path, contender: Make) -> None:
    from ferrolock import FileLock

    party, rounds = 3, 25
    folder = lock_path.parent / "turns"
    folder.mkdir()
    (folder / "counter").touch()
    turns = [contender(lock_path).begin_turns(folder, rounds, party) for _ in range(party - 1)]
    overlaps = take_turns(FileLock(lock_path), folder, rounds, party) + sum(turn.result(3 * LONG) for turn in turns)
    assert (overlaps, int((folder / "counter").read_text())) == (0, party * rounds)


def test_a_waiter_with_a_timeout_gives_up_and_leaves_nothing_behind(contender: Make, lock_path: Path) -> None:
    holder, waiter = contender(lock_path), contender(lock_path)
    assert holder.acquire()
    assert not waiter.acquire(timeout=0.03)
    holder.release()
    assert is_free(lock_path)


@contextmanager
def somebody_holds_a_new_file_at(path: Path, keep: bool = False) -> Iterator[None]:
    """
    Put another file in place of the lock file. Somebody has had it locked since before it came there.

    :param keep: let the old file live on, under another name
    """
    from fcntl import LOCK_EX, flock

    new = path.with_name("new")
    if keep:
        os.link(path, path.with_name("old"))
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        flock(descriptor, LOCK_EX)
        os.replace(new, path)
        yield
    finally:
        os.close(descriptor)


def check_that_a_waiter_follows_the_path(make: Make, path: Path, lock: str, keep: bool) -> None:
    """A waiter does not end up with the old file when its holder lets go of it after the path has got another."""
    holder, waiter = make(path, lock), make(path, lock)
    assert holder.acquire()
    wait = waiter.begin_acquire()
    assert still_waits(wait)
    with somebody_holds_a_new_file_at(path, keep):
        holder.release()
        assert still_waits(wait), "it holds a file that is not at the path"
    assert wait.result(LONG)
    assert not is_free(path)
    waiter.release()
    assert is_free(path)


KEEP = pytest.mark.parametrize("keep", [False, True], ids=["replaced", "moved-away"])


@UNIX
@KEEP
def test_a_waiter_follows_the_path_to_a_new_file(contender: Make, lock_path: Path, keep: bool) -> None:
    check_that_a_waiter_follows_the_path(contender, lock_path, OURS, keep)


@UNIX
@KEEP
def test_a_waiter_that_trusts_its_old_file_is_found_out(contender: Make, lock_path: Path, keep: bool) -> None:
    with pytest.raises(AssertionError, match="not at the path"):
        check_that_a_waiter_follows_the_path(contender, lock_path, TRUSTING, keep)


@UNIX
@pytest.mark.parametrize("recreate", [False, True], ids=["removed", "removed-and-recreated"])
def test_a_waiter_goes_on_with_whatever_file_is_at_the_path(contender: Make, lock_path: Path, recreate: bool) -> None:
    holder, waiter = contender(lock_path), contender(lock_path)
    assert holder.acquire()
    wait = waiter.begin_acquire()
    assert still_waits(wait)
    lock_path.unlink()
    if recreate:
        lock_path.write_bytes(b"new")
    assert wait.result(LONG)
    assert not is_free(lock_path)
    holder.release()
    assert not is_free(lock_path), "the holder of the old file has released somebody else's lock"
    waiter.release()
    assert is_free(lock_path)
    assert lock_path.read_bytes() == (b"new" if recreate else b"")


@UNIX
def test_a_newcomer_locks_the_file_at_the_path(contender: Make, lock_path: Path) -> None:
    holder, newcomer = contender(lock_path), contender(lock_path)
    assert holder.acquire()
    with somebody_holds_a_new_file_at(lock_path):
        assert not newcomer.acquire(timeout=0)
    assert newcomer.acquire(timeout=0)
    assert not is_free(lock_path)
    holder.release()
    assert not is_free(lock_path)
    newcomer.release()
    assert is_free(lock_path)


@UNIX
def test_a_lock_file_that_its_holders_remove_still_excludes(contender: Make, lock_path: Path) -> None:
    """As filelock 3.29 does: every turn ends with the removal of the file, under those who wait for it."""
    folder = lock_path.parent / "turns"
    folder.mkdir()
    (folder / "counter").touch()
    turns = [contender(lock_path, "peers.RemovingLock").begin_turns(folder, 25, 4) for _ in range(4)]
    assert sum(turn.result(3 * LONG) for turn in turns) == 0
    assert int((folder / "counter").read_text()) == 100


def test_content_of_the_lock_file_and_its_times_are_not_touched(contender: Make, lock_path: Path) -> None:
    lock_path.write_bytes(b"somebody's data\n")
    os.utime(lock_path, ns=(10**18, 10**18))
    before = lock_path.stat()
    holder, other = contender(lock_path), contender(lock_path)
    assert holder.acquire()
    assert not other.acquire(timeout=0)
    holder.release()
    assert other.acquire()
    other.release()
    after = lock_path.stat()
    assert lock_path.read_bytes() == b"somebody's data\n"
    assert (after.st_mtime_ns, after.st_ino, after.st_mode) == (before.st_mtime_ns, before.st_ino, before.st_mode)


def test_the_file_stays_after_a_release(contender: Make, lock_path: Path) -> None:
    holder = contender(lock_path)
    assert holder.acquire()
    before = lock_path.stat()
    assert not before.st_size
    holder.release()
    assert os.path.samestat(lock_path.stat(), before)
    assert [entry.name for entry in lock_path.parent.iterdir()] == [lock_path.name]
