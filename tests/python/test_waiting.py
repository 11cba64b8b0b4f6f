"""Waiting: in turn, at no cost, without a trace, and held up by nobody who is stopped or dead.

The bounds are those of a wait that works at all on a busy machine; how fast it is, the benchmark tells.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_any
from itertools import pairwise
from threading import Semaphore
from typing import TYPE_CHECKING

import pytest

from ferrolock import FileLock
from peers import LONG, Peer, blocks_then_proceeds, is_free, run_program, still_waits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Spawn = Callable[..., Peer]

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a line of waiters, and /proc to look at it")
SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="Windows stops no process by a signal")
SOON = 2.0
"""Seconds within which a waiter gets a lock that is free, though somebody ahead of it will not move."""
TICKS = 0.3
"""Seconds after which a wait is a long one, for which a thread may stand in line."""


class Line:
    """Processes that wait for a lock that this process holds, or another holder than this process."""

    def __init__(self, path: Path, spawn: Spawn, length: int, holder: Peer | None = None) -> None:
        self.path, self.lock = path, FileLock(path)
        assert holder.acquire(path) if holder else self.lock.acquire()
        self.peers = [spawn() for _ in range(length)]
        self.waits = [peer.begin_acquire(path) for peer in self.peers]
        assert all(still_waits(wait) for wait in self.waits), "nothing stopped them"

    def next_holder(self) -> Peer:
        """Wait for one of them to have it, whichever, and take it off the list."""
        done = wait_for_any(self.waits, SOON, FIRST_COMPLETED).done
        assert done, "nobody gets it"
        index = self.waits.index(done.pop())
        assert self.waits.pop(index).result()
        return self.peers.pop(index)

    def let_go(self) -> None:
        """Release it, and have all of them take and release it, in whatever order."""
        self.lock.release()
        while self.waits:
            self.next_holder().release(self.path)


@pytest.fixture(params=[0, 1], ids=["at-the-head", "in-line"])
def line(request: pytest.FixtureRequest, lock_path: Path, spawn: Spawn) -> Line:
    """The lock is held, and nobody or somebody waits for it already."""
    return Line(lock_path, spawn, request.param)


def telling(waiting: Semaphore) -> Callable[[], bool]:
    """A ``cancel_check`` that lets it be known that somebody waits."""

    def check() -> bool:
        waiting.release()
        return False

    return check


TURNS = """
    import time
    lock = lock_on(path)
    check = lambda: tell("waiting")
    while time.monotonic() < end:
        lock.acquire(cancel_check=check)
        check = None
        with open(folder + "/turns", "ab", 0) as record:
            record.write(f"{name} in\\n".encode())
            time.sleep(0.001)
            record.write(f"{name} out\\n".encode())
        lock.release()
"""


def take_turns(peers: list[Peer], path: Path, seconds: float = 1.5) -> list[int]:
    """Have them take turns from a common start; return who had them, checked to be one at a time."""
    with FileLock(path):
        values = {"path": path, "folder": path.parent, "end": time.monotonic() + seconds}
        runs = [peer.begin_run(TURNS, name=name, **values) for name, peer in enumerate(peers)]
        for peer, run in zip(peers, runs, strict=True):
            peer.heard("waiting", unless=run)
    for run in runs:
        run.result(LONG)
    events = [line.split() for line in (path.parent / "turns").read_text().splitlines()]
    for entry, departure in zip(events[::2], events[1::2], strict=True):
        assert (entry[1], departure) == ("in", [entry[0], "out"]), "two were inside"
    return [int(name) for name, _ in events[::2]]


@LINUX
def test_processes_take_turns_in_order(lock_path: Path, spawn: Spawn) -> None:
    order = take_turns([spawn() for _ in range(4)], lock_path)
    shares = Counter(order)
    assert len(order) > 50
    assert sum(one != other for one, other in pairwise(order)) > 0.8 * len(order), shares
    assert min(shares[name] for name in range(4)) >= max(shares.values()) / 3, shares


@LINUX
@pytest.mark.parametrize("poll_interval", [0.05, 0.01])
def test_waiting_costs_next_to_nothing(line: Line, lock_path: Path, spawn: Spawn, poll_interval: float) -> None:
    source = """
        import time
        lock = FileLock(path, poll_interval=poll_interval)
        before = time.process_time()
        try:
            lock.acquire(1.5)
        except TimeoutError:
            answer = time.process_time() - before
    """
    assert spawn().run(source, path=lock_path, poll_interval=poll_interval) < 0.06
    line.lock.release()


@SIGNALS
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("position", [0, 1], ids=["head", "behind"])
def test_a_stopped_or_killed_waiter_is_in_nobodys_way(lock_path: Path, spawn: Spawn, position: int, end: str) -> None:
    """Also not while it is at the head of the line, which then does not move."""
    made, newcomer = Line(lock_path, spawn, 3), spawn()
    victim, wait = made.peers.pop(position), made.waits.pop(position)
    getattr(victim, end)()
    made.lock.release()
    for _ in range(2):
        made.next_holder().release(lock_path)
    for options in ({"timeout": 0}, {"blocking": False}, {"timeout": SOON}, {}, {"timeout": 0}):
        assert newcomer.begin("acquire", path=lock_path, options=options).result(SOON), options
        newcomer.release(lock_path)
    if end == "stop":
        victim.cont()
        assert wait.result(SOON)


@SIGNALS
def test_the_others_keep_taking_turns_while_the_head_of_the_line_is_stopped(lock_path: Path, spawn: Spawn) -> None:
    made = Line(lock_path, spawn, 1)
    made.peers[0].stop()
    made.lock.release()
    shares = Counter(take_turns([spawn() for _ in range(3)], lock_path))
    assert min(shares[name] for name in range(3)) > 10, shares


def test_a_killed_holder_hands_over(lock_path: Path, spawn: Spawn) -> None:
    made = Line(lock_path, spawn, 3)
    made.lock.release()
    for _ in range(3):
        made.next_holder().kill()
    assert is_free(lock_path)


TRACES = """
    import os, signal, time
    from concurrent.futures import ThreadPoolExecutor
    def traces():
        return len(os.listdir("/proc/self/task")), descriptors(path)
    def settle(expected):
        # A thread that was joined is in the list until the kernel has taken it apart.
        deadline = time.monotonic() + 1
        while traces() != expected and time.monotonic() < deadline:
            time.sleep(0.001)
        return traces()
    def give_up(*_):
        raise InterruptedError
    signal.signal(signal.SIGALRM, give_up)
    def wait(end, seconds):
        begin, most = time.monotonic(), 0
        def check():
            nonlocal most
            most = max(most, traces()[0])
            if end == "raise" and time.monotonic() > begin + seconds:
                raise InterruptedError
            return end == "cancel" and time.monotonic() > begin + seconds
        if end == "interrupt":
            signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            FileLock(path).acquire(seconds if end == "timeout" else -1, cancel_check=check)
        except (TimeoutError, InterruptedError):
            return time.monotonic() - begin, most
        raise AssertionError("nobody held it")
    before = traces()
"""


@LINUX
@pytest.mark.parametrize("end", ["timeout", "cancel", "raise", "interrupt"])
def test_a_wait_that_is_given_up_leaves_nothing_behind(line: Line, lock_path: Path, spawn: Spawn, end: str) -> None:
    waiter = spawn()
    waiter.run(TRACES, path=lock_path)
    assert waiter.run("answer = before") == [1, []]
    elapsed, most = waiter.run("answer = wait(end, seconds)", end=end, seconds=TICKS)
    assert elapsed >= TICKS
    assert most <= 2, "more than one helper"
    assert waiter.run("answer = settle(before)") == [1, []]
    line.let_go()


MANY = {
    "a-hundred-in-a-row": "answer = min(wait('timeout', n % 10 / 200)[0] - n % 10 / 200 for n in range(1, 101))",
    "twenty-at-a-time": """
        with ThreadPoolExecutor(20) as pool:
            answer = min(elapsed - 0.3 for elapsed, _ in pool.map(wait, ["timeout"] * 20, [0.3] * 20))
    """,
}


@LINUX
@pytest.mark.parametrize("many", MANY)
def test_many_waits_that_time_out_leave_nothing_behind_and_none_is_early(
    line: Line, lock_path: Path, spawn: Spawn, many: str
) -> None:
    waiter = spawn()
    waiter.run(TRACES, path=lock_path)
    assert waiter.run(MANY[many]) >= 0
    assert waiter.run("answer = settle(before)") == [1, []]
    line.let_go()


@LINUX
@pytest.mark.skipif(shutil.which("strace") is None, reason="has a call fail with strace")
@pytest.mark.parametrize("fault", ["tgkill:error=EPERM", "timer_create:error=EPERM", "clone3:error=EAGAIN"])
def test_a_wait_ends_in_time_where_a_call_is_forbidden(line: Line, lock_path: Path, fault: str) -> None:
    """By a sandbox, or a limit: its thread cannot be interrupted, no timer or thread is to be had."""
    source = """
        import sys, time
        from ferrolock import FileLock, Timeout
        begin = time.monotonic()
        try:
            FileLock(sys.argv[1]).acquire(timeout=0.5)
        except Timeout:
            print(time.monotonic() - begin)
    """
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={fault}"]
    program = [sys.executable, "-c", textwrap.dedent(source), str(lock_path)]
    with subprocess.Popen([*strace, *program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            said, errors = started.communicate(timeout=LONG)
        finally:
            line.let_go()  # what hangs ends with that
    if "ptrace" in errors:
        pytest.skip(f"strace may not trace here: {errors.strip()}")
    assert 0.5 <= float(said) < 0.5 + SOON


@pytest.fixture(params=["flock", "filelock"])
def stranger(request: pytest.FixtureRequest, spawn: Spawn, filelock_folder: Callable[[str], Path]) -> Peer:
    """Somebody who knows nothing of a line."""
    if request.param == "filelock":
        return spawn(lock="filelock.FileLock", folder=filelock_folder("4.2.12"))
    if sys.platform == "win32":
        pytest.skip("Windows has no flock")
    return spawn(lock="peers.TrustingLock")


def test_who_knows_of_no_line_excludes_and_is_excluded(
    stranger: Peer, spawn: Spawn, lock_path: Path, tmp_path: Path
) -> None:
    made = Line(lock_path, spawn, 2, holder=stranger)
    assert all(still_waits(wait, TICKS) for wait in made.waits)
    stranger.release(lock_path)
    ours = [made.next_holder()]
    assert not stranger.acquire(lock_path, timeout=0)
    ours[0].release(lock_path)
    ours.append(made.next_holder())
    assert blocks_then_proceeds(stranger.begin_acquire(lock_path), lambda: ours[1].release(lock_path))
    stranger.release(lock_path)
    (tmp_path / "counter").touch()
    runs = [peer.begin("turns", path=lock_path, folder=tmp_path, rounds=30, party=3) for peer in (stranger, *ours)]
    assert [run.result(2 * LONG) for run in runs] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "90"


RECORD_LOCK = """
    import fcntl, os, struct
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if byte is None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    else:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
"""
TURNSTILE = 0x7EEE_0000_0000_0000
"""The byte that the head of the line has locked; see docs/architecture/waiting.md."""


@LINUX
@pytest.mark.parametrize("byte", [None, TURNSTILE], ids=["whole-file", "turnstile"])
def test_only_a_lock_of_the_turnstile_counts_as_a_line(spawn: Spawn, lock_path: Path, byte: int | None) -> None:
    spawn().run(RECORD_LOCK, path=lock_path, byte=byte)
    asked, begin = Semaphore(0), time.monotonic()
    with FileLock(lock_path).acquire(cancel_check=telling(asked)):
        assert time.monotonic() - begin < SOON
        waiter = spawn()
        wait = waiter.begin_acquire(lock_path)
        assert still_waits(wait, TICKS)
    assert wait.result(SOON), "it waits for the record lock"
    assert asked.acquire(blocking=False) == (byte is not None)
    waiter.release(lock_path)
    with FileLock(lock_path, timeout=0):
        pass


@LINUX
def test_a_fork_after_a_contended_wait_finds_no_other_thread(line: Line, lock_path: Path, spawn: Spawn) -> None:
    """From 3.12 on Python itself looks at this number, and the warning would be an error here."""
    waiter = spawn("-W", "error")
    source = """
        import os
        lock = FileLock(path, poll_interval=0.01)
        lock.acquire(cancel_check=lambda: tell("waiting"))
        with open("/proc/self/stat") as stat:
            answer = int(stat.read().rpartition(")")[2].split()[17])
        if not os.fork():
            os._exit(0)
        os.wait()
        lock.release()
    """
    ahead = list(line.peers)
    for _ in range(5):
        wait = waiter.begin_run(source, path=lock_path)
        waiter.heard("waiting", unless=wait)
        assert still_waits(wait)
        line.let_go()
        assert wait.result(SOON) == 1
        line.lock.acquire(SOON)
        line.peers, line.waits = list(ahead), [peer.begin_acquire(lock_path) for peer in ahead]


@LINUX
def test_a_fork_in_the_middle_of_a_long_wait_makes_two_of_it(line: Line, lock_path: Path, spawn: Spawn) -> None:
    waiter = spawn()
    source = """
        import os, time
        due, pids, lock = time.monotonic() + seconds, [], FileLock(path)
        def fork_once():
            if not pids and time.monotonic() > due:
                pids.append(os.fork())
                tell("forked")
        lock.acquire(cancel_check=fork_once)
        answer = lock.lock_counter, len(descriptors(path))
        lock.release()
        if not pids[0]:
            tell("child", answer)
            os._exit(0)
        os.waitpid(pids[0], 0)
    """
    wait = waiter.begin_run(source, path=lock_path, seconds=TICKS)
    for _ in range(2):
        waiter.heard("forked", unless=wait)
    assert still_waits(wait)
    line.let_go()
    assert waiter.heard("child", unless=wait) == [1, 1]
    assert wait.result(LONG) == [1, 1]


@LINUX
@pytest.mark.parametrize("end", ["pass", "os._exit(0)", "raise SystemExit(0)"])
def test_a_program_that_ends_while_daemons_wait_has_nothing_to_say(line: Line, lock_path: Path, end: str) -> None:
    source = """
        import os, sys, threading, time, ferrolock
        due, long = time.monotonic() + float(sys.argv[2]), threading.Semaphore(0)
        def check():
            if time.monotonic() > due:
                long.release()
        for _ in range(3):
            wait = lambda: ferrolock.FileLock(sys.argv[1]).acquire(cancel_check=check)
            threading.Thread(target=wait, daemon=True).start()
        for _ in range(9):
            long.acquire()
    """
    run_program(textwrap.dedent(source) + end, lock_path, TICKS, options=("-W", "error"))
    line.let_go()


def test_threads_of_one_process_take_turns(spawn: Spawn, lock_path: Path) -> None:
    holder, waiting, order = spawn(), Semaphore(0), list[int]()

    def take_three(name: int) -> None:
        for _ in range(3):
            with FileLock(lock_path).acquire(cancel_check=telling(waiting)):
                order.append(-1)
                time.sleep(0.001)
                assert order[-1] == -1, "two were inside"
                order[-1] = name

    assert holder.acquire(lock_path)
    with ThreadPoolExecutor(20) as pool:
        runs = [pool.submit(take_three, name) for name in range(20)]
        for _ in runs:
            waiting.acquire(timeout=LONG)
        holder.release(lock_path)
        for run in runs:
            run.result(LONG)
    assert len(order) == 60
    assert len(set(order[:20])) > 10, order


def test_a_thread_nests_as_soon_as_another_one_has_waited_for_the_shared_lock(spawn: Spawn, lock_path: Path) -> None:
    holder, lock, waiting = spawn(), FileLock(lock_path, thread_local=False), Semaphore(0)
    assert holder.acquire(lock_path)
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(lock.acquire, cancel_check=telling(waiting)) for _ in range(3)]
        for _ in waits:
            waiting.acquire(timeout=LONG)
        assert all(still_waits(wait) for wait in waits)
        holder.release(lock_path)
        for wait in waits:
            wait.result(SOON)
    assert lock.lock_counter == 3
    lock.release(force=True)


WAYS = {
    "handled": "signal.signal(number, handler)",
    "ignored": "signal.signal(number, signal.SIG_IGN)",
    "handled-later": "wait('timeout', 0.05); signal.signal(number, handler)",
    "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "no-room": "import resource; resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))",
    "untouched": "",
}


@LINUX
@pytest.mark.parametrize("way", WAYS)
def test_a_wait_gets_along_with_whatever_the_program_does_with_signals(
    line: Line, lock_path: Path, spawn: Spawn, way: str
) -> None:
    waiter = spawn()
    source = """
        number, called = signal.SIGURG, []
        handler = lambda *_: called.append(1)
        def facts():
            with open("/proc/self/status") as status:
                table = dict(line.split(":", 1) for line in status)
            # Without this one, and the C library's own.
            caught = int(table["SigCgt"], 16) & sum(1 << n - 1 for n in signal.valid_signals() - {number})
            return called, traces(), caught, [table[name] for name in ("SigBlk", "SigIgn", "SigPnd", "ShdPnd")]
    """
    waiter.run(TRACES + textwrap.indent(textwrap.dedent(source), "    "), path=lock_path)
    before = waiter.run(f"{WAYS[way]}\nsettle(before); answer = facts()")
    assert waiter.run("answer = wait('timeout', seconds)[0]", seconds=TICKS) >= TICKS
    line.peers.append(waiter)
    line.waits.append(waiter.begin_acquire(lock_path))
    assert all(still_waits(wait) for wait in line.waits)
    line.let_go()
    assert waiter.run("settle(before); answer = facts()") == before


@pytest.mark.parametrize("keep", [True, False], ids=["replaced", "removed"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no open file")
def test_all_get_a_lock_whose_file_changes_while_they_wait_one_at_a_time(
    spawn: Spawn, lock_path: Path, tmp_path: Path, keep: bool
) -> None:
    lock, new = FileLock(lock_path, timeout=LONG), tmp_path / "new"
    (tmp_path / "counter").touch()
    with lock:
        runs = [spawn().begin("turns", path=lock_path, folder=tmp_path, rounds=30, party=3) for _ in range(3)]
        while len(list(tmp_path.glob("ready.*"))) < 3:
            assert still_waits(runs[0], 0.01)
        assert still_waits(runs[0])
    for _ in range(10):
        with lock:
            new.touch()
            new.replace(lock_path) if keep else lock_path.unlink()
    assert [run.result(LONG) for run in runs] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "90"
