"""What the tests of the async locks of readers and writers share."""

from __future__ import annotations

import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from async_peers import no_more_threads_than_now, until
from ferrolock import AsyncReadWriteLock, AsyncSoftReadWriteLock, ReadWriteLock, SoftReadWriteLock, Timeout, _native
from peers import LONG, descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODES = ["read", "write"]
SYNC: dict[Any, Any] = {AsyncReadWriteLock: ReadWriteLock, AsyncSoftReadWriteLock: SoftReadWriteLock}
LEFT = {"read": "read", "write": "nothing"}
"""What others may do while somebody is inside."""


class Doors:
    """Makes async locks of one class that make their system calls in one way."""

    def __init__(self, cls: Any, executor: ThreadPoolExecutor | None) -> None:
        self.cls, self.executor = cls, executor
        self.is_soft = cls is AsyncSoftReadWriteLock

    def __call__(self, path: Path, *args: Any, **options: Any) -> Any:
        """Make one."""
        return self.cls(path, *args, executor=self.executor, **options)

    def sync(self, path: Path, **options: Any) -> Any:
        """A lock of the same kind for threads."""
        return SYNC[self.cls](path, **options)

    def allowed(self, path: Path) -> str:
        """What somebody of no concern to the test may do right now: write, read or nothing."""
        lock = self.sync(path, is_singleton=False)
        for mode in ("write", "read"):
            try:
                (lock.acquire_write if mode == "write" else lock.acquire_read)(blocking=False)
            except Timeout:
                continue
            lock.release()
            return mode
        return "nothing"


@pytest.fixture(params=["bytes", "bytes by an executor", "lease"])
def doors(request: pytest.FixtureRequest) -> Iterator[Doors]:
    """Makes async locks of readers and writers."""
    cls = AsyncSoftReadWriteLock if request.param == "lease" else AsyncReadWriteLock
    with ThreadPoolExecutor(4) as executor:
        yield Doors(cls, executor if "executor" in request.param else None)
    # What a test has left held stays alive; the next test is somebody else.
    _native.remove_markers_at_exit()


def acquire(lock: Any, mode: str, *args: Any, **options: Any) -> Any:
    """Acquire in a mode: something to await."""
    return (lock.acquire_read if mode == "read" else lock.acquire_write)(*args, **options)


def context(lock: Any, mode: str, *args: Any, **options: Any) -> Any:
    """The context manager of a mode."""
    return (lock.read_lock if mode == "read" else lock.write_lock)(*args, **options)


class Listener(logging.Handler):
    """Hears that a lock object is being waited for."""

    def __init__(self, lock: Any) -> None:
        super().__init__()
        self.asked, self.heard = id(lock), asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Hear it, in the task's own loop."""
        if "not acquired" in record.msg and isinstance(record.args, tuple) and record.args[0] == self.asked:
            self.heard.set()


@contextmanager
def listening(lock: Any) -> Iterator[asyncio.Event]:
    """Listen to the log for as long as it takes."""
    logger, listener = logging.getLogger("filelock"), Listener(lock)
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    try:
        yield listener.heard
    finally:
        logger.setLevel(level)
        logger.removeHandler(listener)


async def waiting(lock: Any, mode: str, *args: Any, **options: Any) -> asyncio.Task[Any]:
    """A task that waits for the lock, and has said so."""
    with listening(lock) as heard:
        task: asyncio.Task[Any] = asyncio.ensure_future(acquire(lock, mode, *args, **options))
        said = asyncio.ensure_future(heard.wait())
        await asyncio.wait([task, said], timeout=LONG, return_when=asyncio.FIRST_COMPLETED)
        said.cancel()
    assert not task.done(), f"nothing stopped it: {task}"
    return task


class Inside:
    """A task of its own that is inside, until it is told to go out."""

    def __init__(self, lock: Any, mode: str, *args: Any) -> None:
        self.entered, self.go = asyncio.Event(), asyncio.Event()

        async def be_inside() -> None:
            await acquire(lock, mode, *args)
            self.entered.set()
            await self.go.wait()
            await lock.release()

        self.task = asyncio.ensure_future(be_inside())

    @property
    def is_inside(self) -> bool:
        """Whether it has come in."""
        return self.entered.is_set()

    async def enters(self) -> Inside:
        """Wait until it is inside."""
        entered = asyncio.ensure_future(self.entered.wait())
        await asyncio.wait([self.task, entered], timeout=LONG, return_when=asyncio.FIRST_COMPLETED)
        entered.cancel()
        assert self.is_inside, self.task
        return self

    async def leaves(self) -> None:
        """Have it go out."""
        self.go.set()
        await self.task


async def in_a_task(coroutine: Any) -> Any:
    """Run it as another task."""
    return await asyncio.ensure_future(coroutine)


@contextmanager
def nothing_left(doors: Doors, path: Path) -> Iterator[None]:
    """Check that neither descriptors nor threads are left over, and that everybody may come in."""
    lock = doors.sync(path)  # keeps the one description that a lock object keeps
    with lock.write_lock():
        pass
    open_before = len(descriptors(path)) if path.exists() else 0
    with no_more_threads_than_now():
        yield
    assert doors.allowed(path) == "write"
    # Where SQLite was imported none is closed, but as many as were needed at a time wait to be used again.
    spare = 8 if "_sqlite3" in sys.modules else 0
    assert (len(descriptors(path)) if path.exists() else 0) <= open_before + spare


async def until_allowed(doors: Doors, path: Path, mode: str) -> None:
    """Wait until others may do that."""
    await until(lambda: doors.allowed(path) == mode, f"others may not {mode}")
