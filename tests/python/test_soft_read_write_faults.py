"""System calls of a ``SoftReadWriteLock`` that fail: it looks again, not for ever, and leaves nothing."""

from __future__ import annotations

import errno
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
from peers import LONG, Peer
from rw_peers import MODES
from soft_peers import LINUX, Call, Victim, traced
from soft_rw_peers import SOFT_RW, allowed, folder_of, markers, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., Victim]

pytestmark = LINUX

HELD_YET = 110
"""How a victim ends that holds what it was told that it does not hold, or the other way round."""

CYCLE = f"""
import os

lock = __import__("ferrolock").SoftReadWriteLock(path, is_singleton=False)
try:
    os.getppid()
    (lock.acquire_read if mode == "read" else lock.acquire_write)(timeout)
    os.getppid()
except OSError:
    if lock.generation is not None:
        os._exit({HELD_YET})
    raise
if lock.generation is None or lock.compromise is not None:
    os._exit({HELD_YET})
try:
    os.getppid()
    lock.release()
    os.getppid()
except OSError:
    if lock.generation is None:
        os._exit({HELD_YET})
    lock.release()
if lock.generation is not None:
    os._exit({HELD_YET})
"""

HARMLESS = {"getpid", "getppid", "uname", "futex", "clock_gettime", "madvise", "mprotect", "munmap", "mmap", "brk"}
"""What has nothing to do with files."""

THREADS = {"clone", "clone3", "rt_sigprocmask", "sched_getaffinity", "prctl"}


@pytest.fixture(autouse=True)
def _nothing_stays_held() -> Iterator[None]:
    yield
    ferrolock._native.remove_markers_at_exit()


class Cycles:
    """Cycles of a victim on one path, with faults."""

    def __init__(self, make: Make, path: Path) -> None:
        self.make, self.path = make, path

    def run(self, mode: str, *faults: str, timeout: float = 0) -> Victim:
        """Run one to its end, where nothing is left of others."""
        for entry in list(self.path.parent.rglob("*")):
            if not entry.is_dir():
                entry.unlink()
        return self.make(CYCLE, *faults, path=self.path, mode=mode, timeout=timeout).go().wait()

    def calls(self, mode: str) -> list[Call]:
        """What acquiring and releasing call on files, where nothing fails."""
        whole = self.run(mode)
        assert whole.status() == 0
        found, is_inside = [], False
        for call in whole.calls():
            if call.name == "getppid":
                is_inside = not is_inside
            elif is_inside and call.name not in HARMLESS | THREADS:
                found.append(call)
        assert len(found) > 15
        return found

    def left(self) -> list[str]:
        """What is there that is in the way of anybody, or of no use."""
        names = [entry.name for entry in self.path.parent.rglob("*")]
        folder = folder_of(self.path).name
        return [
            name
            for name in names
            if name != folder and re.fullmatch(r"\.generation\.\d+|\.seen\.[0-9a-f]+", name) is None
        ]


@pytest.fixture
def cycles(victim: Make, spawn: Callable[..., Peer], lock_path: Path) -> Cycles:
    """On the usual path, by processes with this lock."""
    parent = spawn(lock=SOFT_RW)
    folder_of(lock_path).mkdir()
    return Cycles(lambda *args, **values: victim(*args, parent=parent, **values), lock_path)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", ["ESTALE", "EIO"])
def test_a_call_that_fails_once_is_made_again(cycles: Cycles, mode: str, error: str) -> None:
    ends: dict[Call, int] = {}
    for call in cycles.calls(mode):
        failing = cycles.run(mode, call.fault(f"error={error}"))
        ends[call] = failing.status()
        # What could not be removed is judged by the next one.
        assert len(cycles.left()) <= (call.name == "unlinkat"), (call, cycles.left())
        assert allowed(cycles.path) == "write", call
        assert cycles.left() == [], call
    assert {call: end for call, end in ends.items() if end != 0} == {}


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_is_said_to_be_gone_is_looked_for_again(cycles: Cycles, mode: str) -> None:
    ends: dict[Call, int] = {}
    for call in cycles.calls(mode):
        if call.name not in {"openat", "read", "close", "fstat", "newfstatat"}:
            continue
        ends[call] = cycles.run(mode, call.fault("error=ENOENT")).status()
        assert cycles.left() == [], call
        assert allowed(cycles.path) == "write", call
    assert {call: end for call, end in ends.items() if end != 0} == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", ["openat", "read", "linkat", "getdents64", "unlinkat"])
def test_what_fails_for_ever_is_an_error_and_no_hold(cycles: Cycles, mode: str, call: str) -> None:
    first = next((known for known in cycles.calls(mode) if known.name == call), None)
    if first is None:
        pytest.skip(f"to {mode} needs no {call}")
    begin = time.monotonic()
    failing = cycles.run(mode, f"inject={call}:error=ESTALE:when={first.number}+")
    assert failing.status() == errno.ESTALE
    assert time.monotonic() - begin < LONG / 2
    if call == "unlinkat":  # nothing could be taken back, and its owner is dead
        assert cycles.left()
    assert allowed(cycles.path) == "write"
    assert cycles.left() == []


@pytest.mark.parametrize("mode", MODES)
def test_a_waiter_waits_until_the_trouble_is_over(cycles: Cycles, mode: str) -> None:
    """Through several attempts, each of which looks eight times."""
    first = next(call for call in cycles.calls(mode) if call.name == "linkat")
    fault = f"inject=linkat:error=ESTALE:when={first.number}..{first.number + 23}"
    waiter = cycles.run(mode, fault, timeout=LONG)
    assert waiter.status() == 0
    assert sum("(INJECTED)" in call.text for call in waiter.calls()) == 24
    assert cycles.left() == []


# Heartbeats. They are another thread's.


HOLD = """
from ferrolock import SoftReadWriteLock
lock = SoftReadWriteLock(path, on_compromise=lambda lost: tell("lost", [lost.reason, repr(lost.error)]), **options)
(lock.acquire_read if mode == "read" else lock.acquire_write)()
"""


def failures(record: Path) -> int:
    return record.read_text().count("(INJECTED)") if record.exists() else 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", ["EIO", "ESTALE", "EINTR"])
def test_a_heart_beats_on_after_failures(
    lock_path: Path, tmp_path_factory: pytest.TempPathFactory, spawn: Callable[..., Peer], mode: str, error: str
) -> None:
    peer = spawn(lock=SOFT_RW)
    options: dict[str, Any] = {"heartbeat_interval": 0.1, "stale_threshold": 5}
    peer.run(HOLD, path=lock_path, mode=mode, options=options)
    record = tmp_path_factory.mktemp("strace") / "record"
    [marker] = markers(lock_path, mode)
    with traced(peer, record, f"inject=utimensat:error={error}:when=1..5"):
        until(lambda: failures(record) == 5)
        before = marker.stat().st_mtime_ns
        until(lambda: marker.stat().st_mtime_ns > before)
    calls = [line for line in record.read_text().splitlines() if "utimensat(" in line]
    assert calls
    assert all(line.count("UTIME_NOW") == 2 for line in calls), "the clock is the file system's"
    assert peer.run("answer = lock.compromise") is None
    peer.run("lock.release()")
    assert allowed(lock_path) == "write"


@pytest.mark.parametrize("mode", MODES)
def test_a_heart_that_cannot_beat_is_told_before_others_may_evict(
    lock_path: Path, tmp_path_factory: pytest.TempPathFactory, spawn: Callable[..., Peer], mode: str
) -> None:
    peer = spawn(lock=SOFT_RW)
    options: dict[str, Any] = {"heartbeat_interval": 0.2, "stale_threshold": 1}
    record = tmp_path_factory.mktemp("strace") / "record"
    peer.run(HOLD, path=lock_path, mode=mode, options={**options, "heartbeat_interval": 0.2})
    begin = time.monotonic()
    with traced(peer, record, "inject=utimensat:error=EIO"):
        reason, told = peer.heard("lost")
    assert time.monotonic() - begin < 1.5
    assert failures(record) > 2
    assert reason == "refresh-failed"
    assert f"OSError({errno.EIO}" in told
    peer.run("lock.release()")
    assert allowed(lock_path) == "write"
