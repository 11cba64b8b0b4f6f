"""A marker does not go with its process: who removes it when the process ends, and who judges it otherwise."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from ferrolock import SoftFileLock
from peers import LONG, Peer, blocks_then_proceeds, run_program
from soft_peers import contents, is_free, names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNIX = pytest.mark.skipif(os.name != "posix", reason="needs fork, exec and signals")

PRELUDE = """
import os, signal, sys, threading
from ferrolock import SoftFileLock
path = sys.argv[1]
lock = SoftFileLock(path)
"""


def run(source: str, path: Path) -> tuple[int, str]:
    """Run a program to its end, whatever that is; return its status and what it says on stderr."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(source), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LONG)
    return done.returncode, done.stderr


REMOVED = {
    "at the end of the program": ("lock.acquire()", 0),
    "held twice over": ("lock.acquire(); lock.acquire()", 0),
    "by sys.exit": ("lock.acquire(); sys.exit(3)", 3),
    "by sys.exit in a with block": ("with lock: sys.exit(3)", 3),
    "by an exception that nobody catches": ("lock.acquire(); raise ValueError", 1),
    "by an interrupt": ("lock.acquire(); signal.raise_signal(signal.SIGINT)", None),
    "by a lock for all threads": ("lock = SoftFileLock(path, thread_local=False); lock.acquire()", 0),
    "by a singleton": ("lock = SoftFileLock(path, is_singleton=True); lock.acquire()", 0),
    "by a proxy": ("proxy = SoftFileLock(path).acquire()", 0),
    "in a cycle": ("lock.itself = lock; lock.acquire(); del lock", 0),
    "by a thread that is gone": (
        "thread = threading.Thread(target=lock.acquire); thread.start(); thread.join()",
        0,
    ),
    "by a thread that ends after the main thread": (
        """
        ended = threading.Event()
        def hold():
            lock.acquire()
            held.set()
            threading.main_thread().join()
        held = threading.Event()
        threading.Thread(target=hold).start()
        held.wait()
        """,
        0,
    ),
    "after the working directory is another one": (
        """
        os.chdir(os.path.dirname(path))
        lock = SoftFileLock("x.lock")
        lock.acquire()
        os.chdir("/")
        """,
        0,
    ),
    "by an object that is never collected": (
        "import ctypes; ctypes.pythonapi.Py_IncRef(ctypes.py_object(lock)); lock.acquire()",
        0,
    ),
    "by a thread that is gone, and an object that is never collected": (
        """
        import ctypes
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(lock))
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        thread.join()
        """,
        0,
    ),
    "by an exit handler that came first": (
        "import atexit; atexit.register(lock.acquire, timeout=0); lock.acquire(); lock.release()",
        0,
    ),
}
ABRUPT = {
    "os._exit": "os._exit(0)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "abort": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()",
}


@pytest.mark.parametrize("situation", REMOVED)
def test_a_program_that_ends_while_it_holds_removes_its_marker(lock_path: Path, situation: str) -> None:
    source, status = REMOVED[situation]
    found, said = run(source, lock_path)
    assert names(lock_path.parent) == [], said
    assert status in (None, found), said


def test_a_finished_program_removes_nobody_elses_marker(lock_path: Path) -> None:
    lock_path.with_name("y.lock").write_bytes(b"4711\nelsewhere\n")
    run("lock.acquire(); os.unlink(path); open(path, 'w').write('4711\\nelsewhere\\n')", lock_path)
    assert names(lock_path.parent) == ["x.lock", "y.lock"]
    assert SoftFileLock(lock_path).pid == 4711


@UNIX
@pytest.mark.parametrize("end", ABRUPT)
def test_a_process_that_just_ends_leaves_its_marker_and_the_next_one_takes_it(lock_path: Path, end: str) -> None:
    run(f"lock.acquire(); print('held', flush=True); {ABRUPT[end]}", lock_path)
    assert names(lock_path.parent) == ["x.lock"]
    assert SoftFileLock(lock_path).pid is not None
    assert is_free(lock_path)
    assert names(lock_path.parent) == []


BY_DAEMONS = {
    "holding": """
        def hold():
            with lock:
                held.set()
                threading.Event().wait()
    """,
    "holding for all threads": """
        lock = SoftFileLock(path, thread_local=False)
        def hold():
            lock.acquire()
            held.set()
            threading.Event().wait()
    """,
    "getting it from the thread that ends the program": """
        lock.acquire()
        def hold():
            SoftFileLock(path).acquire(cancel_check=held.set)
            threading.Event().wait()
    """,
}


@pytest.mark.parametrize("situation", BY_DAEMONS)
def test_the_marker_of_a_thread_that_still_runs_stays_and_is_judged_later(lock_path: Path, situation: str) -> None:
    """At the end of the program it may be at work yet; when the process has ended, it is not."""
    start = "held = threading.Event(); threading.Thread(target=hold, daemon=True).start(); held.wait()"
    status, said = run(f"{textwrap.dedent(BY_DAEMONS[situation])}\n{start}", lock_path)
    assert (status, said) == (0, "")
    if "getting" not in situation:  # whether it still gets it, nobody can say
        assert names(lock_path.parent) == ["x.lock"]
    assert is_free(lock_path)
    assert names(lock_path.parent) == []


@UNIX
@pytest.mark.parametrize("leave", ["sys.exit()", "raise ValueError", "os._exit(0)", "lock.release(force=True)", "pass"])
def test_no_end_of_a_forked_child_touches_its_parents_marker(lock_path: Path, leave: str) -> None:
    program = f"""
        import os, sys
        from ferrolock import SoftFileLock

        path = sys.argv[1]
        lock = SoftFileLock(path)
        lock.acquire()

        def look():
            # Not the time of the last access, which looking moves.
            facts = os.lstat(path)
            return facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_nlink, open(path).read()

        before = look()
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            os.close(2)
            {leave}
        else:
            os.waitpid(pid, 0)
            print(look() == before, lock.lock_counter, lock.is_lock_held_by_us)
    """
    assert run_program(program, lock_path) == "True 1 True\n"
    assert names(lock_path.parent) == []


@UNIX
@pytest.mark.parametrize(("leave", "left"), [("sys.exit()", []), ("os._exit(0)", ["x.lock"])])
def test_a_forked_childs_own_marker_goes_as_any_processes_does(lock_path: Path, leave: str, left: list[str]) -> None:
    program = f"""
        import os, sys
        from ferrolock import SoftFileLock

        path = sys.argv[1]
        lock, other = SoftFileLock(path), SoftFileLock(path + ".other")
        other.acquire()
        pid = os.fork()
        if not pid:
            lock.acquire(timeout=0)
            {leave}
        os.waitpid(pid, 0)
    """
    run_program(program, lock_path)
    assert names(lock_path.parent) == left
    assert is_free(lock_path)


@UNIX
def test_forks_while_threads_acquire_and_release_disturb_no_marker(soft: Callable[[], Peer], lock_path: Path) -> None:
    """Wherever in a transition a fork meets the other threads: the child has nothing of theirs, and can lock."""
    source = """
        import os, threading, time
        lock, done = FileLock(path), threading.Event()
        turns = 0

        def cycle():
            global turns
            while not done.is_set():
                with lock:
                    turns += 1

        def look():
            state = lock.is_locked, lock.lock_counter
            lock.release(force=True)
            with FileLock(path, timeout=10), FileLock(path + ".other", timeout=0) as new:
                return state, new.is_lock_held_by_us

        threads = [threading.Thread(target=cycle) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            answer = [in_child(look) for _ in range(10)]
        finally:
            done.set()
            for thread in threads:
                thread.join()
    """
    parent = soft()
    assert parent.begin_run(source, path=lock_path).result(4 * LONG) == [[[False, 0], True]] * 10
    assert names(lock_path.parent) == []


@UNIX
def test_a_program_that_becomes_another_one_still_holds(lock_path: Path) -> None:
    """The process is the same one: nobody can say that it has lost the lock."""
    command = [sys.executable, "-c", f"{PRELUDE}\nlock.acquire(); os.execvp('cat', ['cat'])", str(lock_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            program.stdin.write(b"running\n")
            program.stdin.flush()
            assert program.stdout.readline() == b"running\n"
            before = contents(lock_path.parent)
            assert SoftFileLock(lock_path).pid == program.pid
            assert not is_free(lock_path)
            assert contents(lock_path.parent) == before
        finally:
            program.kill()
    assert is_free(lock_path)


@UNIX
def test_a_waiter_takes_over_from_a_holder_that_nobody_has_reaped(soft: Callable[[], Peer], lock_path: Path) -> None:
    """A zombie: it still has its number, and ``kill(pid, 0)`` finds it."""
    parent, waiter = soft(), soft()
    parent.run(
        """
        import os
        ready, told = os.pipe()
        child = os.fork()
        if not child:
            lock = FileLock(path)
            lock.acquire()
            os.write(told, b".")
            os.read(0, 1)
        os.read(ready, 1)
        answer = child
        """,
        path=lock_path,
    )
    child = SoftFileLock(lock_path).pid
    assert child is not None
    assert blocks_then_proceeds(waiter.begin_acquire(lock_path), lambda: os.kill(child, signal.SIGKILL))
    os.kill(child, 0)
    waiter.release(lock_path)
    assert names(lock_path.parent) == []


DELAYED = "inject=unlinkat:delay_enter=400000:when=1"
"""The first removal of each thread comes when that thread has long looked what it removes."""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("strace") is None, reason="slows a call with strace")
def test_of_an_end_and_a_release_in_the_same_moment_only_one_removes_the_marker(lock_path: Path) -> None:
    """The other would remove the next holder's."""
    source = """
        from ferrolock import _native
        lock = SoftFileLock(path, thread_local=False)
        lock.acquire()
        releaser = threading.Thread(target=lock.release)
        releaser.start()
        looks = [""]
        while looks != [looks[-1]] * 100:  # it stands still: at the delayed call
            with open(f"/proc/self/task/{releaser.native_id}/syscall") as file:
                looks = [*looks[-99:], file.read()]
            time.sleep(0.001)
        taken = threading.Event()
        def take():
            next_lock = SoftFileLock(path)
            next_lock.acquire(timeout=10)
            taken.set()
            releaser.join()
            ended.wait()
        ended = threading.Event()
        taker = threading.Thread(target=take)
        taker.start()
        _native.remove_markers_at_exit()
        assert taken.wait(10)
        there = os.path.exists(path)
        ended.set()
        assert there, "it was removed under its holder"
    """
    command = [sys.executable, "-c", PRELUDE + "import time\n" + textwrap.dedent(source), str(lock_path)]
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", DELAYED]
    done = subprocess.run([*strace, *command], capture_output=True, text=True, timeout=3 * LONG)
    if "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
