"""What a SoftFileLock has that a FileLock has not, and what its marker does to those who hold it."""

from __future__ import annotations

import os
import sys
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures import wait as any_of
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
from ferrolock import BaseFileLock, FileLock, SoftFileLock, Timeout
from peers import LONG, Peer, ThreadContender, blocks_then_proceeds, run_program, still_waits
from soft_peers import (
    LINUX,
    NEVER_A_PROCESS,
    RELEASED,
    SOFT,
    STRICT,
    contents,
    host_field,
    is_free,
    names,
    record,
    start_token,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peers import Contender

    Make = Callable[..., Contender]

UNIX = pytest.mark.skipif(os.name != "posix", reason="needs fork, permission bits, or names of files that are open")


def test_the_class_is_public_and_a_file_lock() -> None:
    assert SoftFileLock in (ferrolock.SoftFileLock, *BaseFileLock.__subclasses__())
    assert issubclass(SoftFileLock, BaseFileLock)
    assert not issubclass(SoftFileLock, FileLock)
    assert ferrolock.SoftFileLockLifetimeWarning in FutureWarning.__subclasses__()


def test_the_marker_is_there_as_long_as_the_lock_is_held(lock_path: Path) -> None:
    lock = SoftFileLock(lock_path)
    assert names(lock_path.parent) == []
    with lock:
        assert names(lock_path.parent) == [lock_path.name]
        first = lock_path.lstat()
        with lock:
            assert os.path.samestat(lock_path.lstat(), first)
        assert os.path.samestat(lock_path.lstat(), first)
        assert not is_free(lock_path)
    assert names(lock_path.parent) == []


def test_each_thread_has_a_marker_in_turn(lock_path: Path) -> None:
    """Through one object: what one thread holds, another one does not."""
    lock = SoftFileLock(lock_path)
    with lock:
        found: list[Any] = []
        other = ThreadContender(lock_path, SOFT)
        try:
            found.append(other.acquire(timeout=0))
        finally:
            other.close()
        assert found == [False]
    assert is_free(lock_path)


# pid


def test_pid_is_that_of_the_holder_whoever_asks(soft: Callable[[], Peer], lock_path: Path) -> None:
    holder, other, lock = soft(), soft(), SoftFileLock(lock_path)
    ask = "answer = lock_on(path).pid"
    assert [lock.pid, other.run(ask, path=lock_path)] == [None, None]
    assert holder.acquire(lock_path)
    assert [lock.pid, other.run(ask), holder.run(ask, path=lock_path)] == [holder.pid] * 3
    holder.release(lock_path)
    with lock:
        assert [lock.pid, other.run(ask)] == [os.getpid()] * 2
    assert lock.pid is None


@pytest.mark.parametrize(
    ("content", "pid"),
    [
        pytest.param(b"4711\nelsewhere\n", 4711, id="of-another-host"),
        pytest.param(b"4711\nelsewhere\n12345\n", 4711, id="with-a-token"),
        pytest.param(b"4711\n", 4711, id="bare"),
        pytest.param(record(NEVER_A_PROCESS), NEVER_A_PROCESS, id="dead"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"garbage\n", None, id="garbage"),
        pytest.param(b"4711\nelsewhere", None, id="cut-short"),
        pytest.param(b"0\nelsewhere\n", None, id="nobody"),
        pytest.param(STRICT, None, id="strict"),
        pytest.param(RELEASED, None, id="released"),
    ],
)
def test_pid_is_what_the_marker_says(lock_path: Path, content: bytes, pid: int | None) -> None:
    lock_path.write_bytes(content)
    before = contents(lock_path.parent)
    lock = SoftFileLock(lock_path)
    assert (lock.pid, lock.is_lock_held_by_us, lock.is_locked) == (pid, False, False)
    assert contents(lock_path.parent) == before


@pytest.mark.parametrize("ask", ["pid", "is_lock_held_by_us", "break_lock"])
def test_asking_makes_no_folder(tmp_path: Path, ask: str) -> None:
    lock: Any = SoftFileLock(tmp_path / "missing" / "x.lock")
    answer = lock.break_lock() if ask == "break_lock" else getattr(lock, ask)
    assert not answer
    assert names(tmp_path) == []


@UNIX
@pytest.mark.parametrize("kind", ["FIFO", "folder", "link"])
def test_asking_about_what_is_no_marker_finds_nobody(lock_path: Path, kind: str) -> None:
    if kind == "FIFO":
        os.mkfifo(lock_path)
    elif kind == "folder":
        lock_path.mkdir()
    else:
        lock_path.symlink_to("x")
    before = contents(lock_path.parent)
    lock = SoftFileLock(lock_path)
    assert (lock.pid, lock.is_lock_held_by_us) == (None, False)
    assert contents(lock_path.parent) == before


# is_lock_held_by_us


def test_held_by_us_is_about_the_process_whatever_object_it_used(soft: Callable[[], Peer], lock_path: Path) -> None:
    other, lock, another = soft(), SoftFileLock(lock_path), SoftFileLock(lock_path)
    ask = "answer = lock_on(path).is_lock_held_by_us"

    def who() -> tuple[bool, bool, bool]:
        return lock.is_lock_held_by_us, another.is_lock_held_by_us, other.run(ask, path=lock_path)

    assert who() == (False, False, False)
    with lock:
        assert who() == (True, True, False)
        assert not another.is_locked
    assert who() == (False, False, False)
    assert other.acquire(lock_path)
    assert who() == (False, False, True)


@UNIX
def test_a_forked_child_does_not_hold_what_its_parent_holds(soft: Callable[[], Peer], lock_path: Path) -> None:
    source = """
        lock = FileLock(path)
        with lock:
            look = lambda: [lock.is_lock_held_by_us, FileLock(path).is_lock_held_by_us, lock.is_locked, lock.pid]
            answer = in_child(look), look()
    """
    parent = soft()
    in_child, in_parent = parent.run(source, path=lock_path)
    assert in_child == [False, False, False, parent.pid]
    assert in_parent == [True, True, True, parent.pid]


@LINUX
def test_held_by_us_is_not_said_of_an_earlier_process_with_our_number(lock_path: Path) -> None:
    lock, pid = SoftFileLock(lock_path), os.getpid()
    for token, ours in ((start_token(pid), True), (start_token(pid, later=-1), False), (None, True)):
        lock_path.write_bytes(record(pid, token=token))
        assert lock.is_lock_held_by_us is ours
    lock_path.write_bytes(record(pid, host=host_field() + "x"))
    assert not lock.is_lock_held_by_us


# break_lock


def test_a_broken_lock_is_free_and_its_holder_is_not_told(soft: Callable[[], Peer], lock_path: Path) -> None:
    holder, lock = soft(), SoftFileLock(lock_path)
    assert holder.acquire(lock_path)
    lock.break_lock()
    assert names(lock_path.parent) == []
    assert holder.state(lock_path) == (True, 1)
    lock.break_lock()
    with lock:
        successor = contents(lock_path.parent)
        holder.release(lock_path)
        assert holder.state(lock_path) == (False, 0)
        assert contents(lock_path.parent) == successor, "the displaced holder has taken its successor's marker"
        assert lock.is_lock_held_by_us
    assert names(lock_path.parent) == []


def test_breaking_leaves_what_cannot_be_removed(lock_path: Path) -> None:
    (lock_path / "something").mkdir(parents=True)
    before = contents(lock_path.parent)
    SoftFileLock(lock_path).break_lock()
    assert contents(lock_path.parent) == before


def test_a_waiter_gets_a_lock_that_is_broken(soft: Callable[[], Peer], lock_path: Path) -> None:
    holder, waiter = soft(), soft()
    assert holder.acquire(lock_path)
    assert blocks_then_proceeds(waiter.begin_acquire(lock_path), SoftFileLock(lock_path).break_lock)
    assert SoftFileLock(lock_path).pid == waiter.pid
    holder.release(lock_path)
    assert SoftFileLock(lock_path).pid == waiter.pid
    waiter.release(lock_path)
    assert names(lock_path.parent) == []


def test_whoever_queues_behind_a_broken_marker_waits_for_the_new_holder(contender: Make, lock_path: Path) -> None:
    """The kernel's queue is of the old marker, whose holder never closes it; the lock is another one's by now."""
    holder, first, second = (contender(lock_path, SOFT) for _ in range(3))
    assert holder.acquire()
    waits = {first: first.begin_acquire(), second: second.begin_acquire()}
    lock_path.unlink()
    with SoftFileLock(lock_path, timeout=0):
        assert all(still_waits(wait) for wait in waits.values())
        holder.release()
        assert all(still_waits(wait) for wait in waits.values())
    while waits:
        assert any_of(waits.values(), LONG, FIRST_COMPLETED).done, "nobody gets it"
        winners = [waiter for waiter, wait in waits.items() if wait.done()]
        assert len(winners) == 1, "two at once"
        del waits[winners[0]]
        assert all(still_waits(wait) for wait in waits.values()), "two at once"
        winners[0].release()
    assert is_free(lock_path)


# A marker that is not where its holder has put it


@UNIX
@pytest.mark.parametrize("replacement", [b"", b"garbage\n", RELEASED, b"4711\nelsewhere\n"])
def test_a_release_leaves_what_others_have_put_in_place_of_the_marker(lock_path: Path, replacement: bytes) -> None:
    with SoftFileLock(lock_path):
        new = lock_path.with_name("new")
        new.write_bytes(replacement)
        os.replace(new, lock_path)
        before = contents(lock_path.parent)
    assert contents(lock_path.parent) == before


@LINUX
def test_a_marker_that_a_contender_has_aside_says_that_it_is_released(lock_path: Path) -> None:
    """So that whoever puts it back makes nobody wait for it."""
    aside = lock_path.with_name(f"{lock_path.name}.break.1.{0:032x}")
    with SoftFileLock(lock_path):
        os.rename(lock_path, aside)
        with SoftFileLock(lock_path, timeout=0):
            pass
        assert aside.read_bytes() == record(os.getpid(), token=start_token(os.getpid()))
    assert contents(lock_path.parent).keys() == {aside.name}
    assert aside.read_bytes() == RELEASED
    os.rename(aside, lock_path)
    assert is_free(lock_path)


@UNIX
def test_a_release_removes_the_marker_from_a_folder_that_was_renamed(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with SoftFileLock(old / "x.lock"):
        old.rename(new)
        assert names(new) == ["x.lock"]
        old.mkdir()
        with SoftFileLock(old / "x.lock", timeout=0):
            assert names(old) == ["x.lock"]
        (old / "x.lock").write_bytes(b"4711\nelsewhere\n")
    assert names(new) == []
    assert names(old) == ["x.lock"]


@UNIX
def test_a_relative_path_means_the_same_marker_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    lock = SoftFileLock("x.lock")
    lock.acquire()
    monkeypatch.chdir(tmp_path / "there")
    (tmp_path / "there" / "x.lock").write_bytes(b"4711\nelsewhere\n")
    assert (lock.is_locked, lock.lock_counter) == (True, 1)
    lock.release()
    assert (names(tmp_path / "here"), names(tmp_path / "there")) == ([], ["x.lock"])


def test_missing_folders_are_made_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.lock"
    with SoftFileLock(path):
        assert names(path.parent) == ["x.lock"]
    assert names(path.parent) == []


# Permission bits


def marker_mode(path: Path, umask: int, **options: Any) -> str:
    """The permission bits of a marker that is made under that umask."""
    source = """
        import os, sys
        from ferrolock import SoftFileLock
        os.umask(int(sys.argv[2]))
        with SoftFileLock(sys.argv[1], **eval(sys.argv[3])):
            print(oct(os.lstat(sys.argv[1]).st_mode & 0o7777))
    """
    return run_program(source, path, umask, options).strip()


@UNIX
@pytest.mark.parametrize(("umask", "mode"), [(0, 0o644), (0o022, 0o644), (0o077, 0o600), (0o027, 0o640)], ids=oct)
def test_without_a_mode_the_umask_applies_and_nobody_else_may_write(lock_path: Path, umask: int, mode: int) -> None:
    assert marker_mode(lock_path, umask) == oct(mode)


@UNIX
@pytest.mark.parametrize(
    ("asked", "mode"), [(0o600, 0o600), (0o644, 0o644), (0o666, 0o644), (0o777, 0o755), (0o640, 0o640)], ids=oct
)
def test_a_mode_is_exact_but_for_what_would_let_others_write(lock_path: Path, asked: int, mode: int) -> None:
    assert [marker_mode(lock_path, umask, mode=asked) for umask in (0, 0o077)] == [oct(mode)] * 2


# Other locks


def test_a_singleton_is_one_for_each_class(lock_path: Path) -> None:
    class Sub(SoftFileLock):
        pass

    lock = SoftFileLock(lock_path, is_singleton=True)
    assert SoftFileLock(lock_path, is_singleton=True) is lock
    others: list[BaseFileLock] = [cls(lock_path, is_singleton=True) for cls in (FileLock, Sub)]
    assert all(other is not lock for other in others)


@pytest.mark.parametrize("held", [SoftFileLock, FileLock], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("wanted", [SoftFileLock, FileLock], ids=lambda cls: cls.__name__)
def test_waiting_for_oneself_is_refused_across_the_classes(lock_path: Path, held: Any, wanted: Any) -> None:
    with held(lock_path):
        with pytest.raises(RuntimeError, match="Deadlock"):
            wanted(lock_path).acquire()
        with pytest.raises(Timeout):
            wanted(lock_path).acquire(timeout=0.02)


def test_every_way_in_and_out_goes_through_the_overridden_methods(lock_path: Path) -> None:
    calls: list[str] = []

    class Recording(SoftFileLock):
        def acquire(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("acquire")
            return super().acquire(*args, **kwargs)

        def release(self, force: bool = False) -> None:
            calls.append("release")
            super().release(force=force)

    lock = Recording(lock_path)
    with lock:
        assert lock.is_lock_held_by_us
    with lock.acquire():
        pass
    lock(lambda: None)()
    assert calls == ["acquire", "release"] * 3
    lock.acquire()
    del lock
    assert calls[6:] == ["acquire", "release"]
    assert is_free(lock_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not list descriptors")
def test_neither_a_release_nor_a_failed_attempt_leaves_a_descriptor(soft: Callable[[], Peer], lock_path: Path) -> None:
    source = """
        import os
        lock = FileLock(path)
        lock.acquire()
        lock.release()
        before = len(os.listdir("/dev/fd"))
        for _ in range(5):
            with lock:
                try:
                    FileLock(path).acquire(timeout=0)
                except TimeoutError:
                    pass
            lock.pid, lock.is_lock_held_by_us, lock.break_lock()
            open(path, "wb").write(dead)
            with lock:
                pass
        answer = len(os.listdir("/dev/fd")) - before
    """
    source = source.replace("dead)", f"{record(NEVER_A_PROCESS)!r})")
    assert soft().run(source, path=lock_path) == 0
