"""Event loops in several processes, ours and filelock's: they exclude each other and hand the lock over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from async_peers import is_still_waiting, run, waiting
from ferrolock import AsyncFileLock, AsyncSoftFileLock, Timeout
from peers import LONG, Peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLASSES = pytest.mark.parametrize("cls", [AsyncFileLock, AsyncSoftFileLock], ids=["kernel", "marker"])

TURNS = """
    import asyncio, importlib, os
    from pathlib import Path
    module, name = {lock!r}.rsplit(".", 1)
    Lock = getattr(importlib.import_module(module), name)
    overlaps = 0

    async def one():
        global overlaps
        lock = Lock(path, poll_interval=0.005)
        for _ in range(rounds):
            async with lock:
                try:
                    os.close(os.open(f"{{path}}.inside", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    overlaps += 1
                counter = Path(f"{{path}}.counter")
                count = int(counter.read_text() if counter.exists() else 0)
                await asyncio.sleep(0.0005)
                counter.write_text(str(count + 1))
                os.unlink(f"{{path}}.inside")

    async def main():
        await asyncio.gather(*(one() for _ in range(tasks)))

    asyncio.run(main())
    answer = overlaps
"""


def turns(lock: str) -> str:
    """A program that takes turns in many tasks, with a lock class of that name."""
    return TURNS.format(lock=lock)


@CLASSES
def test_loops_of_processes_take_turns(lock_path: Path, cls: type[AsyncFileLock], spawn: Callable[..., Peer]) -> None:
    peers = [spawn() for _ in range(3)]
    source = turns(f"ferrolock.{cls.__name__}")
    answers = [peer.begin_run(source, path=lock_path, rounds=10, tasks=4) for peer in peers]
    assert [answer.result(3 * LONG) for answer in answers] == [0, 0, 0]
    assert int(lock_path.with_name("x.lock.counter").read_text()) == 3 * 10 * 4


def test_a_lock_that_does_not_lock_is_noticed(lock_path: Path, spawn: Callable[..., Peer]) -> None:
    peers = [spawn() for _ in range(3)]
    source = "import peers\nclass NoLock(peers.NoLock):\n    async def __aenter__(self): pass\n"
    source += "    async def __aexit__(self, *exception): pass\npeers.AsyncNoLock = NoLock\nanswer = None"
    for peer in peers:
        peer.run(source)
    answers = [peer.begin_run(turns("peers.AsyncNoLock"), path=lock_path, rounds=10, tasks=4) for peer in peers]
    overlaps = 0
    for answer in answers:
        try:
            overlaps += answer.result(LONG)
        except Exception:  # the mark of one was removed by another
            overlaps += 1
    assert overlaps > 0


@CLASSES
@pytest.mark.parametrize("rounds", [5])
def test_filelocks_loops_and_ours_take_turns(
    lock_path: Path,
    cls: type[AsyncFileLock],
    rounds: int,
    spawn: Callable[..., Peer],
    filelock_folder: Callable[[str], Path],
) -> None:
    name = "AsyncFileLock" if cls is AsyncFileLock else "AsyncSoftFileLock"
    theirs = spawn(folder=filelock_folder("4.2.12"))
    assert theirs.run("import filelock; answer = filelock.__version__") == "4.2.12"
    ours = spawn()
    answers = [
        theirs.begin_run(turns(f"filelock.{name}"), path=lock_path, rounds=rounds, tasks=3),
        ours.begin_run(turns(f"ferrolock.{name}"), path=lock_path, rounds=rounds, tasks=3),
    ]
    assert [answer.result(3 * LONG) for answer in answers] == [0, 0]
    assert int(lock_path.with_name("x.lock.counter").read_text()) == 2 * rounds * 3


@CLASSES
def test_a_task_waits_for_filelock_and_filelock_for_a_task(
    lock_path: Path, cls: type[AsyncFileLock], spawn: Callable[..., Peer], filelock_folder: Callable[[str], Path]
) -> None:
    name = cls.__name__.replace("Async", "")
    theirs = spawn(lock=f"filelock.{name}", folder=filelock_folder("4.2.12"))

    async def main() -> None:
        lock = cls(lock_path, poll_interval=0.01)
        assert theirs.acquire(lock_path)
        with pytest.raises(Timeout):
            await lock.acquire(blocking=False)
        task = await waiting(lock)
        assert await is_still_waiting(task)
        theirs.release(lock_path)
        await task
        assert not theirs.acquire(lock_path, timeout=0)
        wait = theirs.begin_acquire(lock_path)
        await lock.release()
        assert await asyncio.to_thread(wait.result, LONG)
        theirs.release(lock_path)

    run(main())


@CLASSES
def test_a_holder_that_is_killed_leaves_the_lock_to_the_waiting_task(
    lock_path: Path, cls: type[AsyncFileLock], spawn: Callable[..., Peer]
) -> None:
    peer = spawn(lock=f"ferrolock.{cls.__name__.replace('Async', '')}")

    async def main() -> None:
        assert peer.acquire(lock_path)
        lock = cls(lock_path)
        task = await waiting(lock)
        peer.kill()
        await task
        await lock.release()

    run(main())
