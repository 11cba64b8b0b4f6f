"""What ends before the lock is released: the loop, the object, the executor, the interpreter; and forks."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from async_peers import run, threads, until, waiting
from backends import AsyncCoroutines, AsyncCounted
from ferrolock import AsyncFileLock, AsyncReadWriteLock, AsyncSoftFileLock, FileLock, _native
from peers import LONG, is_free, run_program

if TYPE_CHECKING:
    from pathlib import Path

    from async_peers import Maker

OPTIONS = pytest.mark.parametrize("options", [("-W", "error"), ("-W", "error", "-X", "dev")], ids=["W", "W-dev"])


def test_a_held_lock_that_is_collected_is_released(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        lock = make(lock_path)
        await lock.acquire()
        await lock.acquire()
        del lock
        gc.collect()
        assert make.is_free(lock_path)

    run(main())


def test_a_lock_that_outlives_its_loop_is_held_until_it_is_collected(make: Maker, lock_path: Path) -> None:
    async def take() -> Any:
        lock = make(lock_path)
        await lock.acquire()
        return lock

    lock = run(take())
    assert lock.is_locked
    assert not make.is_free(lock_path)
    run(lock.release())
    assert make.is_free(lock_path)
    lock = run(take())
    del lock
    gc.collect()
    assert make.is_free(lock_path)


def test_one_lock_serves_one_loop_after_the_other(make: Maker, lock_path: Path) -> None:
    lock = make(lock_path)

    async def main() -> None:
        holder = make(lock_path)
        await asyncio.ensure_future(holder.acquire())
        task = await waiting(lock)
        await holder.release()
        await task
        await lock.release()

    for _ in range(3):
        run(main())


def test_a_lock_that_is_granted_to_a_closed_loop_goes_on_to_the_next(lock_path: Path) -> None:
    holder = FileLock(lock_path, thread_local=False)
    holder.acquire()
    loop = asyncio.new_event_loop()
    dead = AsyncFileLock(lock_path, run_in_executor=False)
    acquisition = dead.acquire()

    async def begin() -> None:
        acquisition.send(None)

    loop.run_until_complete(begin())
    loop.close()

    async def main() -> None:
        lock = AsyncFileLock(lock_path)
        task = await waiting(lock)
        holder.release()
        await task
        assert not dead.is_locked
        await lock.release()

    run(main())
    acquisition.close()
    assert is_free(lock_path)


def test_a_loop_that_is_closed_between_the_grant_and_the_news_gives_it_back_with_its_task(lock_path: Path) -> None:
    source = """
        import asyncio, gc, sys, time
        from ferrolock import AsyncFileLock, FileLock
        holder = FileLock(sys.argv[1], thread_local=False)
        holder.acquire()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # asyncio's word about the task
        task = loop.create_task(AsyncFileLock(sys.argv[1], run_in_executor=False).acquire())
        loop.run_until_complete(asyncio.sleep(0.01))
        holder.release()  # the grant is put into a loop that will not run again
        time.sleep(0.02)
        loop.close()
        del task, loop
        gc.collect()
        FileLock(sys.argv[1], timeout=10).acquire()
        print("had")
    """
    assert run_program(source, lock_path) == "had\n"


def test_a_waiting_task_that_is_forgotten_with_its_loop_leaves_nothing(lock_path: Path) -> None:
    source = """
        import asyncio, gc, sys
        from ferrolock import AsyncFileLock, FileLock
        holder = FileLock(sys.argv[1], thread_local=False)
        holder.acquire()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # asyncio's word about the task
        task = loop.create_task(AsyncFileLock(sys.argv[1], run_in_executor=False).acquire())
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        del task, loop
        gc.collect()
        holder.release()
        FileLock(sys.argv[1], timeout=10).acquire()
        print("had")
    """
    assert run_program(source, lock_path) == "had\n"


@pytest.mark.parametrize("is_closed", [True, False])
@pytest.mark.parametrize("cls", [AsyncFileLock, AsyncSoftFileLock, AsyncCounted, AsyncCoroutines])
def test_a_coroutine_that_is_closed_when_no_loop_runs_releases(lock_path: Path, cls: Any, is_closed: bool) -> None:
    async def hold() -> None:
        async with lock:
            await asyncio.get_running_loop().create_future()

    async def begin() -> Any:
        task = asyncio.ensure_future(hold())
        await until(lambda: lock.is_locked, "the hold")
        return task

    with ThreadPoolExecutor(1) as executor:
        lock = cls(lock_path, executor=executor)
        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(begin())
        if is_closed and cls is not AsyncCoroutines:  # whose release has to be waited for
            loop.close()
        task.get_coro().close()
        assert lock.lock_counter == 0
        task._log_destroy_pending = False
        loop.close()


def test_an_executor_that_was_shut_down_is_an_error_and_no_cancellation(lock_path: Path) -> None:
    async def main() -> None:
        executor = ThreadPoolExecutor(1)
        lock = AsyncFileLock(lock_path, executor=executor)
        blocker = threading.Event()
        busy = asyncio.get_running_loop().run_in_executor(executor, blocker.wait)
        queued = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0.01)
        executor.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(RuntimeError, match="the executor was shut down"):
            await queued
        blocker.set()
        await busy
        with pytest.raises(RuntimeError, match="shutdown"):
            await lock.acquire()
        assert lock.lock_counter == 0
        lock.executor = None
        async with lock:
            pass

    run(main())
    assert is_free(lock_path)


@pytest.mark.parametrize("is_queued", [True, False])
@pytest.mark.parametrize("cls", [AsyncFileLock, AsyncSoftFileLock, AsyncCounted, AsyncReadWriteLock])
def test_what_an_executor_does_not_come_to_is_released_all_the_same(lock_path: Path, cls: Any, is_queued: bool) -> None:
    async def main() -> None:
        executor = ThreadPoolExecutor(1)
        lock = cls(lock_path, executor=executor)
        await (lock.acquire_write() if cls is AsyncReadWriteLock else lock.acquire())
        go_on = threading.Event()
        shut_down = partial(executor.shutdown, wait=False, cancel_futures=True)
        if is_queued:
            executor.submit(go_on.wait, LONG)
            asyncio.get_running_loop().call_soon(shut_down)
        else:
            shut_down()
        await lock.release()
        assert not lock._is_held_by_anyone()
        go_on.set()

    run(main())


def test_what_is_granted_goes_back_also_without_an_executor(lock_path: Path) -> None:
    async def main() -> None:
        executor = ThreadPoolExecutor(1)
        holder = FileLock(lock_path, thread_local=False)
        holder.acquire()
        lock = AsyncFileLock(lock_path, executor=executor)
        task = await waiting(lock)
        holder.release()
        time.sleep(0.02)  # the grant comes while the loop is busy
        executor.shutdown()
        task.cancel()
        await asyncio.wait([task])
        assert not lock.is_locked
        await until(lambda: is_free(lock_path), "the lock is free")

    run(main())


def test_system_calls_are_made_where_it_was_said(lock_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    class Seeing(ThreadPoolExecutor):
        def submit(self, *args: Any, **options: Any) -> Any:
            seen.add(threading.get_ident())
            return super().submit(*args, **options)

    async def cycle(lock: AsyncFileLock) -> None:
        await lock.acquire()
        await lock.acquire()
        await lock.release()
        await lock.release()

    async def main() -> None:
        with Seeing(1) as executor:
            await cycle(AsyncFileLock(lock_path, executor=executor))
            assert seen
            seen.clear()
            await cycle(AsyncFileLock(lock_path, run_in_executor=False, executor=executor))
            asyncio.get_running_loop().set_default_executor(executor)
            await cycle(AsyncFileLock(lock_path))  # finds out once that the file system is of this machine
            seen.clear()
            await cycle(AsyncFileLock(lock_path.with_name("y.lock")))
            assert bool(seen) == (AsyncFileLock(lock_path).waits_by != "kernel")

    run(main())


@OPTIONS
@pytest.mark.parametrize("state", ["held", "waiting", "granted", "held in a daemon thread", "at exit"])
def test_the_interpreter_ends_with_locks_in_any_state(lock_path: Path, options: tuple[str, ...], state: str) -> None:
    source = """
        import asyncio, atexit, sys, threading, time
        path, state = sys.argv[1:]
        from ferrolock import AsyncFileLock, FileLock
        lock, other = AsyncFileLock(path), AsyncFileLock(path, run_in_executor=False)
        loop = asyncio.new_event_loop()
        if state == "held in a daemon thread":
            def run():
                async def main():
                    async with lock:
                        held.set()
                        task = asyncio.ensure_future(other.acquire())
                        await asyncio.sleep(60)
                asyncio.run(main())
            held = threading.Event()
            threading.Thread(target=run, daemon=True).start()
            assert held.wait(10)
            time.sleep(0.01)
        elif state == "at exit":
            async def main():
                lock = AsyncFileLock(path, run_in_executor=False)
                async with lock:
                    try:
                        await asyncio.wait_for(asyncio.ensure_future(other.acquire()), 0.01)
                    except asyncio.TimeoutError:
                        print("late")
            atexit.register(lambda: asyncio.run(main()))
        else:
            async def main():
                await asyncio.ensure_future(lock.acquire())
                if state != "held":
                    waits = other.acquire()
                    waits.send(None)
                    globals()["kept"] = waits
                    if state == "granted":
                        await lock.release()
                        time.sleep(0.02)
            asyncio.run(main())
        loop.close()
        print("end")
    """
    printed = run_program(source, lock_path, state, options=options)
    assert printed == ("end\nlate\n" if state == "at exit" else "end\n")
    assert is_free(lock_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_starts_unheld_and_can_use_an_inherited_lock(lock_path: Path) -> None:
    source = """
        import asyncio, os, sys, warnings
        from ferrolock import AsyncFileLock, Timeout
        inherited, waiter = AsyncFileLock(sys.argv[1]), AsyncFileLock(sys.argv[1], run_in_executor=False)

        async def hold():
            await asyncio.ensure_future(inherited.acquire())
            waits = waiter.acquire()
            waits.send(None)  # it is in the queue
            return waits

        waits = asyncio.run(hold())

        async def in_child():
            assert not inherited.is_locked and inherited.lock_counter == 0
            await inherited.release(force=True)
            try:
                await inherited.acquire(timeout=0.05)
            except Timeout:
                pass
            else:
                raise AssertionError("two holders")
            waits.close()
            task = asyncio.ensure_future(inherited.acquire())
            await asyncio.sleep(0.01)
            os.write(report, b"w")
            await task
            await inherited.release()

        listen, report = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is a thread: somebody waits
            child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(in_child())
                code = 0
            finally:
                os._exit(code)
        assert os.read(listen, 1) == b"w"
        assert inherited.is_locked
        waits.close()
        asyncio.run(inherited.release())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print("ok")
    """
    assert run_program(source, lock_path) == "ok\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_after_a_wait_warns_of_no_thread(lock_path: Path) -> None:
    source = """
        import asyncio, os, sys
        from ferrolock import AsyncFileLock

        async def main():
            holder, lock = (AsyncFileLock(sys.argv[1], run_in_executor=False) for _ in range(2))
            for end in ("granted", "cancelled"):
                await asyncio.ensure_future(holder.acquire())
                task = asyncio.ensure_future(lock.acquire())
                await asyncio.sleep(0.02)
                if end == "cancelled":
                    task.cancel()
                await holder.release()
                await asyncio.wait([task])
                await lock.release()
                child = os.fork()  # from 3.12 on it warns where there is a second thread
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)

        asyncio.run(main())
        print("ok")
    """
    assert run_program(source, lock_path, options=("-W", "error")) == "ok\n"


def test_porters_end_when_nobody_waits(make: Maker, lock_path: Path) -> None:
    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        await asyncio.ensure_future(holder.acquire())
        before = threads()
        task = await waiting(lock)
        await holder.release()
        await task
        await lock.release()
        await until(lambda: threads() <= before, "the porter has ended")

    _native.end_idle_porters()
    run(main())


def test_without_an_event_loop_the_error_says_so(lock_path: Path) -> None:
    acquisition = AsyncFileLock(lock_path).acquire()
    with pytest.raises(RuntimeError, match="no running asyncio event loop"):
        acquisition.send(None)


def test_trio_is_refused_at_once(lock_path: Path) -> None:
    if importlib.util.find_spec("trio") is None:
        pytest.skip("trio is not installed")
    import trio

    async def main() -> None:
        async with AsyncFileLock(lock_path):
            pass

    with pytest.raises(RuntimeError, match="not under trio"):
        trio.run(main)


def test_anyio_on_asyncio_works(make: Maker, lock_path: Path) -> None:
    if importlib.util.find_spec("anyio") is None:
        pytest.skip("anyio is not installed")
    import anyio

    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        await holder.acquire()
        got: list[bool] = []

        async def one() -> None:
            async with lock:
                got.append(True)

        with anyio.move_on_after(0.05) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(one)
                await anyio.sleep(10)
        assert scope.cancelled_caught
        assert not got
        async with anyio.create_task_group() as group:
            group.start_soon(one)
            await anyio.sleep(0.02)
            await holder.release()
        assert got == [True]

    anyio.run(main, backend="asyncio")


def test_uvloop_works(make: Maker, lock_path: Path) -> None:
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    import uvloop

    async def main() -> None:
        holder, lock = make(lock_path), make(lock_path)
        await asyncio.ensure_future(holder.acquire())
        cancelled, task = await waiting(make(lock_path)), await waiting(lock)
        cancelled.cancel()
        await holder.release()
        await task
        await lock.release()

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert sys.modules["uvloop"] is uvloop
    assert make.is_free(lock_path)
