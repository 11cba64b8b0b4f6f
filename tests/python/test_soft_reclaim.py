"""
Contenders who judge one dead owner's marker at once, ours and filelock's, each stopped where it hurts most.

A reclaimer looks for the last time, then exchanges its own marker for the dead one's. It is stopped in between, or
right after, and meanwhile others do whatever they like. Whoever has got the lock keeps it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from ferrolock import SoftFileLock, Timeout
from peers import LONG
from soft_peers import LINUX, SOFT, Victim, dead_record, is_free, names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peers import Peer

    Make = Callable[..., Victim]

pytestmark = LINUX

THEIRS = "filelock.SoftFileLock"
TIMED_OUT = 100

RECLAIM = """
lock = FileLock(path)
lock.acquire(timeout=0)
tell("has it")
os.read(until, 1)
lock.release()
"""


KINDS = ["ours", "filelock's"]
LAST_LOOK: dict[str, str] = {}
"""Where each kind is stopped, the same for all paths of one depth."""


class Crowd:
    """Processes of ours and of filelock's, and a path with the marker of somebody who is dead."""

    def __init__(self, path: Path, make: Make, spawn: Callable[..., Peer], folder: Path) -> None:
        self.path, self.make, self.spawn, self.folder = path, make, spawn, folder
        self.parents: dict[str, Peer] = {}
        for kind in KINDS:
            self.prepare(kind)

    def peer(self, kind: str) -> Peer:
        """A process that locks."""
        return self.spawn(lock=SOFT) if kind == "ours" else self.spawn(lock=THEIRS, folder=self.folder)

    def leave_the_dead_ones(self) -> None:
        """Have the dead one's marker at the path, and nothing else."""
        for name in names(self.path.parent):
            (self.path.parent / name).unlink()
        self.path.write_bytes(dead_record())

    def prepare(self, kind: str) -> None:
        """Find the last look of that kind of reclaimer, by one that nobody is in the way of."""
        self.parents[kind] = self.peer(kind)
        self.parents[kind].run("import os; until, end = os.pipe()")
        self.leave_the_dead_ones()
        if kind in LAST_LOOK:
            return
        whole = self.reclaimer(kind).go()
        self.let_go(kind)
        calls = whole.wait().calls()
        assert whole.status() == 0
        exchange = [call.name for call in calls].index("renameat2")
        looks = [call for call in calls[:exchange] if 'x.lock"' in call.text]
        assert looks[-1].name in {"newfstatat", "lstat", "statx"}
        LAST_LOOK[kind] = looks[-1].fault("signal=STOP")
        self.leave_the_dead_ones()

    def reclaimer(self, kind: str, *faults: str) -> Victim:
        """
        A process that tries once to reclaim it, and holds what it gets until `let_go`.

        Contenders of ours keep each other away by a lock on the dead one's file. Here that does nothing, as between
        two kinds of contenders: what follows has to hold all the same.
        """
        return self.make(RECLAIM, *faults, "inject=flock:retval=0", parent=self.parents[kind], path=self.path)

    def about_to_exchange(self, kind: str, *faults: str) -> Victim:
        """A reclaimer that has looked for the last time, and was stopped."""
        return self.reclaimer(kind, LAST_LOOK[kind], *faults).go().wait_until_stopped()

    def let_go(self, kind: str) -> None:
        """Have the reclaimer of this kind that has the lock release it."""
        self.parents[kind].heard("has it")
        self.parents[kind].run("os.write(end, b'.')")

    def check_held_by(self, pid: int, *litter: str) -> None:
        """It has the lock's name, and nobody else gets it."""
        for _ in range(2):
            assert not is_free(self.path)
        assert SoftFileLock(self.path).pid == pid
        assert names(self.path.parent) == sorted([self.path.name, *litter])


PAIRS = pytest.mark.parametrize(
    ("first", "second"), [("ours", "ours"), ("ours", "filelock's"), ("filelock's", "ours")], ids=lambda kind: kind
)
AFTER_THE_EXCHANGE = "inject=renameat2:signal=STOP:when=1"


@pytest.fixture
def crowd(lock_path: Path, victim: Make, spawn: Callable[..., Peer], filelock_folder: Callable[[str], Path]) -> Crowd:
    """Of ours and of filelock 4.2.12."""
    return Crowd(lock_path, victim, spawn, filelock_folder("4.2.12"))


@PAIRS
def test_who_was_overtaken_gives_back_what_it_took(crowd: Crowd, first: str, second: str) -> None:
    reclaimer, holder = crowd.about_to_exchange(first), crowd.peer(second)
    assert holder.acquire(crowd.path, timeout=1)
    assert reclaimer.cont().wait().status() == TIMED_OUT, "both have it"
    crowd.check_held_by(holder.pid)
    assert holder.state(crowd.path) == (True, 1)
    holder.release(crowd.path)
    assert names(crowd.path.parent) == []


@PAIRS
def test_of_two_who_exchange_the_first_keeps_it(crowd: Crowd, first: str, second: str) -> None:
    winner, loser = crowd.about_to_exchange(first), crowd.about_to_exchange(second)
    winner.cont()
    crowd.parents[first].heard("has it")
    assert loser.cont().wait().status() == TIMED_OUT, "both have it"
    crowd.check_held_by(winner.pid)
    crowd.parents[first].run("os.write(end, b'.')")
    assert winner.wait().status() == 0
    assert names(crowd.path.parent) == []


@PAIRS
def test_who_is_stopped_right_after_its_exchange_has_the_lock(crowd: Crowd, first: str, second: str) -> None:
    reclaimer = crowd.about_to_exchange(first, AFTER_THE_EXCHANGE).cont().wait_until_stopped(2)
    contender = crowd.peer(second)
    assert not contender.acquire(crowd.path, timeout=0.02)
    [aside] = {*names(crowd.path.parent)} - {crowd.path.name}
    crowd.check_held_by(reclaimer.pid, aside)
    reclaimer.cont()
    crowd.let_go(first)
    assert reclaimer.wait().status() == 0
    assert names(crowd.path.parent) == []
    assert contender.acquire(crowd.path, timeout=0)


@PAIRS
def test_a_holder_that_was_displaced_by_mistake_keeps_the_lock_all_the_time(
    crowd: Crowd, first: str, second: str
) -> None:
    reclaimer, holder = crowd.about_to_exchange(first, AFTER_THE_EXCHANGE), crowd.peer(second)
    assert holder.acquire(crowd.path, timeout=1)
    reclaimer.cont().wait_until_stopped(2)
    assert SoftFileLock(crowd.path).pid == reclaimer.pid, "it was not displaced"
    for kind in KINDS:
        assert not crowd.peer(kind).acquire(crowd.path, timeout=0.02)
    assert not is_free(crowd.path)
    assert reclaimer.cont().wait().status() == TIMED_OUT, "both have it"
    crowd.check_held_by(holder.pid)
    holder.release(crowd.path)
    assert names(crowd.path.parent) == []


@PAIRS
def test_a_holder_that_releases_while_it_is_displaced_has_released(crowd: Crowd, first: str, second: str) -> None:
    """Its marker is put back after that, and says so."""
    reclaimer, holder = crowd.about_to_exchange(first, AFTER_THE_EXCHANGE), crowd.peer(second)
    assert holder.acquire(crowd.path, timeout=1)
    reclaimer.cont().wait_until_stopped(2)
    holder.release(crowd.path)
    assert reclaimer.cont().wait().status() == TIMED_OUT
    assert crowd.path.read_bytes() == b"filelock/released\n"
    assert is_free(crowd.path)
    assert names(crowd.path.parent) == []


@PAIRS
def test_two_mistakes_one_in_the_other_are_both_undone(crowd: Crowd, first: str, second: str) -> None:
    outer = crowd.about_to_exchange(first, AFTER_THE_EXCHANGE)
    inner = crowd.about_to_exchange(second)
    holder = crowd.peer("ours")
    assert holder.acquire(crowd.path, timeout=1)
    outer.cont().wait_until_stopped(2)
    assert inner.cont().wait().status() == TIMED_OUT, "both have it"
    assert SoftFileLock(crowd.path).pid == outer.pid
    assert outer.cont().wait().status() == TIMED_OUT, "both have it"
    crowd.check_held_by(holder.pid)
    holder.release(crowd.path)
    assert names(crowd.path.parent) == []


@PAIRS
@pytest.mark.parametrize("recoverer", KINDS)
def test_a_mistake_whose_maker_dies_in_another_one_is_undone_by_the_next(
    crowd: Crowd, first: str, second: str, recoverer: str
) -> None:
    """The holder's marker is aside, so is that of who took it, and who took that is dead."""
    outer = crowd.about_to_exchange(first, AFTER_THE_EXCHANGE)
    inner = crowd.about_to_exchange(second, AFTER_THE_EXCHANGE)
    holder, next_one = crowd.peer("ours"), crowd.peer(recoverer)
    assert holder.acquire(crowd.path, timeout=1)
    outer.cont().wait_until_stopped(2)
    inner.cont().wait_until_stopped(2)
    os.kill(inner.pid, signal.SIGKILL)
    assert inner.wait().status() == -signal.SIGKILL
    assert not next_one.acquire(crowd.path, timeout=0.1)
    assert SoftFileLock(crowd.path).pid == outer.pid
    assert outer.cont().wait().status() == TIMED_OUT, "both have it"
    crowd.check_held_by(holder.pid)
    assert holder.state(crowd.path) == (True, 1)
    holder.release(crowd.path)
    assert names(crowd.path.parent) == []


@PAIRS
def test_the_next_undoes_the_mistake_of_one_who_died_over_it(crowd: Crowd, first: str, second: str) -> None:
    """Before anybody has asked about the dead one, filelock takes it for alive; and nobody gets the lock."""
    reclaimer, holder = crowd.about_to_exchange(first, AFTER_THE_EXCHANGE), crowd.peer(second)
    assert holder.acquire(crowd.path, timeout=1)
    reclaimer.cont().wait_until_stopped(2)
    os.kill(reclaimer.pid, signal.SIGKILL)
    reclaimer.wait()
    for kind in KINDS[::-1]:
        assert not crowd.peer(kind).acquire(crowd.path, timeout=0.02)
    assert reclaimer.status() == -signal.SIGKILL
    assert not crowd.peer("filelock's").acquire(crowd.path, timeout=0.02)
    crowd.check_held_by(holder.pid)
    holder.release(crowd.path)
    assert names(crowd.path.parent) == []


def test_a_mistake_is_undone_where_the_lock_was_broken_meanwhile(crowd: Crowd) -> None:
    """Who had the lock has it again."""
    reclaimer, holder = crowd.about_to_exchange("ours", AFTER_THE_EXCHANGE), crowd.peer("ours")
    assert holder.acquire(crowd.path, timeout=1)
    reclaimer.cont().wait_until_stopped(2)
    SoftFileLock(crowd.path).break_lock()
    assert reclaimer.cont().wait().status() == TIMED_OUT
    crowd.check_held_by(holder.pid)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mistake_is_not_undone_where_the_lock_was_broken_and_taken_meanwhile(crowd: Crowd, kind: str) -> None:
    reclaimer, holder = crowd.about_to_exchange("ours", AFTER_THE_EXCHANGE), crowd.peer("ours")
    assert holder.acquire(crowd.path, timeout=1)
    reclaimer.cont().wait_until_stopped(2)
    SoftFileLock(crowd.path).break_lock()
    successor = crowd.peer(kind)
    assert successor.acquire(crowd.path, timeout=0)
    assert reclaimer.cont().wait().status() == TIMED_OUT
    crowd.check_held_by(successor.pid)
    holder.release(crowd.path)
    crowd.check_held_by(successor.pid)


def test_of_many_threads_that_reclaim_at_once_one_gets_it(lock_path: Path) -> None:
    threads, rounds = 6, 25
    together = threading.Barrier(threads, timeout=LONG)

    def attempts() -> list[bool]:
        won = []
        for _ in range(rounds):
            if together.wait() == 0:
                lock_path.write_bytes(dead_record())
            together.wait()
            lock = SoftFileLock(lock_path)
            with suppress(Timeout):
                lock.acquire(timeout=0)
            won.append(lock.is_locked)
            together.wait()
            lock.release()
        return won

    with ThreadPoolExecutor(threads) as pool:
        results = [pool.submit(attempts) for _ in range(threads)]
        winners = [sum(won) for won in zip(*[result.result() for result in results], strict=True)]
    assert winners == [1] * rounds
    assert names(lock_path.parent) == []


def test_the_marker_of_a_reclaimer_that_was_stopped_is_fresh_when_it_gets_its_name(crowd: Crowd) -> None:
    """A contender with a lifetime must not find it old already."""
    reclaimer = crowd.about_to_exchange("ours")
    time.sleep(0.1)
    clock_tick, begun = 0.02, time.time()
    reclaimer.cont()
    crowd.parents["ours"].heard("has it")
    assert crowd.path.stat().st_mtime >= begun - clock_tick
    crowd.parents["ours"].run("os.write(end, b'.')")
    assert reclaimer.wait().status() == 0


@pytest.mark.parametrize("lifetime", [None, 0.0])
def test_while_one_of_ours_is_in_the_middle_no_other_of_ours_takes_the_dead_ones_place(
    crowd: Crowd, lifetime: float | None
) -> None:
    """Stopped there it keeps them away, and nothing is taken by mistake; killed it does so no longer."""
    parent = crowd.parents["ours"]
    # Who has a lifetime may take a marker by its age, but a dead owner's as everybody does. Set past the property,
    # whose warning would make calls of its own.
    reclaim = RECLAIM.replace("lock.acquire", f"lock._lifetime = {lifetime}\nlock.acquire")
    stopped = crowd.make(reclaim, LAST_LOOK["ours"], parent=parent, path=crowd.path).go().wait_until_stopped()
    assert not is_free(crowd.path)
    assert crowd.path.read_bytes() == dead_record()
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.cont().wait()
    assert is_free(crowd.path)
