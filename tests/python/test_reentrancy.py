"""What acquire and release do to the counter, the proxy and the decorator, and the deadlock a thread sets itself."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from ferrolock import AcquireReturnProxy, BaseFileLock, FileLock, Timeout

if TYPE_CHECKING:
    import os


def is_free(path: str | os.PathLike[str]) -> bool:
    """Whether a lock object of no concern to the test can take the path right now."""
    probe = FileLock(path, timeout=0)
    try:
        with probe:
            return True
    except Timeout:
        return False


@pytest.fixture
def lock(tmp_path: Path) -> FileLock:
    """An unheld lock with the default settings."""
    return FileLock(tmp_path / "x.lock")


def test_the_counter_goes_up_and_down_and_the_last_release_lets_go(lock: FileLock) -> None:
    seen = []
    for step in (lock.acquire, lock.acquire, lock.release, lock.release):
        step()
        seen.append((lock.lock_counter, lock.is_locked, is_free(lock.lock_file)))
    assert seen == [(1, True, False), (2, True, False), (1, True, False), (0, False, True)]


def test_with_blocks_nest(lock: FileLock) -> None:
    with lock as outer:
        assert outer is lock
        with lock as inner:
            assert inner is lock
            assert lock.lock_counter == 2
        assert lock.lock_counter == 1
    assert lock.lock_counter == 0


def test_a_lock_can_be_taken_again_and_again(lock: FileLock) -> None:
    for _ in range(3):
        with lock:
            assert not is_free(lock.lock_file)
        assert is_free(lock.lock_file)


def test_releasing_what_is_not_held_does_nothing(lock: FileLock) -> None:
    other = FileLock(lock.lock_file)
    with other:
        for force in (False, True):
            lock.release(force)
            assert (lock.lock_counter, lock.is_locked) == (0, False)
        assert not is_free(lock.lock_file)
    with lock:
        assert lock.lock_counter == 1
    lock.release()
    assert lock.lock_counter == 0


@pytest.mark.parametrize("positional", [True, False], ids=["positional", "keyword"])
def test_force_lets_go_from_any_depth(lock: FileLock, positional: bool) -> None:
    for _ in range(3):
        lock.acquire()
    if positional:
        lock.release(True)
    else:
        lock.release(force=True)
    assert (lock.lock_counter, lock.is_locked) == (0, False)
    assert is_free(lock.lock_file)


@pytest.mark.parametrize("force", [0, 1, None, "", [lambda: None]])
def test_force_goes_by_truth(lock: FileLock, force: Any) -> None:
    lock.acquire()
    lock.acquire()
    lock.release(force)
    assert lock.lock_counter == (0 if force else 1)


def test_acquire_returns_a_proxy_for_the_lock(lock: FileLock) -> None:
    proxy = lock.acquire()
    assert type(proxy) is AcquireReturnProxy
    assert proxy.lock is lock
    assert not issubclass(AcquireReturnProxy, BaseFileLock)
    assert not hasattr(proxy, "acquire")
    lock.release()


def test_the_proxy_releases_once_and_does_not_acquire_again(lock: FileLock) -> None:
    with lock.acquire() as entered:
        assert entered is lock
        assert lock.lock_counter == 1
        with lock.acquire() as nested:
            assert nested is lock
            assert lock.lock_counter == 2
        assert lock.lock_counter == 1
        assert not is_free(lock.lock_file)
    assert lock.lock_counter == 0
    assert is_free(lock.lock_file)


def test_a_nested_acquire_gives_a_proxy_of_its_own(lock: FileLock) -> None:
    first, second = lock.acquire(), lock.acquire()
    assert first is not second
    assert first.lock is second.lock is lock
    lock.release(force=True)


def test_dropping_the_proxy_does_not_release(lock: FileLock) -> None:
    proxy = lock.acquire()
    del proxy
    gc.collect()
    assert (lock.lock_counter, lock.is_locked) == (1, True)
    assert not is_free(lock.lock_file)


def test_the_proxy_keeps_its_lock_alive_and_held(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    proxy = FileLock(path).acquire()
    gc.collect()
    assert not is_free(path)
    del proxy
    gc.collect()
    assert is_free(path)


def test_a_lock_nobody_refers_to_is_released(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    FileLock(path).acquire()
    gc.collect()
    assert is_free(path)


def test_the_proxy_can_be_subscripted_in_annotations() -> None:
    assert cast("Any", AcquireReturnProxy)[FileLock] is not None


@pytest.mark.parametrize("use", ["lock", "proxy"])
def test_an_exception_in_the_body_comes_out_and_the_lock_is_free(lock: FileLock, use: str) -> None:
    with pytest.raises(KeyError, match="mine"), lock if use == "lock" else lock.acquire():
        raise KeyError("mine")
    assert lock.lock_counter == 0
    assert is_free(lock.lock_file)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_an_exit_request_in_the_body_comes_out_too(lock: FileLock, error: type[BaseException]) -> None:
    with pytest.raises(error), lock:
        raise error
    assert is_free(lock.lock_file)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"timeout": math.nan}, ValueError, id="nan"),
        pytest.param({"timeout": True}, TypeError, id="bool-timeout"),
        pytest.param({"timeout": "1"}, TypeError, id="text-timeout"),
        pytest.param({"blocking": 1}, TypeError, id="blocking"),
        pytest.param({"poll_interval": -1}, ValueError, id="negative-poll"),
        pytest.param({"poll_interval": math.inf}, ValueError, id="endless-poll"),
        pytest.param({"poll_interval": "1"}, TypeError, id="text-poll"),
        pytest.param({"no_such_argument": 1}, TypeError, id="unknown"),
    ],
)
def test_bad_arguments_are_rejected_at_every_depth(
    lock: FileLock, arguments: dict[str, Any], error: type[Exception]
) -> None:
    for depth in range(3):
        with pytest.raises(error):
            lock.acquire(**arguments)
        assert lock.lock_counter == depth
        lock.acquire()
    lock.release(force=True)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
def test_a_nested_acquire_touches_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    lock = FileLock(folder / "x.lock")
    with lock:
        (folder / "x.lock").unlink()
        folder.rmdir()
        with lock.acquire(timeout=0):
            assert lock.lock_counter == 2
        assert not folder.exists()


def test_a_failed_acquire_restores_the_counter(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    lock = FileLock(tmp_path / "a-file" / "x.lock")
    for _ in range(2):
        with pytest.raises(OSError, match="a-file"):
            lock.acquire()
        assert (lock.lock_counter, lock.is_locked) == (0, False)


def test_a_timed_out_acquire_restores_the_counter(lock: FileLock) -> None:
    with FileLock(lock.lock_file):
        for _ in range(2):
            with pytest.raises(Timeout):
                lock.acquire(timeout=0)
            assert (lock.lock_counter, lock.is_locked) == (0, False)
    with lock:
        assert lock.lock_counter == 1


def test_a_decorated_function_runs_with_the_lock_held(lock: FileLock) -> None:
    @lock
    def power(base: int, /, exponent: int = 2, *, negate: bool = False) -> tuple[int, int, bool]:
        """Raise base to exponent."""
        value = base**exponent
        return (-value if negate else value), lock.lock_counter, is_free(lock.lock_file)

    assert (power.__name__, power.__doc__) == ("power", "Raise base to exponent.")
    assert inspect.unwrap(power) is not power
    assert list(inspect.signature(power).parameters) == ["base", "exponent", "negate"]
    for _ in range(2):
        assert power(2, exponent=3, negate=True) == (-8, 1, False)
        assert power(3) == (9, 1, False)
        assert (lock.lock_counter, is_free(lock.lock_file)) == (0, True)


def test_a_decorated_function_raises_what_it_raises(lock: FileLock) -> None:
    @lock
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert is_free(lock.lock_file)


def test_a_decorated_function_may_call_itself(lock: FileLock) -> None:
    @lock
    def factorial(n: int) -> tuple[int, int]:
        if n == 0:
            return 1, lock.lock_counter
        product, depth = factorial(n - 1)
        return n * product, depth

    assert factorial(4) == (24, 5)
    assert lock.lock_counter == 0


def test_two_functions_under_one_lock_may_call_each_other(lock: FileLock) -> None:
    @lock
    def inner() -> int:
        return lock.lock_counter

    @lock
    def outer() -> tuple[int, int]:
        return lock.lock_counter, inner()

    with lock:
        assert outer() == (2, 3)
    assert lock.lock_counter == 0


def spelled_relative(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path as somebody in its folder writes it."""
    monkeypatch.chdir(path.parent)
    return path.name


def spelled_with_dots(path: Path, _monkeypatch: pytest.MonkeyPatch) -> str:
    """The path with a detour."""
    return f"{path.parent}/./../{path.parent.name}/{path.name}"


def spelled_through_a_link(path: Path, _monkeypatch: pytest.MonkeyPatch) -> str:
    """The path through a symbolic link to its folder."""
    link = path.parent.parent / "link"
    try:
        link.symlink_to(path.parent, target_is_directory=True)
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")
    return str(link / path.name)


def spelled_alike(path: Path, _monkeypatch: pytest.MonkeyPatch) -> str:
    """The path itself."""
    return str(path)


SPELLINGS = [
    pytest.param(spelled_alike, id="alike"),
    pytest.param(spelled_relative, id="relative"),
    pytest.param(spelled_with_dots, id="dots"),
    pytest.param(spelled_through_a_link, id="linked-folder"),
]
Spell = Callable[[Path, pytest.MonkeyPatch], str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path in a folder that exists and has a sibling's room beside it."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "x.lock"


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("timeout", [None, -1, -0.5, math.inf], ids=repr)
def test_waiting_for_oneself_without_limit_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, spell: Spell, timeout: float | None
) -> None:
    other = FileLock(spell(path, monkeypatch))
    with FileLock(path):
        with pytest.raises(RuntimeError, match="is_singleton=True") as caught:
            other.acquire(timeout)
        assert other.lock_file in str(caught.value).replace("\\\\", "\\")
        assert (other.lock_counter, other.is_locked) == (0, False)
    with other:
        assert other.is_locked


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("limit", [{"timeout": 0}, {"timeout": 0.05}, {"blocking": False}], ids=repr)
def test_a_bounded_wait_for_oneself_times_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, spell: Spell, limit: dict[str, Any]
) -> None:
    other = FileLock(spell(path, monkeypatch))
    with FileLock(path):
        with pytest.raises(Timeout):
            other.acquire(**limit)
        assert other.lock_counter == 0


def test_the_refusal_goes_by_the_instances_settings_too(path: Path) -> None:
    with FileLock(path):
        with pytest.raises(Timeout), FileLock(path, timeout=0.01):
            pass
        with pytest.raises(Timeout), FileLock(path, blocking=False):
            pass
        with pytest.raises(RuntimeError), FileLock(path, timeout=-1):
            pass


def test_two_paths_or_a_released_path_are_no_deadlock(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "1.lock"), FileLock(tmp_path / "2.lock")
    with first, second:
        assert first.is_locked
        assert second.is_locked
    again = FileLock(tmp_path / "1.lock")
    with again:
        assert again.is_locked


def test_a_forced_release_ends_the_refusal(path: Path) -> None:
    holder, other = FileLock(path), FileLock(path)
    holder.acquire()
    holder.acquire()
    holder.release()
    with pytest.raises(RuntimeError):
        other.acquire()
    holder.release(force=True)
    with other:
        assert other.is_locked


def test_a_holder_in_another_thread_is_waited_for(path: Path) -> None:
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(path):
            held.set()
            let_go.wait(30)

    give_up = time.monotonic() + 10

    def release_the_holder() -> bool:
        let_go.set()
        return time.monotonic() > give_up

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(10)
        lock = FileLock(path)
        with lock.acquire(cancel_check=release_the_holder):
            assert let_go.is_set()
            assert lock.lock_counter == 1
    finally:
        let_go.set()
        thread.join(10)


def test_a_shared_hold_released_by_another_thread_ends_the_refusal(path: Path) -> None:
    holder, other = FileLock(path, thread_local=False), FileLock(path)
    holder.acquire()
    with pytest.raises(RuntimeError):
        other.acquire()
    thread = threading.Thread(target=holder.release)
    thread.start()
    thread.join(10)
    with other:
        assert other.is_locked
