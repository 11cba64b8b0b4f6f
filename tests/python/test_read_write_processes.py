"""``ReadWriteLock`` between processes: turns, ends of waits, signals, forks, the stopped and the killed."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ferrolock import ReadWriteLock, Timeout
from peer_program import in_child
from peers import LONG, SHORT, Peer, run_program, still_waits
from rw_peers import OURS, Party, let_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel wakes and keeps the order on Linux")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")

MODES = ["read", "write"]


@pytest.fixture
def party(spawn: Callable[..., Peer], lock_path: Path) -> Callable[[], Party]:
    """Makes processes that come and go."""
    return lambda: Party(spawn(lock=OURS), lock_path)


@pytest.mark.parametrize(("held", "asked"), [("read", "write"), ("write", "read"), ("write", "write")])
def test_who_waits_is_let_in(party: Callable[[], Party], held: str, asked: str) -> None:
    inside, comes = party(), party()
    assert inside.enter(held)
    let_in(comes.begin(asked), inside.leave)


@pytest.mark.parametrize("asked", MODES)
def test_a_limit_is_kept_and_leaves_nothing(party: Callable[[], Party], asked: str) -> None:
    inside, comes, late = party(), party(), party()
    assert inside.enter("write" if asked == "read" else "read")
    begin = time.monotonic()
    assert not comes.enter(asked, 0.3)
    assert 0.3 <= time.monotonic() - begin < 0.3 + LONG / 4
    inside.leave()
    assert late.enter("write")


@linux_only
def test_readers_that_wait_behind_a_writer_come_in_as_soon_as_it_gives_up(party: Callable[[], Party]) -> None:
    inside, writer, behind = party(), party(), party()
    assert inside.enter("read")
    wait = writer.begin("write", 0.5)
    reader = behind.begin("read")
    assert wait.result(LONG) is False
    begin = time.monotonic()
    assert reader.result(LONG) is True
    assert time.monotonic() - begin < LONG / 4


@linux_only
def test_waiters_come_in_in_turn(party: Callable[[], Party]) -> None:
    inside, first, second, third = party(), party(), party(), party()
    assert inside.enter("write")
    waits = [first.begin("write"), second.begin("read"), third.begin("write")]
    for leaving, came, later in ((inside, 0, waits[1:]), (first, 1, waits[2:])):
        leaving.leave()
        assert waits[came].result(LONG) is True
        assert all(still_waits(wait) for wait in later)
    second.leave()
    assert waits[2].result(LONG) is True


@pytest.mark.parametrize("mode", MODES)
def test_a_holder_that_is_killed_is_out(party: Callable[[], Party], mode: str) -> None:
    inside, comes = party(), party()
    assert inside.enter(mode)
    let_in(comes.begin("write"), inside.peer.kill)


def test_a_writer_that_is_killed_while_it_waits_lets_readers_in(party: Callable[[], Party]) -> None:
    inside, writer, late = party(), party(), party()
    assert inside.enter("read")
    writer.begin("write")
    assert not late.enter("read"), "it has claimed"
    let_in(late.begin("read"), writer.peer.kill)


@linux_only
def test_a_stopped_reader_at_the_head_of_the_line_holds_nobody_up(party: Callable[[], Party]) -> None:
    inside, stopped, comes = party(), party(), party()
    assert inside.enter("write")
    stopped.begin("read")
    stopped.peer.stop()
    wait = comes.begin("write")
    inside.leave()
    assert wait.result(LONG) is True
    comes.leave()
    stopped.peer.cont()


@linux_only
def test_a_stopped_writer_that_has_claimed_keeps_readers_out_and_no_longer(party: Callable[[], Party]) -> None:
    """So does SQLite's: its protocol has nothing against that."""
    inside, stopped, comes = party(), party(), party()
    assert inside.enter("read")
    stopped.begin("write")
    stopped.peer.stop()
    wait = comes.begin("read")
    assert still_waits(wait, 10 * SHORT)
    assert comes.peer.process.poll() is None
    let_in(wait, stopped.peer.kill)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_ends_a_wait_and_leaves_nothing(lock_path: Path, mode: str) -> None:
    run_program(
        """
        import os, signal, sys, threading, time
        from ferrolock import ReadWriteLock

        path, mode = sys.argv[1:]
        holder, lock = (ReadWriteLock(path, is_singleton=False) for _ in range(2))
        inside, done = threading.Event(), threading.Event()

        def hold():
            with holder.write_lock() if mode == "read" else holder.read_lock():
                inside.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        begin = time.monotonic()
        try:
            (lock.acquire_read if mode == "read" else lock.acquire_write)()
        except KeyboardInterrupt:
            assert time.monotonic() - begin < 5
        else:
            raise SystemExit("nothing interrupted it")
        if mode == "write":
            ReadWriteLock(path, is_singleton=False).acquire_read(5).lock.release()
        done.set()
        thread.join()
        with ReadWriteLock(path, is_singleton=False).write_lock(5):
            pass
        """,
        lock_path,
        mode,
    )


@forks
@pytest.mark.parametrize("mode", MODES)
def test_a_forked_child_starts_unheld_and_takes_part(lock_path: Path, mode: str) -> None:
    lock = ReadWriteLock(lock_path)
    lock.acquire_read() if mode == "read" else lock.acquire_write()

    def child() -> list[object]:
        with pytest.raises(RuntimeError, match="not held"):
            lock.release()
        results: list[object] = []
        for acquire in (lock.acquire_read, lock.acquire_write):
            try:
                acquire(0.02)
            except Timeout:
                results.append("timeout")
            else:
                lock.release()
                results.append("in")
        lock.release(force=True)
        return results

    expected = ["in", "timeout"] if mode == "read" else ["timeout", "timeout"]
    assert in_child(child) == expected
    with pytest.raises(Timeout):
        ReadWriteLock(lock_path, is_singleton=False).acquire_write(0)
    lock.release()
    assert in_child(child) == ["in", "in"]


@forks
def test_a_child_does_not_keep_the_lock_of_a_parent_it_outlives(party: Callable[[], Party]) -> None:
    inside, comes = party(), party()
    assert inside.enter("write")
    inside.run(
        """
        import os

        def outlive():
            tell("child")
            os.read(0, 1)  # ends with the test, which has the other end of stdin

        child = Forked(outlive)
        """
    )
    inside.peer.heard("child")
    let_in(comes.begin("write"), inside.peer.kill)


@forks
def test_a_closed_lock_is_closed_in_a_child_too(lock_path: Path) -> None:
    lock = ReadWriteLock(lock_path)
    lock.close()

    def child() -> str:
        with pytest.raises(RuntimeError, match="has been closed"):
            lock.acquire_read()
        return "refused"

    assert in_child(child) == "refused"


@forks
def test_a_child_that_forks_while_another_thread_waits_takes_part(lock_path: Path) -> None:
    holder = ReadWriteLock(lock_path, is_singleton=False)
    waiter = ReadWriteLock(lock_path, is_singleton=False)
    with ThreadPoolExecutor(1) as pool:
        with holder.read_lock():
            wait = pool.submit(waiter.acquire_write)
            assert still_waits(wait)

            def child() -> str:
                with pytest.raises(Timeout):
                    waiter.acquire_read(0.05)  # the parent's writer has claimed
                return "kept out"

            assert in_child(child) == "kept out"
        assert wait.result(LONG).lock is waiter
        pool.submit(waiter.release).result(LONG)


def test_threads_with_objects_of_their_own_read_together_and_write_alone(lock_path: Path) -> None:
    inside: set[str] = set()
    guard, problems = threading.Lock(), []

    def work(number: int) -> None:
        lock = ReadWriteLock(lock_path, is_singleton=False)
        for turn in range(20):
            mode = "write" if (number + turn) % 4 == 0 else "read"
            with lock.write_lock() if mode == "write" else lock.read_lock():
                with guard:
                    if inside and (mode == "write" or "write" in inside):
                        problems.append((mode, set(inside)))
                    inside.add(mode + str(number) if mode == "read" else mode)
                time.sleep(0.0005)
                with guard:
                    inside.discard(mode + str(number) if mode == "read" else mode)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, number) for number in range(8)]:
            done.result(3 * LONG)
    assert problems == []


@pytest.mark.skipif(sys.platform != "linux", reason="only there do threads wait in the kernel")
def test_a_program_that_has_taken_the_signal_still_waits(party: Callable[[], Party]) -> None:
    inside, comes, late = party(), party(), party()
    assert inside.enter("read")
    comes.run("import signal\nsignal.signal(signal.SIGURG, lambda *_: None)")
    wait = comes.begin("write")
    inside.leave()
    assert wait.result(LONG) is True
    assert not late.enter("read")
    comes.leave()


@linux_only
def test_the_signal_may_be_taken_in_the_middle_of_a_wait(party: Callable[[], Party]) -> None:
    """Its claim must not be in the way of the attempts that it makes from then on."""
    inside, comes = party(), party()
    assert inside.enter("read")
    comes.run(
        "import signal, threading\n"
        "signal.signal(signal.SIGALRM, lambda *_: signal.signal(signal.SIGURG, lambda *_: None))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)"
    )
    wait = comes.begin("write")
    assert still_waits(wait, 0.5)
    inside.leave()
    assert wait.result(LONG) is True
