"""Many tasks: threads and memory stay flat, the event loop stays responsive, and everybody gets his turn."""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from async_peers import is_still_waiting, run, threads, until
from ferrolock import AsyncFileLock, AsyncSoftFileLock, FileLock, _native
from peers import LONG, Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MANY = 1000

CLASSES = pytest.mark.parametrize("cls", [AsyncFileLock, AsyncSoftFileLock], ids=["kernel", "marker"])


def resident() -> int:
    """The memory of this process, in kilobytes."""
    if sys.platform != "linux":
        pytest.skip("memory is read in /proc")
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@dataclass
class Tick:
    """How much too late a wake-up came, and how much work the thread of the loop had done meanwhile."""

    late: float
    work: float


@asynccontextmanager
async def ticking() -> AsyncIterator[list[Tick]]:
    """Wake every millisecond, and note what came between."""
    ticks: list[Tick] = []

    async def tick() -> None:
        while True:
            begin, worked = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            ticks.append(Tick(time.perf_counter() - begin - 0.001, time.thread_time() - worked))

    task = asyncio.ensure_future(tick())
    await asyncio.sleep(0)
    try:
        yield ticks
    finally:
        task.cancel()


def check_responsive(ticks: list[Tick]) -> None:
    """The loop is held neither by its own work nor by a call that blocks; a busy machine delays both."""
    assert max(tick.work for tick in ticks) < 0.25, ticks
    assert max(tick.late for tick in ticks) < 1, ticks


@CLASSES
def test_a_thousand_tasks_wait_for_one_lock(lock_path: Path, cls: type[AsyncFileLock]) -> None:
    async def main() -> None:
        holder = cls(lock_path)
        await asyncio.ensure_future(holder.acquire())
        order: list[int] = []

        async def one(number: int) -> None:
            async with cls(lock_path):
                order.append(number)

        _native.end_idle_porters()
        before, memory = threads(), resident()
        async with ticking() as late:
            tasks = [asyncio.ensure_future(one(number)) for number in range(MANY)]
            assert await is_still_waiting(tasks[0])
            assert threads() - before <= 2, "one that waits, and one that keeps its place"
            assert resident() - memory < 16 * 1024
            await holder.release()
            await asyncio.wait_for(asyncio.gather(*tasks), 3 * LONG)
        assert order == list(range(MANY))
        check_responsive(late)

    run(main())


def test_a_thousand_tasks_wait_each_for_its_own_lock(tmp_path: Path) -> None:
    async def main() -> None:
        paths = [tmp_path / f"{number}.lock" for number in range(MANY)]
        holders = [FileLock(path, thread_local=False) for path in paths]
        for holder in holders:
            holder.acquire()
        _native.end_idle_porters()
        before, memory = threads(), resident()
        locks = [AsyncFileLock(path, run_in_executor=False) for path in paths]
        async with ticking() as late:
            tasks = [asyncio.ensure_future(lock.acquire()) for lock in locks]
            assert await is_still_waiting(tasks[0])
            assert await is_still_waiting(tasks[-1])
            assert threads() - before <= 2 * 16 + 1
            assert resident() - memory < 32 * 1024
            for holder in holders:
                holder.release()
            await asyncio.wait_for(asyncio.gather(*tasks), 3 * LONG)
        assert all(lock.is_locked for lock in locks)
        for lock in locks:
            await lock.release()
        check_responsive(late)
        await until(lambda: threads() <= before, "the threads have ended")

    run(main())


def test_a_thousand_tasks_give_up_at_once(lock_path: Path) -> None:
    async def main() -> None:
        async with AsyncFileLock(lock_path):
            _native.end_idle_porters()
            before = threads()
            async with ticking() as late:
                tasks = [asyncio.ensure_future(AsyncFileLock(lock_path).acquire(timeout=0.5)) for _ in range(MANY // 2)]
                tasks += [asyncio.ensure_future(AsyncFileLock(lock_path).acquire()) for _ in range(MANY // 2)]
                assert await is_still_waiting(tasks[0])
                for task in tasks[MANY // 2 :]:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            kinds = [type(result).__name__ for result in results]
            assert kinds == ["Timeout"] * (MANY // 2) + ["CancelledError"] * (MANY // 2)
            check_responsive(late)
            await until(lambda: threads() <= before, "the threads have ended")

    run(main())


def test_questions_of_many_tasks_are_asked(lock_path: Path) -> None:
    async def main() -> None:
        async with AsyncFileLock(lock_path):
            asked = [0] * 100

            async def one(number: int) -> None:
                def check() -> bool:
                    asked[number] += 1
                    return asked[number] == 5

                await AsyncFileLock(lock_path).acquire(poll_interval=0.01, cancel_check=check)

            results = await asyncio.gather(*(one(number) for number in range(100)), return_exceptions=True)
            assert {type(result).__name__ for result in results} == {"Timeout"}
            assert asked == [5] * 100

    run(main())


def test_tasks_that_begin_together_do_so_in_several_iterations_of_the_loop(tmp_path: Path) -> None:
    async def main() -> None:
        locks = [AsyncFileLock(tmp_path / f"{number}.lock", run_in_executor=False) for number in range(130)]
        tasks = [asyncio.ensure_future(lock.acquire()) for lock in locks[:-1]]
        begun = []
        while not all(lock.is_locked for lock in locks):
            await asyncio.sleep(0)
            begun.append(sum(lock.is_locked for lock in locks))
            assert [lock.is_locked for lock in locks] == [True] * begun[-1] + [False] * (130 - begun[-1]), "in order"
            if len(tasks) < 130:  # who comes later begins later
                tasks.append(asyncio.ensure_future(locks[-1].acquire()))
        assert [number for number in dict.fromkeys(begun) if number] == [50, 100, 130]
        await asyncio.gather(*tasks)
        await asyncio.gather(*(lock.release() for lock in locks))

    run(main())


def test_tasks_that_are_granted_together_hear_of_it_in_several_iterations_of_the_loop(lock_path: Path) -> None:
    async def main() -> None:
        holder, lock = AsyncFileLock(lock_path), AsyncFileLock(lock_path)
        await asyncio.ensure_future(holder.acquire())
        tasks = [asyncio.ensure_future(lock.acquire()) for _ in range(130)]
        assert await is_still_waiting(tasks[-1])
        await holder.release()
        done = [0]
        while done[-1] < len(tasks):
            await asyncio.sleep(0)
            done.append(sum(task.done() for task in tasks))
        assert max(after - before for before, after in pairwise(done)) <= 50
        await lock.release(force=True)

    run(main())


class Turns(selectors.DefaultSelector):
    """Counts the iterations of its loop."""

    count = 0

    def select(self, timeout: float | None = None) -> Any:
        self.count += 1
        return super().select(timeout)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="it takes to choose a processor")
def test_tasks_whose_locks_become_free_together_are_served_as_they_are_granted(
    tmp_path: Path, spawn: Callable[..., Peer]
) -> None:
    many, turns, served = 400, Turns(), []
    holder = spawn(lock="ferrolock.FileLock")
    hold = "import ferrolock; locks = [ferrolock.FileLock(f'{folder}/{n}') for n in range(many)]"
    holder.run(f"{hold}; [lock.acquire() for lock in locks]", folder=str(tmp_path), many=many)

    async def one(number: int) -> None:
        async with AsyncFileLock(tmp_path / str(number), run_in_executor=False):
            served.append(turns.count)

    async def main() -> None:
        tasks = [asyncio.ensure_future(one(number)) for number in range(many)]
        assert await is_still_waiting(tasks[-1])
        assert not served
        released = loop.run_in_executor(None, holder.run, "[lock.release() for lock in locks]")
        await asyncio.wait_for(asyncio.gather(released, *tasks), 3 * LONG)

    _native.end_idle_porters()
    loop = asyncio.SelectorEventLoop(turns)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # this thread, and those that it starts
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
        os.sched_setaffinity(0, allowed)
    assert len(set(served)) > 2 * many / 50, "as many as may be at a time, for the loop did not come to run between"


def test_who_queues_up_to_begin_can_be_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        locks = [AsyncFileLock(tmp_path / f"{number}.lock", run_in_executor=False) for number in range(120)]
        tasks = [asyncio.ensure_future(lock.acquire()) for lock in locks]
        await asyncio.sleep(0)
        for task in tasks[60:]:
            task.cancel()
        await asyncio.wait(tasks)
        assert [lock.is_locked for lock in locks] == [not task.cancelled() for task in tasks]
        assert [task.cancelled() for task in tasks] == [False] * 60 + [True] * 60
        await asyncio.gather(*(lock.release() for lock in locks))

    run(main())
