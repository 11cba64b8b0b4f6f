"""Who finds out whether the owner of a marker lives: asking takes long, and not on the thread of an event loop."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from async_peers import is_still_waiting, run
from ferrolock import AsyncSoftFileLock, SoftFileLock, SoftFileLockLifetimeWarning, Timeout, _native
from soft_peers import LINUX, Victim, dead_record, is_free, names, record, start_token

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from peers import Peer

    Main = Callable[[], Coroutine[Any, Any, None]]

pytestmark = LINUX


class Counting(ThreadPoolExecutor):
    """An executor that counts the calls that it is given."""

    calls = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().submit(*args, **kwargs)


@pytest.fixture
def executor() -> Iterator[Counting]:
    """That of the loop."""
    with Counting(1) as executor:
        yield executor


@pytest.fixture
def run_here(lock_path: Path, executor: Counting) -> Callable[[Main], None]:
    """Runs it where it is known that system calls do not take long."""

    async def main(body: Main) -> None:
        asyncio.get_running_loop().set_default_executor(executor)
        async with AsyncSoftFileLock(lock_path) as lock:
            if not _native.is_quick(lock):
                pytest.skip("no file system of this machine")
        executor.calls = 0
        await body()

    return lambda body: run(main(body))


def live_record() -> bytes:
    """The marker of a living process that has not locked it, as filelock's do not."""
    return record(os.getppid(), token=start_token(os.getppid()))


def test_what_is_free_or_shows_that_it_is_held_needs_no_other_thread(
    run_here: Callable[[Main], None], executor: Counting, lock_path: Path, spawn: Callable[..., Peer]
) -> None:
    async def main() -> None:
        async with AsyncSoftFileLock(lock_path):
            pass
        holder = spawn(lock="ferrolock.SoftFileLock")
        holder.acquire(lock_path)
        with pytest.raises(Timeout, match=str(holder.pid)):
            await AsyncSoftFileLock(lock_path).acquire(blocking=False)
        task = asyncio.ensure_future(AsyncSoftFileLock(lock_path).acquire())
        assert await is_still_waiting(task)
        holder.release(lock_path)
        await (await task).lock.release()
        assert executor.calls == 0

    run_here(main)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_dead_owners_marker_is_taken_over_by_another_thread(
    run_here: Callable[[Main], None], executor: Counting, lock_path: Path, *, blocking: bool
) -> None:
    async def main() -> None:
        lock_path.write_bytes(dead_record())
        lock = AsyncSoftFileLock(lock_path)
        await lock.acquire(blocking=blocking)
        assert lock.is_locked
        assert executor.calls == 1
        await lock.release()

    run_here(main)
    assert names(lock_path.parent) == []


def test_a_marker_is_taken_for_its_age_by_another_thread(
    run_here: Callable[[Main], None], executor: Counting, lock_path: Path
) -> None:
    async def main() -> None:
        holder = SoftFileLock(lock_path)
        holder.acquire()
        with pytest.warns(SoftFileLockLifetimeWarning):
            lock = AsyncSoftFileLock(lock_path, lifetime=1e-6)
        await lock.acquire(blocking=False)
        assert executor.calls == 1
        await lock.release()
        holder.release()

    run_here(main)


def test_a_living_owner_is_found_alive_and_named(
    run_here: Callable[[Main], None], executor: Counting, lock_path: Path
) -> None:
    async def main() -> None:
        lock_path.write_bytes(live_record())
        with pytest.raises(Timeout, match=str(os.getppid())):
            await AsyncSoftFileLock(lock_path).acquire(blocking=False)
        task = asyncio.ensure_future(AsyncSoftFileLock(lock_path).acquire())
        assert await is_still_waiting(task)
        assert executor.calls == 2
        assert lock_path.read_bytes() == live_record()
        lock_path.unlink()
        await (await task).lock.release()

    run_here(main)


def test_where_no_other_thread_may_make_calls_the_loops_own_judges(
    run_here: Callable[[Main], None], executor: Counting, lock_path: Path
) -> None:
    async def main() -> None:
        lock_path.write_bytes(dead_record())
        async with AsyncSoftFileLock(lock_path, run_in_executor=False, blocking=False):
            assert executor.calls == 0

    run_here(main)


def test_who_is_cancelled_while_another_thread_judges_has_nothing(
    run_here: Callable[[Main], None], lock_path: Path
) -> None:
    async def main() -> None:
        for steps in range(12):
            lock_path.write_bytes(dead_record())
            lock = AsyncSoftFileLock(lock_path)
            task = asyncio.ensure_future(lock.acquire())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                assert not lock.is_locked, steps
            else:
                await lock.release()
            assert is_free(lock_path), steps

    run_here(main)


def test_who_asks_once_looks_at_the_owners_process_once(victim: Callable[..., Victim], lock_path: Path) -> None:
    lock_path.write_bytes(live_record())
    attempt = "import ferrolock; ferrolock.SoftFileLock(path).acquire(timeout=0)"
    asked = victim(attempt, path=str(lock_path)).go().wait()
    assert asked.status() == 100, "it has timed out"
    assert [call.name for call in asked.calls()].count("pidfd_open") == 1
