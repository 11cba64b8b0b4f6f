"""``AsyncReadWriteLock`` and ``AsyncSoftReadWriteLock``: what a task holds, and who waits for whom."""

from __future__ import annotations

import asyncio
import gc
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
from async_peers import is_still_waiting, run, until
from async_rw_peers import LEFT, MODES, Inside, acquire, context, in_a_task, until_allowed, waiting
from ferrolock import (
    AsyncAcquireReadWriteReturnProxy,
    AsyncAcquireSoftReadWriteReturnProxy,
    AsyncReadWriteLock,
    AsyncSoftReadWriteLock,
    FileLock,
    ReadWriteLock,
    SoftReadWriteLock,
    Timeout,
)
from peers import LONG
from soft_rw_peers import markers

if TYPE_CHECKING:
    from pathlib import Path

    from async_rw_peers import Doors

BOTH_MODES = pytest.mark.parametrize("mode", MODES)
CLASSES = pytest.mark.parametrize("cls", [AsyncReadWriteLock, AsyncSoftReadWriteLock], ids=["bytes", "lease"])


@BOTH_MODES
def test_a_mode_nests_and_its_last_release_gives_the_lock_back(doors: Doors, lock_path: Path, mode: str) -> None:
    async def main() -> None:
        lock = doors(lock_path)
        kind = AsyncAcquireSoftReadWriteReturnProxy if doors.is_soft else AsyncAcquireReadWriteReturnProxy
        for _ in range(3):
            proxy = await acquire(lock, mode)
            assert isinstance(proxy, kind)
            assert proxy.lock is lock
        for _ in range(3):
            assert doors.allowed(lock_path) == LEFT[mode]
            await lock.release()
        assert doors.allowed(lock_path) == "write"
        async with await acquire(lock, mode) as given:
            assert given is lock
        assert doors.allowed(lock_path) == "write"

    run(main())


@BOTH_MODES
def test_a_context_gives_none_can_be_used_again_and_decorates(doors: Doors, lock_path: Path, mode: str) -> None:
    async def main() -> None:
        lock = doors(lock_path)
        manager = context(lock, mode)
        assert doors.allowed(lock_path) == "write", "nothing happens before the `async with`"
        for _ in range(2):
            async with manager as given:
                assert given is None
                assert doors.allowed(lock_path) == LEFT[mode]
        with pytest.raises(ZeroDivisionError):
            async with context(lock, mode, 1, blocking=True):
                _ = 1 / 0
        assert doors.allowed(lock_path) == "write"

        @context(lock, mode)  # type: ignore[untyped-decorator]
        async def function(value: int) -> tuple[int, str]:
            """Look."""
            return value, doors.allowed(lock_path)

        assert await function(3) == (3, LEFT[mode])
        assert (function.__name__, function.__doc__) == ("function", "Look.")
        with pytest.raises(NotImplementedError, match="async with"), manager:
            pass

    run(main())


def test_tasks_share_to_read_and_exclude_to_write_in_the_order_in_which_they_asked(
    doors: Doors, lock_path: Path
) -> None:
    async def main() -> None:
        lock = doors(lock_path)
        first, second = await Inside(lock, "read").enters(), await Inside(doors(lock_path), "read").enters()
        writer = Inside(lock, "write")
        await asyncio.sleep(0.02)
        behind = [Inside(lock, "read") for _ in range(3)]
        last = Inside(lock, "write")
        await first.leaves()
        assert await is_still_waiting(writer.task)
        assert not any(reader.is_inside for reader in behind), "a writer that waits keeps new readers out"
        await second.leaves()
        await writer.enters()
        assert not any(reader.is_inside for reader in behind)
        await writer.leaves()
        for reader in behind:
            await reader.enters()
        assert not last.is_inside
        for reader in behind:
            await reader.leaves()
        await last.enters()
        await last.leaves()
        assert doors.allowed(lock_path) == "write"

    run(main())


@pytest.mark.parametrize("end", ["timeout", "cancelled"])
def test_a_writer_that_gives_up_lets_the_readers_in(doors: Doors, lock_path: Path, end: str) -> None:
    async def main() -> None:
        lock = doors(lock_path)
        reader = await Inside(lock, "read").enters()
        writer = await waiting(lock, "write", *([0.15] if end == "timeout" else []))
        late = Inside(lock, "read")
        assert await is_still_waiting(late.task)
        assert not late.is_inside
        if end == "cancelled":
            writer.cancel()
        await asyncio.wait([writer])
        assert writer.cancelled() if end == "cancelled" else isinstance(writer.exception(), Timeout)
        await late.enters()
        await late.leaves()
        await reader.leaves()
        await until_allowed(doors, lock_path, "write")

    run(main())


@BOTH_MODES
def test_a_task_nests_through_any_object_and_goes_out_where_it_came_in(
    doors: Doors, lock_path: Path, mode: str
) -> None:
    async def main() -> None:
        one, two = doors(lock_path), doors(lock_path)
        not_held = r"is not held by this task through this wrapper"
        await acquire(one, mode)
        with pytest.raises(RuntimeError, match=not_held):
            await two.release()
        await acquire(two, mode)
        await one.release()
        assert doors.allowed(lock_path) == LEFT[mode]
        with pytest.raises(RuntimeError, match=not_held):
            await one.release()
        await one.release(force=True)
        assert doors.allowed(lock_path) == LEFT[mode]
        await acquire(two, mode)
        await two.release(force=1)  # whatever is true, as everywhere
        assert doors.allowed(lock_path) == "write"
        with pytest.raises(RuntimeError, match=not_held):
            await two.release()

    run(main())


@BOTH_MODES
def test_a_task_releases_only_its_own(doors: Doors, lock_path: Path, mode: str) -> None:
    async def main() -> None:
        lock = doors(lock_path)
        inside = await Inside(lock, mode).enters()
        with pytest.raises(RuntimeError, match="not held by this task through this wrapper"):
            await lock.release()
        await lock.release(force=True)
        assert doors.allowed(lock_path) == LEFT[mode]
        if mode == "read":
            await lock.acquire_read()
            await lock.release(force=True)
            assert doors.allowed(lock_path) == "read"
        await inside.leaves()
        assert doors.allowed(lock_path) == "write"

    run(main())


def test_upgrade_and_downgrade_are_refused_at_once(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        lock, other = doors(lock_path), doors(lock_path)
        start = (
            f"Cannot acquire {{}} lock on {lock_path} (lock id: {{}}): already holding a {{}} lock ({{}} not allowed)"
        )
        for asked in (lock, other):
            async with lock.read_lock():
                with pytest.raises(RuntimeError) as error:
                    await asked.acquire_write()
                assert str(error.value) == start.format("write", id(asked), "read", "upgrade")
            async with lock.write_lock():
                with pytest.raises(RuntimeError) as error:
                    await asked.acquire_read(blocking=False)
                assert str(error.value) == start.format("read", id(asked), "write", "downgrade")
        assert doors.allowed(lock_path) == "write"

    run(main())


def test_limits_end_a_wait_and_are_checked(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        lock = doors(lock_path)
        loop = asyncio.get_running_loop()
        writer = await Inside(lock, "write").enters()
        for mode in MODES:
            begin = loop.time()
            with pytest.raises(Timeout) as raised:
                await acquire(lock, mode, 0.05)
            assert loop.time() - begin >= 0.05
            assert raised.value.lock_file == str(lock_path)
            for options in ({"timeout": 0}, {"blocking": False}, {"blocking": False, "timeout": 5}):
                with pytest.raises(Timeout):
                    await acquire(lock, mode, **options)
            for own in ({"timeout": 0.01}, {"blocking": False}):
                with pytest.raises(Timeout):
                    await acquire(doors(lock_path, is_singleton=False, **own), mode)
        for wrong, kind in ((-2, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)):
            with pytest.raises(kind):
                await lock.acquire_read(wrong)
        with pytest.raises(TypeError, match="blocking must be a bool"):
            await lock.acquire_write(blocking=1)
        await writer.leaves()
        await lock.acquire_read(-2, blocking=False)
        await lock.acquire_read(float("inf"))
        await lock.release(force=True)
        await until_allowed(doors, lock_path, "write")

    run(main())


def test_a_wait_for_oneself_is_refused_and_one_for_another_task_is_not(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        held, other = (doors(lock_path, is_singleton=False) for _ in range(2))
        async with held.write_lock():
            for mode in MODES:
                with pytest.raises(
                    RuntimeError, match=r"already held by a different AsyncReadWriteLock .* in this task"
                ):
                    await acquire(other, mode)
                with pytest.raises(Timeout):
                    await acquire(other, mode, 0.01)
            task = await waiting(other, "write")
        await task
        with pytest.raises(Timeout):
            await held.acquire_read(0.01)

    run(main())


def test_a_reader_reads_once_more_past_a_writer_that_waits_for_it(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        one, two = (doors(lock_path, is_singleton=False) for _ in range(2))
        async with one.read_lock():
            writer = await waiting(two, "write")
            late = Inside(two, "read")
            assert await is_still_waiting(late.task)
            for lock in (one, two):
                async with lock.read_lock(LONG):
                    assert not writer.done()
        await writer
        writer.cancel()

    run(main())


def test_only_a_task_can_hold(doors: Doors, lock_path: Path) -> None:
    lock = doors(lock_path)
    acquisition = lock.acquire_read()
    with pytest.raises(RuntimeError, match="no running asyncio event loop"):
        acquisition.send(None)

    async def main() -> None:
        told: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        def callback() -> None:
            try:
                lock.acquire_read().send(None)
            except BaseException as error:
                told.set_result(error)

        asyncio.get_running_loop().call_soon(callback)
        error = await told
        assert isinstance(error, RuntimeError)
        assert "no task is running" in str(error)

    run(main())


def test_wait_for_makes_a_task_of_its_own_before_312(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        lock = doors(lock_path)
        await asyncio.wait_for(lock.acquire_read(), LONG)
        if sys.version_info >= (3, 12):
            await lock.release()
        else:
            with pytest.raises(RuntimeError, match="not held by this task"):
                await lock.release()
        await lock.close()
        assert doors.allowed(lock_path) == "write"

    run(main())


@BOTH_MODES
def test_close_ends_what_came_in_through_it_and_nothing_else(doors: Doors, lock_path: Path, mode: str) -> None:
    async def main() -> None:
        lock, other = doors(lock_path), doors(lock_path)
        await in_a_task(acquire(lock, mode))
        if mode == "read":
            await acquire(lock, mode)
            await acquire(other, mode)
        mine = await waiting(lock, "write", LONG) if mode == "write" else None
        others = await in_a_task(waiting(other, "write", LONG))
        await lock.close()
        await lock.close()
        if mine is not None:
            with pytest.raises(RuntimeError, match="has been closed"):
                await mine
        for asked in MODES:
            with pytest.raises(RuntimeError, match="has been closed"):
                await acquire(lock, asked)
        with pytest.raises(RuntimeError, match="not held"):
            await lock.release()
        await lock.release(force=True)
        if mode == "read":
            assert await is_still_waiting(others), "what came in through the other is inside still"
            await other.release()
        await others
        await other.close()
        assert doors.allowed(lock_path) == "write"
        with doors.sync(lock_path).write_lock():  # the lock object of the path works on
            pass
        async with doors(lock_path).write_lock():
            pass

    run(main())


def test_close_of_one_that_shares_nothing_closes_the_lock_object_too(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        lock = doors(lock_path, is_singleton=False)
        await lock.acquire_read()
        await lock.close()
        with pytest.raises(RuntimeError, match="has been closed"):
            lock._lock.acquire_read()
        assert doors.allowed(lock_path) == "write"

    run(main())


def test_threads_of_the_shared_lock_object_keep_their_own_levels(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        lock, sync = doors(lock_path), doors.sync(lock_path)
        with sync.read_lock():
            await lock.acquire_read()
            with pytest.raises(Timeout):
                await in_a_task(lock.acquire_write(0.02))
        with pytest.raises(RuntimeError, match="does not hold it"):
            sync.release()
        assert doors.allowed(lock_path) == "read"
        await lock.release()
        sync.acquire_write()
        writer = await waiting(lock, "write")
        assert await is_still_waiting(writer)
        sync.release()
        await writer
        with pytest.raises(RuntimeError):
            sync.acquire_read()
        await lock.close()
        with sync.read_lock():
            pass

    run(main())


def test_loops_of_two_threads_exclude_each_other(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        lock = doors(lock_path)
        inside: list[bool] = []

        async def there() -> None:
            async with lock.write_lock(LONG):
                inside.append(True)

        async with lock.read_lock():
            thread = asyncio.ensure_future(asyncio.to_thread(asyncio.run, there()))
            assert await is_still_waiting(thread)
            assert not inside
        await thread
        assert inside

    run(main())


def test_a_held_one_that_is_collected_is_released_but_a_lease_stays(doors: Doors, lock_path: Path) -> None:
    async def main() -> None:
        lock, other = doors(lock_path), doors(lock_path)
        await lock.acquire_read()
        await other.acquire_read()
        gone = weakref.ref(lock)
        del lock
        for _ in range(500):
            gc.collect()
            if gone() is None:
                break
            await asyncio.sleep(0.01)  # a thread of the executor may keep the object for a moment
        assert gone() is None
        assert doors.allowed(lock_path) == "read"
        await other.release()
        assert doors.allowed(lock_path) == ("read" if doors.is_soft else "write")

    run(main())


@CLASSES
def test_what_it_is_made_with(cls: Any, lock_path: Path) -> None:
    sync: Any = ReadWriteLock if cls is AsyncReadWriteLock else SoftReadWriteLock
    assert not issubclass(cls, sync)
    lock = cls(lock_path, 3, blocking=False)
    assert (lock.lock_file, lock.timeout, lock.blocking, lock.loop) == (str(lock_path), 3.0, False, None)
    for name in ("lock_file", "timeout", "blocking", "loop", "executor"):
        with pytest.raises(AttributeError):
            setattr(lock, name, None)
    assert cls(lock_path, 3, blocking=False) is not lock
    with pytest.raises(ValueError, match="Singleton lock created with timeout=3"):
        cls(lock_path)
    cls(lock_path, is_singleton=False)
    with pytest.raises(TypeError):
        cls(lock_path, mode=0o600)
    with pytest.raises(TypeError, match="timeout must be a number"):
        cls(lock_path, "1")
    with ThreadPoolExecutor(1) as executor:
        assert cls(lock_path, 3, blocking=False, executor=executor).executor is executor
    again = pickle.loads(pickle.dumps(lock))
    assert (type(again), again.lock_file, again.timeout, again.blocking) == (cls, str(lock_path), 3.0, False)
    assert again._lock is lock._lock
    assert repr(lock).startswith(f"<ferrolock._async_read_write.{cls.__name__} '{lock_path}' unheld at 0x")


def test_an_executor_of_its_own_is_made_for_who_asks_and_ends_with_close(lock_path: Path) -> None:
    async def main() -> None:
        lock = AsyncReadWriteLock(lock_path)
        executor = lock.executor
        assert isinstance(executor, ThreadPoolExecutor)
        assert lock.executor is executor
        async with lock.write_lock():
            pass
        await lock.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            executor.submit(print)
        assert AsyncSoftReadWriteLock(lock_path).executor is None

    run(main())


def test_errors_of_the_system_come_out(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AsyncReadWriteLock(tmp_path / "nowhere" / "x.lock")

    async def main() -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError):
            await AsyncSoftReadWriteLock(tmp_path / "file" / "x.lock").acquire_read()
        async with AsyncSoftReadWriteLock(tmp_path / "new" / "x.lock").write_lock():
            pass

    run(main())


def number_of(lock: AsyncSoftReadWriteLock) -> int | None:
    """Its number, which the type checker believes to stay as it was."""
    return lock.generation


def test_a_lease_tells_of_its_number_and_of_its_loss(lock_path: Path) -> None:
    async def main() -> None:
        told: list[Any] = []
        options: dict[str, Any] = {"heartbeat_interval": 0.02, "stale_threshold": 5, "on_compromise": told.append}
        lock = AsyncSoftReadWriteLock(lock_path, **options)
        assert (lock.generation, lock.compromise) == (None, None)
        async with lock.write_lock():
            number = lock.generation
        assert isinstance(number, int)
        async with lock.write_lock():
            assert lock.generation == number + 1
            markers(lock_path, "write")[0].unlink()
            await until(lambda: bool(told), "it is told")
            assert lock.compromise == told[0]
            for acquisition in (lock.acquire_write(), in_a_task(lock.acquire_read(0.05))):
                with pytest.raises(RuntimeError, match="the hold was lost"):
                    await acquisition
        assert number_of(lock) is None
        async with lock.read_lock():
            assert lock.compromise is None

    run(main())


def test_one_lock_file_may_be_of_both_kinds(lock_path: Path) -> None:
    """A file lock and a lock of readers and writers on one path are about different things, and their tasks too."""

    async def main() -> None:
        async with AsyncReadWriteLock(lock_path).write_lock(), ferrolock.AsyncFileLock(lock_path):
            assert FileLock(lock_path).lock_file == str(lock_path)

    run(main())
