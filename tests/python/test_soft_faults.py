"""System calls that fail: the next best way where there is one, an error where there is none, and never a trace."""

from __future__ import annotations

import errno
import time
from functools import partial
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING, Any

import pytest

from peers import Peer, blocks_then_proceeds
from soft_peers import LINUX, Call, Victim, contents, dead_record, is_free, names, record, start_token
from soft_rw_peers import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Victim]

pytestmark = LINUX

TIMED_OUT, CHANGED, LOST, GONE, STAYS = 100, 110, 111, 112, 113
"""How a victim's end tells what happened to it; 0 is well, and all others are the errno of the error it got."""

CYCLE = f"""
import os

def look():
    return {{name: (os.lstat(folder + "/" + name).st_ino, os.lstat(folder + "/" + name).st_size)
            for name in os.listdir(folder)}}

lock = FileLock(path, **options)
before = look()
try:
    os.getppid()
    lock.acquire(timeout=0)
    os.getppid()
except OSError as error:
    if lock.is_locked or not before.items() <= look().items():
        os._exit({CHANGED})
    raise
if not lock.is_lock_held_by_us:
    os._exit({LOST})
tell("held", [open(path).read(), oct(os.lstat(path).st_mode & 0o777), sorted(os.listdir(folder))])
try:
    os.getppid()
    lock.release()
    os.getppid()
except OSError:
    if not (lock.is_locked and os.path.exists(path)):
        os._exit({GONE})
    lock.release()
if os.path.exists(path) or lock.is_locked:
    os._exit({STAYS})
"""


class Attempts:
    """Cycles of a victim on one path, with faults."""

    def __init__(self, make: Make, path: Path) -> None:
        self.make, self.path, self.folder = make, path, path.parent

    def clear(self, *, is_dead: bool = False) -> None:
        """Make the folder empty, or have it hold the marker of somebody who is dead."""
        for name in names(self.folder):
            (self.folder / name).unlink()
        if is_dead:
            self.path.write_bytes(dead_record())

    def run(self, *faults: str, **options: Any) -> Victim:
        """Run one to its end."""
        made = self.make(CYCLE, *faults, path=self.path, folder=self.folder, options=options)
        return made.go().wait()

    def calls(self, **options: Any) -> list[Call]:
        """What acquiring and releasing call where nothing fails."""
        whole = self.run(**options)
        assert whole.status() == 0
        whole.parent.heard("held")
        found, is_inside = [], False
        for call in whole.calls():
            if call.name == "getppid":
                is_inside = not is_inside
            elif is_inside:
                found.append(call)
        assert len(found) > 10
        return found

    def call(self, text: str, **options: Any) -> Call:
        """The one call of that name, or with that among its arguments."""
        [found] = [call for call in self.calls(**options) if call.name == text or text in call.text.split("(")[1]]
        return found

    def check_held(self, victim: Victim, mode: int = 0o644) -> None:
        """It had the lock by a marker as always, and nothing else is there, neither then nor now."""
        marker, found_mode, there = victim.parent.heard("held")
        own = record(victim.pid, token=start_token(victim.pid)).decode()
        assert (marker, found_mode, there) == (own, oct(mode), [self.path.name])
        assert victim.status() == 0
        assert names(self.folder) == []


@pytest.fixture
def attempts(victim: Make, lock_path: Path) -> Attempts:
    """On the usual path."""
    return Attempts(victim, lock_path)


def no_files_without_names(attempts: Attempts, error: str = "EOPNOTSUPP") -> str:
    """A file system that has none."""
    return attempts.call("O_TMPFILE").fault(f"error={error}")


NO_LINKS = "inject=linkat:error=EPERM"
HARMLESS = {"getpid", "uname"}
"""What cannot fail, and need not be thought of."""


@pytest.mark.parametrize("error", ["EIO", "EINTR"])
@pytest.mark.parametrize("is_dead", [False, True], ids=["free", "dead"])
def test_whatever_call_fails_once_the_lock_is_had_or_an_error_says_why(
    attempts: Attempts, error: str, is_dead: bool
) -> None:
    """
    Nothing is held then, and nothing has changed.

    A release that fails can be made again, but for a close: that is told when the marker has gone. A
    signal that cuts a call short is no reason for an error.
    """
    attempts.clear(is_dead=is_dead)
    ends: dict[Call, int] = {}
    for call in attempts.calls(mode=0o600):
        if call.name in HARMLESS:
            continue
        attempts.clear(is_dead=is_dead)
        failing = attempts.run(call.fault(f"error={error}"), mode=0o600)
        status = failing.status()
        ends[call] = errno.EIO if (status, call.name, error) == (GONE, "close", "EIO") else status
        # What could not be removed is litter, beside the lock.
        litter = [name for name in names(attempts.folder) if name != attempts.path.name]
        assert len(litter) <= (call.name == "unlinkat"), (call, litter)
        assert is_free(attempts.path), call
    allowed = {0, *([TIMED_OUT] if is_dead else []), *([errno.EIO] if error == "EIO" else [])}
    assert {call: end for call, end in ends.items() if end not in allowed} == {}
    assert {0, *allowed} - {TIMED_OUT} <= {*ends.values()}


@pytest.mark.parametrize("error", ["EOPNOTSUPP", "EISDIR", "EINVAL", "ENOSYS"])
def test_where_files_always_have_names_the_record_is_still_complete_first(attempts: Attempts, error: str) -> None:
    linked = attempts.run(no_files_without_names(attempts, error))
    attempts.check_held(linked)
    done = [call for call in linked.calls() if call.name in {"openat", "write", "linkat", "unlinkat"}]
    texts = [call.text for call in done if ".ferrolock." in call.text or call.name == "write"]
    made, written, linked_to, removed = texts[:4]
    assert "O_EXCL" in made
    assert str(linked.pid) in written
    assert '"x.lock"' in linked_to
    assert removed.startswith("unlinkat")


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK"])
def test_where_there_are_no_links_the_name_is_made_first(attempts: Attempts, error: str) -> None:
    plain = attempts.run(no_files_without_names(attempts), f"inject=linkat:error={error}", mode=0o640)
    attempts.check_held(plain, 0o640)
    assert [call for call in plain.calls() if "O_EXCL" in call.text and '"x.lock"' in call.text]


def test_without_the_right_to_name_a_descriptor_it_is_named_by_proc(attempts: Attempts) -> None:
    """Before Linux 6.10 that took a privilege."""
    refused = attempts.run(attempts.call("linkat").fault("error=ENOENT"))
    attempts.check_held(refused)
    [_, second] = [call.text for call in refused.calls() if call.name == "linkat"]
    assert "/proc/self/fd/" in second
    assert "AT_SYMLINK_FOLLOW" in second


def test_without_that_right_and_without_proc_a_private_name_is_linked(attempts: Attempts) -> None:
    refused = attempts.run("inject=linkat:error=ENOENT:when=1..2")
    attempts.check_held(refused)
    [*_, third] = [call.text for call in refused.calls() if call.name == "linkat"]
    assert ".ferrolock." in third


@pytest.mark.parametrize("way", ["unnamed", "linked", "plain"])
@pytest.mark.parametrize("is_dead", [False, True], ids=["free", "dead"])
def test_a_record_that_cannot_be_written_leaves_nothing_behind(attempts: Attempts, way: str, is_dead: bool) -> None:
    attempts.clear(is_dead=is_dead)
    faults = [] if way == "unnamed" else [no_files_without_names(attempts)]
    if way == "plain":
        faults.append(NO_LINKS)
    attempts.clear(is_dead=is_dead)
    before = contents(attempts.folder)
    # The first one to be written has a private name there, and cannot get another one.
    full = f"inject=write:error=ENOSPC:when={2 if way == 'plain' else 1}"
    assert attempts.run(*faults, full).status() == errno.ENOSPC
    assert contents(attempts.folder) == before


def test_permission_bits_that_cannot_be_set_are_no_reason_to_fail(attempts: Attempts) -> None:
    """Some file systems have none."""
    attempts.check_held(attempts.run("inject=fchmod:error=EPERM", mode=0o604), 0o604 & ~0o022)


def test_a_marker_whose_file_cannot_be_locked_is_held_all_the_same(attempts: Attempts) -> None:
    attempts.check_held(attempts.run("inject=flock:error=ENOLCK"))
    attempts.check_held(attempts.run("inject=fstatfs:error=ENOSYS"))


def test_a_marker_is_fresh_when_its_maker_was_stopped_between_writing_and_naming_it(
    attempts: Attempts, victim: Make
) -> None:
    """A contender with a lifetime must not find it old already."""
    attempts.clear()
    act = "import os; lock = FileLock(path); lock.acquire(timeout=0); os._exit(0)"
    stopped = victim(act, "inject=flock:signal=STOP", path=attempts.path).go().wait_until_stopped()
    time.sleep(0.1)
    clock_tick, begun = 0.02, time.time()
    stopped.cont().wait()
    assert attempts.path.stat().st_mtime >= begun - clock_tick
    assert stopped.status() == 0


# Waiting


WAIT = """
import os
with FileLock(path).acquire(poll_interval=0.5, cancel_check=lambda: os.getppid() < 0):
    pass
"""


def has_met(victim: Victim, text: str) -> bool:
    return text in victim.record.read_text()


def test_a_signal_that_cuts_short_a_call_of_a_waiter_costs_nothing(
    victim: Make, lock_path: Path, soft: Callable[[], Peer]
) -> None:
    """At each call from the first question on to the one that blocks: those that open its place."""
    holder = soft()

    def wait(event: str, *faults: str) -> Victim:
        """Wait for a lock that is held until the event at least."""
        holder.acquire(lock_path)
        waiter = victim(WAIT, *faults, path=lock_path).go()
        until(partial(has_met, waiter, event))
        holder.release(lock_path)
        assert waiter.wait().status() == 0, faults
        return waiter

    whole = wait("timer_settime").calls()
    opening = list(dropwhile(lambda call: call.name != "getppid", whole))[1:]
    opening = list(takewhile(lambda call: not call.name.startswith("rt_"), opening))
    assert {"openat", "read", "flock"} < {call.name for call in opening}, "the marker is looked at, and its file locked"
    for call in opening:
        wait("(INJECTED)", call.fault("error=EINTR"))


# Exchanging


@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS", "EXDEV", "EOPNOTSUPP", "EPERM", "EACCES"])
def test_where_names_cannot_be_exchanged_the_dead_hold(attempts: Attempts, error: str) -> None:
    attempts.clear(is_dead=True)
    before = contents(attempts.folder)
    assert attempts.run(f"inject=renameat2:error={error}").status() == TIMED_OUT
    assert contents(attempts.folder) == before
    assert is_free(attempts.path)


def test_an_exchange_that_fails_otherwise_is_an_error(attempts: Attempts) -> None:
    attempts.clear(is_dead=True)
    before = contents(attempts.folder)
    assert attempts.run("inject=renameat2:error=EIO").status() == errno.EIO
    assert contents(attempts.folder) == before


def test_a_dead_owners_marker_that_cannot_be_removed_is_litter(attempts: Attempts) -> None:
    attempts.clear(is_dead=True)
    failing = attempts.run("inject=unlinkat:error=EIO:when=1")
    assert failing.status() == 0
    [litter] = names(attempts.folder)
    assert litter.startswith(f"x.lock.break.{failing.pid}.")
    assert (attempts.folder / litter).read_bytes() == dead_record()


# Releasing


def test_a_release_that_fails_leaves_the_lock_held_and_can_be_made_again(
    victim: Make, lock_path: Path, soft: Callable[[], Peer]
) -> None:
    source = """
        lock = FileLock(path)
        lock.acquire()
        try:
            lock.release()
        except OSError as error:
            tell("failed", [error.errno, error.filename, lock.is_locked, lock.lock_counter, lock.is_lock_held_by_us])
        os.read(until, 1)
        lock.release()
    """
    waiter, parent = soft(), soft()
    until, end = parent.run("import os; answer = os.pipe()")
    failing = victim(source, "inject=unlinkat:error=EIO:when=1", parent=parent, path=lock_path, until=until).go()
    assert parent.heard("failed") == [errno.EIO, str(lock_path), True, 1, True]
    assert blocks_then_proceeds(waiter.begin_acquire(lock_path), lambda: parent.run("os.write(end, b'.')", end=end))
    assert failing.wait().status() == 0
    waiter.release(lock_path)
    assert names(lock_path.parent) == []


# Other file systems


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs", "overlay"])
def test_a_soft_lock_does_its_work_on_another_file_system(
    tmp_path: Path, surrounded: Callable[..., Peer], kind: str
) -> None:
    folders = {name: tmp_path / name for name in ("disk", "lower", "upper", "work")}
    for folder in folders.values():
        folder.mkdir()
    options = "-o lowerdir='{lower}',upperdir='{upper}',workdir='{work}'".format(**folders) if kind == "overlay" else ""
    peer = surrounded("--mount", before=f"mount -t {kind} {options} none '{folders['disk']}'")
    source = """
        import os
        path = f"{folder}/x.lock"
        lock, seen = FileLock(path), []

        def hold():
            with lock:
                tell("held")
                os.read(end[0], 1)

        def wait():
            with FileLock(path, timeout=10):
                return True

        with lock:
            seen.append(os.listdir(folder))
        seen.append(os.listdir(folder))
        end = os.pipe()
        holder = Forked(hold)
        answer = seen
    """
    assert peer.run(source, folder=folders["disk"], dead=dead_record().decode()) == [["x.lock"], []]
    peer.heard("held")
    source = """
        waiter = Forked(wait)
        still = waiter.still_waits()
        os.write(end[1], b".")
        answer = holder.answer(), still, waiter.answer(), os.listdir(folder)
        with open(path, "w") as file:
            file.write(dead)
        with FileLock(path, timeout=0):
            answer += (os.listdir(folder),)
    """
    assert peer.run(source) == [None, True, True, [], ["x.lock"]]
