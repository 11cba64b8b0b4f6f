"""``ReadWriteLock``: what it takes, what it refuses, and who holds it inside one process."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
from ferrolock import AcquireReturnProxy, FileLock, ReadWriteLock, Timeout
from peers import LONG, run_program, still_waits
from rw_peers import MODES, acquire, allowed_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ferrolock._native import ModeContext


def other(path: Path) -> ReadWriteLock:
    """A lock object of its own."""
    return ReadWriteLock(path, is_singleton=False)


def context(lock: ReadWriteLock, mode: str, *args: Any, **options: Any) -> ModeContext:
    """The context manager of a mode."""
    return lock.read_lock(*args, **options) if mode == "read" else lock.write_lock(*args, **options)


def allowed(path: Path) -> str:
    """What somebody else may do right now: write, read or nothing."""
    return allowed_to(other(path))


LEFT = {"read": "read", "write": "nothing"}


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    """Another thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_nests_and_its_last_release_gives_the_lock_back(lock_path: Path, mode: str) -> None:
    lock = ReadWriteLock(lock_path)
    for _ in range(3):
        assert isinstance(acquire(lock, mode), AcquireReturnProxy)
    for _ in range(3):
        assert allowed(lock_path) == LEFT[mode]
        lock.release()
    assert allowed(lock_path) == "write"


@pytest.mark.parametrize("mode", MODES)
def test_a_context_gives_none_holds_inside_and_can_be_used_again(lock_path: Path, mode: str) -> None:
    lock = ReadWriteLock(lock_path)
    manager = context(lock, mode)
    assert allowed(lock_path) == "write", "nothing happens before the with"
    for _ in range(2):
        with manager as given:
            assert given is None
            assert allowed(lock_path) == LEFT[mode]
        assert allowed(lock_path) == "write"
    with pytest.raises(ZeroDivisionError), context(lock, mode):
        _ = 1 / 0
    assert allowed(lock_path) == "write"


@pytest.mark.parametrize("mode", MODES)
def test_a_context_decorates_functions(lock_path: Path, mode: str) -> None:
    @context(ReadWriteLock(lock_path), mode)
    def function(value: int) -> tuple[int, str]:
        """Look."""
        return value, allowed(lock_path)

    assert function(3) == (3, LEFT[mode])
    assert (function.__name__, function.__doc__) == ("function", "Look.")


@pytest.mark.parametrize("mode", MODES)
def test_the_proxy_releases_once_and_names_the_lock(lock_path: Path, mode: str) -> None:
    lock = ReadWriteLock(lock_path)
    with acquire(lock, mode) as given:
        assert given is lock
    assert allowed(lock_path) == "write"


def test_upgrade_and_downgrade_are_refused_at_once(lock_path: Path) -> None:
    lock = ReadWriteLock(lock_path)
    start = (
        f"Cannot acquire {{}} lock on {lock_path} (lock id: {id(lock)}): already holding a {{}} lock ({{}} not allowed)"
    )
    with lock.read_lock(), pytest.raises(RuntimeError) as error:
        lock.acquire_write()
    assert str(error.value) == start.format("write", "read", "upgrade")
    with lock.write_lock(), pytest.raises(RuntimeError) as error:
        lock.acquire_read(blocking=False)
    assert str(error.value) == start.format("read", "write", "downgrade")
    assert allowed(lock_path) == "write"


def test_what_another_thread_holds_otherwise_is_refused(lock_path: Path, elsewhere: ThreadPoolExecutor) -> None:
    lock = ReadWriteLock(lock_path)
    refused = r"another thread holds a read lock on this instance.*is_singleton=False"
    with lock.read_lock(), pytest.raises(RuntimeError, match=refused):
        elsewhere.submit(lock.acquire_write).result(LONG)
    with lock.write_lock():
        with pytest.raises(RuntimeError, match="another thread holds a write lock on this instance"):
            elsewhere.submit(lock.acquire_read).result(LONG)
        with pytest.raises(RuntimeError, match="while it is held by"):
            elsewhere.submit(lock.acquire_write).result(LONG)
        with pytest.raises(RuntimeError, match=r"Cannot release write lock on .* while it is held by"):
            elsewhere.submit(lock.release).result(LONG)
        assert allowed(lock_path) == "nothing"


def test_readers_of_one_object_count_for_themselves(lock_path: Path, elsewhere: ThreadPoolExecutor) -> None:
    lock = ReadWriteLock(lock_path)
    lock.acquire_read()
    with pytest.raises(RuntimeError, match=r"Cannot release read lock on .* does not hold it"):
        elsewhere.submit(lock.release).result(LONG)
    elsewhere.submit(lock.acquire_read).result(LONG)
    lock.release()
    with pytest.raises(RuntimeError, match="does not hold it"):
        lock.release()
    assert allowed(lock_path) == "read"
    elsewhere.submit(lock.release).result(LONG)
    assert allowed(lock_path) == "write"


def test_a_release_of_nothing_is_an_error_but_not_by_force(lock_path: Path) -> None:
    lock = ReadWriteLock(lock_path)
    with pytest.raises(RuntimeError, match=r"Cannot release a lock on .* \(lock id: \d+\) that is not held"):
        lock.release()
    lock.release(force=True)
    with pytest.raises(TypeError):
        lock.release(True)  # type: ignore[call-arg]


@pytest.mark.parametrize("mode", MODES)
def test_force_ends_the_levels_of_all_threads(lock_path: Path, mode: str, elsewhere: ThreadPoolExecutor) -> None:
    lock = ReadWriteLock(lock_path)
    elsewhere.submit(lambda: [acquire(lock, mode) for _ in range(2)]).result(LONG)
    if mode == "read":
        lock.acquire_read()
    lock.release(force=1)  # type: ignore[arg-type]  # whatever is true, as everywhere
    assert allowed(lock_path) == "write"
    with pytest.raises(RuntimeError, match="not held"):
        elsewhere.submit(lock.release).result(LONG)


def test_two_objects_exclude_each_other_in_one_process(lock_path: Path, elsewhere: ThreadPoolExecutor) -> None:
    one, two = other(lock_path), other(lock_path)
    with one.read_lock(), two.read_lock():
        pass
    with one.write_lock():
        wait = elsewhere.submit(two.acquire_read)
        assert still_waits(wait)
    assert wait.result(LONG).lock is two
    with pytest.raises(Timeout):
        one.acquire_write(0.02)


def test_a_wait_for_oneself_is_refused_unless_it_ends(lock_path: Path) -> None:
    one, two = other(lock_path), other(lock_path)
    with one.write_lock():
        with pytest.raises(RuntimeError, match="Deadlock"):
            two.acquire_read()
        with pytest.raises(Timeout):
            two.acquire_read(0.02)
    with one.read_lock():
        with pytest.raises(RuntimeError, match="Deadlock"):
            two.acquire_write()
        with two.read_lock():
            pass


def test_a_reader_comes_in_again_past_a_writer_that_waits_for_it(
    lock_path: Path, elsewhere: ThreadPoolExecutor
) -> None:
    one, two, writer = other(lock_path), other(lock_path), other(lock_path)
    with one.read_lock(), ThreadPoolExecutor(1) as third:
        wait = elsewhere.submit(writer.acquire_write)
        assert still_waits(wait)
        assert third.submit(allowed, lock_path).result(LONG) == "nothing", "others stay out"
        with two.read_lock(timeout=0):
            assert not wait.done()
    assert wait.result(LONG).lock is writer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [-1, -1.0, float("inf"), 0, 0.5, Decimal("0.1"), 10**6])
def test_limits_that_are_taken(lock_path: Path, mode: str, value: float) -> None:
    lock = other(lock_path)
    acquire(lock, mode, value)
    lock.release()
    lock.timeout = value
    acquire(lock, mode)
    lock.release()


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, TypeError), ("1", TypeError), (b"1", TypeError), (-2, ValueError), (float("nan"), ValueError)],
)
def test_limits_that_are_not_taken(lock_path: Path, value: Any, kind: type[Exception]) -> None:
    lock = other(lock_path)
    for mode in MODES:
        with pytest.raises(kind, match="timeout must be a"):
            acquire(lock, mode, value)
        if kind is ValueError:
            acquire(lock, mode, value, blocking=False).lock.release()  # nobody asks for it
        else:
            with pytest.raises(kind):
                acquire(lock, mode, value, blocking=False)
    if kind is TypeError:
        with pytest.raises(TypeError):
            ReadWriteLock(lock_path, value)
        with pytest.raises(TypeError):
            lock.timeout = value


def test_blocking_is_a_bool(lock_path: Path) -> None:
    lock = other(lock_path)
    wrong: Any = 1
    for attempt in (
        lambda: ReadWriteLock(lock_path, blocking=wrong),
        lambda: lock.acquire_read(blocking=wrong),
        lambda: lock.acquire_write(blocking=wrong),
        lambda: setattr(lock, "blocking", wrong),
    ):
        with pytest.raises(TypeError, match="blocking must be a bool, not int"):
            attempt()


def test_unknown_options_are_refused(lock_path: Path) -> None:
    wrong: Any = {"mode": 0o600}
    with pytest.raises(TypeError, match="mode"):
        ReadWriteLock(lock_path, **wrong)


def test_what_is_not_said_is_the_locks_own(lock_path: Path) -> None:
    holder = other(lock_path)
    lock = ReadWriteLock(lock_path, 0.02, is_singleton=False)
    with holder.write_lock():
        for mode in MODES:
            with pytest.raises(Timeout), context(lock, mode):
                pass
        lock.timeout, lock.blocking = -1, False
        with pytest.raises(Timeout):
            lock.acquire_read()
    assert (lock.timeout, lock.blocking, lock.lock_file) == (-1.0, False, str(lock_path))


def test_a_timeout_names_the_lock(lock_path: Path) -> None:
    with other(lock_path).write_lock() as _, pytest.raises(Timeout) as error:
        other(lock_path).acquire_read(blocking=False)
    assert error.value.lock_file == str(lock_path)


def test_one_object_for_each_path_and_class(lock_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(ReadWriteLock):
        pass

    lock = ReadWriteLock(lock_path, 1)
    monkeypatch.chdir(lock_path.parent)
    assert ReadWriteLock(f"./{lock_path.name}", 1.0) is lock
    assert ReadWriteLock.get_lock(lock_path, 1) is lock
    assert type(Mine(lock_path, 1)) is Mine
    assert Mine.get_lock(lock_path) is Mine(lock_path)
    assert ReadWriteLock(lock_path, 1, is_singleton=False) is not lock


def test_a_singleton_with_other_settings_is_refused(lock_path: Path) -> None:
    lock = ReadWriteLock(lock_path)
    assert ReadWriteLock(lock_path, float("inf")) is ReadWriteLock(lock_path, -1.0)
    text = "Singleton lock created with timeout=-1.0, blocking=True, cannot be changed to timeout=2.0, blocking=False"
    with pytest.raises(ValueError, match=text.replace(".", r"\.")):
        ReadWriteLock(lock_path, 2, blocking=False)
    del lock


def test_a_singleton_lives_as_long_as_somebody_has_it(lock_path: Path) -> None:
    lock = ReadWriteLock(lock_path)
    gone = weakref.ref(lock)
    del lock
    gc.collect()
    assert gone() is None
    assert ReadWriteLock(lock_path, 3).timeout == 3.0


def test_threads_that_ask_at_once_get_one_object(lock_path: Path) -> None:
    start = threading.Barrier(8)

    def make() -> ReadWriteLock:
        start.wait(LONG)
        return ReadWriteLock(lock_path)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make(), range(8)))
    assert len(set(map(id, made))) == 1


def test_a_closed_lock_is_unheld_and_refuses(lock_path: Path, elsewhere: ThreadPoolExecutor) -> None:
    lock = ReadWriteLock(lock_path)
    elsewhere.submit(lock.acquire_write).result(LONG)
    lock.close()
    lock.close()
    assert allowed(lock_path) == "write"
    for mode in MODES:
        with pytest.raises(RuntimeError, match="has been closed"):
            acquire(lock, mode)
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()
    lock.release(force=True)
    assert ReadWriteLock(lock_path) is not lock, "a closed one is of no use to anybody"


def test_a_wait_ends_when_the_lock_is_closed(lock_path: Path, elsewhere: ThreadPoolExecutor) -> None:
    lock = ReadWriteLock(lock_path)
    with other(lock_path).write_lock():
        wait = elsewhere.submit(lock.acquire_read)
        assert still_waits(wait)
        lock.close()
        with pytest.raises(RuntimeError, match="has been closed"):
            wait.result(LONG)


def test_a_closed_lock_raises_what_filelocks_users_catch(lock_path: Path) -> None:
    run_program(
        """
        import pickle, sys
        from ferrolock import ReadWriteLock

        def error():
            lock = ReadWriteLock(sys.argv[1])
            lock.close()
            try:
                lock.acquire_read()
            except RuntimeError as error:
                return error

        assert not [error() for _ in range(2)] == [None, None]
        assert "sqlite3" not in sys.modules, "nobody imports it for this"
        import sqlite3
        assert isinstance(error(), sqlite3.ProgrammingError), error()
        assert isinstance(pickle.loads(pickle.dumps(error())), RuntimeError)
        """,
        lock_path,
    )


def test_a_lock_that_nobody_has_any_more_is_released(lock_path: Path, elsewhere: ThreadPoolExecutor) -> None:
    def hold(lock: ReadWriteLock, mode: str) -> None:
        acquire(lock, mode)

    for mode in MODES:
        lock = other(lock_path)
        elsewhere.submit(hold, lock, mode).result(LONG)
        del lock
        gc.collect()
        assert allowed(lock_path) == "write"


def test_settings_travel_in_a_pickle_and_holds_do_not(lock_path: Path) -> None:
    lock = ReadWriteLock(lock_path, 3, blocking=False, is_singleton=False)
    with lock.write_lock():
        made = [pickle.loads(pickle.dumps(lock)), copy.copy(lock)]
        for twin in made:
            assert (twin.lock_file, twin.timeout, twin.blocking) == (str(lock_path), 3.0, False)
            with pytest.raises(Timeout):
                twin.acquire_read(0)
    singleton = ReadWriteLock(lock_path)
    assert pickle.loads(pickle.dumps(singleton)) is singleton


def test_the_file_is_made_private_and_stays_empty(lock_path: Path) -> None:
    lock = ReadWriteLock(lock_path)
    assert lock_path.stat().st_size == 0
    if os.name == "posix":
        assert lock_path.stat().st_mode & 0o777 == 0o600
    for mode in MODES:
        with context(lock, mode):
            assert lock_path.read_bytes() == b""


def test_a_file_that_is_there_keeps_its_content(lock_path: Path) -> None:
    lock_path.write_bytes(b"content")
    lock = ReadWriteLock(lock_path)
    with lock.write_lock():
        pass
    assert lock_path.read_bytes() == b"content"


def test_folders_are_not_made(lock_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        ReadWriteLock(lock_path / "x")
    assert error.value.filename == str(lock_path / "x")


@pytest.mark.skipif(os.name != "posix", reason="there are no such files")
def test_only_a_regular_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name, kind in (("link", OSError), ("fifo", OSError), ("folder", IsADirectoryError)):
        with pytest.raises(kind) as error:
            ReadWriteLock(tmp_path / name)
        assert error.value.filename == str(tmp_path / name)
    assert not (tmp_path / "target").exists()


def test_paths_of_the_wrong_kind_are_refused(lock_path: Path) -> None:
    wrong: list[tuple[Any, type[Exception]]] = [(3, TypeError), (b"x", TypeError), ("a\0b", ValueError)]
    for path, kind in wrong:
        for is_singleton in (True, False):
            with pytest.raises(kind):
                ReadWriteLock(path, is_singleton=is_singleton)


def test_a_relative_path_is_the_one_of_the_construction(
    tmp_path: Path, lock_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lock = ReadWriteLock(lock_path.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with lock.write_lock():
        assert allowed(lock_path) == "nothing"
    assert os.listdir() == []
    assert ReadWriteLock(lock_path.name) is not lock


@pytest.mark.skipif(os.name != "posix", reason="an open file stays where it is")
@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_was_replaced_between_holds_is_locked_where_it_is_now(lock_path: Path, mode: str) -> None:
    def rename_over() -> None:
        lock_path.with_name("new").touch()
        lock_path.with_name("new").rename(lock_path)

    lock, stale = other(lock_path), other(lock_path)
    for replace in (lock_path.unlink, rename_over):
        with stale.write_lock():
            replace()
            with context(lock, mode, timeout=0):
                assert allowed(lock_path) == LEFT[mode]


def test_it_is_no_file_lock_but_lives_beside_one(lock_path: Path) -> None:
    assert not issubclass(ReadWriteLock, ferrolock.BaseFileLock)
    lock = ReadWriteLock(lock_path)
    if sys.platform == "linux":
        with lock.write_lock(), FileLock(lock_path, timeout=0):
            pass
    assert "unheld" in repr(lock)
    with lock.read_lock():
        assert " held" in repr(lock)


def test_the_signatures_are_filelocks() -> None:
    names: dict[Callable[..., Any], list[str]] = {
        ReadWriteLock: ["lock_file", "timeout", "blocking", "is_singleton"],
        ReadWriteLock.get_lock: ["lock_file", "timeout", "blocking"],
        ReadWriteLock.acquire_read: ["self", "timeout", "blocking"],
        ReadWriteLock.acquire_write: ["self", "timeout", "blocking"],
        ReadWriteLock.read_lock: ["self", "timeout", "blocking"],
        ReadWriteLock.write_lock: ["self", "timeout", "blocking"],
        ReadWriteLock.release: ["self", "force"],
        ReadWriteLock.close: ["self"],
    }
    for function, expected in names.items():
        assert list(inspect.signature(function).parameters) == expected


def test_a_subclass_may_have_its_own_methods(lock_path: Path) -> None:
    calls = []

    class Counting(ReadWriteLock):
        def acquire_read(
            self, timeout: float | None = None, *, blocking: bool | None = None
        ) -> AcquireReturnProxy[Counting]:
            calls.append("acquire")
            return super().acquire_read(timeout, blocking=blocking)

        def release(self, *, force: bool = False) -> None:
            calls.append("release")
            super().release(force=force)

    with Counting(lock_path).read_lock():
        pass
    with Counting(lock_path).acquire_read():
        pass
    assert calls == ["acquire", "release"] * 2
