"""SoftFileLease and MarkerSoftFileLock as objects: what they take, what they tell, and what they refuse."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import threading
import time
import warnings
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
from ferrolock import (
    AsyncSoftFileLease,
    LeaseCompromise,
    LeaseSettingsMismatch,
    MarkerSoftFileLock,
    OwnerRecord,
    SoftFileLease,
    SoftFileLock,
    SoftFileLockLifetimeWarning,
    Timeout,
)
from peers import LONG
from soft_peers import LINUX, host_field, names, start_token

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH = pytest.mark.parametrize("lock_class", [MarkerSoftFileLock, SoftFileLease])


def until(condition: Callable[[], object]) -> None:
    """Wait for it, but not for ever."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def lost(lock_path: Path, **options: Any) -> SoftFileLease:
    """A lease that is held, and known to be lost."""
    lease = SoftFileLease(lock_path, heartbeat_interval=0.02, **options)
    lease.acquire()
    lock_path.unlink()
    until(lambda: lease.compromise)
    return lease


@LINUX
def test_the_markers_are_filelocks_byte_for_byte(lock_path: Path) -> None:
    head, start = f"filelock/2\npid={os.getpid()}\nhost={host_field()}\n", f"start={start_token(os.getpid())}\n"
    with MarkerSoftFileLock(lock_path):
        assert lock_path.read_text() == f"{head}mode=exclusive\n{start}"
        assert lock_path.stat().st_mode & 0o777 == 0o644
    durations: list[tuple[Any, str]] = [(30, "30.0"), (0.1, "0.1"), (Fraction(1, 3), repr(1 / 3)), (1e16, "1e+16")]
    for duration, written in durations:
        with SoftFileLease(lock_path, lease_duration=duration, heartbeat_interval=0.01) as lease:
            terms = f"mode=lease\ntoken={lease.token}\nduration={written}\n"
            assert lock_path.read_text() == f"{head}{terms}{start}"
    assert names(lock_path.parent) == []


@BOTH
def test_the_owner_is_named_for_as_long_as_it_holds(lock_class: Any, lock_path: Path) -> None:
    lock, other = lock_class(lock_path), MarkerSoftFileLock(lock_path)
    assert (other.owner, other.pid, other.is_lock_held_by_us) == (None, None, False)
    with lock:
        owner = other.owner
        assert isinstance(owner, OwnerRecord)
        assert (owner.pid, owner.hostname) == (os.getpid(), host_field())
        assert (other.pid, other.is_lock_held_by_us, lock.is_lock_held_by_us) == (os.getpid(), True, True)
        assert SoftFileLock(lock_path).is_lock_held_by_us
        is_lease = lock_class is SoftFileLease
        expected = ("lease", lock.token, 30.0) if is_lease else ("exclusive", None, None)
        assert (owner.mode, owner.token, owner.lease_duration) == expected
    assert other.owner is None


def test_a_marker_that_states_no_terms_has_no_owner_to_these(lock_path: Path) -> None:
    with SoftFileLock(lock_path) as lock:
        assert lock.pid == os.getpid()
        for other in (MarkerSoftFileLock(lock_path), SoftFileLease(lock_path)):
            assert (other.owner, other.pid, other.is_lock_held_by_us) == (None, None, False)


def test_an_owner_record_is_a_tuple_with_defaults() -> None:
    record = OwnerRecord(1, "vm", "exclusive")
    assert tuple(record) == (1, "vm", "exclusive", None, None, None)
    assert OwnerRecord._fields == ("pid", "hostname", "mode", "token", "lease_duration", "start")


@BOTH
def test_all_soft_locks_exclude_each_other(lock_class: Any, lock_path: Path) -> None:
    for holder in (lock_class(lock_path), SoftFileLock(lock_path)):
        with holder:
            for contender in (lock_class, SoftFileLock, MarkerSoftFileLock, SoftFileLease):
                for options in ({"blocking": False}, {"timeout": 0}, {"timeout": 0.02}):
                    with pytest.raises(Timeout):
                        contender(lock_path).acquire(**options)
                with pytest.raises(RuntimeError, match="Deadlock"):
                    contender(lock_path).acquire()
        assert names(lock_path.parent) == []


@BOTH
def test_a_hold_nests_and_each_thread_has_its_own(lock_class: Any, lock_path: Path) -> None:
    lock = lock_class(lock_path)
    with lock:
        token = getattr(lock, "token", None)
        with lock as again:
            assert again is lock
            assert lock.lock_counter == 2
            assert getattr(lock, "token", None) == token
        seen: list[object] = []

        def look() -> None:
            seen.extend([lock.is_locked, getattr(lock, "token", None)])
            try:
                lock.acquire(timeout=0)
            except Timeout:
                seen.append("excluded")

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == [False, None, "excluded"]
        assert lock_path.exists()
    assert not lock_path.exists()


def test_the_marker_is_refreshed_while_it_is_held_and_keeps_its_content(lock_path: Path) -> None:
    with SoftFileLease(lock_path, heartbeat_interval=0.02):
        before, content = lock_path.stat(), lock_path.read_bytes()
        until(lambda: lock_path.stat().st_mtime_ns > before.st_mtime_ns)
        assert (lock_path.stat().st_ino, lock_path.read_bytes()) == (before.st_ino, content)
    with MarkerSoftFileLock(lock_path):
        os.utime(lock_path, (1, 1))
        time.sleep(0.1)
        assert lock_path.stat().st_mtime == 1


@pytest.mark.parametrize("shared", [False, True])
def test_a_lost_hold_is_told_and_stays_to_be_released(lock_path: Path, shared: bool) -> None:
    told: list[LeaseCompromise] = []
    lease = lost(lock_path, on_compromise=told.append, thread_local=not shared)
    compromise = lease.compromise
    assert compromise == LeaseCompromise(str(lock_path), lease.token or "", "marker-missing", None)
    until(lambda: told)
    assert told == [compromise]
    assert lease.is_locked
    for options in ({}, {"timeout": 0}, {"blocking": False}):
        with pytest.raises(RuntimeError, match="was lost"):
            lease.acquire(**options)
    assert (lease.lock_counter, lock_path.exists()) == (1, False)
    lease.release()
    assert (lease.is_locked, lease.token, lease.compromise) == (False, None, compromise)
    with lease:
        assert lease.compromise is None
    assert (lease.compromise, len(told)) == (None, 1)


def test_a_loss_that_no_heartbeat_has_seen_is_told_by_the_release(lock_path: Path) -> None:
    lease = SoftFileLease(lock_path, lease_duration=3600)
    lease.acquire()
    lock_path.unlink()
    with SoftFileLock(lock_path):
        marker = lock_path.read_bytes()
        lease.release()
        assert lock_path.read_bytes() == marker
    assert lease.compromise is not None
    assert lease.compromise.reason == "owner-changed"


def test_who_is_told_may_release_what_was_lost_and_only_that(lock_path: Path) -> None:
    released = threading.Event()

    def release(_compromise: LeaseCompromise) -> None:
        lease.release()
        released.set()

    lease = SoftFileLease(lock_path, heartbeat_interval=0.02, on_compromise=release)
    lease.acquire()
    lease.acquire()
    lock_path.unlink()
    assert released.wait(LONG)
    assert lease.lock_counter == 0
    lease.release()  # as the end of a with does
    with lease:
        assert lock_path.exists()


def test_an_error_of_the_callback_is_reported_and_hurts_nobody(
    lock_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: seen.append(unraisable.exc_value))
    error = ValueError("the callback's")

    def fail(_compromise: LeaseCompromise) -> None:
        raise error

    lease = lost(lock_path, on_compromise=fail)
    until(lambda: seen)
    assert seen == [error]
    lease.release()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"lease_duration": True}, TypeError, "number of seconds, not bool"),
        ({"lease_duration": "30"}, TypeError, "number of seconds, not str"),
        ({"lease_duration": None}, TypeError, "number of seconds, not NoneType"),
        ({"lease_duration": 0}, ValueError, "lease_duration must be finite and positive"),
        ({"lease_duration": -1}, ValueError, "lease_duration must be finite and positive"),
        ({"lease_duration": float("inf")}, ValueError, "finite and positive"),
        ({"lease_duration": float("nan")}, ValueError, "finite and positive"),
        ({"lease_duration": 10**400}, ValueError, "too large"),
        ({"lease_duration": 5e-324}, ValueError, "too short"),
        ({"heartbeat_interval": True}, TypeError, "number of seconds, not bool"),
        ({"heartbeat_interval": 0}, ValueError, "heartbeat_interval must be finite and positive"),
        ({"heartbeat_interval": float("nan")}, ValueError, "finite and positive"),
        ({"heartbeat_interval": 30}, ValueError, "heartbeat_interval must be less than lease_duration"),
        ({"lease_duration": 1, "heartbeat_interval": 2}, ValueError, "less than lease_duration"),
        ({"on_compromise": 3}, TypeError, "on_compromise must be callable"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
)
@pytest.mark.parametrize("is_singleton", [False, True])
def test_options_that_make_no_sense_are_refused(
    lock_path: Path, options: dict[str, Any], error: type[Exception], text: str, is_singleton: bool
) -> None:
    with pytest.raises(error, match=text):
        SoftFileLease(lock_path, is_singleton=is_singleton, **options)


def test_the_settings_read_back(lock_path: Path) -> None:
    lease = SoftFileLease(lock_path, 3, 0o600, False, poll_interval=0.2)
    assert (lease.timeout, lease.mode, lease.is_thread_local(), lease.poll_interval) == (3.0, 0o600, False, 0.2)
    assert (lease.lease_duration, lease.heartbeat_interval) == (30.0, 10.0)
    assert (lease.token, lease.compromise, lease.lifetime) == (None, None, None)
    fraction: Any = Fraction(3, 2)
    lease = SoftFileLease(lock_path, lease_duration=fraction, heartbeat_interval=1)
    assert (lease.lease_duration, lease.heartbeat_interval) == (1.5, 1.0)
    assert lease.waits_by == "polling"


def test_a_lifetime_means_nothing_to_a_lease_and_something_to_a_marker(lock_path: Path) -> None:
    with pytest.warns(UserWarning, match="lifetime is ignored for SoftFileLease: ") as caught:
        lease = SoftFileLease(lock_path, lifetime=1)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert lease.lifetime is None
    with pytest.warns(UserWarning, match="lifetime is ignored"):
        lease.lifetime = 2
    assert SoftFileLease.lifetime.__get__(lease) is None
    with pytest.warns(SoftFileLockLifetimeWarning):
        marker = MarkerSoftFileLock(lock_path, lifetime=0)
    with SoftFileLock(lock_path), marker:
        assert marker.is_lock_held_by_us


def test_a_holder_of_another_duration_is_an_error_that_names_both(lock_path: Path) -> None:
    with SoftFileLease(lock_path, lease_duration=1e16):
        for options in ({}, {"timeout": 0}, {"blocking": False}):
            with pytest.raises(LeaseSettingsMismatch, match=r"1e\+16 s and this contender's of 2\.5 s") as caught:
                SoftFileLease(lock_path, lease_duration=2.5).acquire(**options)
            assert isinstance(caught.value, ValueError)
            assert str(lock_path) in str(caught.value)
        with pytest.raises(Timeout):
            SoftFileLease(lock_path, lease_duration=10**16).acquire(timeout=0)


def test_one_lease_for_each_path_if_all_ask_for_the_same(lock_path: Path) -> None:
    callback = print
    lease = SoftFileLease(lock_path, is_singleton=True, on_compromise=callback)
    same: dict[str, Any] = {"lease_duration": 30, "heartbeat_interval": 10, "on_compromise": callback}
    assert SoftFileLease(lock_path, is_singleton=True, **same) is lease
    for name, value in [
        ("lease_duration", 31),
        ("heartbeat_interval", 9),
        ("on_compromise", repr),
        ("on_compromise", None),
    ]:
        with pytest.raises(ValueError, match=f"differing arguments\n(.*\n)*\t{name}"):
            SoftFileLease(lock_path, is_singleton=True, **{**same, name: value})
    assert MarkerSoftFileLock(lock_path, is_singleton=True) is not lease


def test_a_pickle_has_the_settings_and_no_hold(lock_path: Path) -> None:
    with SoftFileLease(lock_path, 5, lease_duration=2, heartbeat_interval=0.5, on_compromise=print) as lease:
        for again in (pickle.loads(pickle.dumps(lease)), copy.deepcopy(lease)):
            assert type(again) is SoftFileLease
            assert (again.lease_duration, again.heartbeat_interval, again.timeout) == (2.0, 0.5, 5.0)
            assert (again.is_locked, again.token, again._on_compromise) == (False, None, print)
            assert vars(again) == {}
    assert pickle.loads(pickle.dumps(MarkerSoftFileLock(lock_path))).lock_file == str(lock_path)


def test_a_subclass_may_have_defaults_of_its_own(lock_path: Path) -> None:
    class Short(SoftFileLease):
        def __init__(self, path: Path, **options: Any) -> None:
            super().__init__(path, **{"lease_duration": 2, **options})

    with Short(lock_path) as lease:
        assert (lease.lease_duration, lease.heartbeat_interval) == (2.0, 2 / 3)
        assert lease.owner is not None
        assert lease.owner.lease_duration == 2.0
    assert Short(lock_path, lease_duration=4).lease_duration == 4.0


def leave_a_cycle(lock_path: Path) -> None:
    """A held lease that its callback refers to."""
    lease = SoftFileLease(lock_path, heartbeat_interval=0.01, on_compromise=lambda _: lease.release())
    lease.acquire()


def test_a_lease_that_is_dropped_is_released(lock_path: Path) -> None:
    SoftFileLease(lock_path, heartbeat_interval=0.01).acquire()
    gc.collect()
    assert not lock_path.exists()
    leave_a_cycle(lock_path)
    gc.collect()
    assert not lock_path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_has_no_part_in_its_parents_lease(lock_path: Path) -> None:
    with SoftFileLease(lock_path, heartbeat_interval=0.02) as lease:
        child = os.fork()
        if not child:
            try:
                assert (lease.is_locked, lease.token, lease.compromise) == (False, None, None)
                lease.release()
                try:
                    lease.acquire(timeout=0)
                except Timeout:
                    del lease
                    gc.collect()
                    os._exit(0 if lock_path.exists() else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        before = lock_path.stat().st_mtime_ns
        until(lambda: lock_path.stat().st_mtime_ns > before)
        assert lease.compromise is None


@BOTH
def test_breaking_removes_the_marker_whoever_has_it(lock_class: Any, lock_path: Path) -> None:
    with lock_class(lock_path) as lock:
        MarkerSoftFileLock(lock_path).force_break()
        assert not lock_path.exists()
        with SoftFileLock(lock_path):
            marker = lock_path.read_bytes()
            lock.release()
            assert lock_path.read_bytes() == marker
    lock.break_lock()


def test_tasks_share_a_lease_object_and_exclude_each_other_with_one_each(lock_path: Path) -> None:
    async def main() -> None:
        told: list[LeaseCompromise] = []
        lease = AsyncSoftFileLease(lock_path, lease_duration=30, heartbeat_interval=0.02, on_compromise=told.append)
        async with lease:
            assert lease.owner is not None
            assert (lease.token, lease.owner.mode) == (lease.owner.token, "lease")
            async with lease:
                assert lease.lock_counter == 2
            with pytest.raises(Timeout):
                await AsyncSoftFileLease(lock_path).acquire(timeout=0)
            with pytest.raises(LeaseSettingsMismatch):
                await AsyncSoftFileLease(lock_path, lease_duration=3).acquire(timeout=1)
            waiter = asyncio.create_task(AsyncSoftFileLease(lock_path).acquire())
            await asyncio.sleep(0.05)
            assert not waiter.done()
        proxy = await asyncio.wait_for(waiter, LONG)
        await proxy.lock.release()
        await lease.acquire()
        lock_path.unlink()
        while not told:
            await asyncio.sleep(0.005)
        with pytest.raises(RuntimeError, match="was lost"):
            await lease.acquire()
        await lease.release()
        assert lease.compromise == told[0]
        assert not lock_path.exists()

    asyncio.run(main())
    assert AsyncSoftFileLease(lock_path, 3, executor=None).timeout == 3.0
    assert issubclass(AsyncSoftFileLease, SoftFileLease)


def test_the_names_are_public() -> None:
    assert {
        "AsyncSoftFileLease",
        "CompromiseReason",
        "LeaseCompromise",
        "LeaseSettingsMismatch",
        "MarkerSoftFileLock",
        "OwnerMode",
        "OwnerRecord",
        "SoftFileLease",
        "SoftFileLockProtocolError",
    } <= {*ferrolock.__all__}
    with warnings.catch_warnings(record=True) as caught:
        assert ferrolock.MarkerSoftFileLock.__mro__[1] is SoftFileLock
    assert caught == []
