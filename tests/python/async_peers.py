"""What the tests of async locks share: how a lock is made, tasks that say that they wait, and what must be left."""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import AsyncFileLock, AsyncSoftFileLock, FileLock, SoftFileLock, _native
from peers import LONG, descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import TypeVar

    T = TypeVar("T")

SYNC: dict[Any, Any] = {AsyncFileLock: FileLock, AsyncSoftFileLock: SoftFileLock}


class Maker:
    """Makes async locks of one class that make their system calls in one way."""

    def __init__(self, cls: Any, how: str, executor: ThreadPoolExecutor) -> None:
        self.cls = cls
        ways: dict[str, dict[str, Any]] = {
            "default": {},
            "inline": {"run_in_executor": False},
            "executor": {"executor": executor},
        }
        self.options = ways[how]

    def __call__(self, path: Path, **options: Any) -> Any:
        """Make one."""
        return self.cls(path, **self.options, **options)

    def sync(self, path: Path, **options: Any) -> Any:
        """A lock of the same kind for threads."""
        return SYNC[self.cls](path, **options)

    def is_free(self, path: Path) -> bool:
        """Whether a lock object of no concern to the test can take the path right now."""
        try:
            with self.sync(path, timeout=0):
                return True
        except TimeoutError:
            return False


@pytest.fixture(params=["default", "inline", "executor"])
def how(request: pytest.FixtureRequest) -> str:
    """Where system calls are made."""
    return str(request.param)


@pytest.fixture(params=[AsyncFileLock, AsyncSoftFileLock], ids=["kernel", "marker"])
def make(request: pytest.FixtureRequest, how: str) -> Iterator[Maker]:
    """Makes async locks."""
    with ThreadPoolExecutor(4) as executor:
        yield Maker(request.param, how, executor)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop of its own that complains, and within a bound."""
    return asyncio.run(bounded(coroutine), debug=False)


async def bounded(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await it, within a bound."""
    return await asyncio.wait_for(coroutine, 3 * LONG)


async def waiting(lock: Any, **options: Any) -> asyncio.Task[Any]:
    """A task that waits for the lock, and has said so."""
    says = asyncio.Event()

    def check() -> bool:
        says.set()
        return False

    task: asyncio.Task[Any] = asyncio.ensure_future(lock.acquire(cancel_check=check, **options))
    said = asyncio.ensure_future(says.wait())
    await asyncio.wait([task, said], timeout=LONG, return_when=asyncio.FIRST_COMPLETED)
    said.cancel()
    assert not task.done(), f"nothing stopped it: {task}"
    return task


async def is_still_waiting(task: asyncio.Task[Any]) -> bool:
    """Whether it is not over yet after a short while."""
    await asyncio.wait([task], timeout=0.06)
    return not task.done()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what must come about."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        await asyncio.sleep(0.001)


def threads() -> int:
    """How many threads of ours wait for somebody: a heart beats on for a while, and an executor has its own."""
    if sys.platform != "linux":
        pytest.skip("threads are counted in /proc")
    names = []
    for comm in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has just ended
            names.append(comm.read_text())
    return sum(name.startswith("ferrolock") and "heart" not in name for name in names)


@contextmanager
def no_more_threads_than_now() -> Iterator[None]:
    """Check that none is left over."""
    _native.end_idle_porters()
    before = threads()
    yield
    _native.end_idle_porters()
    deadline = time.monotonic() + LONG
    while threads() > before:
        assert time.monotonic() < deadline, f"left: {threads() - before} threads"
        time.sleep(0.001)


@contextmanager
def nothing_left(make: Maker, path: Path) -> Iterator[None]:
    """Check that neither descriptors nor threads are left over, and that the lock is free."""
    open_before = len(descriptors(path)) if path.exists() else 0
    with no_more_threads_than_now():
        yield
    assert (len(descriptors(path)) if path.exists() else 0) <= open_before, f"left: {descriptors(path)}"
    assert make.is_free(path) == (open_before == 0)
