"""Event loops of several processes, ours and filelock's, that read and write: who contends, and who is let in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_peers import is_still_waiting, run
from async_rw_peers import acquire, waiting
from ferrolock import AsyncReadWriteLock, AsyncSoftReadWriteLock, Timeout, _native
from peers import LONG, Peer
from rw_peers import BY_PACKAGE, Party

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Spawn = Callable[..., Peer]

CLASSES = pytest.mark.parametrize("cls", [AsyncReadWriteLock, AsyncSoftReadWriteLock], ids=["bytes", "lease"])
RELEASES = {"AsyncReadWriteLock": ["4.2.12", "3.29.0"], "AsyncSoftReadWriteLock": ["3.29.0"]}
PAIRS = pytest.mark.parametrize(("name", "release"), [(name, one) for name in RELEASES for one in RELEASES[name]])
OPTIONS: dict[str, dict[str, Any]] = {
    "AsyncReadWriteLock": {},
    "AsyncSoftReadWriteLock": {"heartbeat_interval": 0.5, "stale_threshold": 20, "poll_interval": 0.01},
}


@pytest.fixture(autouse=True)
def _nothing_stays_held() -> Iterator[None]:
    yield
    _native.remove_markers_at_exit()


TURNS = """
    import asyncio, importlib, os
    module, name = {lock!r}.rsplit(".", 1)
    Lock = getattr(importlib.import_module(module), name)
    overlaps = inside = turns = 0

    def marks(kind):
        return [entry for entry in os.listdir(folder) if entry.startswith(kind)]

    async def one(number):
        global overlaps, turns
        # filelock 3.29 has one hold for all tasks of an object: each has its own here.
        lock = Lock(path, is_singleton=False, **options)
        mode = "write" if number % 3 == 0 else "read"
        for round in range(rounds):
            await (lock.acquire_write if mode == "write" else lock.acquire_read)()
            mark = os.path.join(folder, f"{{mode}}.{{os.getpid()}}.{{number}}.{{round}}")
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            others = marks("write") if mode == "read" else marks("")
            overlaps += len(others) > (mode == "write")
            await asyncio.sleep(0.001)
            os.unlink(mark)
            turns += 1
            await lock.release()

    async def main():
        await asyncio.gather(*(one(number) for number in range(tasks)))

    asyncio.run(main())
    answer = [overlaps, turns]
"""


def begin_turns(peer: Peer, lock: str, path: Path, rounds: int, tasks: int) -> Any:
    """Take turns in many tasks, with a lock class of that name."""
    folder = path.with_name("marks")
    folder.mkdir(exist_ok=True)
    options = OPTIONS.get(lock.rpartition(".")[2], {})
    values = {"path": path, "folder": folder, "options": options, "rounds": rounds, "tasks": tasks}
    return peer.begin_run(TURNS.format(lock=lock), **values)


@CLASSES
def test_loops_of_processes_take_turns(lock_path: Path, cls: type[Any], spawn: Spawn) -> None:
    answers = [begin_turns(spawn(), f"ferrolock.{cls.__name__}", lock_path, 4, 4) for _ in range(3)]
    assert [answer.result(3 * LONG) for answer in answers] == [[0, 16]] * 3


def test_a_lock_that_does_not_lock_is_noticed(lock_path: Path, spawn: Spawn) -> None:
    peers = [spawn() for _ in range(3)]
    source = "import peers\nclass AsyncNoLock:\n    def __init__(self, *_, **__): pass\n"
    source += "    async def release(self): pass\n    acquire_read = acquire_write = release\n"
    source += "peers.AsyncNoLock = AsyncNoLock\nanswer = None"
    for peer in peers:
        peer.run(source)
    answers = [begin_turns(peer, "peers.AsyncNoLock", lock_path, 10, 4) for peer in peers]
    assert sum(answer.result(3 * LONG)[0] for answer in answers) > 0


@PAIRS
def test_filelocks_loops_and_ours_take_turns(
    lock_path: Path, name: str, release: str, spawn: Spawn, filelock_folder: Callable[[str], Path]
) -> None:
    theirs = spawn(folder=filelock_folder(release))
    assert theirs.run("import filelock; answer = filelock.__version__") == release
    answers = [
        begin_turns(theirs, f"filelock.{name}", lock_path, 3, 3),
        begin_turns(spawn(), f"ferrolock.{name}", lock_path, 3, 3),
    ]
    assert [answer.result(3 * LONG) for answer in answers] == [[0, 9], [0, 9]]


LOCK_ON = """
def lock_on(path, locks={{}}):
    module = __import__("filelock")
    if path not in locks:
        locks[path] = getattr(module, {name!r})(path, is_singleton=False, **{options!r})
    return locks[path]
"""


@PAIRS
@pytest.mark.parametrize(
    ("held", "asked"), [("read", "read"), ("read", "write"), ("write", "read"), ("write", "write")]
)
def test_a_task_waits_for_filelock_and_filelock_for_a_task(
    lock_path: Path,
    name: str,
    release: str,
    held: str,
    asked: str,
    spawn: Spawn,
    filelock_folder: Callable[[str], Path],
) -> None:
    peer = spawn(lock=f"filelock.{name.removeprefix('Async')}", folder=filelock_folder(release))
    theirs = Party(peer, lock_path, BY_PACKAGE)
    peer.run(LOCK_ON.format(name=name.removeprefix("Async"), options=OPTIONS[name]))
    cls: Any = {"AsyncReadWriteLock": AsyncReadWriteLock, "AsyncSoftReadWriteLock": AsyncSoftReadWriteLock}[name]

    async def main() -> None:
        lock = cls(lock_path, **OPTIONS[name])
        assert theirs.enter(held, LONG)
        if held == asked == "read":
            await acquire(lock, asked, LONG)
        else:
            with pytest.raises(Timeout):
                await acquire(lock, asked, blocking=False)
            task = await waiting(lock, asked)
            assert await is_still_waiting(task)
            theirs.leave()
            await task
            await lock.close()
            lock = cls(lock_path, **OPTIONS[name])
            await acquire(lock, held, LONG)
            wait = await asyncio.to_thread(theirs.begin, asked)
            await lock.release()
            assert await asyncio.to_thread(wait.result, LONG) is True
        theirs.leave()

    run(main())


@CLASSES
@pytest.mark.parametrize("mode", ["read", "write"])
def test_a_holder_that_is_killed_leaves_the_lock_to_the_waiting_task(
    lock_path: Path, cls: type[Any], mode: str, spawn: Spawn
) -> None:
    peer = spawn(lock=f"ferrolock.{cls.__name__.removeprefix('Async')}")
    party = Party(peer, lock_path, BY_PACKAGE)

    async def main() -> None:
        assert party.enter(mode, LONG)
        task = await waiting(cls(lock_path, **OPTIONS[cls.__name__]), "write")
        peer.kill()
        await task

    run(main())
