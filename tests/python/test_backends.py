"""Locks of the user's own making get from the base class what ours have."""

from __future__ import annotations

import errno
import gc
import logging
import os
import pickle
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backends import Counted, Exclusive
from ferrolock import BaseFileLock, FileLock, SoftFileLock, Timeout, _api
from peers import LONG, SHORT, blocks_then_proceeds, run_program, still_waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers import Contender


def context_of(lock: Any) -> Any:
    """Its context, of which type checkers may know too much."""
    return lock._context


def test_both_steps_are_needed(lock_path: Path) -> None:
    class Half(BaseFileLock):
        def _acquire(self) -> None:
            """Nothing."""

    construct: Any = BaseFileLock
    half: Any = Half
    for cls, missing in ((construct, "_acquire, _release"), (half, "_release")):
        with pytest.raises(TypeError, match=f"Can't instantiate abstract class {cls.__name__} .* {missing}$"):
            cls(lock_path)


def test_it_is_held_counted_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "x.lock"
    lock = Counted(str(path))
    with lock as entered, lock.acquire() as again:
        assert entered is again is lock
        assert (lock.is_locked, lock.lock_counter, lock.names()) == (True, 2, ["acquire"])
        assert path.exists()
    assert (lock.is_locked, lock.lock_counter, lock.names()) == (False, 0, ["acquire", "release"])
    assert not path.exists()

    @lock
    def job() -> bool:
        return path.exists() and lock.is_locked

    assert job()
    assert not path.exists()
    lock.acquire()
    lock.acquire()
    lock.release(force=True)
    lock.release()
    assert lock.names() == ["acquire", "release"] * 3


def test_its_context_has_filelocks_names(lock_path: Path) -> None:
    lock = Exclusive(lock_path, timeout=3, mode=0o640, lifetime=None, poll_interval=0.2)
    context = context_of(lock)
    assert type(context).__name__ == "ThreadLocalFileContext"
    assert (context.lock_file, context.lock_file_fd, context.lock_counter) == (str(lock_path), None, 0)
    assert (context.timeout, context.mode, context.blocking, context.lifetime) == (3, 0o640, True, None)
    assert (lock._open_mode(), Exclusive(lock_path)._open_mode()) == (0o640, 0o666)
    assert Exclusive(lock_path)._context.mode == _api.UNSET_FILE_MODE == -1
    context.timeout, context.poll_interval, context.blocking = 5, 0.1, False
    assert (lock.timeout, lock.poll_interval, lock.blocking) == (5, 0.1, False)
    with lock:
        assert context.lock_counter == 1
        assert context.lock_file_fd is not None
        assert os.fstat(context.lock_file_fd).st_ino == lock_path.stat().st_ino
        with pytest.raises(AttributeError):
            context.lock_counter = 0
    assert context.lock_file_fd is None
    with pytest.raises(RuntimeError, match=r"in _acquire\(\) only"):
        context.lock_file_fd = 5
    assert not isinstance(Exclusive(lock_path, thread_local=False)._context, _api.ThreadLocalFileContext)


@pytest.mark.parametrize("cls", [FileLock, SoftFileLock])
def test_the_context_of_our_locks_can_be_read(lock_path: Path, cls: Any) -> None:
    lock = cls(lock_path)
    assert context_of(lock).lock_file_fd is None
    with lock:
        assert os.fstat(context_of(lock).lock_file_fd).st_ino == lock_path.stat().st_ino
        with pytest.raises(RuntimeError):
            context_of(lock).lock_file_fd = None
    assert context_of(lock).lock_file_fd is None
    for step in (lock._acquire, lock._release):
        with pytest.raises(RuntimeError, match=r"is for (acquire|release)\(\) to call"):
            step()


def test_who_waits_makes_an_attempt_every_poll_interval_and_none_sooner(lock_path: Path) -> None:
    lock = Counted(lock_path, poll_interval=0.02)
    questions: list[int] = []

    def ask() -> bool:
        questions.append(len(lock.steps))
        return False

    with Exclusive(lock_path):
        with pytest.raises(Timeout):
            lock.acquire(timeout=0)
        with pytest.raises(Timeout):
            lock.acquire(blocking=False)
        assert lock.names() == ["acquire"] * 2
        lock.steps.clear()
        with pytest.raises(Timeout):
            lock.acquire(timeout=0.11, cancel_check=ask)
        assert 2 <= len(lock.steps) <= 7
        assert questions == list(range(1, len(questions) + 1)), "once after each failed attempt"
        with pytest.raises(Timeout):
            lock.acquire(timeout=LONG, cancel_check=lambda: True)
    assert (lock.is_locked, lock._context.lock_file_fd) == (False, None)
    assert lock.waits_by == "polling"


def test_the_log_says_of_it_what_it_says_of_ours(lock_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def told(cls: Any, path: Path) -> list[str]:
        caplog.clear()
        with cls(path), pytest.raises(Timeout):
            cls(path).acquire(blocking=False)
        return [record.msg for record in caplog.records]

    caplog.set_level(logging.DEBUG, "filelock")
    assert told(Exclusive, lock_path) == told(FileLock, lock_path.with_suffix(".other"))


def test_it_excludes_and_lets_the_next_one_in(lock_path: Path, contender: Callable[..., Contender]) -> None:
    first, second = (contender(lock_path, lock="backends.Exclusive") for _ in range(2))
    assert first.acquire()
    assert not second.acquire(timeout=0)
    blocks_then_proceeds(second.begin_acquire(), first.release)
    assert not first.acquire(timeout=0)
    second.release()
    assert not lock_path.exists()


def test_threads_that_share_an_object_exclude_each_other_and_each_has_its_descriptor(lock_path: Path) -> None:
    lock = Exclusive(lock_path)
    with ThreadPoolExecutor(1) as thread:
        lock.acquire()
        assert thread.submit(lambda: (lock.is_locked, lock._context.lock_file_fd)).result(LONG) == (False, None)
        wait = thread.submit(lock.acquire)
        blocks_then_proceeds(wait, lock.release)
        assert lock._context.lock_file_fd is None
        assert thread.submit(lambda: lock._context.lock_file_fd).result(LONG) is not None
        thread.submit(lock.release).result(LONG)
    assert not lock_path.exists()


def test_no_two_threads_are_in_a_step_of_one_context_at_once(lock_path: Path) -> None:
    lock, entered, go_on = Counted(lock_path, thread_local=False), threading.Event(), threading.Event()

    def wait_there() -> None:
        entered.set()
        assert go_on.wait(LONG)

    lock.in_acquire = wait_there
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(lock.acquire)
        assert entered.wait(LONG)
        with pytest.raises(Timeout):
            lock.acquire(blocking=False)
        second = threads.submit(lock.acquire)
        assert still_waits(second)
        go_on.set()
        assert first.result(LONG).lock is second.result(LONG).lock is lock
        assert (lock.lock_counter, lock.names()) == (2, ["acquire"])
        entered.clear()
        go_on.clear()
        lock.in_acquire, lock.in_release = None, wait_there
        release = threads.submit(lock.release, force=True)
        assert entered.wait(LONG)
        with pytest.raises(Timeout):
            lock.acquire(blocking=False)
        go_on.set()
        release.result(LONG)
    assert lock.names() == ["acquire", "release"]
    assert not lock_path.exists()


@pytest.mark.parametrize("thread_local", [True, False])
def test_a_step_does_not_wait_for_itself(lock_path: Path, thread_local: bool) -> None:
    lock = Counted(lock_path, thread_local=thread_local)
    found: list[str] = []

    def acquire_again() -> None:
        with pytest.raises(RuntimeError, match="while this thread"):
            lock.acquire()
        found.append("refused")

    lock.in_acquire = lock.in_release = acquire_again
    with lock:
        assert found == ["refused"]
    assert (found, lock.is_locked) == (["refused"] * 2, False)


def test_there_is_one_object_for_each_path(lock_path: Path) -> None:
    lock = Exclusive(lock_path, is_singleton=True, timeout=1)
    assert Exclusive(lock_path, is_singleton=True, timeout=1) is lock
    assert Exclusive._instances.get(str(lock_path)) is lock
    assert not Counted._instances
    with pytest.raises(ValueError, match="timeout"):
        Exclusive(lock_path, is_singleton=True, timeout=2)


def test_a_wait_for_oneself_is_refused(lock_path: Path) -> None:
    for holder, contender in ((Exclusive, Exclusive), (Exclusive, SoftFileLock), (SoftFileLock, Exclusive)):
        with holder(lock_path), pytest.raises(RuntimeError, match="Deadlock"):
            contender(lock_path).acquire()


def test_a_pickle_is_unheld_and_works(lock_path: Path) -> None:
    with Exclusive(lock_path, timeout=0.01) as lock:
        again = pickle.loads(pickle.dumps(lock))
        assert (type(again), again.timeout, again.is_locked) == (Exclusive, 0.01, False)
        with pytest.raises(Timeout):
            again.acquire()
    with again:
        assert lock_path.exists()


def test_the_hook_gets_its_descriptor(lock_path: Path) -> None:
    seen: list[int] = []
    with Exclusive(lock_path, on_acquired=seen.append) as lock:
        assert seen == [lock._context.lock_file_fd]


def test_a_dropped_lock_is_released(lock_path: Path) -> None:
    Exclusive(lock_path).acquire()
    assert not lock_path.exists()
    lock: Any = Exclusive(lock_path)
    lock.itself = lock
    lock.acquire()
    del lock
    gc.collect()
    assert not lock_path.exists()


def test_holds_of_other_threads_are_released_with_their_descriptors(lock_path: Path) -> None:
    lock: Any = Exclusive(lock_path)
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    assert lock_path.exists()
    lock.release()
    assert lock_path.exists()
    lock.release(force=True)
    assert not lock_path.exists()
    held, end = threading.Event(), threading.Event()
    locks = [Exclusive(lock_path)]

    def hold() -> None:
        locks[0].acquire()
        held.set()
        end.wait(LONG)

    living = threading.Thread(target=hold)
    living.start()
    assert held.wait(LONG)
    locks.clear()
    assert not lock_path.exists()
    end.set()
    living.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_child_has_neither_the_hold_nor_the_descriptor(lock_path: Path) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from backends import Counted
from ferrolock import Timeout
lock = Counted(sys.argv[1], timeout=0)
lock.acquire()
descriptor = lock._context.lock_file_fd
reader, writer = os.pipe()
child = os.fork()
if not child:
    def is_open():
        try:
            os.fstat(descriptor)
        except OSError:
            return False
        return True
    found = [lock.is_locked, lock.lock_counter, lock._context.lock_file_fd, is_open()]
    lock.release(force=True)
    try:
        lock.acquire()
    except Timeout:
        found.append("excluded")
    os.write(writer, repr(found).encode())
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reader, 1000).decode(), os.path.exists(sys.argv[1]), lock.is_locked)
lock.release()
child = os.fork()
if not child:
    with lock:
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    lines = run_program(program, lock_path).splitlines()
    assert lines == ["[False, 0, None, False, 'excluded'] True True", "7"]


def test_what_a_step_raises_comes_out_and_nothing_is_held(lock_path: Path) -> None:
    error = KeyError("mine")

    def fail() -> None:
        raise error

    lock = Counted(lock_path)
    lock.in_acquire = fail
    with pytest.raises(KeyError) as raised:
        lock.acquire()
    assert raised.value is error
    assert (lock.is_locked, lock.lock_counter, lock.names()) == (False, 0, ["acquire"])
    lock.in_acquire = None
    with lock:
        pass
    with Exclusive(lock_path):
        attempts = iter([None, None, fail])
        lock.in_acquire = lambda: (step := next(attempts)) and step()
        with pytest.raises(KeyError) as raised:
            lock.acquire(timeout=LONG, poll_interval=0.001)
        assert raised.value is error
    assert not lock.is_locked


def test_a_step_that_fails_with_the_lock_in_hand_gives_it_back(lock_path: Path) -> None:
    class Late(Counted):
        def _acquire(self) -> None:
            super()._acquire()
            raise KeyError("late")

    class Invented(Counted):
        def _acquire(self) -> None:
            self._note("acquire")
            self._context.lock_file_fd = 987_654

        def _release(self) -> None:
            self._note("release")
            self._context.lock_file_fd = None

    late, invented = Late(lock_path), Invented(lock_path)
    with pytest.raises(KeyError, match="late"):
        late.acquire()
    with pytest.raises(OSError, match="Bad file descriptor") as raised:
        invented.acquire()
    assert raised.value.errno == errno.EBADF
    for lock in (late, invented):
        assert lock.names() == ["acquire", "release"]
        assert (lock.is_locked, lock.lock_counter, lock._context.lock_file_fd) == (False, 0, None)
    assert not lock_path.exists()


def test_a_release_that_fails_is_over_if_the_descriptor_is_gone(lock_path: Path) -> None:
    class Late(Exclusive):
        def _release(self) -> None:
            super()._release()
            raise KeyError("late")

    def fail() -> None:
        raise KeyError("early")

    lock: Any = Late(lock_path)
    lock.acquire()
    with pytest.raises(KeyError, match="late"):
        lock.release()
    assert (lock.is_locked, lock_path.exists()) == (False, False)
    lock = Counted(lock_path)
    lock.acquire()
    lock.in_release = fail
    for _ in range(2):
        with pytest.raises(KeyError, match="early"):
            lock.release()
        assert (lock.is_locked, lock.lock_counter, lock_path.exists()) == (True, 1, True)
    lock.in_release = None
    lock.release()
    assert (lock.is_locked, lock_path.exists()) == (False, False)


def test_a_release_that_forgets_to_say_so_is_told(lock_path: Path) -> None:
    class Forgetful(Exclusive):
        is_forgetful = True

        def _release(self) -> None:
            if not self.is_forgetful:
                super()._release()

    lock = Forgetful(lock_path)
    lock.acquire()
    with pytest.raises(RuntimeError, match=r"has not set self\._context\.lock_file_fd to None"):
        lock.release()
    assert lock.is_locked
    lock.is_forgetful = False
    lock.release()
    assert not lock.is_locked


def test_coroutines_need_a_lock_for_tasks(lock_path: Path) -> None:
    class Wrong(Exclusive):
        async def _acquire(self) -> None:  # type: ignore[override]
            """Nothing."""

    with pytest.raises(TypeError, match="has to be a BaseAsyncFileLock"):
        Wrong(lock_path).acquire()


@pytest.mark.parametrize("cls", [FileLock, SoftFileLock])
def test_a_class_can_add_to_our_steps(lock_path: Path, cls: Any) -> None:
    class More(cls):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.steps: list[Any] = []
            super().__init__(*args, **options)

        def _acquire(self) -> None:
            super()._acquire()
            self.steps.append(self._context.lock_file_fd is not None)

        def _release(self) -> None:
            self.steps.append("release")
            super()._release()

    class AndMore(More):
        """The steps are inherited."""

    for own in (More, AndMore):
        lock = own(lock_path, timeout=LONG, poll_interval=0.01)
        with cls(lock_path) as other:
            with pytest.raises(Timeout):
                lock.acquire(timeout=0)
            with ThreadPoolExecutor(1) as thread:
                wait = thread.submit(acquire_and_release, lock)
                assert still_waits(wait)
                other.release()
                wait.result(LONG)
        with lock:
            with pytest.raises(Timeout):
                cls(lock_path).acquire(timeout=0)
            with pytest.raises(RuntimeError, match="Deadlock"):
                cls(lock_path).acquire()
        assert lock.steps[0] is False
        assert lock.steps[-2:] == [True, "release"]
        with cls(lock_path, timeout=0):
            pass
        assert own(lock_path, timeout=0).acquire().lock.lock_counter == 1


def acquire_and_release(lock: BaseFileLock) -> None:
    """Wait for it."""
    with lock:
        pass


def test_steps_can_be_replaced_in_the_class(lock_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(FileLock):
        """As FileLock."""

    calls: list[str] = []
    monkeypatch.setattr(Own, "_acquire", lambda _lock: calls.append("acquire"))
    with pytest.raises(Timeout):
        Own(lock_path).acquire(timeout=0)
    monkeypatch.undo()
    with Own(lock_path, timeout=0):
        assert calls == ["acquire"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_signal_handler_ends_a_wait(lock_path: Path) -> None:
    def interrupt(*_args: object) -> None:
        raise KeyError("handler")

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(SHORT, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        with Exclusive(lock_path):
            timer.start()
            begin = time.monotonic()
            with pytest.raises(KeyError, match="handler"):
                Exclusive(lock_path, poll_interval=LONG).acquire(timeout=LONG)
            assert time.monotonic() - begin < LONG
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_what_is_held_at_the_end_of_the_program_is_released(lock_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import atexit, os, threading
from backends import Exclusive
def show():
    print(sorted(name for name in os.listdir(os.path.dirname(sys.argv[1])) if name.startswith("x")))
locks = [Exclusive(sys.argv[1] + end, thread_local=end != "shared") for end in ("mine", "shared", "ended", "living")]
for lock in locks[:2]:
    lock.acquire()
thread = threading.Thread(target=locks[2].acquire)
thread.start()
thread.join()
show()
import ferrolock._backend as backend
atexit.unregister(backend._release_all)
atexit.register(show)
atexit.register(backend._release_all)
"""
    before, after = run_program(program, lock_path).splitlines()
    assert before == "['x.lockended', 'x.lockmine', 'x.lockshared']"
    assert after == "[]"


def test_locks_that_are_made_meanwhile_do_not_keep_the_others_from_their_release(lock_path: Path) -> None:
    program = """
import atexit, sys, weakref
from backends import Exclusive
locks = [Exclusive(sys.argv[1]) for _ in range(2)]
locks[0].acquire()
def another(frame, event, argument):
    # As another thread may, at any line.
    if frame.f_code.co_filename == weakref.__file__ and len(locks) < 100:
        locks.append(Exclusive(sys.argv[1]))
    return another
atexit.register(sys.settrace, another)
"""
    run_program(program, lock_path)
    assert not lock_path.exists()


TRANSCRIPT = """
import errno, os, sys
sys.path[:0] = sys.argv[2:]
from {module} import BaseFileLock, Timeout

class Own(BaseFileLock):
    fails = ""
    def _acquire(self):
        print("acquire", self._context.lock_file_fd, end="; ")
        if self.fails == "acquire":
            raise KeyError("acquire")
        try:
            self._context.lock_file_fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_EXCL, self._open_mode())
        except FileExistsError:
            return
        if self.fails == "acquired":
            raise KeyError("acquired")
    def _release(self):
        print("release", isinstance(self._context.lock_file_fd, int), end="; ")
        if self.fails == "release":
            raise KeyError("release")
        descriptor = self._context.lock_file_fd
        self._context.lock_file_fd = None
        os.close(descriptor)
        os.unlink(self.lock_file)
        if self.fails == "released":
            raise KeyError("released")

def show(lock, call, *arguments, **options):
    try:
        result = call(*arguments, **options)
    except Exception as error:
        result = error
    context = lock._context
    print(type(result).__name__, str(result) if isinstance(result, KeyError) else "", lock.is_locked, lock.lock_counter,
          context.lock_counter, context.lock_file_fd is not None, os.path.exists(lock.lock_file), sep=" ")

path = os.path.join(sys.argv[1], "x.lock")
for options in ({{}}, {{"thread_local": False}}):
    lock, other = Own(path, **options), Own(path, timeout=0.03, poll_interval=0.02)
    show(lock, lock.acquire)
    show(lock, lock.acquire, timeout=0)
    show(other, other.acquire, blocking=False)
    show(other, other.acquire)
    show(other, other.acquire, cancel_check=lambda: True)
    show(other, other.acquire, timeout=float("nan"))
    show(lock, lock.release)
    show(lock, lock.__exit__, None, None, None)
    show(lock, lock.release)
    for lock.fails in ("acquire", "acquired", "release", "released"):
        print(lock.fails)
        show(lock, lock.acquire)
        show(lock, lock.release)
        lock.fails = ""
        show(lock, lock.release, force=True)
"""


def test_a_backend_behaves_as_over_filelock(tmp_path: Path, filelock_folder: Callable[[str], Path]) -> None:
    theirs = run_program(TRANSCRIPT.format(module="filelock"), tmp_path, filelock_folder("4.2.12"))
    ours = run_program(TRANSCRIPT.format(module="ferrolock"), tmp_path)
    assert theirs.count("release True") > 8
    # filelock tries a release that fails several times.
    assert ours.splitlines() == re.sub("(release True; )+", r"\1", theirs).splitlines()


def test_the_helpers_of_filelocks_backends_are_there(tmp_path: Path) -> None:
    from ferrolock._util import ensure_directory_exists, raise_on_not_writable_file

    path = tmp_path / "not" / "there" / "x.lock"
    raise_on_not_writable_file(str(path))
    ensure_directory_exists(path)
    assert path.parent.is_dir()
    path.touch()
    raise_on_not_writable_file(str(path))
    with pytest.raises(PermissionError if sys.platform == "win32" else IsADirectoryError):
        raise_on_not_writable_file(str(path.parent))
    if hasattr(os, "geteuid") and os.geteuid():
        path.chmod(0o444)
        with pytest.raises(PermissionError):
            raise_on_not_writable_file(str(path))
