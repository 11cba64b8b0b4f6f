"""``SoftReadWriteLock`` between processes: heartbeats, the stopped and the killed, forks, ends, other machines."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
from ferrolock import LeaseCompromise, SoftReadWriteLock, Timeout
from peer_program import in_child
from peers import LONG, Peer, PeerError, run_program, still_waits
from rw_peers import MODES, acquire
from soft_peers import LINUX, ROOT, host_field
from soft_rw_peers import SOFT_RW, allowed, folder_of, markers, other, until, until_claimed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")

QUICK: dict[str, Any] = {"heartbeat_interval": 0.1, "stale_threshold": 0.4, "poll_interval": 0.02}
"""Taken for dead soon, and takes others for dead soon."""

BEHIND = """
lock = __import__("ferrolock").SoftReadWriteLock(path, is_singleton=False, **options)
(lock.acquire_read if mode == "read" else lock.acquire_write)(timeout)
"""


@pytest.fixture(autouse=True)
def _nothing_stays_held() -> Iterator[None]:
    yield
    ferrolock._native.remove_markers_at_exit()


@pytest.fixture
def peer(spawn: Callable[..., Peer]) -> Peer:
    """A process."""
    return spawn(lock=SOFT_RW)


def hold(peer: Peer, path: Path, mode: str, timeout: float = 5, **options: Any) -> None:
    """Have it acquire, by these options."""
    peer.run(BEHIND, path=path, mode=mode, timeout=timeout, options=options)


# Heartbeats.


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such function")
@pytest.mark.parametrize("mode", MODES)
def test_a_holder_whose_program_keeps_the_gil_keeps_the_lock(lock_path: Path, peer: Peer, mode: str) -> None:
    hold(peer, lock_path, mode, **QUICK)
    waiter = other(lock_path, **QUICK)
    keeps = peer.begin_run(
        "import ctypes\ntell('keeps')\nctypes.PyDLL(None).usleep(1_600_000)\nanswer = lock.compromise"
    )
    peer.heard("keeps")
    with pytest.raises(Timeout):
        waiter.acquire_write(1.4)
    assert not keeps.done(), "nothing was shown"
    assert keeps.result(LONG) is None
    peer.run("lock.release()")
    with waiter.write_lock(timeout=LONG):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="nothing stops a process there")
@pytest.mark.parametrize("mode", MODES)
def test_a_holder_that_was_stopped_for_too_long_loses_it_is_told_and_harms_nobody(
    lock_path: Path, peer: Peer, mode: str
) -> None:
    told = {**QUICK}
    peer.run(
        """
        from ferrolock import SoftReadWriteLock
        lock = SoftReadWriteLock(path, on_compromise=lambda lost: tell("lost", lost.reason), **options)
        (lock.acquire_read if mode == "read" else lock.acquire_write)()
        """,
        path=lock_path,
        mode=mode,
        options=told,
    )
    number = peer.run("answer = lock.generation")
    successor = other(lock_path, **QUICK)
    peer.stop()
    begin = time.monotonic()
    successor.acquire_write(LONG)
    assert time.monotonic() - begin > 0.25, "its last heartbeat was at most an interval ago"
    mine = {marker.name: marker.read_bytes() for marker in [*markers(lock_path, "write")]}
    peer.cont()
    assert peer.heard("lost") == "evicted"
    assert peer.run("answer = lock.compromise.reason") == "evicted"
    peer.run("lock.release()")
    assert {marker.name: marker.read_bytes() for marker in markers(lock_path, "write")} == mine
    assert lock_path.with_name("x.lock.write").read_bytes() in mine.values()
    assert successor.compromise is None
    assert successor.generation is not None
    assert successor.generation > number
    time.sleep(0.5)
    assert successor.compromise is None
    successor.release()
    hold(peer, lock_path, mode)
    assert peer.run("answer = lock.compromise") is None


@pytest.mark.skipif(sys.platform == "win32", reason="nothing stops a process there")
def test_a_stop_that_is_short_costs_nothing(lock_path: Path, peer: Peer) -> None:
    hold(peer, lock_path, "write", heartbeat_interval=0.1, stale_threshold=20)
    peer.stop()
    with pytest.raises(Timeout):
        other(lock_path, **QUICK).acquire_write(1.2)
    peer.cont()
    assert peer.run("answer = lock.compromise") is None
    peer.run("lock.release()")
    assert allowed(lock_path) == "write"


def test_short_waits_evict_together(lock_path: Path) -> None:
    """What one has seen is there for the next one, of another process or not."""
    folder_of(lock_path).mkdir()
    (folder_of(lock_path) / ("1" * 32 + ".4711")).write_text("1" * 32 + "\n4711\nelsewhere\n")
    begin = time.monotonic()
    while True:
        assert time.monotonic() < begin + LONG
        try:
            other(lock_path, heartbeat_interval=0.2, stale_threshold=0.6).acquire_write(0.1)
        except Timeout:
            continue
        break
    assert time.monotonic() - begin > 0.5


def test_the_longer_threshold_counts(lock_path: Path, peer: Peer) -> None:
    """That of the holder, who is of another start of the machine here."""
    hold(peer, lock_path, "read", heartbeat_interval=0.1, stale_threshold=2)
    [marker] = markers(lock_path, "read")
    text = marker.read_text()
    peer.kill()
    marker.write_text(text.replace(host_field(), "elsewhere"))
    begin = time.monotonic()
    with other(lock_path, **QUICK).write_lock(timeout=LONG):
        assert time.monotonic() - begin > 1.9


# Threads, signals, forks, ends.


def test_an_interrupt_ends_a_wait_and_takes_the_claim_back(lock_path: Path) -> None:
    run_program(
        """
        import os, signal, sys, threading
        from ferrolock import SoftReadWriteLock

        path = sys.argv[1]
        reader, lock = (SoftReadWriteLock(path, is_singleton=False) for _ in range(2))
        inside, done = threading.Event(), threading.Event()
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def read():
            with reader.read_lock():
                inside.set()
                done.wait()

        thread = threading.Thread(target=read)
        thread.start()
        inside.wait()
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            lock.acquire_write()
        except KeyboardInterrupt:
            pass
        else:
            raise SystemExit("nothing interrupted it")
        timer.join()
        assert os.listdir(os.path.dirname(path)) == ["x.lock.readers"], os.listdir(os.path.dirname(path))
        with SoftReadWriteLock(path, is_singleton=False).read_lock(timeout=0):
            pass
        done.set()
        thread.join()
        """,
        lock_path,
    )


@forks
@pytest.mark.parametrize("mode", MODES)
def test_a_forked_child_has_no_hold_no_heartbeat_and_its_own_turn(lock_path: Path, mode: str) -> None:
    told: list[LeaseCompromise] = []
    lock = SoftReadWriteLock(lock_path, heartbeat_interval=0.05, stale_threshold=20, on_compromise=told.append)
    acquire(lock, mode)
    [marker] = markers(lock_path, mode)

    def child() -> list[object]:
        seen: list[object] = [lock.generation, lock.compromise, len(os.listdir("/proc/self/task"))]
        lock.release(force=True)
        with pytest.raises(RuntimeError, match="not held"):
            lock.release()
        for waits in (lock.acquire_read, lock.acquire_write):
            try:
                waits(0.05)
            except Timeout:
                seen.append("timeout")
            else:
                seen.append("in")
                lock.release()
        marker.unlink()  # the parent is told, and not the child
        time.sleep(0.5)
        return [*seen, lock.compromise, len(told)]

    threads = 1 if sys.platform == "linux" else None
    if threads is None:
        pytest.skip("nobody tells there how many threads there are")
    came = ["in", "timeout"] if mode == "read" else ["timeout", "timeout"]
    assert in_child(child) == [None, None, threads, *came, None, 0]
    until(lambda: bool(told))
    lock.release()

    def works() -> list[object]:
        with lock.write_lock(timeout=0):
            number = lock.generation
            held = allowed(lock_path)
        return [number is not None, held, allowed(lock_path)]

    assert in_child(works) == [True, "nothing", "write"]
    with lock.write_lock(timeout=0):
        pass


@forks
@pytest.mark.parametrize("way", ["os._exit(0)", "sys.exit()"])
def test_a_child_that_ends_leaves_the_parents_markers(lock_path: Path, way: str) -> None:
    run_program(
        f"""
        import os, sys
        from ferrolock import SoftReadWriteLock

        lock = SoftReadWriteLock(sys.argv[1])
        lock.acquire_write()
        pid = os.fork()
        if not pid:
            {way}
        assert os.waitpid(pid, 0)[1] == 0
        assert sorted(os.listdir(os.path.dirname(sys.argv[1]))) == ["x.lock.readers", "x.lock.write"]
        assert lock.compromise is None
        lock.release()
        """,
        lock_path,
        options=("-W", "ignore::DeprecationWarning"),  # CPython 3.12 and later warn of forks beside a heart
    )


@forks
def test_a_child_made_while_another_thread_waits_takes_part_and_withdraws_nothing(lock_path: Path, peer: Peer) -> None:
    hold(peer, lock_path, "read")
    waiter = other(lock_path)
    with ThreadPoolExecutor(1) as pool:
        write = pool.submit(waiter.acquire_write)
        until_claimed(lock_path)

        def child() -> list[str]:
            seen = []
            for lock in (waiter, other(lock_path)):
                try:
                    lock.acquire_read(0.05)
                except Timeout:
                    seen.append("kept out")
            return seen

        assert in_child(child) == ["kept out", "kept out"]
        assert lock_path.with_name("x.lock.write").exists()
        assert not write.done()
        peer.run("lock.release()")
        assert write.result(LONG).lock is waiter
        pool.submit(waiter.release).result(LONG)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["", "raise SystemExit", "1 / 0"])
def test_a_program_that_ends_holds_nothing(lock_path: Path, peer: Peer, mode: str, end: str) -> None:
    program = f"""
        import os, sys, threading
        from ferrolock import SoftReadWriteLock

        sys.excepthook = lambda *_: os.write(1, b"raised")
        SoftReadWriteLock(sys.argv[1]).acquire_{mode}()
        thread = threading.Thread(target=SoftReadWriteLock(sys.argv[1] + "2").acquire_{mode})
        thread.start()
        thread.join()
        {end}
    """
    if end == "1 / 0":
        with pytest.raises(AssertionError, match=r"^1: "):
            run_program(program, lock_path)
    else:
        run_program(program, lock_path)
    assert sorted(os.listdir(lock_path.parent)) == ["x.lock.readers", "x.lock2.readers"]
    for name in ("x.lock", "x.lock2"):
        assert allowed(lock_path.with_name(name)) == "write"


@pytest.mark.parametrize("mode", MODES)
def test_the_markers_of_a_killed_process_of_this_machine_are_void(lock_path: Path, peer: Peer, mode: str) -> None:
    hold(peer, lock_path, mode)
    peer.kill()
    assert allowed(lock_path) == "write"


# Other machines: namespaces with names of their own.


@LINUX
@ROOT
def test_two_machines_evict_each_other_only_by_time(lock_path: Path, surrounded: Callable[..., Peer]) -> None:
    here, there = (surrounded("--uts", before=f"hostname {name}", lock=SOFT_RW) for name in ("here", "there"))
    assert [peer.run("import socket; answer = socket.gethostname()") for peer in (here, there)] == ["here", "there"]
    for killed, left, mode in ((here, there, "read"), (there, None, "write")):
        hold(killed, lock_path, mode, heartbeat_interval=0.2, stale_threshold=1)
        name = "here" if killed is here else "there"
        [marker] = markers(lock_path, mode)
        assert marker.read_text().splitlines()[2].startswith(f"{name}?lease-1000-200")
        if left is not None:
            told = left.run(
                "try:\n    lock_on(path).acquire_write(0.05)\nexcept TimeoutError as error:\n    answer = str(error)",
                path=lock_path,
            )
            assert told.endswith(f"It is held by pid {killed.pid} on {name}, which this host cannot probe.")
        killed.kill()
        assert allowed(lock_path) != "write", "that may be another machine's"
        assert marker.exists()
        begin = time.monotonic()
        if left is None:
            other(lock_path, **QUICK).acquire_write(LONG)
        else:
            hold(left, lock_path, "write", LONG, **QUICK)
        assert time.monotonic() - begin > 0.5
        assert not marker.exists()
        if left is not None:
            left.run("lock.release()")


OWN = ("--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
ABOUT = """
import os, socket
answer = socket.gethostname(), os.getpid(), *(os.readlink(f"/proc/self/ns/{kind}") for kind in ("uts", "net", "pid"))
"""


@LINUX
@ROOT
@pytest.mark.parametrize("mode", MODES)
def test_machines_with_names_numbers_and_networks_of_their_own(
    lock_path: Path, surrounded: Callable[..., Peer], mode: str
) -> None:
    one = surrounded(*OWN, before="hostname one", lock=SOFT_RW)
    # Not the first process of its machine.
    two = surrounded(*OWN, before='hostname two && "$0" "$@"; exit', lock=SOFT_RW)
    about = [peer.run(ABOUT) for peer in (one, two)]
    assert all(first != second for first, second in zip(*about, strict=True)), about
    # They read together, and who writes is alone.
    hold(one, lock_path, "read")
    hold(two, lock_path, "read", 0)
    assert allowed(lock_path) == "read"
    one.run("lock.release()")
    write = one.begin_run("lock.acquire_write(9)")
    until_claimed(lock_path)
    assert still_waits(write)
    assert allowed(lock_path) == "nothing"
    # One hands over to the other, and back.
    two.run("lock.release()")
    write.result(LONG)
    for gives, takes in ((one, two), (two, one), (one, two)):
        with pytest.raises(PeerError, match="Timeout"):
            takes.run("lock.acquire_read(0.05)")
        take = takes.begin_run("lock.acquire_write(9)")
        assert still_waits(take)
        gives.run("lock.release()")
        take.result(LONG)
    two.run("lock.release()")
    # Who ends there is not known to be dead here, until its time is over.
    hold(one, lock_path, mode, heartbeat_interval=0.2, stale_threshold=1)
    begin = time.monotonic()
    one.kill()
    with pytest.raises(PeerError, match="Timeout"):
        hold(two, lock_path, "write", 0.1, **QUICK)
    hold(two, lock_path, "write", LONG, **QUICK)
    assert time.monotonic() - begin > 0.7
    assert markers(lock_path, "read") == []


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
def test_a_process_that_is_ended_by_a_signal_while_it_waits_keeps_nobody_out(lock_path: Path, peer: Peer) -> None:
    with other(lock_path).read_lock():
        peer.begin_run("lock_on(path).acquire_write()", path=lock_path)
        until_claimed(lock_path)
        os.kill(peer.pid, signal.SIGTERM)
        peer.process.wait(LONG)
        assert lock_path.with_name("x.lock.write").exists()
        assert allowed(lock_path) == "read"
    assert allowed(lock_path) == "write"
