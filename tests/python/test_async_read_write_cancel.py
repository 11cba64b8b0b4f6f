"""Cancellation of those who want to read or write, at every step; and what ends before the lock is released."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest

import test_async_cancel
from async_peers import is_still_waiting, run
from async_rw_peers import MODES, Inside, acquire, context, nothing_left, until_allowed, waiting
from ferrolock import AsyncReadWriteLock, AsyncSoftReadWriteLock, Timeout
from peers import LONG, run_program

if TYPE_CHECKING:
    from pathlib import Path

    from async_rw_peers import Doors

BOTH_MODES = pytest.mark.parametrize("mode", MODES)
CLASSES = pytest.mark.parametrize("cls", [AsyncReadWriteLock, AsyncSoftReadWriteLock], ids=["bytes", "lease"])


@BOTH_MODES
@pytest.mark.parametrize("after_the_event", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("state", ["free", "written", "read"])
def test_an_acquisition_that_is_cancelled_at_any_step_leaves_nothing(
    doors: Doors, lock_path: Path, state: str, mode: str, after_the_event: bool
) -> None:
    async def main(step: int) -> bool:
        lock = doors(lock_path)
        cut = test_async_cancel.Cut(step, asyncio.CancelledError, after_the_event)
        if state != "free":
            inside = await Inside(doors(lock_path), "read" if state == "read" else "write").enters()
            asyncio.get_running_loop().call_later(0.004, inside.go.set)
        me = asyncio.current_task()
        try:
            await cut.drive(acquire(lock, mode))
        except asyncio.CancelledError:
            assert cut.was_cut
        else:
            assert not cut.was_cut
            await lock.release()
        assert me is asyncio.current_task()
        with pytest.raises(RuntimeError, match="not held by this task"):
            await lock.release()
        if state != "free":
            await inside.task
        # Whoever comes next gets in.
        async with doors(lock_path).write_lock(LONG):
            pass
        return cut.was_cut

    cuts = 0
    with nothing_left(doors, lock_path):
        while run(main(cuts)):
            cuts += 1
            assert cuts < test_async_cancel.MOST_STEPS
    assert cuts >= 1 or state == "free" or (state, mode) == ("read", "read")


@BOTH_MODES
def test_a_release_and_a_close_that_are_cancelled_at_any_step_are_done(
    doors: Doors, lock_path: Path, mode: str
) -> None:
    async def main(step: int, end: str) -> bool:
        lock = doors(lock_path)
        await acquire(lock, mode)
        cut = test_async_cancel.Cut(step, asyncio.CancelledError, after_the_event=bool(step % 2))
        try:
            await cut.drive(getattr(lock, end)())
        except asyncio.CancelledError:
            assert cut.was_cut
        assert doors.allowed(lock_path) == "write"
        await lock.release(force=True)
        return cut.was_cut

    with nothing_left(doors, lock_path):
        for end in ("release", "close"):
            steps = 0
            while run(main(steps, end)):
                steps += 1
                assert steps < test_async_cancel.MOST_STEPS


def test_a_coroutine_that_is_closed_at_any_step_leaves_nothing(doors: Doors, lock_path: Path) -> None:
    async def main(step: int) -> bool:
        lock = doors(lock_path)
        inside = await Inside(doors(lock_path), "read").enters()
        acquisition = lock.acquire_write()
        try:
            for _ in range(step + 1):
                awaited = acquisition.send(None)
                if asyncio.isfuture(awaited):
                    await asyncio.wait([awaited], timeout=0.02)
        except (StopIteration, RuntimeError):  # it came to its end, or was sent on before the event
            pass
        acquisition.close()
        await inside.leaves()
        await until_allowed(doors, lock_path, "write")
        return step < 3

    with nothing_left(doors, lock_path):
        step = 0
        while run(main(step)):
            step += 1


def test_who_gives_up_last_keeps_nobody_out(doors: Doors, lock_path: Path) -> None:
    """No thread of this process waits any more for what nobody wants, when a task hears of its end."""

    async def main() -> None:
        lock, mine = doors(lock_path), doors(lock_path, is_singleton=False)
        for round_ in range(30):
            await mine.acquire_read()
            if round_ % 2:
                with pytest.raises(Timeout):
                    await lock.acquire_write(0.003)
            else:
                task = asyncio.ensure_future(lock.acquire_write())
                await asyncio.sleep(0.003)
                task.cancel()
                await asyncio.wait([task])
            assert doors.allowed(lock_path) == "read"
            await mine.release()
            assert doors.allowed(lock_path) == "write"

    run(main())


def test_a_task_that_is_cancelled_when_it_was_just_let_in_is_not_inside(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        dice = random.Random(1)
        for round_ in range(40):
            lock, next_one = doors(lock_path), doors(lock_path)
            inside = await Inside(doors(lock_path), "write").enters()
            task = asyncio.ensure_future(acquire(lock, MODES[round_ % 2]))
            behind = Inside(next_one, "write")
            await asyncio.sleep(0.002 if round_ % 4 > 1 else 0)
            await inside.leaves()
            if round_ % 3:
                await asyncio.sleep(dice.random() * 0.0006)
            else:  # the grant is on its way to a loop that does not run
                doors.allowed(lock_path)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                await lock.close()
            await behind.enters()
            await behind.leaves()

    with nothing_left(doors, lock_path):
        run(main())


def test_tasks_that_come_and_go_never_meet(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        dice = random.Random(2)
        readers = writers = turns = 0

        async def one(number: int) -> None:
            nonlocal readers, writers, turns
            mode = MODES[number % 3 == 0]
            for _ in range(8):
                lock = doors(lock_path)
                try:
                    await acquire(lock, mode, dice.choice([0.0005, 0.002, 0.01, 5]))
                except Timeout:
                    continue
                assert writers == 0
                assert mode == "read" or readers == 0
                readers, writers = readers + (mode == "read"), writers + (mode == "write")
                turns += 1
                await asyncio.sleep(dice.choice([0, 0.0005]))
                readers, writers = readers - (mode == "read"), writers - (mode == "write")
                await lock.release()

        await asyncio.gather(*(one(number) for number in range(15)))
        assert turns >= 15

    with nothing_left(doors, lock_path):
        run(main())


@BOTH_MODES
def test_wait_for_timeouts_and_groups_end_a_wait(doors: Doors, lock_path: Path, mode: str) -> None:
    async def main() -> None:
        lock = doors(lock_path)
        inside = await Inside(doors(lock_path), "write").enters()
        for _ in range(3):
            with pytest.raises((asyncio.TimeoutError, TimeoutError)) as raised:
                await asyncio.wait_for(acquire(lock, mode), 0.01)
            assert not isinstance(raised.value, Timeout)
        if sys.version_info >= (3, 11):
            with pytest.raises(TimeoutError) as raised:
                async with asyncio.timeout(0.01):
                    await acquire(lock, mode)
            assert not isinstance(raised.value, Timeout)
            waiters: list[asyncio.Task[Any]] = []
            with pytest.raises(ExceptionGroup) as group:  # noqa: F821, PT012 - of the versions that run this
                async with asyncio.TaskGroup() as tasks:
                    waiters += [tasks.create_task(acquire(doors(lock_path), mode)) for _ in range(3)]
                    assert await is_still_waiting(waiters[0])
                    _ = 1 / 0
            assert group.group_contains(ZeroDivisionError)
            assert all(waiter.cancelled() for waiter in waiters)
        await inside.leaves()
        async with context(lock, mode, LONG):
            pass

    run(main())


def test_anyio_on_asyncio_works(doors: Doors, lock_path: Path) -> None:
    if importlib.util.find_spec("anyio") is None:
        pytest.skip("anyio is not installed")
    import anyio

    async def main() -> None:
        lock = doors(lock_path)
        got: list[bool] = []

        async def one() -> None:
            async with doors(lock_path).write_lock():
                got.append(True)

        async with anyio.create_task_group() as group, lock.read_lock():
            with anyio.move_on_after(0.05) as scope:
                await one_in_a_task(one)
            assert scope.cancelled_caught
            group.start_soon(one)
            await anyio.sleep(0.02)
            assert not got
        assert got == [True]

    async def one_in_a_task(one: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(one)

    anyio.run(main, backend="asyncio")


def test_trio_is_refused_at_once(doors: Doors, lock_path: Path) -> None:
    if importlib.util.find_spec("trio") is None:
        pytest.skip("trio is not installed")
    import trio

    async def main() -> None:
        async with doors(lock_path).read_lock():
            pass

    with pytest.raises(RuntimeError, match="not under trio"):
        trio.run(main)


def test_uvloop_works(doors: Doors, lock_path: Path) -> None:
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    import uvloop

    async def main() -> None:
        lock = doors(lock_path)
        inside = await Inside(lock, "write").enters()
        cancelled, reader = await waiting(doors(lock_path), "write"), Inside(lock, "read")
        cancelled.cancel()
        await inside.leaves()
        await reader.enters()
        await reader.leaves()

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert doors.allowed(lock_path) == "write"


def test_what_was_granted_to_a_closed_loop_goes_on_to_the_next(lock_path: Path) -> None:
    async def begin(lock: AsyncReadWriteLock) -> Any:
        async def wait() -> None:
            await lock.acquire_write()

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0.02)
        return task

    async def main() -> None:
        holder = AsyncReadWriteLock(lock_path)
        await holder.acquire_write()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _loop, _context: None)  # asyncio's word about the task
        forgotten = AsyncReadWriteLock(lock_path)
        kept = [await asyncio.to_thread(loop.run_until_complete, begin(forgotten))]
        loop.close()
        next_one = await waiting(AsyncReadWriteLock(lock_path), "write")
        await holder.release()
        await next_one
        assert kept
        kept.clear()
        gc.collect()

    run(main())


@CLASSES
@pytest.mark.parametrize("options", [("-W", "error"), ("-W", "error", "-X", "dev")], ids=["W", "W-dev"])
@pytest.mark.parametrize("state", ["held", "waiting", "granted"])
def test_the_interpreter_ends_with_locks_in_any_state(
    lock_path: Path, cls: type[Any], options: tuple[str, ...], state: str
) -> None:
    source = """
        import asyncio, sys, time, ferrolock
        path, state, name = sys.argv[1:]
        lock, other = getattr(ferrolock, name)(path), getattr(ferrolock, name)(path)
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # asyncio's word about the task
        async def main():
            await lock.acquire_write()
            if state != "held":
                globals()["task"] = asyncio.ensure_future(other.acquire_read())
                await asyncio.sleep(0.05)
                if state == "granted":
                    await lock.release()
                    time.sleep(0.02)
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor()) if state != "waiting" else None
        loop.close()
        print("end")
    """
    assert run_program(source, lock_path, state, cls.__name__, options=options) == "end\n"
    again = cls(lock_path, timeout=LONG)

    async def main() -> None:
        async with again.write_lock():
            pass

    run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@CLASSES
def test_a_child_starts_unheld_and_can_use_an_inherited_lock(lock_path: Path, cls: type[Any]) -> None:
    source = """
        import asyncio, os, sys, warnings, ferrolock
        cls = getattr(ferrolock, sys.argv[2])
        inherited = cls(sys.argv[1])

        async def in_child():
            try:
                await inherited.release()
            except RuntimeError:
                pass
            else:
                raise AssertionError("it released what is its parent's")
            await inherited.release(force=True)
            try:
                await inherited.acquire_read(timeout=0.1)
            except ferrolock.Timeout:
                pass
            else:
                raise AssertionError("two holders")
            os.write(report, b"w")
            await inherited.acquire_write(20)
            await inherited.release()

        listen, report = os.pipe()

        async def main():
            await inherited.acquire_write()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # there are threads: an executor's, a heart's
                child = os.fork()
            if child == 0:
                code = 1
                try:
                    asyncio._set_running_loop(None)
                    asyncio.set_event_loop(None)
                    asyncio.new_event_loop().run_until_complete(in_child())
                    code = 0
                finally:
                    os._exit(code)
            assert await asyncio.to_thread(os.read, listen, 1) == b"w"
            await inherited.release()
            assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]) == 0

        asyncio.run(main())
        print("ok")
    """
    assert run_program(source, lock_path, cls.__name__) == "ok\n"


def test_an_executor_that_was_shut_down_is_an_error_and_no_cancellation(lock_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    async def main() -> None:
        for cls in (AsyncReadWriteLock, AsyncSoftReadWriteLock):
            executor = ThreadPoolExecutor(1)
            lock = cls(lock_path, executor=executor)
            async with lock.read_lock():
                executor.shutdown()
                with pytest.raises(RuntimeError, match="shutdown"):
                    await asyncio.ensure_future(lock.acquire_read())
                await lock.acquire_read()  # a level more takes no system call
                await lock.release()
                lock._executor = None  # or it would never come out
            assert not lock._is_held_by_anyone()

    run(main())
