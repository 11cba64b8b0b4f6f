"""One soft lock with filelock's programs, both ways round: exclusion, hand-over, and each other's dead."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import SoftFileLock
from peers import LONG, Peer, blocks_then_proceeds
from soft_peers import LINUX, NEVER_A_PROCESS, SOFT, Victim, dead_record, is_free, names, record, start_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    Spawn = Callable[..., Peer]
    Find = Callable[[str], Path]

THEIRS = "filelock.SoftFileLock"
CAREFUL, CARELESS = "4.2.12", "3.29.0"


@pytest.fixture(params=[CAREFUL, CARELESS])
def version(request: pytest.FixtureRequest) -> str:
    """A release of filelock."""
    return str(request.param)


@pytest.fixture
def theirs(version: str, spawn: Spawn, filelock_folder: Find) -> Peer:
    """A process with the real filelock."""
    peer = spawn(lock=THEIRS, folder=filelock_folder(version))
    about = "import filelock, sys; answer = filelock.__version__, 'ferrolock' in sys.modules"
    assert peer.run(about) == [version, False]
    return peer


@pytest.fixture
def ours(soft: Callable[[], Peer]) -> Peer:
    """A process with ferrolock."""
    return soft()


@pytest.fixture(params=["ours holds", "theirs holds"])
def pair(request: pytest.FixtureRequest, ours: Peer, theirs: Peer) -> tuple[Peer, Peer]:
    """The holder and the contender."""
    return (ours, theirs) if request.param == "ours holds" else (theirs, ours)


def test_a_hold_excludes_the_other_and_a_release_lets_it_in(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    for _ in range(3):
        assert holder.acquire(lock_path)
        assert not contender.acquire(lock_path, timeout=0)
        assert not contender.acquire(lock_path, timeout=0.02)
        holder.release(lock_path)
        assert contender.acquire(lock_path, timeout=0)
        assert not holder.acquire(lock_path, timeout=0)
        contender.release(lock_path)
    assert names(lock_path.parent) == []


def test_each_reads_the_others_marker(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, reader = pair
    ask = "lock = FileLock(path); answer = lock.pid, lock.is_lock_held_by_us"
    assert reader.run(ask, path=lock_path) == [None, False]
    assert holder.acquire(lock_path)
    assert reader.run(ask) == [holder.pid, False]
    assert holder.run(ask, path=lock_path) == [holder.pid, True]


def test_a_waiter_takes_over(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    assert blocks_then_proceeds(contender.begin_acquire(lock_path), lambda: holder.release(lock_path))
    assert not holder.acquire(lock_path, timeout=0)
    assert not is_free(lock_path)
    assert SoftFileLock(lock_path).pid == contender.pid


def test_a_waiter_takes_over_from_the_dead(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    assert blocks_then_proceeds(contender.begin_acquire(lock_path), holder.kill)
    assert SoftFileLock(lock_path).pid == contender.pid
    contender.release(lock_path)
    assert names(lock_path.parent) == []


def test_each_judges_the_others_dead(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    holder.kill()
    assert names(lock_path.parent) == [lock_path.name]
    # filelock 3.29 removes it, and has the lock at its next attempt only.
    assert contender.acquire(lock_path, timeout=1)
    assert SoftFileLock(lock_path).pid == contender.pid
    contender.release(lock_path)
    assert names(lock_path.parent) == []


@LINUX
def test_each_sees_the_other_as_alive_though_it_is_stopped(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    holder.stop()
    before = lock_path.read_bytes()
    assert not contender.acquire(lock_path, timeout=0.1)
    assert lock_path.read_bytes() == before
    holder.cont()
    holder.release(lock_path)
    assert contender.acquire(lock_path, timeout=1)


@pytest.mark.parametrize("version", [CAREFUL], indirect=True)
def test_a_displaced_holder_leaves_the_others_marker_alone(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, successor = pair
    assert holder.acquire(lock_path)
    SoftFileLock(lock_path).break_lock()
    assert successor.acquire(lock_path, timeout=0)
    holder.release(lock_path)
    assert SoftFileLock(lock_path).pid == successor.pid


@pytest.mark.parametrize("version", [CARELESS], indirect=True)
def test_our_marker_is_gone_after_a_release_by_a_displaced_one_of_3_29(
    theirs: Peer, ours: Peer, lock_path: Path
) -> None:
    """It removes whatever is there. Ours is not told, and does not mind."""
    assert theirs.acquire(lock_path)
    SoftFileLock(lock_path).break_lock()
    assert ours.acquire(lock_path, timeout=0)
    theirs.release(lock_path)
    assert names(lock_path.parent) == []
    ours.release(lock_path)
    assert names(lock_path.parent) == []


# Empty and damaged files, which filelock makes where it is killed between creating and writing


@pytest.mark.parametrize("version", [CAREFUL], indirect=True)
def test_both_hold_an_empty_file_for_somebodys(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    lock_path.touch()
    os.utime(lock_path, (0, 0))
    for peer in pair:
        assert not peer.acquire(lock_path, timeout=0.02)
    assert lock_path.read_bytes() == b""


@LINUX
@pytest.mark.parametrize("version", [CAREFUL, CARELESS], indirect=True)
def test_a_holder_of_theirs_that_dies_leaves_nothing_that_ours_cannot_judge(
    theirs: Peer, victim: Callable[..., Victim], lock_path: Path
) -> None:
    """But for the one moment in which its file is empty: killed before each call of acquiring and releasing."""
    cycle = "lock = FileLock(path); lock.acquire(timeout=0); lock.release()"
    whole = victim(cycle, parent=theirs, path=lock_path).go().wait()
    calls = whole.calls()
    assert whole.status() == 0
    begin = next(place for place, call in enumerate(calls) if "O_EXCL" in call.text)
    empty = []
    for call in calls[begin:]:
        if call.name in {"brk", "mmap", "munmap", "mprotect", "futex", "rt_sigaction"}:
            continue  # how often Python asks for memory is not the same each time
        killed = victim(cycle, call.fault("signal=KILL"), parent=theirs, path=lock_path).go().wait()
        if lock_path.exists() and not lock_path.read_bytes():
            empty.append(call.name)
            assert not is_free(lock_path)
            lock_path.unlink()
        assert is_free(lock_path), call
        assert names(lock_path.parent) == []
        assert killed.status() == -9, f"{call} was not reached"
    assert "write" in empty
    assert "unlink" not in empty


# A crowd

CROWD = """
import os, random, time

def turn(dies):
    lock = FileLock(path, poll_interval=0.002)
    lock.acquire()
    overlaps = 0
    try:
        os.close(os.open(folder + "/inside", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        overlaps = 1
    with open(folder + "/counter") as file:
        count = int(file.read() or 0)
    time.sleep(0.0005)  # time for others to come in, if nothing keeps them out
    with open(folder + "/counter", "w") as file:
        file.write(str(count + 1))
    try:
        os.unlink(folder + "/inside")
    except FileNotFoundError:
        overlaps = 1
    if not dies:
        lock.release()
    return overlaps

turns = overlaps = 0
while time.monotonic() < begin:
    pass
while time.monotonic() < end:
    turns += 1
    if not share_of_deaths:
        overlaps += turn(dies=False)
        continue
    child = os.fork()
    if not child:
        try:
            os._exit(turn(dies=random.random() < share_of_deaths))
        finally:
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1), status
    overlaps += status
answer = turns, overlaps
"""


def crowd(peers: list[Peer], path: Path, seconds: float, share_of_deaths: float) -> tuple[list[int], int, int]:
    """Have them take turns; return how many each had, how many of all overlapped, and how many were counted."""
    folder = path.parent / "crowd"
    folder.mkdir()
    (folder / "counter").touch()
    for peer in peers:
        peer.run("pass")  # by then it has been started
    begin = time.monotonic() + 0.05
    values = {"path": path, "folder": folder, "begin": begin, "end": begin + seconds}
    runs: list[Future[Any]] = [peer.begin_run(CROWD, share_of_deaths=share_of_deaths, **values) for peer in peers]
    results = [run.result(seconds + LONG) for run in runs]
    counted = int((folder / "counter").read_text())
    return [turns for turns, _ in results], sum(overlaps for _, overlaps in results), counted


@LINUX
@pytest.mark.parametrize(
    ("version", "seconds", "share_of_deaths"),
    [
        pytest.param(CAREFUL, 3.0, 0.3, id="4.2.12-and-deaths"),
        # Its way to break a dead one's lock is not safe, see below; nor if that one has just released it, and ended.
        pytest.param(CARELESS, 1.0, 0.0, id="3.29.0"),
    ],
    indirect=["version"],
)
def test_a_mixed_crowd_never_overlaps(
    version: str, spawn: Spawn, filelock_folder: Find, lock_path: Path, seconds: float, share_of_deaths: float
) -> None:
    peers = [spawn(lock=SOFT) for _ in range(3)]
    peers += [spawn(lock=THEIRS, folder=filelock_folder(version)) for _ in range(2)]
    turns, overlaps, counted = crowd(peers, lock_path, seconds, share_of_deaths)
    assert (overlaps, counted) == (0, sum(turns))
    assert min(turns) > 0
    assert is_free(lock_path)
    assert names(lock_path.parent) == ["crowd"]


@LINUX
def test_a_crowd_without_a_lock_overlaps(spawn: Spawn, lock_path: Path) -> None:
    """The control."""
    turns, overlaps, counted = crowd([spawn(lock="soft_peers.Unlocked") for _ in range(3)], lock_path, 0.5, 0)
    assert overlaps > 0
    assert counted != sum(turns)


# What cannot be helped


@LINUX
@pytest.mark.parametrize("version", [CAREFUL, CARELESS], indirect=True)
def test_3_29_removes_a_live_marker_where_its_successor_gives_it_back(
    theirs: Peer, version: str, ours: Peer, victim: Callable[..., Victim], lock_path: Path
) -> None:
    """
    3.29 judges a marker, and then moves away whatever has its name by then, without another look.

    It is stopped in between; the lock it found dead has a living owner, ours, when it goes on. Both believe that they
    hold it then. A program of that release can do so to any other, and no other can prevent it. 4.2 looks what it has
    taken, and gives it back.
    """
    act = "lock = FileLock(path, poll_interval=0.01); lock.acquire(timeout=0.5); tell('has it'); os._exit(0)"
    theirs.run("import os")
    judge = [record(NEVER_A_PROCESS), dead_record()][version == CAREFUL]
    lock_path.write_bytes(judge)
    whole = victim(act, parent=theirs, path=lock_path).go().wait()
    assert whole.status() == 0
    theirs.heard("has it")
    calls = whole.calls()
    takes = next(place for place, call in enumerate(calls) if call.name in {"rename", "renameat", "renameat2"})
    look = [call for call in calls[:takes] if call.name == "kill" or 'x.lock"' in call.text][-1]
    lock_path.write_bytes(judge)
    stopped = victim(act, look.fault("signal=STOP"), parent=theirs, path=lock_path).go().wait_until_stopped()
    assert ours.acquire(lock_path, timeout=0)
    assert lock_path.read_bytes() == record(ours.pid, token=start_token(ours.pid))
    stopped.cont().wait()
    if version == CAREFUL:
        assert stopped.status() == 100
        assert SoftFileLock(lock_path).pid == ours.pid
    else:
        assert stopped.status() == 0
        assert theirs.heard("has it") is None
        assert SoftFileLock(lock_path).pid == stopped.pid
    assert ours.state(lock_path) == (True, 1)
    ours.release(lock_path)
    assert is_free(lock_path)
