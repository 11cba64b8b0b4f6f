"""``SoftReadWriteLock``: its options, what it tells of a hold, and what becomes of a hold that was lost."""

from __future__ import annotations

import copy
import dataclasses
import gc
import inspect
import os
import pickle
import subprocess
import sys
import threading
import time
import typing
import weakref
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
from ferrolock import CompromiseReason, LeaseCompromise, ReadWriteLock, SoftReadWriteLock, Timeout
from peers import LONG, run_program
from rw_peers import MODES, acquire
from soft_rw_peers import allowed, markers, other, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUICK: dict[str, Any] = {"heartbeat_interval": 0.03, "stale_threshold": 20}
"""Notices at once that its marker is gone, and is not taken for dead by anybody."""


@pytest.fixture(autouse=True)
def _nothing_stays_held() -> Iterator[None]:
    yield
    ferrolock._native.remove_markers_at_exit()


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    """Another thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def lose(lock: SoftReadWriteLock, path: Path, mode: str) -> str:
    """Acquire, take the marker away, and wait until the holder knows; return the token."""
    acquire(lock, mode)
    [marker] = markers(path, mode)
    token = marker.read_text().split("\n")[0]
    marker.unlink()
    until(lambda: lock.compromise is not None)
    return token


def test_the_defaults_are_filelocks(lock_path: Path) -> None:
    lock = SoftReadWriteLock(lock_path)
    assert (lock.lock_file, lock.timeout, lock.blocking) == (str(lock_path), -1.0, True)
    assert (lock.heartbeat_interval, lock.stale_threshold, lock.poll_interval) == (30.0, 90.0, 0.25)
    assert (lock.generation, lock.compromise) == (None, None)
    assert SoftReadWriteLock(lock_path, heartbeat_interval=2, is_singleton=False).stale_threshold == 6.0


@pytest.mark.parametrize("is_singleton", [True, False])
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"heartbeat_interval": 0}, ValueError),
        ({"heartbeat_interval": -1}, ValueError),
        ({"heartbeat_interval": float("nan")}, ValueError),
        ({"heartbeat_interval": float("inf")}, ValueError),
        ({"heartbeat_interval": threading.TIMEOUT_MAX * 2}, ValueError),
        ({"heartbeat_interval": True}, TypeError),
        ({"heartbeat_interval": "1"}, TypeError),
        ({"stale_threshold": 30}, ValueError),
        ({"stale_threshold": 29.9}, ValueError),
        ({"stale_threshold": float("nan")}, ValueError),
        ({"stale_threshold": float("inf")}, ValueError),
        ({"stale_threshold": False}, TypeError),
        ({"stale_threshold": b"90"}, TypeError),
        ({"poll_interval": 0}, ValueError),
        ({"poll_interval": 90}, ValueError),
        ({"poll_interval": float("nan")}, ValueError),
        ({"poll_interval": True}, TypeError),
        ({"poll_interval": None, "stale_threshold": "x"}, TypeError),
        ({"heartbeat_interval": 1, "stale_threshold": 2, "poll_interval": 2}, ValueError),
        ({"on_compromise": 3}, TypeError),
        ({"timeout": "1"}, TypeError),
        ({"blocking": 1}, TypeError),
    ],
)
def test_options_that_are_not_taken(
    lock_path: Path, options: dict[str, Any], kind: type[Exception], is_singleton: bool
) -> None:
    """Nor where there is a living one already, which has its own."""
    for _ in range(2):
        with pytest.raises(kind, match="must be"):
            SoftReadWriteLock(lock_path, is_singleton=is_singleton, **options)
        living = SoftReadWriteLock(lock_path)
    del living
    with pytest.raises(TypeError, match="mode"):
        SoftReadWriteLock(lock_path, is_singleton=is_singleton, mode=0o600)  # type: ignore[call-arg]


def test_options_that_are_taken(lock_path: Path) -> None:
    values: list[dict[str, Any]] = [
        {"heartbeat_interval": 0.001, "poll_interval": Fraction(1, 1000)},
        {"heartbeat_interval": 1e9, "stale_threshold": 1e300, "poll_interval": 1e9},
        {"heartbeat_interval": 120, "stale_threshold": 360, "on_compromise": print},
        {"stale_threshold": None, "on_compromise": None},
    ]
    for options in values:
        lock = SoftReadWriteLock(lock_path, is_singleton=False, **options)
        with lock.write_lock(timeout=LONG):
            assert allowed(lock_path) == "nothing"
    assert allowed(lock_path) == "write"


def test_the_longest_pause_can_be_changed_and_the_lease_cannot(lock_path: Path) -> None:
    lock = SoftReadWriteLock(lock_path)
    lock.poll_interval = 1
    assert lock.poll_interval == 1.0
    for wrong in (0, 90, float("nan")):
        with pytest.raises(ValueError, match="poll_interval"):
            lock.poll_interval = wrong
    for name in ("heartbeat_interval", "stale_threshold", "generation", "compromise"):
        with pytest.raises(AttributeError):
            setattr(lock, name, 1)


def test_construction_touches_nothing_and_the_first_acquisition_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.lock"
    lock = SoftReadWriteLock(path)
    assert os.listdir(tmp_path) == []
    with lock.read_lock():
        assert os.listdir(path.parent) == ["x.lock.readers"]


def test_a_singleton_keeps_its_intervals_and_refuses_another_callback(lock_path: Path) -> None:
    lock = SoftReadWriteLock(lock_path, heartbeat_interval=2, on_compromise=print)
    assert SoftReadWriteLock(lock_path) is lock
    assert SoftReadWriteLock.get_lock(lock_path, heartbeat_interval=7, on_compromise=print) is lock
    assert lock.heartbeat_interval == 2.0
    with pytest.raises(ValueError, match=r"Singleton lock created with on_compromise=.*, cannot be changed to"):
        SoftReadWriteLock(lock_path, on_compromise=repr)
    with pytest.raises(ValueError, match=r"Singleton lock created with timeout=-1.0, blocking=True"):
        SoftReadWriteLock(lock_path, 3)
    del lock
    quiet = SoftReadWriteLock(lock_path)
    with pytest.raises(ValueError, match="on_compromise=None"):
        SoftReadWriteLock(lock_path, on_compromise=print)
    del quiet


def test_it_is_a_class_of_its_own(lock_path: Path) -> None:
    assert not issubclass(SoftReadWriteLock, (ReadWriteLock, ferrolock.BaseFileLock))
    names = ["lock_file", "timeout", "blocking", "is_singleton", "heartbeat_interval", "stale_threshold"]
    assert [*inspect.signature(SoftReadWriteLock).parameters] == [*names, "poll_interval", "on_compromise"]

    class Mine(SoftReadWriteLock):
        def __init__(self, lock_file: str, timeout: float = 2, *, mine: int = 0, **more: Any) -> None:
            super().__init__(lock_file, timeout, **more)
            self.mine = mine

    assert [*inspect.signature(Mine).parameters] == ["lock_file", "timeout", "mine", "more"]
    mine = Mine(str(lock_path), mine=3)
    assert (mine.mine, type(mine), Mine(str(lock_path)) is mine) == (3, Mine, True)
    assert SoftReadWriteLock(lock_path) is not mine


def test_settings_travel_in_a_pickle_and_holds_do_not(lock_path: Path) -> None:
    lock = SoftReadWriteLock(
        lock_path, 3, is_singleton=False, heartbeat_interval=2, stale_threshold=9, poll_interval=1, on_compromise=print
    )
    lock.poll_interval = 0.5
    with lock.write_lock():
        for twin in (pickle.loads(pickle.dumps(lock)), copy.copy(lock)):
            settings = twin.timeout, twin.heartbeat_interval, twin.stale_threshold, twin.poll_interval
            assert settings == (3.0, 2.0, 9.0, 0.5)
            with pytest.raises(Timeout):
                twin.acquire_read(0)
    singleton = SoftReadWriteLock(lock_path)
    assert pickle.loads(pickle.dumps(singleton)) is singleton


def test_another_thread_that_wants_the_other_mode_is_told_as_the_same_would_be(
    lock_path: Path, elsewhere: ThreadPoolExecutor
) -> None:
    lock = SoftReadWriteLock(lock_path)
    with lock.read_lock(), pytest.raises(RuntimeError, match=r"already holding a read lock \(upgrade not allowed\)"):
        elsewhere.submit(lock.acquire_write).result(LONG)
    with lock.write_lock():
        with pytest.raises(RuntimeError, match=r"already holding a write lock \(downgrade not allowed\)"):
            elsewhere.submit(lock.acquire_read).result(LONG)
        with pytest.raises(RuntimeError, match="while it is held by another thread"):
            elsewhere.submit(lock.acquire_write).result(LONG)


def test_numbers_are_there_while_it_is_held_and_grow(lock_path: Path) -> None:
    one, two = other(lock_path), other(lock_path)
    numbers = []
    for lock in (one, two, one, two):
        with lock.write_lock(), lock.write_lock():
            assert lock.generation is not None
            numbers.append(lock.generation)
        assert lock.generation is None
    assert numbers == sorted({*numbers})
    with one.read_lock(), two.read_lock():
        assert (one.generation, two.generation) == (numbers[-1], numbers[-1])


def test_a_timeout_names_the_lock_and_who_has_it(lock_path: Path) -> None:
    with other(lock_path).write_lock(), pytest.raises(Timeout) as error:
        other(lock_path).acquire_read(blocking=False)
    assert error.value.lock_file == str(lock_path)
    assert str(error.value).endswith("It is held by this process.")
    readers = lock_path.with_name("x.lock.readers")
    (readers / ("0" * 32 + ".4711")).write_text("0" * 32 + "\n4711\nelsewhere\n")
    with pytest.raises(Timeout, match="It is held by pid 4711 on elsewhere, which this host cannot probe"):
        other(lock_path).acquire_write(0)


def test_what_is_held_stays_alive_until_it_is_released(lock_path: Path) -> None:
    """Whoever drops it by mistake believes in his hold."""
    for is_singleton in (True, False):
        for mode in MODES:
            lock = SoftReadWriteLock(lock_path, is_singleton=is_singleton)
            acquire(lock, mode)
            held, number = weakref.ref(lock), id(lock)
            del lock
            gc.collect()
            assert allowed(lock_path) == {"read": "read", "write": "nothing"}[mode]
            found = held()
            assert found is not None
            if is_singleton:
                assert id(SoftReadWriteLock(lock_path)) == number
            found.release()
            del found
            gc.collect()
            assert held() is None
            assert allowed(lock_path) == "write"


def test_an_unheld_one_goes_with_its_callback_that_knows_it(lock_path: Path) -> None:
    class Owner:
        def __init__(self) -> None:
            self.lock = SoftReadWriteLock(lock_path, on_compromise=self.lost)

        def lost(self, _compromise: LeaseCompromise) -> None:
            raise AssertionError

    owner = Owner()
    with owner.lock.read_lock():
        pass
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


# Holds that are lost.


def test_a_compromise_is_a_frozen_record(lock_path: Path) -> None:
    one = LeaseCompromise(str(lock_path), "token", "evicted")
    assert one == LeaseCompromise(str(lock_path), "token", "evicted", None)
    assert [field.name for field in dataclasses.fields(one)] == ["lock_file", "token", "reason", "error"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.reason = "owner-changed"  # type: ignore[misc]
    assert {*typing.get_args(CompromiseReason)} == {"marker-missing", "owner-changed", "refresh-failed", "evicted"}


@pytest.mark.parametrize("mode", MODES)
def test_a_lost_hold_is_told_and_refuses_until_it_is_released(
    lock_path: Path, mode: str, elsewhere: ThreadPoolExecutor
) -> None:
    told: list[tuple[LeaseCompromise, int]] = []
    lock = SoftReadWriteLock(lock_path, on_compromise=lambda lost: told.append((lost, threading.get_ident())), **QUICK)
    token = lose(lock, lock_path, mode)
    until(lambda: bool(told))
    [(compromise, thread)] = told
    assert compromise == LeaseCompromise(str(lock_path), token, "evicted", None)
    assert lock.compromise == compromise
    assert thread != threading.get_ident()
    for again in (lock.acquire_read, lock.acquire_write):
        for call in (again, lambda again=again: elsewhere.submit(again).result(LONG)):
            with pytest.raises(RuntimeError, match=r"the hold was lost.* release it before acquiring again"):
                call()
    number = lock.generation
    assert number is not None
    lock.release()
    told_of: object = (lock.generation, lock.compromise)
    assert told_of == (None, compromise)
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()
    acquire(lock, mode)
    told_of = (lock.generation, lock._compromise)
    assert told_of == (number if mode == "read" else number + 1, None)
    lock.release()
    assert len(told) == 1


def test_reasons_are_told_apart(lock_path: Path) -> None:
    readers = lock_path.with_name("x.lock.readers")

    def reason(change: Callable[[Path], object]) -> str:
        lock = SoftReadWriteLock(lock_path, is_singleton=False, **QUICK)
        lock.acquire_read()
        [marker] = markers(lock_path, "read")
        change(marker)
        until(lambda: lock.compromise is not None)
        assert lock.compromise is not None
        lock.release()
        marker.unlink(missing_ok=True)
        return lock.compromise.reason

    assert reason(lambda marker: marker.unlink()) == "evicted"
    assert reason(lambda marker: marker.write_text("0" * 32 + "\n1\nvm\n")) == "owner-changed"
    assert reason(lambda _: readers.rename(readers.with_name("moved"))) == "marker-missing"


@pytest.mark.parametrize("mode", MODES)
def test_who_is_told_may_release_and_acquire(lock_path: Path, mode: str) -> None:
    seen: list[object] = []
    done = threading.Event()

    def lost(_compromise: LeaseCompromise) -> None:
        lock.release()
        lock.release()
        try:
            lock.release()
        except RuntimeError as error:
            seen.append("not held" in str(error))
        with lock.write_lock(timeout=LONG):
            seen.append(allowed(lock_path))
        done.set()

    lock = SoftReadWriteLock(lock_path, on_compromise=lost, **QUICK)
    for _ in range(2):
        acquire(lock, mode)
    markers(lock_path, mode)[0].unlink()
    assert done.wait(LONG)
    assert seen == [True, "nothing"]
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()


def test_another_thread_may_not_release_what_was_lost_but_by_force(
    lock_path: Path, elsewhere: ThreadPoolExecutor
) -> None:
    lock = SoftReadWriteLock(lock_path, **QUICK)
    lose(lock, lock_path, "write")
    with pytest.raises(RuntimeError, match="from a thread which does not hold it"):
        elsewhere.submit(lock.release).result(LONG)
    elsewhere.submit(lambda: lock.release(force=True)).result(LONG)
    assert allowed(lock_path) == "write"


def test_a_callback_that_raises_is_reported_and_harms_nothing(lock_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)

    def lost(_compromise: LeaseCompromise) -> None:
        raise ZeroDivisionError

    lock = SoftReadWriteLock(lock_path, on_compromise=lost, **QUICK)
    lose(lock, lock_path, "read")
    until(lambda: bool(reports))
    assert (reports[0].exc_type, reports[0].object) == (ZeroDivisionError, lost)
    lock.release()
    with lock.write_lock(timeout=LONG):
        pass


def test_a_callback_that_takes_long_holds_up_no_end_of_the_program(lock_path: Path) -> None:
    run_program(
        """
        import os, sys, threading, time
        from pathlib import Path
        from ferrolock import SoftReadWriteLock

        inside = threading.Event()

        def lost(compromise):
            inside.set()
            time.sleep(60)

        lock = SoftReadWriteLock(sys.argv[1], heartbeat_interval=0.02, stale_threshold=20, on_compromise=lost)
        lock.acquire_read()
        [marker] = [entry for entry in Path(sys.argv[1] + ".readers").iterdir() if entry.name[0] != "."]
        marker.unlink()
        assert inside.wait(10)
        """,
        lock_path,
    )


def test_the_import_stays_cheap() -> None:
    program = (
        "import sys, ferrolock, filelock\n"
        "late = {'dataclasses', 'inspect', 'typing', 'threading'} | {'ferrolock._compromise', 'ferrolock._marker'}\n"
        "late &= {*sys.modules}\n"
        "assert not late, late\n"
        "assert filelock.LeaseCompromise is ferrolock.LeaseCompromise\n"
        "from ferrolock import *\n"
        "assert CompromiseReason is filelock.CompromiseReason and 'LeaseCompromise' in dir(ferrolock)\n"
        "assert not hasattr(ferrolock, 'nothing') and not hasattr(filelock, 'nothing')\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", path_first(program)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def path_first(program: str) -> str:
    """With the folder that ferrolock is in: without `site` nothing else is imported before."""
    folder = os.path.dirname(os.path.dirname(ferrolock.__file__))
    return f"import sys\nsys.path.insert(0, {folder!r})\n{program}"


def test_a_wait_ends_soon_after_the_release(lock_path: Path, elsewhere: ThreadPoolExecutor) -> None:
    """The pauses grow, from a millisecond to the longest one."""
    holder, waiter = other(lock_path), other(lock_path)
    for pause, least, most in ((0.005, 0, 0.2), (0.05, 0, 0.2)):
        with holder.write_lock():
            wait = elsewhere.submit(waiter.acquire_read)
            time.sleep(pause)
        begin = time.monotonic()
        wait.result(LONG)
        assert least <= time.monotonic() - begin < most
        elsewhere.submit(waiter.release).result(LONG)
