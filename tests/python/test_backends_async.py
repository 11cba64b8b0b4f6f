"""Locks of the user's own making for tasks: where their steps run, and what becomes of cancelled ones."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from backends import AsyncCoroutines, AsyncCounted, Exclusive
from ferrolock import AsyncFileLock, FileLock, SoftFileLock, Timeout
from peers import LONG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLASSES = pytest.mark.parametrize("cls", [AsyncCounted, AsyncCoroutines])


async def until(condition: Callable[[], object]) -> None:
    """Let others run until it is so."""
    end = asyncio.get_running_loop().time() + LONG
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.001)


@CLASSES
@pytest.mark.parametrize("in_executor", [True, False])
def test_tasks_exclude_each_other_and_are_let_in(lock_path: Path, cls: Any, in_executor: bool) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        async with cls(lock_path, poll_interval=0.005, run_in_executor=in_executor) as lock:
            assert (lock.is_locked, lock.lock_counter, lock_path.exists()) == (True, 1, True)
            order.append(number)
            await asyncio.sleep(0.01)
            order.append(number)

    async def main() -> None:
        await asyncio.gather(*map(work, range(4)))

    asyncio.run(main())
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == list(range(4))
    assert not lock_path.exists()


@CLASSES
def test_it_has_the_manners_of_ours(lock_path: Path, cls: Any) -> None:
    async def main() -> None:
        lock = cls(lock_path, poll_interval=0.01)
        async with lock, await lock.acquire() as again:
            assert (again, lock.lock_counter) == (lock, 2)
            for options in ({"timeout": 0}, {"blocking": False}, {"timeout": 0.03}, {"cancel_check": lambda: True}):
                with pytest.raises(Timeout):
                    await cls(lock_path, timeout=LONG).acquire(**options)
            with pytest.raises(RuntimeError, match=r"Deadlock: .* in this task"):
                await cls(lock_path).acquire()
            with pytest.raises(Timeout):
                SoftFileLock(lock_path).acquire(timeout=0)
        await lock.release()
        assert (lock.is_locked, lock_path.exists()) == (False, False)
        with pytest.raises(NotImplementedError):
            lock.__enter__()

    asyncio.run(main())


@CLASSES
def test_tasks_of_one_object_share_its_hold(lock_path: Path, cls: Any) -> None:
    async def main() -> None:
        lock = cls(lock_path, poll_interval=0.005)
        await asyncio.gather(*(lock.acquire() for _ in range(5)))
        assert lock.lock_counter == 5
        await lock.release(force=True)
        assert (lock.lock_counter, lock_path.exists()) == (0, False)

    asyncio.run(main())


def test_steps_run_on_the_executor_or_on_the_loop(lock_path: Path) -> None:
    def threads_of(**options: Any) -> set[str]:
        lock = AsyncCounted(lock_path, **options)

        async def main() -> None:
            with Exclusive(lock_path):
                wait = asyncio.ensure_future(lock.acquire(poll_interval=0.005))
                await until(lambda: len(lock.names()) > 1)
            await wait
            await lock.release()

        asyncio.run(main())
        return {thread.rstrip("0123456789") for _, thread in lock.steps}

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        assert threads_of(executor=executor) == {"mine_"}
    assert threads_of(run_in_executor=False) == {"MainThread"}
    assert threads_of(run_in_executor=False, thread_local=True) == {"MainThread"}
    assert {name.split("_")[0] for name in threads_of()} == {"asyncio"}


def test_coroutines_run_on_the_loop_and_need_no_executor(lock_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        go_on = threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        blocked = loop.run_in_executor(None, go_on.wait, LONG)
        lock = AsyncCoroutines(lock_path)
        async with lock:
            pass
        assert lock.threads == {"MainThread"}
        assert not blocked.done()
        go_on.set()
        await blocked

    asyncio.run(main())
    with pytest.raises(ValueError, match="thread_local=True is not supported"):
        AsyncCoroutines(lock_path, thread_local=True, run_in_executor=False)


@CLASSES
def test_a_task_that_is_cancelled_leaves_nothing_behind(lock_path: Path, cls: Any) -> None:
    async def main() -> None:
        async with cls(lock_path):
            wait = asyncio.ensure_future(cls(lock_path, poll_interval=0.005).acquire())
            await asyncio.sleep(0.02)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
        # In the middle of a step, which comes to its end.
        lock = cls(lock_path)
        for _ in range(20):
            task = asyncio.ensure_future(lock.acquire())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (lock.is_locked, lock_path.exists()) == (False, False)
        await lock.acquire()
        task = asyncio.ensure_future(lock.release())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (lock.is_locked, lock_path.exists()) == (False, False)

    asyncio.run(main())


@CLASSES
def test_what_a_step_raises_comes_out(lock_path: Path, cls: Any) -> None:
    error = KeyError("mine")

    def add_to(step: str) -> Any:
        """The step of ``cls``, which fails where it is told to."""
        own = getattr(cls, f"_{step}")

        async def awaited(lock: Any) -> None:
            if lock.fails != step or step == "acquire":
                await own(lock)
            if lock.fails == step:
                raise error

        def called(lock: Any) -> None:
            if lock.fails != step or step == "acquire":
                own(lock)
            if lock.fails == step:
                raise error

        return awaited if cls is AsyncCoroutines else called

    class Failing(cls):  # type: ignore[misc]
        fails = ""
        _acquire, _release = add_to("acquire"), add_to("release")

    async def main() -> None:
        lock = Failing(lock_path)
        lock.fails = "acquire"
        with pytest.raises(KeyError) as raised:
            await lock.acquire()
        assert raised.value is error
        assert (lock.is_locked, lock_path.exists()) == (False, False)
        lock.fails = ""
        await lock.acquire()
        lock.fails = "release"
        with pytest.raises(KeyError) as raised:
            await lock.release()
        assert raised.value is error
        assert (lock.lock_counter, lock_path.exists()) == (1, True)
        lock.fails = ""
        await lock.release()
        assert not lock_path.exists()

    asyncio.run(main())


def test_a_dropped_lock_is_released(lock_path: Path) -> None:
    async def main(cls: Any, is_cycle: bool) -> None:
        lock = cls(lock_path)
        if is_cycle:
            lock.itself = lock
        await lock.acquire()

    for is_cycle in (False, True):
        asyncio.run(main(AsyncCounted, is_cycle))  # its executor's threads may keep the object until they end
        if is_cycle:
            gc.collect()
        assert not lock_path.exists()
    # A coroutine needs a loop that can run it.
    loop = asyncio.new_event_loop()
    lock = AsyncCoroutines(lock_path)
    loop.run_until_complete(lock.acquire())
    del lock
    assert not lock_path.exists()
    loop.close()


def test_a_lock_that_another_thread_drops_does_not_run_its_loop_there(lock_path: Path) -> None:
    loops: list[asyncio.AbstractEventLoop | None] = []

    class Watched(AsyncCoroutines):
        waits = False

        async def _release(self) -> None:  # type: ignore[override]
            loops.append(asyncio._get_running_loop())
            if self.waits:
                await asyncio.sleep(0)
            Exclusive._release(self)  # type: ignore[arg-type]

    loop = asyncio.new_event_loop()
    for waits in (False, True):
        lock = Watched(lock_path)
        lock.waits = waits
        loop.run_until_complete(lock.acquire())
        locks = [lock]
        del lock
        dropper = threading.Thread(target=locks.clear)
        dropper.start()
        dropper.join()
        # What need not wait is done, and the rest cannot be: it would wait for what the loop's own thread does.
        assert lock_path.exists() == waits
    assert loops == [None, None]
    loop.close()


def test_a_pickle_is_unheld_and_works(lock_path: Path) -> None:
    async def main() -> None:
        async with AsyncCounted(lock_path, executor=None, timeout=0.02) as lock:
            again = pickle.loads(pickle.dumps(lock))
            with pytest.raises(Timeout):
                await again.acquire()
        async with again:
            assert lock_path.exists()

    asyncio.run(main())


def test_a_class_can_add_to_our_steps(lock_path: Path) -> None:
    class More(AsyncFileLock):
        async def _acquire(self) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            super()._acquire()

        async def _release(self) -> None:  # type: ignore[override]
            super()._release()
            await asyncio.sleep(0)

    async def main() -> None:
        with FileLock(lock_path), pytest.raises(Timeout):
            await More(lock_path).acquire(timeout=0.02, poll_interval=0.005)
        async with More(lock_path):
            with pytest.raises(Timeout):
                FileLock(lock_path).acquire(timeout=0)
        with FileLock(lock_path, timeout=0):
            pass

    asyncio.run(main())
