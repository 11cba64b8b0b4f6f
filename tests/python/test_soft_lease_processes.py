"""Leases among processes: who is stopped, killed or busy, who may take the lock then, and whose marker is whose."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import SoftFileLease, SoftFileLock, Timeout
from peers import LONG, Peer
from soft_peers import LINUX, Victim, names, traced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are stopped here")

LEASE = "ferrolock.SoftFileLease"
DURATION, INTERVAL = 0.4, 0.04
TERMS: dict[str, Any] = {"lease_duration": DURATION, "heartbeat_interval": INTERVAL}

PREPARE = """
told = []
lease = lock_on.__self__.locks[path] = FileLock(path, on_compromise=lambda c: told.append(c.reason), **terms)
"""


def prepare(peer: Peer, path: Path, **terms: float) -> Peer:
    """Have the peer use a lease on these terms for the path."""
    peer.run(PREPARE, path=str(path), terms={**TERMS, **terms})
    return peer


@pytest.fixture
def holder(spawn: Callable[..., Peer], lock_path: Path) -> Peer:
    """A process that holds a lease."""
    peer = prepare(spawn(lock=LEASE), lock_path)
    assert peer.acquire(lock_path)
    return peer


@contextmanager
def stopped(peer: Peer) -> Iterator[None]:
    """Nothing runs in the process."""
    peer.stop()
    yield
    peer.cont()


def told(peer: Peer) -> list[str]:
    """What the peer was told when its hold was lost."""
    source = """
    import time
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        time.sleep(0.005)
    answer = told
    """
    reasons: list[str] = peer.run(source)
    return reasons


def test_a_holder_that_is_stopped_for_longer_is_evicted_told_and_leaves_its_successor_alone(
    holder: Peer, lock_path: Path
) -> None:
    lease = SoftFileLease(lock_path, **TERMS)
    begun = time.monotonic()
    with stopped(holder):
        lease.acquire(timeout=LONG)
        assert time.monotonic() - begun >= DURATION
        marker = lock_path.read_bytes()
    assert told(holder) == ["owner-changed"]
    assert holder.state(lock_path) == (True, 1)
    assert "was lost" in holder.run(
        """
        try:
            lease.acquire(timeout=0)
        except RuntimeError as error:
            answer = str(error)
        """
    )
    holder.release(lock_path)
    assert lock_path.read_bytes() == marker
    assert (lease.compromise, str(lease.token) in marker.decode()) == (None, True)
    assert not holder.acquire(lock_path, timeout=0)
    lease.release()
    assert holder.acquire(lock_path, timeout=0)
    assert holder.run("answer = lease.compromise") is None


def test_a_late_release_comes_before_the_heartbeat_and_takes_nothing_of_the_successor(
    spawn: Callable[..., Peer], lock_path: Path
) -> None:
    """No heartbeat in time: the release itself finds out, and tells."""
    holder = prepare(spawn(lock=LEASE), lock_path, heartbeat_interval=DURATION * 0.99)
    for _ in range(3):
        assert holder.acquire(lock_path)
        lease = SoftFileLease(lock_path, **TERMS)
        with stopped(holder):
            lease.acquire(timeout=LONG)
            marker = lock_path.read_bytes()
            release = holder.begin("release", path=str(lock_path), options={})
        release.result(LONG)
        assert lock_path.read_bytes() == marker
        assert holder.run("answer = lease.compromise.reason") == "owner-changed"
        lease.release()
        assert names(lock_path.parent) == []


def test_a_holder_that_is_stopped_for_less_keeps_its_lease(spawn: Callable[..., Peer], lock_path: Path) -> None:
    holder = prepare(spawn(lock=LEASE), lock_path, lease_duration=30.0)
    assert holder.acquire(lock_path)
    with stopped(holder), pytest.raises(Timeout):
        SoftFileLease(lock_path, lease_duration=30).acquire(timeout=0.3)
    with pytest.raises(Timeout):
        SoftFileLease(lock_path, lease_duration=30).acquire(timeout=0.1)
    assert holder.run("answer = lease.compromise, told") == [None, []]
    holder.release(lock_path)
    assert names(lock_path.parent) == []


@pytest.mark.parametrize("duration", [DURATION, 30.0])
def test_a_killed_holders_lease_is_taken_at_once(spawn: Callable[..., Peer], lock_path: Path, duration: float) -> None:
    holder = prepare(spawn(lock=LEASE), lock_path, lease_duration=30.0)
    assert holder.acquire(lock_path)
    holder.kill()
    with SoftFileLease(lock_path, lease_duration=duration, timeout=0) as lease:
        assert lease.is_lock_held_by_us
    assert names(lock_path.parent) == []


def test_who_waits_has_the_lock_soon_after_a_release_or_a_death(spawn: Callable[..., Peer], lock_path: Path) -> None:
    for end in ("release", "kill"):
        holder, waiter = (prepare(spawn(lock=LEASE), lock_path, lease_duration=30.0) for _ in range(2))
        assert holder.acquire(lock_path)
        wait = waiter.begin_acquire(lock_path)
        begun = time.monotonic()
        holder.kill() if end == "kill" else holder.release(lock_path)
        assert wait.result(LONG)
        assert time.monotonic() - begun < 5, "and not only when the lease is over"
        waiter.release(lock_path)


@LINUX
def test_a_holder_that_keeps_the_interpreter_for_longer_keeps_its_lease(
    spawn: Callable[..., Peer], lock_path: Path
) -> None:
    """The heart needs no GIL."""
    holder = prepare(spawn(lock=LEASE), lock_path, lease_duration=2.0)
    assert holder.acquire(lock_path)
    busy = holder.begin_run("import ctypes; answer = ctypes.PyDLL(None).usleep(3_000_000)")
    with pytest.raises(Timeout):
        SoftFileLease(lock_path, lease_duration=2.0).acquire(timeout=2.8)
    assert busy.result(LONG) == 0
    assert holder.run("answer = lease.compromise, told") == [None, []]


def test_a_child_that_outlives_its_parent_does_not_keep_the_lease(holder: Peer, lock_path: Path) -> None:
    child = holder.run("forked = Forked(lambda: __import__('time').sleep(30)); answer = forked.pid")
    try:
        holder.kill()
        with SoftFileLease(lock_path, timeout=LONG, **TERMS):
            assert names(lock_path.parent) == [lock_path.name]
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_program_that_ends_leaves_no_marker_and_has_nothing_to_say(holder: Peer, lock_path: Path) -> None:
    assert holder.exit() == (0, "")
    assert names(lock_path.parent) == []


def test_processes_with_leases_take_turns(spawn: Callable[..., Peer], tmp_path: Path, lock_path: Path) -> None:
    """And with the other soft locks of ours."""
    kinds = [LEASE, LEASE, "ferrolock.MarkerSoftFileLock", "ferrolock.SoftFileLock"]
    crew = [spawn(lock=kind) for kind in kinds]
    for peer in crew[:2]:
        prepare(peer, lock_path, lease_duration=20.0)
    folder = tmp_path / "turns"
    folder.mkdir()
    (folder / "counter").touch()
    rounds, task = 10, {"path": str(lock_path), "folder": str(folder)}
    turns = [peer.begin("turns", **task, rounds=rounds, party=len(crew)) for peer in crew]
    assert [turn.result(3 * LONG) for turn in turns] == [0] * len(crew), "nobody met anybody inside"
    assert (folder / "counter").read_text() == str(rounds * len(crew))
    assert names(lock_path.parent) == ["turns"]


CYCLE = """
lock = FileLock(path, lease_duration=0.15, heartbeat_interval=0.14)
lock.acquire(timeout=0)
lock.release()
if lock.compromise is not None:
    raise OSError(7, lock.compromise.reason)
"""
TOLD, TIMED_OUT = 7, 100
OF_THREADS = {"mmap", "mprotect", "munmap", "madvise", "brk", "futex", "clone", "clone3", "rt_sigprocmask", "getrandom"}


@LINUX
def test_a_holder_may_be_stopped_for_longer_than_its_lease_at_every_call(
    victim: Callable[..., Victim], spawn: Callable[..., Peer], lock_path: Path
) -> None:
    """Behind each call, to be exact. Nobody gets in who loses the lock when it goes on; and somebody gets in."""
    parent = spawn(lock=LEASE)
    whole = victim(CYCLE, parent=parent, path=str(lock_path)).go().wait()
    assert whole.status() == 0
    # A new marker is stamped once more where strace makes that slow: then it is not the first such call.
    calls = [call for call in whole.calls() if call.name not in {*OF_THREADS, "utimensat"}]
    [named] = [place for place, call in enumerate(calls) if call.name == "linkat"]
    unlocked, locked = (place for place, call in enumerate(calls) if call.name == "flock" and place > named)
    [gone] = [place for place, call in enumerate(calls) if call.name == "unlinkat"]
    release = [call.name for call in whole.calls() if call.name not in OF_THREADS]
    release = release[-release[::-1].index("flock") - 1 :]
    assert release[1] == "utimensat", "whoever has judged it before finds it changed"
    late, statuses = [], []
    for call in calls[named : gone + 1]:
        stopped = victim(CYCLE, call.fault("signal=STOP"), parent=parent, path=str(lock_path)).go()
        stopped.wait_until_stopped()
        successor: Any = SoftFileLease(lock_path, lease_duration=0.15, heartbeat_interval=0.02)
        try:
            successor.acquire(timeout=0.5)
        except Timeout:
            late.append(call.name)
            stopped.cont().wait()
            successor.acquire(timeout=LONG)
        marker = lock_path.read_bytes()
        stopped.cont().wait()
        statuses.append(stopped.status())
        assert statuses[-1] in {0, TOLD, TIMED_OUT}, f"{call}: {stopped.record.read_text()[-1000:]}"
        assert lock_path.read_bytes() == marker, call
        assert successor.compromise is None, call
        successor.release()
        assert successor.compromise is None, call
        assert names(lock_path.parent) == [], call
    at = [call.name for call in calls]
    assert late == at[named:unlocked] + at[locked:gone], "whoever makes a marker, or is about to remove it, keeps it"
    assert late[-1] in {"newfstatat", "statx"}, "the look before the removal"
    assert statuses[0] == TIMED_OUT, "whoever comes too late with a new marker has not acquired it"
    assert TOLD in statuses
    assert 0 in statuses


def test_a_soft_lock_waits_for_a_lease_that_is_refreshed(holder: Peer, lock_path: Path) -> None:
    """Longer than the two seconds after which filelock's would take it."""
    with pytest.raises(Timeout):
        SoftFileLock(lock_path).acquire(timeout=2.3)
    lock = SoftFileLock(lock_path)
    with stopped(holder):
        lock.acquire(timeout=LONG)
    assert told(holder) == ["owner-changed"]


@LINUX
def test_a_lease_that_can_be_neither_refreshed_nor_released_ends(
    spawn: Callable[..., Peer], lock_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its owner lives, and goes on having the marker open."""
    record = tmp_path_factory.mktemp("strace") / "record"
    release = """
    try:
        lease.release()
    except OSError as error:
        answer = error.errno
    """
    holder = prepare(spawn(lock=LEASE), lock_path, lease_duration=2.0)
    assert holder.acquire(lock_path)
    lease = SoftFileLease(lock_path, lease_duration=2.0)
    with traced(holder, record, "inject=utimensat:error=EIO"):
        assert holder.run(release) == errno.EIO
        assert holder.state(lock_path) == (True, 1)
        assert told(holder) == ["refresh-failed"]
        lease.acquire(timeout=LONG)
        marker = lock_path.read_bytes()
        # What is lost can be let go of whatever fails.
        assert holder.run(release) is None
    assert holder.state(lock_path) == (False, 0)
    assert lock_path.read_bytes() == marker
    lease.release()
    assert holder.acquire(lock_path, timeout=0)
