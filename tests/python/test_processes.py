"""What becomes of a lock when its holder dies, stops, or starts other programs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ferrolock import FileLock, Timeout
from peers import LONG, Peer, blocks_then_proceeds, is_free, still_waits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNIX = pytest.mark.skipif(os.name != "posix", reason="needs signals and descriptors that are inherited")

LIST_DESCRIPTORS = """
import json, os, sys
there = os.stat(sys.argv[1])
found = []
for name in os.listdir("/dev/fd"):
    try:
        if os.path.samestat(os.fstat(int(name)), there):
            found.append(int(name))
    except OSError:
        pass
print(json.dumps(found), flush=True)
sys.stdin.read()
"""
"""A program that knows nothing of locks: it tells which descriptors of a file it has, and lives until its stdin ends.

That is the peer's own, so it ends with the test; the peer gets no further command after the start of one."""


def die_by_signal(peer: Peer) -> None:
    peer.kill()


def die_without_goodbye(peer: Peer) -> None:
    peer.hard_exit()


def end_as_programs_do(peer: Peer) -> None:
    assert peer.exit() == (0, "")


ENDS = pytest.mark.parametrize("end", [die_by_signal, die_without_goodbye, end_as_programs_do])


@ENDS
def test_a_dead_holders_lock_is_free_at_once(
    spawn: Callable[..., Peer], lock_path: Path, end: Callable[[Peer], None]
) -> None:
    holder = spawn()
    assert holder.acquire(lock_path)
    assert not is_free(lock_path)
    end(holder)
    assert is_free(lock_path)


@ENDS
def test_a_waiter_gets_a_dead_holders_lock(
    spawn: Callable[..., Peer], lock_path: Path, end: Callable[[Peer], None]
) -> None:
    holder, waiter = spawn(), spawn()
    assert holder.acquire(lock_path)
    assert blocks_then_proceeds(waiter.begin_acquire(lock_path), lambda: end(holder))
    assert not is_free(lock_path)


@ENDS
def test_a_dead_waiter_is_in_nobodys_way(
    spawn: Callable[..., Peer], lock_path: Path, end: Callable[[Peer], None]
) -> None:
    dying, waiter = spawn(), spawn()
    with FileLock(lock_path):
        if end is die_by_signal:
            dying.begin_acquire(lock_path)
        else:  # whoever is to end on its own must have given up waiting
            assert not dying.acquire(lock_path, timeout=0.02)
        wait = waiter.begin_acquire(lock_path)
        end(dying)
        assert still_waits(wait)
    assert wait.result(LONG)
    waiter.release(lock_path)
    assert is_free(lock_path)


@UNIX
def test_a_stopped_holder_keeps_the_lock(spawn: Callable[..., Peer], lock_path: Path) -> None:
    holder, waiter = spawn(), spawn()
    assert holder.acquire(lock_path)
    wait = waiter.begin_acquire(lock_path)
    holder.stop()
    assert still_waits(wait)
    assert not is_free(lock_path)
    holder.cont()
    holder.release(lock_path)
    assert wait.result(LONG)


@UNIX
def test_a_stopped_waiter_is_in_nobodys_way(spawn: Callable[..., Peer], lock_path: Path) -> None:
    holder, stopped, waiter = spawn(), spawn(), spawn()
    assert holder.acquire(lock_path)
    stopped_wait = stopped.begin_acquire(lock_path)
    wait = waiter.begin_acquire(lock_path)
    stopped.stop()
    holder.release(lock_path)
    assert wait.result(LONG)
    waiter.release(lock_path)
    stopped.cont()
    assert stopped_wait.result(LONG)


def test_a_waiter_under_another_processs_hold_gets_a_timeout(spawn: Callable[..., Peer], lock_path: Path) -> None:
    holder = spawn()
    assert holder.acquire(lock_path)
    for limit in ({"timeout": 0}, {"timeout": 0.03}, {"blocking": False}):
        lock = FileLock(lock_path)
        with pytest.raises(Timeout) as caught:
            lock.acquire(**limit)
        assert caught.value.lock_file == str(lock_path)
        assert (lock.is_locked, lock.lock_counter) == (False, 0)
    holder.release(lock_path)
    assert is_free(lock_path)


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="only Linux tells who may hold a lock")
def test_a_timeout_tells_which_process_may_hold_the_lock(spawn: Callable[..., Peer], lock_path: Path) -> None:
    holder = spawn()
    assert holder.acquire(lock_path)
    with pytest.raises(Timeout, match=rf"\b{holder.pid}\b"):
        FileLock(lock_path, timeout=0).acquire()


def run_a_program(peer: Peer, path: Path) -> list[int]:
    return list(
        peer.run(
            """
            import json, subprocess, sys
            command = [sys.executable, "-c", program, path]
            child = subprocess.Popen(command, close_fds=False, stdout=subprocess.PIPE)
            answer = json.loads(child.stdout.readline())
            """,
            program=LIST_DESCRIPTORS,
            path=path,
        )
    )


def fork_and_execute(peer: Peer, path: Path) -> list[int]:
    return list(
        peer.run(
            """
            import json, os, signal, sys
            said, say = os.pipe()
            pid = os.fork()
            if not pid:
                signal.alarm(30)
                os.dup2(say, 1)
                os.execv(sys.executable, [sys.executable, "-c", program, path])
            os.close(say)
            answer = json.loads(os.read(said, 4096))
            """,
            program=LIST_DESCRIPTORS,
            path=path,
        )
    )


EXECUTING = pytest.mark.parametrize("execute", [run_a_program, fork_and_execute])


@UNIX
@EXECUTING
def test_an_executed_program_inherits_no_descriptor(
    spawn: Callable[..., Peer], lock_path: Path, execute: Callable[[Peer, Path], list[int]]
) -> None:
    holder = spawn()
    assert holder.acquire(lock_path)
    assert holder.run("answer = descriptors(path)", path=lock_path), "what the holder has cannot be seen"
    assert execute(holder, lock_path) == []
    assert not is_free(lock_path)


@UNIX
@EXECUTING
def test_an_executed_program_that_outlives_the_holder_does_not_keep_the_lock(
    spawn: Callable[..., Peer], lock_path: Path, execute: Callable[[Peer, Path], list[int]]
) -> None:
    holder = spawn()
    assert holder.acquire(lock_path)
    execute(holder, lock_path)
    holder.kill()
    assert is_free(lock_path)


@UNIX
def test_an_inherited_descriptor_would_be_seen_and_would_keep_the_lock(
    spawn: Callable[..., Peer], lock_path: Path
) -> None:
    holder = spawn()
    assert holder.acquire(lock_path)
    [descriptor] = holder.run("answer = descriptors(path)", path=lock_path)
    holder.run("import os; os.set_inheritable(descriptor, True)", descriptor=descriptor)
    assert run_a_program(holder, lock_path) == [descriptor]
    holder.kill()
    assert not is_free(lock_path)
