"""A lock travels as its settings, never as a hold."""

from __future__ import annotations

import copy
import gc
import math
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import AsyncFileLock, BaseFileLock, FileLock, Timeout, UnixFileLock, WindowsFileLock

if TYPE_CHECKING:
    from pathlib import Path


class PathOnly(FileLock):
    """A subclass that takes the path alone."""

    def __init__(self, lock_file: str) -> None:
        super().__init__(lock_file)
        self.rounds = 0


class Labelled(FileLock):
    """A subclass that passes every option on."""

    def __init__(self, lock_file: str, **options: Any) -> None:
        super().__init__(lock_file, **options)


class Beside(FileLock):
    """A subclass that takes the path of the data and locks a file beside it, as many do."""

    def __init__(self, lock_file: str, **options: Any) -> None:
        super().__init__(f"{lock_file}.lock", **options)


def through_pickle(protocol: int) -> Callable[[Any], Any]:
    """Return a copier that goes through pickled bytes."""
    return lambda lock: pickle.loads(pickle.dumps(lock, protocol))


COPIERS = [
    pytest.param(copy.copy, id="copy"),
    pytest.param(copy.deepcopy, id="deepcopy"),
    *[pytest.param(through_pickle(n), id=f"pickle-{n}") for n in range(pickle.HIGHEST_PROTOCOL + 1)],
]
Copier = Callable[[Any], Any]
SETTINGS = (
    "lock_file",
    "timeout",
    "mode",
    "has_explicit_mode",
    "blocking",
    "poll_interval",
    "lifetime",
    "is_singleton",
)


def settings(lock: BaseFileLock) -> dict[str, Any]:
    """Everything a lock was told."""
    return {name: getattr(lock, name) for name in SETTINGS} | {"thread_local": lock.is_thread_local()}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the lock file is."""
    return str(tmp_path / "x.lock")


@pytest.mark.parametrize("duplicate", COPIERS)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="defaults"),
        pytest.param(
            {"timeout": 3, "mode": 0o640, "thread_local": False, "blocking": False, "poll_interval": 0.5}, id="all"
        ),
        pytest.param({"timeout": math.inf, "mode": 0o644}, id="endless-and-explicit-default-mode"),
        pytest.param({"is_singleton": True, "timeout": 2}, id="singleton"),
    ],
)
def test_the_settings_travel(path: str, duplicate: Copier, options: dict[str, Any]) -> None:
    lock = FileLock(path, **options)
    twin = duplicate(lock)
    assert type(twin) is FileLock
    assert settings(twin) == settings(lock)


def test_settings_changed_later_travel_too(path: str) -> None:
    lock = FileLock(path)
    lock.timeout, lock.blocking, lock.poll_interval = 4, False, 0.25
    assert settings(pickle.loads(pickle.dumps(lock))) == settings(lock)


@pytest.mark.parametrize("duplicate", COPIERS)
def test_a_singleton_stays_one_whatever_became_of_its_settings(path: str, duplicate: Copier) -> None:
    lock = FileLock(path, 2, is_singleton=True)
    lock.timeout = 3
    assert duplicate(lock) is lock
    assert FileLock(path, 2, is_singleton=True) is lock
    data = pickle.dumps(lock)
    del lock
    again = pickle.loads(data)
    assert again.timeout == 3.0
    assert FileLock(path, 2, is_singleton=True) is again


@pytest.mark.parametrize("duplicate", COPIERS)
def test_a_singletons_executor_stays_here(path: str, duplicate: Copier) -> None:
    with ThreadPoolExecutor(1) as executor:
        lock = AsyncFileLock(path, is_singleton=True, executor=executor)
        assert duplicate(lock) is lock
        assert AsyncFileLock(path, is_singleton=True, executor=executor) is lock
        data = pickle.dumps(lock)
        del lock
    again = pickle.loads(data)
    assert again.executor is None
    assert AsyncFileLock(path, is_singleton=True) is again


@pytest.mark.parametrize("duplicate", COPIERS)
@pytest.mark.parametrize("thread_local", [True, False], ids=["own", "shared"])
def test_a_hold_does_not_travel(path: str, duplicate: Copier, thread_local: bool) -> None:
    lock = FileLock(path, thread_local=thread_local)
    with lock, lock:
        twin = duplicate(lock)
        assert twin is not lock
        assert (twin.is_locked, twin.lock_counter) == (False, 0)
        with pytest.raises(Timeout):
            twin.acquire(timeout=0)
        twin.release(force=True)
        del twin
        gc.collect()
        assert (lock.is_locked, lock.lock_counter) == (True, 2)
        with pytest.raises(Timeout):
            FileLock(path).acquire(timeout=0)


@pytest.mark.parametrize("duplicate", COPIERS)
def test_a_copy_locks_by_itself(path: str, duplicate: Copier) -> None:
    lock = FileLock(path)
    twin = duplicate(lock)
    with twin:
        assert (twin.lock_counter, lock.lock_counter) == (1, 0)
        with pytest.raises(Timeout):
            lock.acquire(timeout=0)
    with lock:
        assert not twin.is_locked


def test_copying_touches_no_file(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "missing" / "x.lock")
    copy.deepcopy(lock)
    pickle.loads(pickle.dumps(lock))
    assert list(tmp_path.iterdir()) == []


def test_a_hold_of_another_thread_does_not_travel_either(path: str) -> None:
    lock = FileLock(path)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            let_go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(10)
        twin = pickle.loads(pickle.dumps(lock))
        with pytest.raises(Timeout):
            twin.acquire(timeout=0)
    finally:
        let_go.set()
        thread.join(10)
    with twin:
        assert twin.is_locked


@pytest.mark.parametrize("duplicate", COPIERS)
@pytest.mark.parametrize("cls", [PathOnly, Labelled])
def test_a_subclass_travels_as_itself(path: str, duplicate: Copier, cls: type[FileLock]) -> None:
    lock = cls(path)
    with lock:
        twin = duplicate(lock)
        assert type(twin) is cls
        assert settings(twin) == settings(lock)
        assert not twin.is_locked
        if isinstance(twin, PathOnly):
            assert twin.rounds == 0


def test_a_subclass_takes_its_settings_along(path: str) -> None:
    lock = Labelled(path, timeout=3, mode=0o600, thread_local=False)
    twin = pickle.loads(pickle.dumps(lock))
    assert settings(twin) == settings(lock)


@pytest.mark.parametrize("duplicate", COPIERS)
def test_a_rewritten_path_is_not_rewritten_again(tmp_path: Path, duplicate: Copier) -> None:
    lock = Beside(str(tmp_path / "data"))
    assert duplicate(lock).lock_file == lock.lock_file == str(tmp_path / "data.lock")


def test_the_other_systems_lock_travels(path: str) -> None:
    for cls in (UnixFileLock, WindowsFileLock):
        assert settings(pickle.loads(pickle.dumps(cls(path, timeout=2)))) == settings(cls(path, timeout=2))


def test_the_classes_travel_by_reference() -> None:
    for cls in (FileLock, UnixFileLock, WindowsFileLock, Timeout):
        assert pickle.loads(pickle.dumps(cls)) is cls


def visit(lock: FileLock) -> tuple[str, int, str]:
    """What another process finds with a lock that was sent to it."""
    found = (type(lock).__name__, lock.lock_counter)
    try:
        with lock.acquire(timeout=0):
            return *found, "acquired"
    except Timeout:
        return *found, "refused"


def test_a_spawned_process_uses_the_lock_it_was_sent(path: str) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for lock in (FileLock(path), FileLock(path, thread_local=False), PathOnly(path)):
            with lock:
                assert pool.submit(visit, lock).result(60) == (type(lock).__name__, 0, "refused")
                assert lock.lock_counter == 1
            assert pool.submit(visit, lock).result(60) == (type(lock).__name__, 0, "acquired")


def fail_to_acquire(path: str) -> None:
    """Raise the Timeout of another process."""
    FileLock(path).acquire(timeout=0)


def test_a_timeout_comes_back_from_a_spawned_process(path: str) -> None:
    with FileLock(path), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        error = pool.submit(fail_to_acquire, path).exception(60)
    assert type(error) is Timeout
    assert error.lock_file == path
