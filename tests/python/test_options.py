"""The options that are rarely given: what they take, what they do, and what becomes of two errors at once."""

from __future__ import annotations

import asyncio
import builtins
import os
import pickle
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import (
    AsyncFileLock,
    AsyncSoftFileLock,
    CloseErrorPolicy,
    ContextErrorPolicy,
    FileLock,
    LockOptions,
    SoftFileLock,
    Timeout,
)
from ferrolock._error import group_class
from peers import LONG, is_free
from test_honesty import under_strace

if TYPE_CHECKING:
    from pathlib import Path

CLASSES: Any = [FileLock, SoftFileLock, AsyncFileLock, AsyncSoftFileLock]
needs_strace = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("strace") is None, reason="has system calls fail with strace"
)


class Failing(FileLock):
    """Its release gives the lock back and then fails."""

    def release(self, force: bool = False) -> None:
        """Fail."""
        is_held = self.is_locked
        super().release(force=force)
        if is_held:
            raise OSError(5, "release")


class AsyncFailing(AsyncFileLock):
    """The same for tasks."""

    async def release(self, force: bool = False) -> None:  # type: ignore[override]
        """Fail."""
        await super().release(force=force)
        raise OSError(5, "release")


@pytest.mark.parametrize("cls", CLASSES)
def test_what_nobody_gives_has_filelocks_defaults(lock_path: Path, cls: Any) -> None:
    lock = cls(lock_path)
    assert (lock.context_error_policy, lock.close_error_policy) == ("chain", "default")
    assert (lock.fallback_to_soft, lock.preserve_lock_file, lock.on_acquired) == (True, False, None)
    for name in ("context_error_policy", "close_error_policy", "fallback_to_soft", "preserve_lock_file", "on_acquired"):
        with pytest.raises(AttributeError):
            setattr(lock, name, None)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_policy_is_one_of_its_words(lock_path: Path, cls: Any) -> None:
    for name, choices in (("context_error_policy", ContextErrorPolicy), ("close_error_policy", CloseErrorPolicy)):
        words: Any = choices
        for word in words.__args__:
            assert getattr(cls(lock_path, **{name: word}), name) == word
        for wrong in ("Chain", "", None, 1):
            with pytest.raises(ValueError, match=f"{name} must be one of 'c?d?"):
                cls(lock_path, **{name: wrong})
        with pytest.raises(TypeError):
            cls(lock_path, **{name: []})


def test_options_are_checked_in_filelocks_order(lock_path: Path) -> None:
    wrong: dict[str, Any] = {
        "lifetime": -1,
        "poll_interval": -1,
        "blocking": 1,
        "timeout": True,
        "mode": 0o1000,
        "context_error_policy": "no",
        "close_error_policy": "no",
        "preserve_lock_file": True,
        "on_acquired": print,
    }
    construct: Any = SoftFileLock
    while wrong:
        first = next(iter(wrong))
        with pytest.raises((TypeError, ValueError), match=first):
            construct(lock_path, unknown=1, **wrong)
        del wrong[first]
    with pytest.raises(TypeError, match="does not support non-default lock options: unknown"):
        construct(lock_path, unknown=1)


@pytest.mark.parametrize("cls", [SoftFileLock, AsyncSoftFileLock])
def test_a_marker_refuses_what_only_a_kernel_lock_can_do(lock_path: Path, cls: Any) -> None:
    class PathOnly(cls):  # type: ignore[misc]
        def __init__(self, lock_file: Path) -> None:
            super().__init__(lock_file, preserve_lock_file=True)

    for option in ({"preserve_lock_file": 1}, {"on_acquired": print}):
        with pytest.raises(ValueError, match=f"is not supported by {cls.__name__}"):
            cls(lock_path, **option)
    with pytest.raises(ValueError, match="is not supported by PathOnly"):
        PathOnly(lock_path)
    assert cls(lock_path, preserve_lock_file=0, on_acquired=None, fallback_to_soft="").fallback_to_soft == ""


def test_a_file_that_is_to_stay_does_not_go(lock_path: Path) -> None:
    with pytest.raises(ValueError, match="leave one of them out"):
        FileLock(lock_path, preserve_lock_file=True, unlink_on_release=True)
    assert FileLock(lock_path, preserve_lock_file=True, unlink_on_release=False).preserve_lock_file is True


def test_the_type_of_the_options_names_all_that_a_lock_takes(lock_path: Path) -> None:
    class Everything(FileLock):
        def __init__(self, lock_file: str, **options: Any) -> None:
            self.seen = set(options)
            super().__init__(lock_file, **options)

    assert Everything(str(lock_path)).seen == set(LockOptions.__annotations__)
    assert not LockOptions.__required_keys__


def test_one_lock_for_each_path_has_one_set_of_them(lock_path: Path) -> None:
    hook = CallOf([])
    lock = FileLock(lock_path, is_singleton=True, on_acquired=hook, close_error_policy="raise")
    assert FileLock(lock_path, is_singleton=True, on_acquired=hook, close_error_policy="raise") is lock
    others: list[dict[str, Any]] = [
        {"on_acquired": CallOf([])},
        {"close_error_policy": "suppress"},
        {"context_error_policy": "group"},
        {"preserve_lock_file": True},
        {"fallback_to_soft": False},
    ]
    for other in others:
        options: Any = {"on_acquired": hook, "close_error_policy": "raise", **other}
        with pytest.raises(ValueError, match=f"Non-matching arguments: \n\t{next(iter(other))} "):
            FileLock(lock_path, is_singleton=True, **options)


class CallOf:
    """Equal to all of its like, and still another one."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __call__(self, descriptor: int) -> None:
        """Remember."""
        self.calls.append(descriptor)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CallOf)

    __hash__ = None  # type: ignore[assignment]


def test_a_pickle_takes_them_along(lock_path: Path) -> None:
    lock = FileLock(
        lock_path, context_error_policy="group", close_error_policy="raise", fallback_to_soft=False, on_acquired=print
    )
    again = pickle.loads(pickle.dumps(lock))
    assert (again.context_error_policy, again.close_error_policy) == ("group", "raise")
    assert (again.fallback_to_soft, again.preserve_lock_file, again.on_acquired) == (False, False, print)


def leave(way: str, cls: Any, lock_path: Path, body: BaseException | None, policy: str) -> None:
    """End a block in one of the four ways there are."""

    async def task() -> None:
        lock = cls(lock_path, context_error_policy=policy)
        async with lock if way == "async with" else await lock.acquire():
            if body is not None:
                raise body

    if way.startswith("async"):
        asyncio.run(task())
        return
    lock = cls(lock_path, context_error_policy=policy)
    with lock if way == "with" else lock.acquire():
        if body is not None:
            raise body


@pytest.mark.parametrize("body", [KeyError("body"), KeyboardInterrupt("body")], ids=["error", "interrupt"])
@pytest.mark.parametrize("way", ["with", "proxy", "async with", "async proxy"])
def test_two_errors_are_a_chain_or_a_group(lock_path: Path, way: str, body: BaseException) -> None:
    fine, failing = (AsyncFileLock, AsyncFailing) if way.startswith("async") else (FileLock, Failing)
    with pytest.raises(OSError, match="release") as chained:
        leave(way, failing, lock_path, body, "chain")
    assert chained.value.__context__ is body
    group = group_class()
    with pytest.raises(group, match="lock body and release both failed") as grouped:
        leave(way, failing, lock_path, body, "group")
    assert grouped.value.exceptions[0] is body
    assert isinstance(grouped.value.exceptions[1], OSError)
    assert isinstance(grouped.value, Exception) is isinstance(body, Exception)
    for policy in ("chain", "group"):
        with pytest.raises(type(body)) as bare:
            leave(way, fine, lock_path, body, policy)
        assert bare.value is body
        with pytest.raises(OSError, match="release"):
            leave(way, failing, lock_path, None, policy)
    assert is_free(lock_path)


@pytest.mark.parametrize("policy", ["chain", "group"])
def test_a_task_that_is_cancelled_while_its_attempt_fails_hears_of_both(tmp_path: Path, policy: Any) -> None:
    go_on = threading.Event()

    async def main(executor: ThreadPoolExecutor) -> None:
        executor.submit(go_on.wait, LONG)
        lock: Any = AsyncFileLock(tmp_path, executor=executor, context_error_policy=policy)  # a folder cannot be locked
        task = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await task

    with ThreadPoolExecutor(1) as executor, pytest.raises(BaseException) as raised:
        asyncio.run(main(executor))
    if policy == "chain":
        assert isinstance(raised.value, IsADirectoryError)
        assert isinstance(raised.value.__context__, asyncio.CancelledError)
    else:
        assert isinstance(raised.value, group_class())
        errors: Any = raised.value
        assert [type(error) for error in errors.exceptions] == [asyncio.CancelledError, IsADirectoryError]


def test_groups_need_a_python_that_has_them(lock_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(builtins, "BaseExceptionGroup"):
        return
    monkeypatch.setitem(sys.modules, "exceptiongroup", None)
    with pytest.raises(ValueError, match="pip install exceptiongroup"):
        FileLock(lock_path, context_error_policy="group")


def test_the_hook_has_the_locked_descriptor_once_for_each_hold(lock_path: Path) -> None:
    seen: list[Any] = []

    def hook(descriptor: int) -> None:
        same = os.fstat(descriptor).st_ino == lock_path.stat().st_ino
        with lock:
            seen.append((same, lock.is_locked, lock.lock_counter, is_free(lock_path)))

    lock = FileLock(lock_path, on_acquired=hook)
    with lock, lock, lock.acquire():
        assert seen == [(True, True, 2, False)]
    lock.acquire()
    lock.release()
    assert len(seen) == 2


def test_a_shared_hold_is_announced_once_whoever_gets_it(lock_path: Path) -> None:
    calls: list[int] = []
    lock = FileLock(lock_path, thread_local=False, on_acquired=CallOf(calls))
    waiting = threading.Barrier(4)
    with ThreadPoolExecutor(3) as threads:
        with FileLock(lock_path):

            def contend() -> int:
                waiting.wait(LONG)
                lock.acquire(timeout=LONG)
                return lock.lock_counter

            waits = [threads.submit(contend) for _ in range(3)]
            waiting.wait(LONG)
        assert {wait.result(LONG) for wait in waits} <= {1, 2, 3}
    assert (lock.lock_counter, len(calls)) == (3, 1)
    lock.release(force=True)


def test_what_the_hook_raises_comes_out_and_nothing_is_held(lock_path: Path) -> None:
    def hook(_descriptor: int) -> None:
        raise KeyError("hook")

    lock = FileLock(lock_path, on_acquired=hook)
    for acquire in (lock.acquire, lock.__enter__):
        with pytest.raises(KeyError, match="hook"):
            acquire()
        assert (lock.is_locked, lock.lock_counter) == (False, 0)
        assert is_free(lock_path)
    wrong: Any = 5
    with pytest.raises(TypeError, match="not callable"):
        FileLock(lock_path, on_acquired=wrong).acquire()
    assert is_free(lock_path)


@pytest.mark.parametrize("where", ["executor", "loop"])
def test_the_hook_of_an_async_lock_runs_where_its_system_calls_do(lock_path: Path, where: str) -> None:
    seen: list[Any] = []

    def hook(descriptor: int) -> None:
        seen.append((threading.current_thread().name, os.fstat(descriptor).st_ino, lock.is_locked, lock.lock_counter))

    def failing(_descriptor: int) -> None:
        raise KeyError("hook")

    executor = ThreadPoolExecutor(1, thread_name_prefix="mine")
    ways: dict[str, Any] = {"executor": {"executor": executor}, "loop": {"run_in_executor": False}}
    lock = AsyncFileLock(lock_path, on_acquired=hook, **ways[where])

    async def main() -> None:
        with FileLock(lock_path):
            waits = asyncio.ensure_future(lock.acquire(timeout=LONG))
            await asyncio.sleep(0.02)
        await waits
        async with lock:
            pass
        await lock.release()
        with pytest.raises(KeyError, match="hook"):
            await AsyncFileLock(lock_path, on_acquired=failing, **ways[where]).acquire()

    with executor:
        asyncio.run(main())
    assert len(seen) == 1
    assert seen[0][1:] == (lock_path.stat().st_ino, True, 1)
    assert seen[0][0].startswith("mine") == (where == "executor")
    assert is_free(lock_path)


def test_a_task_that_is_cancelled_during_the_hook_has_nothing(lock_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hook(_descriptor: int) -> None:
        begun.set()
        assert go_on.wait(LONG)

    lock = AsyncFileLock(lock_path, on_acquired=hook)

    async def main() -> None:
        task = asyncio.ensure_future(lock.acquire())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        assert not is_free(lock_path)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not lock.is_locked
    assert is_free(lock_path)


@needs_strace
def test_a_hook_and_a_release_that_both_fail_are_a_group(lock_path: Path) -> None:
    program = """
import sys
from ferrolock import FileLock
from ferrolock._error import group_class
def hook(descriptor):
    raise KeyError("hook")
lock = FileLock(sys.argv[1], on_acquired=hook)
try:
    lock.acquire()
except group_class() as group:
    print(str(group).split(" (")[0], [type(error).__name__ for error in group.exceptions], lock.is_locked)
lock.release()
print(lock.is_locked)
"""
    # The second call is the one that unlocks.
    lines = under_strace(lock_path, program, ("inject=flock:error=EIO:when=2",))
    assert lines == ["lock body and release both failed ['KeyError', 'OSError'] True", "False"]


RELEASE = """
import sys
from ferrolock import {cls}
lock = {cls}(sys.argv[1], close_error_policy={policy!r})
lock.acquire()
try:
    lock.release()
    print("released")
except OSError as error:
    print(error.errno, error.filename == sys.argv[1])
print(lock.is_locked, lock.lock_counter)
{cls}(sys.argv[1], timeout=0).acquire()
"""


@needs_strace
@pytest.mark.parametrize(
    ("cls", "policy", "is_raised"),
    [
        ("FileLock", "default", False),
        ("FileLock", "raise", True),
        ("FileLock", "suppress", False),
        ("SoftFileLock", "default", True),
        ("SoftFileLock", "raise", True),
        ("SoftFileLock", "suppress", False),
    ],
)
def test_an_error_of_closing_is_raised_or_not_and_the_lock_is_free(
    lock_path: Path, cls: str, policy: str, is_raised: bool
) -> None:
    # A marker is opened by its name only where it can be made in no other way.
    faults = ("inject=linkat:error=EOPNOTSUPP", "inject=close:error=EIO:when=1")
    program = RELEASE.format(cls=cls, policy=policy)
    lines = under_strace(lock_path, program, faults, only=(lock_path, lock_path.parent))
    assert lines == ["5 True" if is_raised else "released", "False 0"]


@needs_strace
def test_an_unlock_that_fails_leaves_the_lock_held_whatever_the_policy(lock_path: Path) -> None:
    for policy in ("suppress", "raise"):
        program = RELEASE.format(cls="FileLock", policy=policy).replace(
            "FileLock(sys.argv[1], timeout=0).acquire()", ""
        )
        lines = under_strace(lock_path, program, ("inject=flock:error=EIO:when=2",))
        assert lines == ["5 True", "True 1"]


def test_a_timeout_announces_nothing(lock_path: Path) -> None:
    calls: list[int] = []
    with FileLock(lock_path), pytest.raises(Timeout):
        FileLock(lock_path, timeout=0, on_acquired=CallOf(calls)).acquire()
    assert not calls
