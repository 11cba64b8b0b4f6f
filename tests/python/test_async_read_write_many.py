"""Many tasks that read and write: threads and memory stay flat, the loop stays responsive, all get their turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_peers import is_still_waiting, run, threads
from ferrolock import AsyncReadWriteLock, AsyncSoftReadWriteLock, _native
from peers import LONG
from test_async_many import MANY, check_responsive, resident, ticking

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("cls", "writers"), [(AsyncReadWriteLock, MANY), (AsyncReadWriteLock, 10), (AsyncSoftReadWriteLock, 10)]
)
def test_a_thousand_tasks_come_in_in_order(lock_path: Path, cls: type[Any], writers: int) -> None:
    """Some of them to write; the readers between two writers have their turn together."""

    async def main() -> None:
        lock = cls(lock_path)
        locks = [cls(lock_path) for _ in range(MANY)]
        inside = asyncio.Event()
        go = asyncio.Event()
        order: list[int] = []
        readers = most = 0

        async def hold() -> None:
            async with lock.write_lock():
                inside.set()
                await go.wait()

        async def one(number: int) -> None:
            nonlocal readers, most
            if number % (MANY // writers) == 0:
                async with locks[number].write_lock():
                    assert readers == 0
                    order.append(number)
            else:
                async with locks[number].read_lock():
                    readers += 1
                    most = max(most, readers)
                    order.append(number)
                    await asyncio.sleep(0)
                    readers -= 1

        holding = asyncio.ensure_future(hold())
        await inside.wait()
        _native.end_idle_porters()
        before, memory = threads(), resident()
        async with ticking() as late:
            tasks = [asyncio.ensure_future(one(number)) for number in range(MANY)]
            assert await is_still_waiting(tasks[0])
            await asyncio.sleep(0.1)
            assert threads() - before <= 2, "one that waits, and one that keeps its place"
            assert resident() - memory < 16 * 1024
            go.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 3 * LONG)
        await holding
        gap = MANY // writers
        for turn in range(0, MANY, gap):
            assert order[turn] == turn
            assert sorted(order[turn : turn + gap]) == list(range(turn, turn + gap))
        assert most > 1 or writers == MANY
        check_responsive(late)

    run(main())


def test_a_thousand_tasks_each_on_its_own_lock(tmp_path: Path) -> None:
    async def main() -> None:
        before, memory = threads(), resident()
        locks = [AsyncReadWriteLock(tmp_path / f"{number}.lock") for number in range(MANY // 2)]

        async def hold(lock: AsyncReadWriteLock) -> None:
            async with lock.write_lock():
                await asyncio.sleep(0.05)

        async with ticking() as late:
            await asyncio.wait_for(asyncio.gather(*map(hold, locks)), 3 * LONG)
        assert threads() <= before
        assert resident() - memory < 16 * 1024
        check_responsive(late)

    run(main())
