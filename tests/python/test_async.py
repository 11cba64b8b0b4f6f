"""Async locks: what is said of all locks, and who shares a hold."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
from async_peers import is_still_waiting, run, until, waiting
from ferrolock import (
    AsyncAcquireReturnProxy,
    AsyncFileLock,
    AsyncSoftFileLock,
    BaseAsyncFileLock,
    BaseFileLock,
    FileLock,
    Timeout,
)

if TYPE_CHECKING:
    from pathlib import Path

    from async_peers import Maker


def test_a_lock_is_held_in_its_body_and_counts_levels(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        lock = make(lock_path)
        async with lock as entered:
            assert entered is lock
            assert (lock.is_locked, lock.lock_counter) == (True, 1)
            assert not make.is_free(lock_path)
            proxy = await lock.acquire()
            assert isinstance(proxy, AsyncAcquireReturnProxy)
            assert proxy.lock is lock
            assert lock.lock_counter == 2
            async with proxy as entered_again:
                assert entered_again is lock
                assert lock.lock_counter == 2
            assert lock.lock_counter == 1
        assert (lock.is_locked, lock.lock_counter) == (False, 0)
        assert make.is_free(lock_path)
        await lock.release()
        await lock.release(force=True)
        async with await lock.acquire():
            await lock.acquire()
            await lock.release(force=True)
            assert make.is_free(lock_path)

    run(main())


def test_an_exception_of_the_body_goes_on_and_the_lock_is_released(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        lock = make(lock_path)
        with pytest.raises(ZeroDivisionError):
            async with lock:
                1 / 0  # noqa: B018
        assert not lock.is_locked

    run(main())


def test_objects_exclude_each_other_and_waiters_are_served_in_order(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder = make(lock_path)
        await holder.acquire()
        locks = [make(lock_path) for _ in range(5)]
        tasks = [await waiting(lock) for lock in locks]
        assert await is_still_waiting(tasks[0])
        await holder.release()
        for number, (lock, task) in enumerate(zip(locks, tasks, strict=True)):
            await task
            assert lock.is_locked
            assert not any(later.done() for later in tasks[number + 1 :])
            await lock.release()

    run(main())


def test_a_hold_is_shared_by_all_tasks_that_use_the_object(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        lock, stranger = make(lock_path), make(lock_path)
        await lock.acquire()
        outside = await waiting(stranger)

        async def other() -> None:
            await lock.acquire()
            assert lock.lock_counter == 2

        await asyncio.ensure_future(other())
        assert lock.lock_counter == 2
        await lock.release()
        assert await is_still_waiting(outside)
        await lock.release()
        await outside
        await stranger.release()

    run(main())


def test_tasks_that_wait_through_one_object_all_have_its_hold(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        await holder.acquire()
        tasks = [await waiting(lock) for _ in range(3)]
        assert not lock.is_locked
        await holder.release()
        await asyncio.gather(*tasks)
        assert lock.lock_counter == 3
        for left in (2, 1, 0):
            await lock.release()
            assert lock.lock_counter == left
        assert make.is_free(lock_path)

    run(main())


def test_limits_end_a_wait(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        loop = asyncio.get_running_loop()
        async with holder:
            begin = loop.time()
            with pytest.raises(Timeout) as raised:
                await lock.acquire(timeout=0.05)
            assert loop.time() - begin >= 0.05
            assert raised.value.lock_file == str(lock_path)
            for options in ({"timeout": 0}, {"blocking": False}, {"blocking": False, "timeout": 5}):
                with pytest.raises(Timeout):
                    await lock.acquire(**options)
            with pytest.raises(Timeout):
                await make(lock_path, timeout=0.01).acquire()
            with pytest.raises(Timeout):
                await make(lock_path, blocking=False).acquire()
        assert lock.lock_counter == 0
        assert make.is_free(lock_path), "the thread that waited for those who gave up may not have it"

    run(main())


def test_cancel_check_is_asked_by_the_task_on_its_loop(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        asked: list[Any] = []

        def check() -> bool:
            asked.append(asyncio.current_task())
            return len(asked) == 3

        await asyncio.ensure_future(holder.acquire())
        async with await holder.acquire():
            with pytest.raises(Timeout):
                await lock.acquire(poll_interval=0.01, cancel_check=check)
            assert asked == [asyncio.current_task()] * 3

            def fail() -> bool:
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await lock.acquire(cancel_check=fail)
            asked.clear()
            with pytest.raises(Timeout):
                await lock.acquire(blocking=False, cancel_check=check)
            assert not asked
        await holder.release()
        async with await make(lock_path.with_name("free.lock")).acquire(cancel_check=check):
            assert not asked

    run(main())


def test_a_wait_for_oneself_is_refused_and_one_for_another_task_is_not(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        held, other = make(lock_path), make(lock_path)
        await held.acquire()
        with pytest.raises(RuntimeError, match="already held by a different BaseAsyncFileLock instance in this task"):
            await other.acquire()
        assert other.lock_counter == 0
        with pytest.raises(Timeout):
            await other.acquire(timeout=0.01)
        stranger = await waiting(make(lock_path))
        with pytest.raises(RuntimeError, match="Deadlock"):
            await other.acquire()
        task = await waiting(other)
        stranger.cancel()
        await held.release()
        await task
        await other.release()

    run(main())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": "1"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"timeout": float("nan")}, ValueError),
        ({"blocking": 1}, TypeError),
        ({"poll_interval": -1}, ValueError),
        ({"poll_intervall": 1}, TypeError),
    ],
)
def test_arguments_are_checked_also_of_a_nested_call(
    lock_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    async def main() -> None:
        lock = AsyncFileLock(lock_path)
        with pytest.raises(error):
            await lock.acquire(**options)
        async with lock:
            with pytest.raises(error):
                await lock.acquire(**options)
            assert lock.lock_counter == 1

    run(main())


def test_errors_of_the_system_come_out(make: Maker, tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "folder").mkdir()
        for path in (tmp_path / "folder", tmp_path / "file" / "x.lock"):
            (tmp_path / "file").touch()
            lock = make(path)
            with pytest.raises(OSError):
                await lock.acquire()
            assert lock.lock_counter == 0
        async with make(tmp_path / "new" / "folder" / "x.lock") as lock:
            assert lock.is_locked

    run(main())


def test_an_error_in_the_middle_of_a_wait_comes_out(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path, poll_interval=0.01)
        await holder.acquire()
        task = await waiting(lock)
        link = lock_path.with_name("link")
        link.symlink_to("elsewhere")
        link.replace(lock_path)  # in one step: in between the porter could lock a new file
        with pytest.raises(OSError) as raised:
            await asyncio.wait_for(task, 5)
        assert raised.value.errno is not None, "it is no timeout"
        assert lock.lock_counter == 0
        await holder.release()

    run(main())


def test_the_synchronous_ways_are_refused(lock_path: Path) -> None:
    lock = AsyncFileLock(lock_path)
    with pytest.raises(NotImplementedError, match="async with"), lock:
        pass
    with pytest.raises(NotImplementedError):
        lock.__exit__(None, None, None)

    @lock
    def decorated() -> None:
        pass

    with pytest.raises(NotImplementedError):
        decorated()
    assert not lock.is_locked


def test_options_of_the_constructor(lock_path: Path) -> None:
    with pytest.raises(ValueError, match="run_in_executor is not supported when thread_local is True"):
        AsyncFileLock(lock_path, thread_local=True)
    with pytest.raises(TypeError, match="AsyncUnixFileLock does not support non-default lock options: x"):
        ferrolock.AsyncUnixFileLock(lock_path, x=1)  # type: ignore[call-arg]
    own = AsyncFileLock(lock_path, thread_local=True, run_in_executor=False)
    assert own.is_thread_local()
    lock = AsyncFileLock(lock_path, 1, 0o600, blocking=False)
    assert (lock.timeout, lock.mode, lock.blocking, lock.is_thread_local()) == (1.0, 0o600, False, False)
    assert (lock.loop, lock.run_in_executor, lock.executor) == (None, True, None)
    for name in ("loop", "run_in_executor"):
        with pytest.raises(AttributeError):
            setattr(lock, name, None)
    lock.executor = None
    with pytest.raises(TypeError, match="abstract"):
        BaseAsyncFileLock(lock_path)  # type: ignore[abstract]


def test_holds_of_threads_are_apart_where_that_is_asked_for(lock_path: Path) -> None:
    lock = AsyncFileLock(lock_path, thread_local=True, run_in_executor=False)

    async def take() -> None:
        await lock.acquire(timeout=0)

    async def main() -> None:
        async with lock:
            assert lock.is_locked
            await asyncio.ensure_future(take())
            assert lock.lock_counter == 2
            await lock.release()
            with pytest.raises(Timeout):
                await asyncio.to_thread(asyncio.run, take())

    run(main())


def test_singletons_are_compared_by_their_own_options_too(lock_path: Path) -> None:
    first = AsyncFileLock(lock_path, is_singleton=True)
    assert AsyncFileLock(lock_path, is_singleton=True) is first
    assert FileLock(lock_path, is_singleton=True) is not first
    with pytest.raises(ValueError, match=r"run_in_executor \(existing lock has True but False was passed\)"):
        AsyncFileLock(lock_path, is_singleton=True, run_in_executor=False)
    with pytest.raises(ValueError, match="loop"):
        AsyncFileLock(lock_path, is_singleton=True, loop=object())  # type: ignore[arg-type]


def test_the_classes_are_what_filelock_has() -> None:
    assert issubclass(AsyncFileLock, FileLock)
    sync: type[Any]
    for cls, sync in ((AsyncFileLock, FileLock), (AsyncSoftFileLock, ferrolock.SoftFileLock)):
        assert cls.__mro__[:4] == (cls, sync, BaseAsyncFileLock, BaseFileLock)
        assert cls.__name__ == f"Async{sync.__name__}"
    names = {"AsyncAcquireReturnProxy", "AsyncSoftFileLock", "AsyncUnixFileLock", "AsyncWindowsFileLock"}
    names |= {"AsyncSoftFileLease", "AsyncStrictSoftFileLock"}
    names |= {"AsyncReadWriteLock", "AsyncAcquireReadWriteReturnProxy"}
    names |= {"AsyncSoftReadWriteLock", "AsyncAcquireSoftReadWriteReturnProxy"}
    assert set(ferrolock.asyncio.__all__) == {*names, "BaseAsyncFileLock"}
    assert dir(ferrolock.asyncio) == sorted(ferrolock.asyncio.__all__)
    assert ferrolock.asyncio.AsyncFileLockMeta is type(AsyncFileLock)
    assert {*names, "asyncio", "AsyncFileLock"} <= set(dir(ferrolock))
    assert repr(AsyncAcquireReturnProxy[AsyncFileLock]).endswith("AsyncUnixFileLock]")
    with pytest.raises(AttributeError, match="module 'ferrolock' has no attribute 'nothing'"):
        ferrolock.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_a_subclass_may_have_its_own_methods_and_constructor(lock_path: Path) -> None:
    told: list[str] = []

    class Telling(AsyncFileLock):
        def __init__(self, lock_file: Path, label: str = "") -> None:
            super().__init__(lock_file, timeout=3)
            self.label = label

        async def acquire(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
            told.append("acquire")
            return await super().acquire(*args, **options)

        async def release(self, force: bool = False) -> None:  # type: ignore[override]
            told.append("release")
            await super().release(force)

    async def main() -> None:
        lock = Telling(lock_path, label="x")
        assert (lock.label, lock.timeout) == ("x", 3.0)
        async with lock, await lock.acquire():
            pass

    run(main())
    assert told == ["acquire", "acquire", "release", "release"]


def test_a_pickle_has_the_settings_and_no_hold(lock_path: Path) -> None:
    async def main() -> Any:
        lock = AsyncFileLock(lock_path, 7, run_in_executor=False, loop=asyncio.get_running_loop())
        vars(lock)["label"] = "x"
        async with lock:
            return pickle.loads(pickle.dumps(lock))

    lock = run(main())
    assert (lock.lock_file, lock.timeout, lock.run_in_executor, lock.loop) == (str(lock_path), 7.0, False, None)
    assert (lock.label, lock.is_locked) == ("x", False)


def test_the_soft_lock_has_its_own_members(lock_path: Path) -> None:
    async def main() -> None:
        lock = AsyncSoftFileLock(lock_path)
        assert lock.pid is None
        async with lock:
            assert lock.is_lock_held_by_us
            lock.break_lock()
            assert not lock_path.exists()
        with pytest.warns(ferrolock.SoftFileLockLifetimeWarning):
            AsyncSoftFileLock(lock_path, lifetime=5)
        with pytest.warns(UserWarning, match="lifetime is ignored for Async") as told:
            AsyncFileLock(lock_path, lifetime=5)
        assert told[0].filename == __file__

    run(main())


def test_the_import_of_the_package_does_not_import_asyncio() -> None:
    source = """
        import sys, ferrolock, filelock
        assert "asyncio" not in sys.modules, "imported"
        assert ferrolock.FileLock is filelock.FileLock
        assert "asyncio" not in sys.modules, "imported"
        import filelock.asyncio
        assert filelock.AsyncFileLock is ferrolock.AsyncFileLock is ferrolock.asyncio.AsyncUnixFileLock
        assert filelock.asyncio is ferrolock.asyncio
        namespace = {}
        exec("from filelock import *", namespace)
        exec("from ferrolock import *", namespace)
        assert "asyncio" not in namespace and namespace["AsyncFileLock"] is ferrolock.AsyncFileLock
    """
    lines = "\n".join(line.strip() for line in source.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    if sys.platform == "win32":
        pytest.skip("the names of Unix")
    if "has no attribute '__path__'" in done.stderr:
        pytest.skip("filelock itself is installed")
    assert (done.returncode, done.stderr) == (0, "")


def test_messages_of_the_log(make: Maker, lock_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        await asyncio.ensure_future(holder.acquire())
        with pytest.raises(Timeout):
            await lock.acquire(timeout=0.03, poll_interval=0.01)
        with pytest.raises(Timeout):
            await lock.acquire(blocking=False)
        with pytest.raises(Timeout):
            await lock.acquire(cancel_check=lambda: True)
        await holder.release()

    caplog.set_level("DEBUG", logger="filelock")
    run(main())
    said = [record.msg for record in caplog.records]
    assert said[:2] == ["Attempting to acquire lock %s on %s", "Lock %s acquired on %s"]
    assert "Lock %s not acquired on %s, waiting %s seconds ..." in said
    assert "Timeout on acquiring lock %s on %s" in said
    assert "Failed to immediately acquire lock %s on %s" in said
    assert "Cancellation requested for lock %s on %s" in said
    assert said[-2:] == ["Attempting to release lock %s on %s", "Lock %s released on %s"]


def test_a_thread_and_a_task_take_turns(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        sync = make.sync(lock_path, thread_local=False)
        sync.acquire()
        lock = make(lock_path)
        task = await waiting(lock)
        assert await is_still_waiting(task)
        await asyncio.to_thread(sync.release)
        await task
        blocked = asyncio.ensure_future(asyncio.to_thread(sync.acquire))
        assert await is_still_waiting(blocked)
        await lock.release()
        await blocked
        await asyncio.to_thread(sync.release)
        await until(lambda: make.is_free(lock_path), "the lock is free")

    run(main())
