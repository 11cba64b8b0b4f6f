"""One lock with other programs: filelock, ``flock(1)``, and ``flock(2)`` by hand, both ways round."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ferrolock import FileLock, Timeout
from peers import LONG, OURS, Peer, ProcessContender, blocks_then_proceeds, is_free, still_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

THEIRS = "filelock.FileLock"
REMOVING = "3.29.0"
"""The release that removes the file in each release of the lock."""


@pytest.fixture(params=["4.2.12", REMOVING])
def version(request: pytest.FixtureRequest) -> str:
    """A release of filelock."""
    return str(request.param)


@pytest.fixture
def theirs(version: str, spawn: Callable[..., Peer], filelock_folder: Callable[[str], Path]) -> Peer:
    """A process with the real filelock."""
    peer = spawn(lock=THEIRS, folder=filelock_folder(version))
    assert peer.run("import filelock, sys; answer = filelock.__version__, 'ferrolock' in sys.modules") == [
        version,
        False,
    ]
    return peer


@pytest.fixture
def ours(spawn: Callable[..., Peer]) -> Peer:
    """A process with ferrolock."""
    return spawn()


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


def test_a_nested_hold_excludes_until_its_last_release(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    assert holder.acquire(lock_path)
    holder.release(lock_path)
    assert not contender.acquire(lock_path, timeout=0)
    holder.release(lock_path)
    assert contender.acquire(lock_path, timeout=0)


def test_a_waiter_takes_over(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    assert blocks_then_proceeds(contender.begin_acquire(lock_path), lambda: holder.release(lock_path))
    assert not holder.acquire(lock_path, timeout=0)
    assert not is_free(lock_path)
    contender.release(lock_path)
    assert holder.acquire(lock_path, timeout=0)


def test_a_waiter_takes_over_from_the_dead(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    assert blocks_then_proceeds(contender.begin_acquire(lock_path), holder.kill)
    assert not is_free(lock_path)


@pytest.mark.skipif(os.name != "posix", reason="on Windows no release can remove a file that is open")
@pytest.mark.parametrize("version", [REMOVING], indirect=True)
def test_a_waiter_is_not_fooled_by_a_release_that_removes_the_file(
    ours: Peer, theirs: Peer, spawn: Callable[..., Peer], lock_path: Path
) -> None:
    """The file that the waiter has open is locked by nobody, and is not the one that others lock."""
    another = spawn()
    assert theirs.acquire(lock_path)
    wait = ours.begin_acquire(lock_path)
    ours.stop()
    theirs.release(lock_path)
    assert not lock_path.exists()
    assert another.acquire(lock_path, timeout=0)
    ours.cont()
    assert still_waits(wait)
    another.release(lock_path)
    assert wait.result(LONG)
    assert not is_free(lock_path)
    assert not theirs.acquire(lock_path, timeout=0)


def test_a_removed_file_comes_back_with_the_next_hold(theirs: Peer, ours: Peer, lock_path: Path) -> None:
    for _ in range(3):
        assert theirs.acquire(lock_path, timeout=0)
        theirs.release(lock_path)
        assert ours.acquire(lock_path, timeout=0)
        assert lock_path.exists()
        assert not theirs.acquire(lock_path, timeout=0)
        ours.release(lock_path)


@pytest.fixture
def mixed(filelock_folder: Callable[[str], Path], lock_path: Path, version: str) -> Iterator[list[ProcessContender]]:
    """Two of ours and two of theirs."""
    folder = filelock_folder(version)
    contenders = [ProcessContender(lock_path, OURS) for _ in range(2)]
    contenders += [ProcessContender(lock_path, THEIRS, folder) for _ in range(2)]
    try:
        for contender in contenders:
            contender.peer.run("lock_on(path).poll_interval = 0.002", path=lock_path)
        yield contenders
    finally:
        for contender in contenders:
            contender.close()


def test_turns_of_both_do_not_overlap(mixed: list[ProcessContender], tmp_path: Path) -> None:
    folder, rounds = tmp_path / "turns", 25
    folder.mkdir()
    (folder / "counter").touch()
    turns = [contender.begin_turns(folder, rounds, len(mixed)) for contender in mixed]
    assert sum(turn.result(3 * LONG) for turn in turns) == 0
    assert int((folder / "counter").read_text()) == rounds * len(mixed)


@pytest.fixture
def flock_command() -> str:
    """Where flock(1) is."""
    command = shutil.which("flock")
    if command is None:
        pytest.skip("there is no flock(1) here")
    return command


def test_a_hold_excludes_the_flock_command(flock_command: str, lock_path: Path) -> None:
    attempt = partial(subprocess.run, [flock_command, "--nonblock", str(lock_path), "true"], timeout=LONG)
    with FileLock(lock_path):
        assert attempt().returncode == 1
    assert attempt().returncode == 0


def test_a_hold_of_the_flock_command_excludes(flock_command: str, lock_path: Path, ours: Peer) -> None:
    command = [flock_command, str(lock_path), "sh", "-c", "echo held; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            assert not is_free(lock_path)
            assert blocks_then_proceeds(ours.begin_acquire(lock_path), holder.stdin.close)
        finally:
            holder.kill()


def test_flock_by_hand_excludes_and_is_excluded(lock_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with open(lock_path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Timeout):
            FileLock(lock_path, timeout=0).acquire()
        fcntl.flock(file, fcntl.LOCK_UN)
        with FileLock(lock_path, timeout=0), pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not is_free(lock_path)


def test_a_shared_flock_by_hand_excludes(lock_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with open(lock_path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not is_free(lock_path)
    assert is_free(lock_path)


def test_a_record_lock_on_the_file_is_another_matter(lock_path: Path) -> None:
    """``lockf`` and ``flock`` are two kinds of lock on Linux, and filelock's is ``flock``."""
    fcntl = pytest.importorskip("fcntl")
    if not os.path.exists("/proc/locks"):
        pytest.skip("some systems have but one kind of lock")
    with open(lock_path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert is_free(lock_path)
