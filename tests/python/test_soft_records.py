"""What a marker says, and what is made of it: nobody's lock is taken without proof that its holder is dead."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import SoftFileLock, Timeout
from peers import LONG, Peer, ThreadContender
from soft_peers import (
    LINUX,
    NEVER_A_PROCESS,
    RELEASED,
    SOFT,
    STRICT,
    boot_id,
    contents,
    host_field,
    is_free,
    names,
    record,
    start_token,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

GRACE = 2.0
"""Seconds for which something that is no marker must have been seen as it is."""


def check_held(path: Path, text: str = "could not be acquired") -> None:
    """Neither one attempt nor a short wait gets it, nothing changes on disk, and the refusal says whose it is."""
    before = contents(path.parent)
    for timeout in (0, 0.03):
        with pytest.raises(Timeout, match=re.escape(text)):
            SoftFileLock(path).acquire(timeout=timeout)
    assert contents(path.parent) == before


def check_taken_at_once(path: Path) -> None:
    """A single attempt gets it; nothing but its own marker is there then, and nothing is left at the end."""
    with SoftFileLock(path).acquire(timeout=0):
        assert names(path.parent) == [path.name]
        assert SoftFileLock(path).is_lock_held_by_us
    assert names(path.parent) == []


# What is written


@LINUX
def test_a_marker_is_three_lines(soft: Callable[[], Peer], lock_path: Path) -> None:
    holder = soft()
    assert holder.acquire(lock_path)
    assert lock_path.read_bytes() == record(holder.pid, token=start_token(holder.pid))
    holder.release(lock_path)
    with SoftFileLock(lock_path):
        assert lock_path.read_bytes() == record(os.getpid(), token=start_token(os.getpid()))


@LINUX
def test_a_forked_child_names_itself(soft: Callable[[], Peer], lock_path: Path) -> None:
    source = """
        import os
        lock = FileLock(path)
        with lock:
            parent = open(path, "rb").read().decode()
        def hold():
            with FileLock(path):
                pid, began = os.getpid(), open("/proc/self/stat").read().rpartition(")")[2].split()[19]
                return pid, int(began), open(path, "rb").read().decode()
        answer = *in_child(hold), parent
    """
    pid, began, marker, parents = soft().run(source, path=lock_path)
    assert marker.encode() == record(pid, token=(boot_id() << 64) | began)
    assert marker != parents


@LINUX
def test_the_bytes_are_filelocks(
    soft: Callable[[], Peer],
    spawn: Callable[..., Peer],
    filelock_folder: Callable[[str], Path],
    lock_path: Path,
) -> None:
    theirs = spawn(lock="filelock.SoftFileLock", folder=filelock_folder("4.2.12"))
    for peer in (theirs, soft()):
        assert peer.acquire(lock_path)
        assert lock_path.read_bytes() == record(peer.pid, token=start_token(peer.pid))
        facts = lock_path.lstat()
        assert (oct(facts.st_mode & 0o777), facts.st_nlink) == ("0o644", 1)
        peer.release(lock_path)


# Whose it is


def test_a_living_process_holds(lock_path: Path) -> None:
    lock_path.write_bytes(record(os.getpid()))
    check_held(lock_path, f"It is held by process {os.getpid()}")


@LINUX
def test_a_living_process_of_another_user_holds(lock_path: Path) -> None:
    """Nobody but root may send process 1 a signal."""
    lock_path.write_bytes(record(1))
    check_held(lock_path, "It is held by process 1 ")


@LINUX
def test_a_process_that_began_when_the_marker_says_so_holds(lock_path: Path) -> None:
    for boot in (boot_id(), 0):
        lock_path.write_bytes(record(os.getpid(), token=start_token(os.getpid(), boot=boot)))
        check_held(lock_path)


@LINUX
def test_a_dead_process_does_not_hold(lock_path: Path) -> None:
    for token in (None, 12345, (boot_id() << 64) | 12345):
        lock_path.write_bytes(record(NEVER_A_PROCESS, token=token))
        check_taken_at_once(lock_path)


@LINUX
@pytest.mark.parametrize("later", [-1, 1, 100_000])
def test_a_process_that_got_a_dead_ones_number_does_not_hold(lock_path: Path, later: int) -> None:
    for boot in (boot_id(), 0):
        lock_path.write_bytes(record(os.getpid(), token=start_token(os.getpid(), boot=boot, later=later)))
        check_taken_at_once(lock_path)


@LINUX
def test_nobody_of_an_earlier_start_of_the_machine_holds(lock_path: Path) -> None:
    """On a file system of this machine: another one of the same name cannot have written it."""
    lock_path.write_bytes(record(os.getpid(), token=start_token(os.getpid(), boot=boot_id() ^ 1)))
    check_taken_at_once(lock_path)


@LINUX
def test_a_number_that_is_no_start_token_proves_nothing(lock_path: Path) -> None:
    lock_path.write_bytes(record(os.getpid(), token=1 << 192))
    check_held(lock_path)


@pytest.mark.parametrize("host", ["elsewhere", f"{host_field()}x", f"{host_field()}?pidns-deadbeef", "?", "two words"])
def test_another_host_holds_for_ever_and_is_named(lock_path: Path, host: str) -> None:
    for token in (None, 12345):
        lock_path.write_bytes(record(NEVER_A_PROCESS, host, token))
        check_held(lock_path, f"It is held by pid {NEVER_A_PROCESS} on {host}, which this host cannot probe.")


def test_an_empty_file_holds_and_the_refusal_says_so(lock_path: Path) -> None:
    """It may be a kernel lock's, or filelock's between making the file and writing to it."""
    lock_path.touch()
    os.utime(lock_path, (0, 0))
    check_held(lock_path, "It is held by an owner that recorded no process id")


def test_a_strict_lock_holds(lock_path: Path) -> None:
    lock_path.write_bytes(STRICT)
    check_held(lock_path)


def test_a_marker_that_was_released_does_not_hold(lock_path: Path) -> None:
    lock_path.write_bytes(RELEASED)
    check_taken_at_once(lock_path)


def test_a_bare_number_holds_as_long_as_that_process_runs(lock_path: Path) -> None:
    """The file of lockfile's PIDLockFile."""
    lock_path.write_bytes(b"%d\n" % os.getpid())
    check_held(lock_path)
    assert SoftFileLock(lock_path).pid == os.getpid()


@contextmanager
def zombie() -> Iterator[int]:
    """A process that has ended, and that nobody has asked about."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        token = start_token(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        os.kill(child.pid, 0)
        assert start_token(child.pid) == token
        yield child.pid


@LINUX
@pytest.mark.parametrize("with_token", [False, True])
def test_a_zombie_does_not_hold(lock_path: Path, with_token: bool) -> None:
    with zombie() as pid:
        lock_path.write_bytes(record(pid, token=start_token(pid) if with_token else None))
        check_taken_at_once(lock_path)


EXIT_OF_ONE_THREAD = {"x86_64": 60, "aarch64": 93}


@LINUX
@pytest.mark.skipif(platform.machine() not in EXIT_OF_ONE_THREAD, reason="the number of the call is not known here")
def test_a_process_whose_first_thread_has_ended_holds(lock_path: Path) -> None:
    """It looks like a zombie, but its other threads are at work."""
    source = """
        import ctypes, sys, threading
        from ferrolock import SoftFileLock
        def hold():
            with SoftFileLock(sys.argv[1]):
                first.join(0)
                while not open("/proc/self/status").read().split("State:")[1].lstrip().startswith("Z"):
                    pass
                print("held", flush=True)
                sys.stdin.readline()
            print("released", flush=True)
            sys.stdin.readline()
        first = threading.main_thread()
        threading.Thread(target=hold).start()
        ctypes.CDLL(None).syscall(int(sys.argv[2]), 0)
    """
    number = EXIT_OF_ONE_THREAD[platform.machine()]
    command = [sys.executable, "-c", "\n".join(line[8:] for line in source.splitlines()), str(lock_path), str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            assert SoftFileLock(lock_path).pid == holder.pid
            check_held(lock_path)
            holder.stdin.write("\n")
            assert holder.stdout.readline() == "released\n"
            assert names(lock_path.parent) == []
        finally:
            holder.kill()


# What is no marker

NO_MARKERS = {
    "garbage": b"garbage\n",
    "no end of the last line": record(NEVER_A_PROCESS)[:-1],
    "four lines": record(NEVER_A_PROCESS) + b"1\n2\n",
    "process 0": record(0),
    "a sign": b"+" + record(5),
    "a number too large": record(2**31),
    "a number far too large": record(10**30),
    "no number": b"x" + record(5),
    "no token": record(NEVER_A_PROCESS) + b"x\n",
    "a blank line": b"\n",
    "not UTF-8": b"4711\n\xff\n",
    "a record of more than 1 KiB": b"4711\n" + b"x" * 1020 + b"\n",
    "a large file": b"4711\nelsewhere\n" * 100_000,
    "no terms": b"filelock/2\npid=4711\nhost=elsewhere\n",
    "another protocol": b"filelock/3\npid=4711\nhost=elsewhere\nmode=exclusive\n",
    "a placeholder": b"filelock/break\n4711\n",
    "the beginning of a release": RELEASED[:-1],
    "a bare number of the dead": b"%d\n" % NEVER_A_PROCESS,
}
HELD_FOR_EVER = {
    "empty": b"",
    "strict": STRICT,
    "foreign": b"4711\nelsewhere\n",
    "exclusive": b"filelock/2\npid=4711\nhost=elsewhere\nmode=exclusive\n",
    "a lease of an hour": b"filelock/2\npid=4711\nhost=elsewhere\nmode=lease\ntoken=a\nduration=3600.0\n",
    "a bare number": b"%d\n" % os.getpid(),
}


def test_what_is_no_marker_is_taken_after_it_was_seen_unchanged_for_two_seconds(
    tmp_path: Path, soft: Callable[[], Peer]
) -> None:
    """By each process's own clock, whatever the times of the file; over many short attempts as in one wait."""
    changing = {"touched": b"garbage\n", "rewritten": b"garbage\n", "by another process": b"garbage\n"}
    begun: dict[str, float] = {}
    for name, content in {**NO_MARKERS, **HELD_FOR_EVER, **changing, "in one wait": b"garbage\n"}.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (0, 0))
        begun[name] = time.monotonic()
    waiter, other = ThreadContender(tmp_path / "in one wait", SOFT), soft()
    waits: dict[str, Future[bool]] = {}
    changes: dict[str, Callable[[Path], Any]] = {
        "touched": lambda path: os.utime(path, (1, 1)),
        "rewritten": lambda path: path.write_bytes(b"rubbish\n"),
        "by another process": lambda path: waits.update({path.name: other.begin_acquire(path)}),
    }
    try:
        waits["in one wait"] = waiter.begin_acquire()
        start, taken = time.monotonic(), dict[str, float]()
        while missing := begun.keys() - taken.keys() - HELD_FOR_EVER.keys():
            assert time.monotonic() - start < LONG, f"never taken: {missing}"
            if changes and time.monotonic() - start > GRACE / 4:
                name, change = changes.popitem()
                begun[name] = time.monotonic()
                change(tmp_path / name)
            for name in begun.keys() - taken.keys():
                if waits[name].done() if name in waits else is_free(tmp_path / name):
                    taken[name] = time.monotonic() - begun[name]
    finally:
        waiter.close()
    assert all(seconds >= GRACE for seconds in taken.values()), taken
    other.release(tmp_path / "by another process")
    assert names(tmp_path) == sorted(HELD_FOR_EVER)
    assert {name: (tmp_path / name).read_bytes() for name in HELD_FOR_EVER} == HELD_FOR_EVER


@LINUX
def test_a_killed_waiter_of_what_is_no_marker_leaves_it(lock_path: Path, soft: Callable[[], Peer]) -> None:
    lock_path.write_bytes(b"garbage\n")
    before = contents(lock_path.parent)
    waiter = soft()
    waiter.begin_acquire(lock_path)
    os.kill(waiter.pid, signal.SIGKILL)
    waiter.process.wait(LONG)
    assert contents(lock_path.parent) == before
