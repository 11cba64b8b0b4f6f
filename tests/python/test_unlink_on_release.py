"""``unlink_on_release``: when the file goes, and that nobody gets in beside a holder by it."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import AsyncFileLock, FileLock, SoftFileLock
from peers import LONG, Peer, ProcessContender, blocks_then_proceeds, is_free
from soft_peers import LINUX, Call, Victim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from peers import Contender

UNLINKING = "peers.unlinking_lock"
THEIRS = "filelock.FileLock"
TRUSTING = "peers.TrustingLock"
UNIX = pytest.mark.skipif(os.name != "posix", reason="on Windows nobody can remove a file that is open")
KILLED, TIMED_OUT = -9, 100


def test_the_file_goes_with_the_last_level_and_comes_back(lock_path: Path) -> None:
    lock = FileLock(lock_path, unlink_on_release=True)
    for forces in ([True], [False, False]):
        lock.acquire()
        lock.acquire()
        for force in forces:
            assert lock_path.exists()
            assert not is_free(lock_path)
            lock.release(force=force)
        assert not lock_path.exists()
    with lock:
        assert not is_free(lock_path)
    assert os.listdir(lock_path.parent) == []


def test_the_file_goes_with_a_lock_object_that_is_collected(lock_path: Path) -> None:
    FileLock(lock_path, unlink_on_release=True).acquire()
    assert not lock_path.exists()


def test_without_the_option_the_file_stays(lock_path: Path) -> None:
    with FileLock(lock_path, unlink_on_release=True), pytest.raises(TimeoutError):
        FileLock(lock_path, timeout=0).acquire()
    with FileLock(lock_path) as lock:
        assert lock.unlink_on_release is False
    assert lock_path.exists()


def test_a_file_with_data_stays(lock_path: Path) -> None:
    lock_path.write_text("data")
    with FileLock(lock_path, unlink_on_release=True):
        pass
    assert lock_path.read_text() == "data"
    assert is_free(lock_path)


def test_the_option_travels_and_belongs_to_a_singleton(lock_path: Path) -> None:
    lock = FileLock(lock_path, unlink_on_release=True, is_singleton=True)
    assert lock.unlink_on_release is True
    assert pickle.loads(pickle.dumps(FileLock(lock_path, unlink_on_release=True))).unlink_on_release is True
    with pytest.raises(ValueError, match="unlink_on_release"):
        FileLock(lock_path, is_singleton=True)


def test_a_soft_lock_removes_its_file_anyway(lock_path: Path) -> None:
    with SoftFileLock(lock_path, unlink_on_release=True):
        assert lock_path.exists()
    assert not lock_path.exists()


@pytest.mark.parametrize("options", [{}, {"run_in_executor": False}], ids=["default", "inline"])
def test_the_file_of_an_async_lock_goes_too(lock_path: Path, options: dict[str, Any]) -> None:
    async def use() -> None:
        locks = [AsyncFileLock(lock_path, unlink_on_release=True, **options) for _ in range(4)]

        async def take(lock: AsyncFileLock) -> None:
            for _ in range(5):
                async with lock:
                    assert lock_path.exists()

        await asyncio.gather(*map(take, locks))
        holder, waiter = locks[:2]
        await holder.acquire()
        task = asyncio.ensure_future(waiter.acquire())
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await holder.release()

    asyncio.run(use())
    deadline = time.monotonic() + LONG
    while lock_path.exists():  # the thread that waited for the task takes its leave
        assert time.monotonic() < deadline


def test_who_waits_gets_the_lock_when_the_holder_has_removed_the_file(
    contender: Callable[..., Contender], lock_path: Path
) -> None:
    holder, waiter, third = (contender(lock_path, UNLINKING) for _ in range(3))
    for _ in range(3):
        assert holder.acquire()
        assert blocks_then_proceeds(waiter.begin_acquire(), holder.release)
        assert not third.acquire(timeout=0)
        assert not is_free(lock_path)
        waiter.release()
        assert not lock_path.exists()


# With others.


def turns(path: Path, contenders: list[ProcessContender], rounds: int) -> tuple[int, int]:
    """Let them take turns; return how often two were inside, and how many counts were lost."""
    folder = path.parent / "turns"
    folder.mkdir()
    (folder / "counter").touch()
    begun = [contender.begin_turns(folder, rounds, len(contenders)) for contender in contenders]
    overlaps = sum(turn.result(3 * LONG) for turn in begun)
    return overlaps, rounds * len(contenders) - int((folder / "counter").read_text() or 0)


@pytest.fixture
def make_turns(lock_path: Path) -> Iterator[Callable[..., tuple[int, int]]]:
    """Has processes with these kinds of lock take turns."""
    contenders: list[ProcessContender] = []

    def make(*kinds: str, folder: Path | None = None, rounds: int = 25) -> tuple[int, int]:
        for kind in kinds:
            contenders.append(ProcessContender(lock_path, kind, folder if kind == THEIRS else None))
            if kind == THEIRS:
                contenders[-1].peer.run("lock_on(path).poll_interval = 0.0005", path=lock_path)
        return turns(lock_path, contenders, rounds)

    yield make
    for contender in contenders:
        contender.close()


@pytest.mark.parametrize("ours", [1, 2], ids=["nobody in line", "one in line"])
@pytest.mark.parametrize("version", ["4.2.12", "3.29.0"])
def test_turns_with_filelock_do_not_overlap(
    make_turns: Callable[..., tuple[int, int]], filelock_folder: Callable[[str], Path], version: str, ours: int
) -> None:
    """Who stands in line keeps the file from being removed; filelock only comes by."""
    kinds = [UNLINKING] * ours + [THEIRS] * 2
    assert make_turns(*kinds, folder=filelock_folder(version)) == (0, 0)


def test_turns_of_those_who_remove_and_those_who_do_not_do_not_overlap(
    make_turns: Callable[..., tuple[int, int]],
) -> None:
    assert make_turns(UNLINKING, "ferrolock.FileLock", UNLINKING, "peers.RemovingLock") == (0, 0)


def test_turns_of_those_who_never_stand_in_line_do_not_overlap(make_turns: Callable[..., tuple[int, int]]) -> None:
    """So that each release removes the file."""
    assert make_turns(*["peers.ImpatientLock"] * 4) == (0, 0)


@UNIX
def test_a_program_that_does_not_look_is_let_in(make_turns: Callable[..., tuple[int, int]]) -> None:
    """Not promised, and the control of the tests above."""
    overlaps, _ = make_turns(UNLINKING, TRUSTING, TRUSTING)
    assert overlaps > 0


LOCK_ONCE = "FileLock(path).acquire(timeout=0)"


@LINUX
@pytest.mark.parametrize(("version", "looks"), [("4.2.12", True), ("3.29.0", True), ("3.20.3", False)])
def test_which_filelock_looks_whether_its_file_is_still_there(
    spawn: Callable[..., Peer],
    victim: Callable[..., Victim],
    filelock_folder: Callable[[str], Path],
    lock_path: Path,
    version: str,
    looks: bool,
) -> None:
    """It has opened the file when the holder removes it, and has not locked it yet; then somebody holds a new one."""
    parent = spawn(lock=THEIRS, folder=filelock_folder(version))
    lock_path.touch()
    whole = victim(LOCK_ONCE, parent=parent, path=lock_path).go().wait()
    assert whole.status() == 0
    opens = [call for call in whole.calls() if call.name == "openat" and f"{lock_path.name}" in call.text]
    late = victim(LOCK_ONCE, opens[-1].fault("signal=STOP"), parent=parent, path=lock_path)
    with FileLock(lock_path, unlink_on_release=True):
        late.go().wait_until_stopped()
    with FileLock(lock_path):
        late.cont().wait()
        assert late.status() == (TIMED_OUT if looks else 0)


# At each system call.

RELEASE = """
lock = FileLock(path, unlink_on_release=True)
lock.acquire(timeout=0)
os.getppid()
lock.release()
os.getppid()
"""


@pytest.fixture
def run(spawn: Callable[..., Peer], victim: Callable[..., Victim], lock_path: Path) -> Callable[..., Victim]:
    """Prepares somebody who takes the lock once and gives it back, with faults."""
    parent = spawn()
    parent.run("import os")
    return lambda *faults: victim(RELEASE, *faults, parent=parent, path=lock_path)


def release_calls(run: Callable[..., Victim]) -> list[Call]:
    """What a release calls where nothing fails."""
    whole = run().go().wait()
    assert whole.status() == 0
    calls = whole.calls()
    begin, end = (number for number, call in enumerate(calls) if call.name == "getppid")
    return calls[begin + 1 : end]


@LINUX
def test_the_name_goes_before_the_lock(run: Callable[..., Victim]) -> None:
    names = [call.name for call in release_calls(run)]
    assert names[:2] == ["fcntl", "newfstatat"], "is anybody in line, and is it the file at the path?"
    assert names[2:4] == ["unlinkat", "flock"]


@LINUX
def test_whoever_dies_in_a_release_leaves_a_lock_that_is_free(run: Callable[..., Victim], lock_path: Path) -> None:
    gone = []
    for call in release_calls(run):
        killed = run(call.fault("signal=KILL")).go().wait()
        assert killed.status() == KILLED
        gone.append(not lock_path.exists())
        assert is_free(lock_path)
        lock_path.unlink()
    assert gone == sorted(gone)
    assert any(gone)


@LINUX
def test_who_is_stopped_between_name_and_lock_keeps_nobody_from_the_path(
    run: Callable[..., Victim], lock_path: Path
) -> None:
    unlink = next(call for call in release_calls(run) if call.name == "unlinkat")
    stopped = run(unlink.fault("signal=STOP")).go().wait_until_stopped()
    with FileLock(lock_path, timeout=0):
        stopped.cont().wait()
        assert stopped.status() == 0
        assert not is_free(lock_path)


@LINUX
def test_a_file_that_cannot_be_removed_stays_without_an_error(run: Callable[..., Victim], lock_path: Path) -> None:
    assert run("inject=unlinkat:error=EACCES").go().wait().status() == 0
    assert lock_path.exists()
    assert is_free(lock_path)
