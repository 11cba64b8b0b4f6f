"""Cancellation at every point at which a task can be suspended: nothing is left of the acquisition."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
import types
from typing import TYPE_CHECKING, Any

import pytest

from async_peers import is_still_waiting, nothing_left, run, until, waiting
from ferrolock import AsyncFileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator
    from pathlib import Path

    from async_peers import Maker

MOST_STEPS = 40


class Cut:
    """Drives a coroutine by hand and throws something into it at one of its suspensions."""

    def __init__(self, step: int, error: type[BaseException], after_the_event: bool) -> None:
        self.step, self.error, self.after_the_event = step, error, after_the_event
        self.was_cut = False

    @types.coroutine
    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Await it. It is thrown at before the event that it waits for, or when that has come."""
        try:
            awaited = coroutine.send(None)
            for step in range(MOST_STEPS):
                if step == self.step and not self.after_the_event:
                    self.was_cut = True
                    awaited = coroutine.throw(self.error())
                    continue
                yield awaited
                if step == self.step:
                    self.was_cut = True
                    awaited = coroutine.throw(self.error())
                else:
                    awaited = coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it never ends")


@pytest.mark.parametrize("after_the_event", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("is_contended", [False, True], ids=["free", "contended"])
def test_an_acquisition_that_is_cancelled_at_any_step_leaves_nothing(
    make: Maker, lock_path: Path, is_contended: bool, after_the_event: bool
) -> None:
    async def main(step: int) -> bool:
        holder, lock = make(lock_path), make(lock_path)
        asked: list[bool] = []

        def check() -> bool:
            asked.append(True)
            if is_contended and len(asked) == 3:  # two questions, then the grant: steps of all kinds
                release.append(asyncio.ensure_future(holder.release()))
            return False

        release: list[asyncio.Task[None]] = []
        cut = Cut(step, asyncio.CancelledError, after_the_event)
        if is_contended:
            await asyncio.ensure_future(holder.acquire())
        try:
            await cut.drive(lock.acquire(poll_interval=0.002, cancel_check=check))
        except asyncio.CancelledError:
            assert cut.was_cut
            assert (lock.is_locked, lock.lock_counter) == (False, 0)
        else:
            assert not cut.was_cut
            assert lock.lock_counter == 1
            await lock.release()
        await asyncio.gather(*release)
        await holder.release()
        # Whoever comes next gets it.
        next_one = make(lock_path)
        await asyncio.wait_for(next_one.acquire(), 10)
        await next_one.release()
        return cut.was_cut

    lock_path.touch() if make.cls.__name__ == "AsyncUnixFileLock" else None
    cuts = 0
    with nothing_left(make, lock_path):
        while run(main(cuts)):
            cuts += 1
            assert cuts < MOST_STEPS
    assert not is_contended or cuts >= 3


@pytest.mark.parametrize("after_the_event", [False, True], ids=["before", "after"])
def test_a_release_that_is_cancelled_at_any_step_has_released(
    make: Maker, lock_path: Path, after_the_event: bool
) -> None:
    async def main(step: int) -> bool:
        lock = make(lock_path)
        await lock.acquire()
        cut = Cut(step, asyncio.CancelledError, after_the_event)
        try:
            await cut.drive(lock.release())
        except asyncio.CancelledError:
            assert cut.was_cut
        assert (lock.is_locked, lock.lock_counter) == (False, 0)
        return cut.was_cut

    lock_path.touch() if make.cls.__name__ == "AsyncUnixFileLock" else None
    with nothing_left(make, lock_path):
        cuts = 0
        while run(main(cuts)):
            cuts += 1
            assert cuts < MOST_STEPS


def test_a_coroutine_that_is_closed_at_any_step_leaves_nothing(make: Maker, lock_path: Path) -> None:
    async def main(step: int) -> bool:
        holder, lock = make(lock_path), make(lock_path)
        await asyncio.ensure_future(holder.acquire())
        acquisition = lock.acquire()
        try:
            for _ in range(step + 1):
                awaited = acquisition.send(None)
                if asyncio.isfuture(awaited):
                    await asyncio.wait([awaited], timeout=0.02)
        except (StopIteration, RuntimeError):  # it came to its end, or was sent on before the event
            pass
        acquisition.close()
        await holder.release()
        await until(lambda: make.is_free(lock_path), "the lock is free")
        assert not lock.is_locked
        return step < 3

    lock_path.touch() if make.cls.__name__ == "AsyncUnixFileLock" else None
    with nothing_left(make, lock_path):
        step = 0
        while run(main(step)):
            step += 1


def test_a_task_that_is_cancelled_when_it_was_just_granted_the_lock_does_not_have_it(
    make: Maker, lock_path: Path
) -> None:
    async def main() -> None:
        dice = random.Random(1)
        for round_ in range(60):
            holder, lock, next_one = make(lock_path), make(lock_path), make(lock_path)
            await asyncio.ensure_future(holder.acquire())
            task = asyncio.ensure_future(lock.acquire())
            behind = asyncio.ensure_future(next_one.acquire())
            await asyncio.sleep(0.002 if round_ % 2 else 0)
            await holder.release()
            if round_ % 3:
                await asyncio.sleep(dice.random() * 0.0006)
            else:  # the grant is on its way to a loop that does not run
                make.is_free(lock_path)
            task.cancel()
            await asyncio.wait([task])
            assert lock.is_locked != task.cancelled()
            if lock.is_locked:
                await lock.release()
            await behind
            await next_one.release()

    lock_path.touch() if make.cls.__name__ == "AsyncUnixFileLock" else None
    with nothing_left(make, lock_path):
        run(main())


def test_tasks_that_come_and_go_never_meet(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        dice = random.Random(2)
        inside = turns = 0

        async def one() -> None:
            nonlocal inside, turns
            for _ in range(15):
                lock = make(lock_path, poll_interval=0.005)
                try:
                    await asyncio.wait_for(lock.acquire(), dice.choice([0.0005, 0.002, 0.01, 1]))
                except (asyncio.TimeoutError, TimeoutError):
                    assert not lock.is_locked
                    continue
                assert inside == 0
                inside += 1
                turns += 1
                await asyncio.sleep(dice.choice([0, 0.0005]))
                inside -= 1
                await lock.release()

        await asyncio.gather(*(one() for _ in range(20)))
        assert turns >= 20

    lock_path.touch() if make.cls.__name__ == "AsyncUnixFileLock" else None
    with nothing_left(make, lock_path):
        run(main())


def test_wait_for_ends_a_wait(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        async with holder:
            for _ in range(3):
                with pytest.raises((asyncio.TimeoutError, TimeoutError)) as raised:
                    await asyncio.wait_for(asyncio.ensure_future(lock.acquire()), 0.02)
                assert not isinstance(raised.value, Timeout)
            assert lock.lock_counter == 0
        async with await asyncio.wait_for(lock.acquire(), 10):
            assert lock.is_locked

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup came with 3.11")
def test_timeouts_and_task_groups_end_a_wait(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        await asyncio.ensure_future(holder.acquire())
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0.02):
                await lock.acquire()
        assert not isinstance(raised.value, Timeout)

        async def fail(event: asyncio.Event) -> None:
            await event.wait()
            raise ZeroDivisionError

        event = asyncio.Event()
        with pytest.raises(ExceptionGroup) as group:  # noqa: F821, PT012 - of the versions that run this
            async with asyncio.TaskGroup() as tasks:
                waiters = [tasks.create_task(make(lock_path).acquire()) for _ in range(3)]
                tasks.create_task(fail(event))
                assert await is_still_waiting(waiters[0])
                event.set()
        assert group.group_contains(ZeroDivisionError)
        assert all(waiter.cancelled() for waiter in waiters)
        await holder.release()
        async with asyncio.timeout(10), lock:
            assert lock.is_locked

    run(main())


def test_cancellation_of_one_waiter_leaves_the_others_in_their_order(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder = make(lock_path)
        await asyncio.ensure_future(holder.acquire())
        locks = [make(lock_path) for _ in range(5)]
        tasks = [await waiting(lock) for lock in locks]
        for gone in (0, 2):
            tasks[gone].cancel()
            await asyncio.wait([tasks[gone]])
        await holder.release()
        for number in (1, 3, 4):
            await tasks[number]
            assert [lock.is_locked for lock in locks] == [number == other for other in range(5)]
            await locks[number].release()

    run(main())


def test_a_share_of_a_hold_that_is_cancelled_is_given_back(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        await asyncio.ensure_future(holder.acquire())
        tasks = [await waiting(lock) for _ in range(3)]
        await holder.release()
        await tasks[0]
        # The others have a level each by now, and have not been told.
        for task in tasks[1:]:
            task.cancel()
        await asyncio.wait(tasks)
        kept = [task for task in tasks if not task.cancelled()]
        assert lock.lock_counter == len(kept)
        for _ in kept:
            await lock.release()
        assert make.is_free(lock_path)

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere waits are not interrupted")
def test_who_shares_a_hold_hears_of_it_also_when_the_program_has_taken_the_signal_of_waits(lock_path: Path) -> None:
    """The thread that waited for it stays in the kernel then until the lock is free: until they give it back."""

    async def main() -> None:
        holder, lock = AsyncFileLock(lock_path), AsyncFileLock(lock_path)
        await holder.acquire()
        tasks = [await waiting(lock) for _ in range(2)]
        await holder.release()
        time.sleep(0.1)  # the lock is granted to one, who does not run, and waited for again
        handler = signal.signal(signal.SIGURG, signal.SIG_IGN)
        try:
            await asyncio.gather(*tasks)
        finally:
            signal.signal(signal.SIGURG, handler)
        assert lock.lock_counter == 2
        await lock.release(force=True)

    run(main())
