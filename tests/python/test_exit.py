"""A lock that is still held when nobody can release it any more: it is collected, or the interpreter ends."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import textwrap
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import AsyncFileLock, FileLock, ReadWriteLock, SoftFileLease
from peers import LONG, Peer, is_free, run_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OPTIONS = pytest.mark.parametrize(
    "options", [(), ("-W", "error"), ("-X", "dev"), ("-W", "error", "-X", "dev")], ids=["plain", "W", "dev", "W-dev"]
)
KINDS = pytest.mark.parametrize("thread_local", [True, False], ids=["own", "shared"])


@KINDS
def test_a_lock_that_is_dropped_while_held_is_released(lock_path: Path, thread_local: bool) -> None:
    lock = FileLock(lock_path, thread_local=thread_local)
    lock.acquire()
    lock.acquire()
    assert not is_free(lock_path)
    del lock
    gc.collect()
    assert is_free(lock_path)


def test_a_lock_that_nothing_refers_to_is_released_at_once(lock_path: Path) -> None:
    FileLock(lock_path).acquire()
    gc.collect()
    assert is_free(lock_path)


@KINDS
def test_a_lock_that_is_collected_with_a_cycle_is_released(lock_path: Path, thread_local: bool) -> None:
    lock = FileLock(lock_path, thread_local=thread_local)
    vars(lock)["itself"] = lock
    lock.acquire()
    gone = weakref.ref(lock)
    del lock
    gc.collect()
    assert gone() is None
    assert is_free(lock_path)


@KINDS
def test_a_lock_that_keeps_its_own_proxy_is_released_when_it_is_collected(lock_path: Path, thread_local: bool) -> None:
    lock = FileLock(lock_path, thread_local=thread_local)
    vars(lock)["proxy"] = lock.acquire()
    gone = weakref.ref(lock)
    del lock
    gc.collect()
    assert gone() is None
    assert is_free(lock_path)


@pytest.mark.parametrize("option", ["lock_file", "thread_local", "is_singleton", "fallback_to_soft"])
def test_an_option_that_refers_to_the_lock_does_not_keep_it(lock_path: Path, option: str) -> None:
    class Carrier(str):
        __slots__ = ("lock",)

    class Pathlike:
        def __fspath__(self) -> Any:
            return carriers[0]

    carriers: list[Any] = [Carrier(lock_path)]
    passed: dict[str, Any] = {"lock_file": lock_path, option: Pathlike() if option == "lock_file" else carriers[0]}
    lock = FileLock(**passed)
    carriers[0].lock = lock
    lock.acquire()
    gone = weakref.ref(lock)
    del lock, passed
    carriers.clear()
    gc.collect()
    assert gone() is None
    assert is_free(lock_path)


class OwnHook(FileLock):
    """Hears of its own holds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, on_acquired=self.hear)

    def hear(self, _descriptor: int) -> None:
        """Nothing to do."""


class OwnLease(SoftFileLease):
    """Hears of its own losses."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, on_compromise=self.hear)

    def hear(self, _compromise: object) -> None:
        """Nothing to do."""


class OwnReader(ReadWriteLock):
    """Keeps what it is used by."""

    def __init__(self, path: Path, *args: Any, **options: Any) -> None:
        super().__init__(path, *args, **options)
        self.reading = self.read_lock()


class OwnTask(AsyncFileLock):
    """Keeps the task that waits for it."""

    def wait_in_vain(self) -> None:
        """Have a loop end in the middle of a wait."""
        loop = asyncio.new_event_loop()
        self.task = loop.create_task(self.acquire(cancel_check=loop.stop))  # type: ignore[arg-type]
        self.task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.run_forever()
        loop.close()


@pytest.mark.parametrize("cls", [OwnHook, OwnLease, OwnReader, OwnTask])
def test_a_lock_that_keeps_what_leads_to_it_leaves_nothing_behind(lock_path: Path, cls: Any) -> None:
    lock = cls(lock_path)
    if cls is OwnReader:
        with lock.reading:
            pass
    elif cls is OwnTask:
        with FileLock(lock_path):
            lock.wait_in_vain()
    else:
        lock.acquire()
    del lock
    # The thread that tells the task may have the object for a moment.
    end = time.monotonic() + LONG
    gc.collect()
    # A weak reference tells nothing: it is cleared also if the cycle stays.
    while any(type(thing) is cls for thing in gc.get_objects()):
        assert time.monotonic() < end
        gc.collect()


def test_a_class_that_keeps_one_of_its_locks_is_collected_with_it(lock_path: Path) -> None:
    class Keeping(FileLock):
        kept: FileLock

    Keeping.kept = Keeping(lock_path)
    Keeping.kept.acquire()
    gone = weakref.ref(Keeping)
    del Keeping
    gc.collect()
    assert gone() is None
    assert is_free(lock_path)


def test_what_refers_to_a_proxy_refers_to_the_lock(lock_path: Path) -> None:
    proxy = FileLock(lock_path).acquire()
    gc.collect()
    assert not is_free(lock_path)
    proxy.lock.release()
    assert is_free(lock_path)


def test_a_collected_lock_leaves_no_descriptor(lock_path: Path, spawn: Callable[..., Peer]) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows does not list descriptors")
    source = """
        import gc
        for _ in range(20):
            FileLock(path).acquire()
            cyclic = FileLock(path, thread_local=False)
            cyclic.itself = cyclic
            cyclic.acquire()
            del cyclic
            gc.collect()
        answer = descriptors(path)
    """
    assert spawn().run(source, path=lock_path) == []


SITUATIONS = {
    "in a global of the program": """
        lock = FileLock(path)
        lock.acquire()
    """,
    "several times over, by a lock for all threads": """
        lock = FileLock(path, thread_local=False)
        lock.acquire()
        lock.acquire()
    """,
    "by a singleton": """
        lock = FileLock(path, is_singleton=True)
        lock.acquire()
    """,
    "by a proxy": """
        proxy = FileLock(path).acquire()
    """,
    "in a cycle": """
        lock = FileLock(path)
        lock.itself = lock
        lock.acquire()
        del lock
    """,
    "in a cycle with a finalizer that uses it": """
        class Owner:
            def __init__(self):
                self.lock, self.itself = FileLock(path), self
                self.lock.acquire()

            def __del__(self):
                assert self.lock.is_locked
                self.lock.release()
                with self.lock:
                    pass

        Owner()
    """,
    "in another module": """
        import types
        module = sys.modules["holder"] = types.ModuleType("holder")
        module.lock = FileLock(path)
        module.lock.acquire()
    """,
    "in a generator that never ends": """
        def generate():
            with FileLock(path):
                yield

        generator = generate()
        next(generator)
    """,
    "by a subclass with a release of its own": """
        class Counting(FileLock):
            released = 0

            def release(self, force=False):
                type(self).released += 1
                super().release(force=force)

        lock = Counting(path)
        lock.acquire()
    """,
    "by a daemon thread": """
        def hold():
            with FileLock(path):
                held.set()
                threading.Event().wait()

        held = threading.Event()
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
    """,
    "by a daemon thread with a lock for all threads": """
        lock = FileLock(path, thread_local=False)

        def hold():
            with lock:
                held.set()
                threading.Event().wait()

        held = threading.Event()
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
    """,
    "by a thread that is gone": """
        lock = FileLock(path)
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        thread.join()
    """,
    "while a daemon thread waits for it": """
        lock = FileLock(path)
        lock.acquire()

        def check():
            waiting.set()
            return False

        waiting = threading.Event()
        threading.Thread(target=FileLock(path).acquire, kwargs={"cancel_check": check}, daemon=True).start()
        waiting.wait()
    """,
    "while daemon threads wait for it quietly": """
        lock = FileLock(path, thread_local=False)
        lock.acquire()

        def wait():
            waiting.release()
            FileLock(path).acquire()

        waiting = threading.Semaphore(0)
        for _ in range(3):
            threading.Thread(target=wait, daemon=True).start()
        for _ in range(3):
            waiting.acquire()
    """,
    "while a daemon thread takes and releases another all the time": """
        lock = FileLock(path)
        lock.acquire()

        def cycle():
            while True:
                with other:
                    running.set()

        other, running = FileLock(path + ".other"), threading.Event()
        threading.Thread(target=cycle, daemon=True).start()
        running.wait()
    """,
    "when an exit handler uses it": """
        import atexit

        lock = FileLock(path)
        lock.acquire()

        def at_exit():
            assert lock.lock_counter == 1
            with lock:
                lock.release(force=True)

        atexit.register(at_exit)
    """,
}


CALLBACKS = {
    "cancel_check": "FileLock(path).acquire(cancel_check=callback)",
    "acquire of a subclass": """
        class Own(FileLock):
            def acquire(self, *args, **kwargs):
                callback()

        Own(path).__enter__()
    """,
    "release of a subclass": """
        class Own(FileLock):
            def release(self, force=False):
                callback()

        Own(path + ".other").acquire().__exit__(None, None, None)
    """,
    "release of a subclass that is collected": """
        class Own(FileLock):
            def release(self, force=False):
                callback()

        Own(path + ".other").acquire()
    """,
    "log": """
        import logging

        logging.getLogger("filelock").setLevel(logging.DEBUG)
        logging.getLogger("filelock").addFilter(lambda record: callback())
        FileLock(path + ".other").acquire()
    """,
}


@pytest.mark.parametrize("callback", CALLBACKS)
def test_an_interpreter_that_ends_while_a_daemon_thread_is_in_a_callback_ends_well(
    lock_path: Path, callback: str
) -> None:
    program = """
        import sys, threading, time
        from ferrolock import AsyncFileLock, FileLock, ReadWriteLock, SoftFileLease

        class Slow:
            def __del__(self, sleep=time.sleep):
                sleep(0.1)  # the interpreter is finalizing, and lets the thread come

        def callback():
            inside.set()
            while True:
                time.sleep(0.001)

        path, slow, inside = sys.argv[1], Slow(), threading.Event()
        lock = FileLock(path)
        lock.acquire()
        threading.Thread(target=exec, args=(sys.argv[2], globals()), daemon=True).start()
        assert inside.wait(10)
        print("end")
    """
    assert run_program(program, lock_path, textwrap.dedent(CALLBACKS[callback])) == "end\n"
    assert is_free(lock_path)


@OPTIONS
@pytest.mark.parametrize("situation", SITUATIONS)
def test_an_interpreter_that_ends_while_it_holds_has_nothing_to_say(
    lock_path: Path, situation: str, options: tuple[str, ...]
) -> None:
    prelude = "import sys, threading\nfrom ferrolock import FileLock\npath = sys.argv[1]\n"
    program = prelude + textwrap.dedent(SITUATIONS[situation]) + "\nprint('end')\n"
    assert run_program(program, lock_path, options=options) == "end\n"
    assert is_free(lock_path)


@pytest.mark.skipif(os.name != "posix", reason="Windows gives a lock back with the process that took it")
@pytest.mark.parametrize("situation", [name for name in SITUATIONS if "daemon" not in name])
def test_an_interpreters_end_gives_the_lock_back_whoever_has_a_copy_of_the_descriptor(
    lock_path: Path, situation: str
) -> None:
    """Where the process's end alone would not: a program that it has started has a copy of the descriptor."""
    program = """
        import os, subprocess, sys, threading
        from ferrolock import AsyncFileLock, FileLock, ReadWriteLock, SoftFileLease
        from peers import descriptors

        path = sys.argv[1]
        exec(sys.argv[2])
        copies = [os.dup(descriptor) for descriptor in descriptors(path)]
        quiet = subprocess.DEVNULL
        child = subprocess.Popen(["cat"], pass_fds=copies, stdout=quiet, stderr=quiet)
        child.returncode = 0  # not waited for: it reads the stdin that the test gave to both, and ends with the test
        print(len(copies))
    """
    stdin, living = os.pipe()
    try:
        assert run_program(program, lock_path, textwrap.dedent(SITUATIONS[situation]), stdin=stdin) == "1\n"
        assert is_free(lock_path)
    finally:
        os.close(stdin)
        os.close(living)


@pytest.mark.skipif(os.name != "posix", reason="as above")
def test_a_copy_of_the_descriptor_keeps_the_lock_of_a_process_that_just_dies(lock_path: Path) -> None:
    """The control of the test above."""
    stdin, living = os.pipe()
    source = """
        import os, subprocess, sys
        from ferrolock import AsyncFileLock, FileLock, ReadWriteLock, SoftFileLease
        from peers import descriptors

        lock = FileLock(sys.argv[1])
        lock.acquire()
        copies = [os.dup(descriptor) for descriptor in descriptors(sys.argv[1])]
        quiet = subprocess.DEVNULL
        subprocess.Popen(["cat"], pass_fds=copies, stdout=quiet, stderr=quiet)
        os._exit(0)
    """
    try:
        run_program(source, lock_path, stdin=stdin)
        assert not is_free(lock_path)
    finally:
        os.close(stdin)
        os.close(living)
