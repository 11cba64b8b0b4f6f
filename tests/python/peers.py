"""Contenders for a lock: threads of this process, and spawned interpreters that do what a pipe tells them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

Result = TypeVar("Result")

SHORT = 0.06
"""Seconds after which a wait that has announced itself is taken to block."""
LONG = 10.0
"""Seconds that anything has that must come to an end."""
OURS = "ferrolock.FileLock"
HERE = str(Path(__file__).parent)
PROGRAM = str(Path(__file__).with_name("peer_program.py"))


def find_class(name: str) -> Any:
    """The class of that dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def is_free(path: Path) -> bool:
    """Whether a lock object of no concern to the test can take the path right now."""
    from ferrolock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


def descriptors(path: str | os.PathLike[str]) -> list[int]:
    """All descriptors that this process has of the file that is at the path."""
    there = os.stat(path)
    found = []
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # that of the listing itself is closed by now
            if os.path.samestat(os.fstat(int(name)), there):
                found.append(int(name))
    return found


def still_waits(wait: Future[Any], seconds: float = SHORT) -> bool:
    """Whether it is not over yet after a short while."""
    return not wait_for_futures([wait], seconds).done


def blocks_then_proceeds(wait: Future[Result], let_go: Callable[[], object]) -> Result:
    """Check that what has announced a wait is blocked until ``let_go``; return what it came to."""
    assert still_waits(wait), f"nothing stopped it: {wait.exception() or wait.result()}"
    let_go()
    return wait.result(LONG)


@contextmanager
def held_by_a_thread(lock: Any, let_go: threading.Event | None = None) -> Iterator[threading.Event]:
    """Have another thread hold the lock, until the event is set or the block ends."""
    ready, let_go = threading.Event(), let_go or threading.Event()

    def hold() -> None:
        with lock:
            ready.set()
            let_go.wait(3 * LONG)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert ready.wait(LONG), "it never had the lock"
        yield let_go
    finally:
        let_go.set()
        thread.join(LONG)


class NoLock:
    """Locks nothing: the check that passes with it checks nothing."""

    def __init__(self, path: str | os.PathLike[str], **_options: object) -> None:
        self.path = os.fspath(path)

    def acquire(self, timeout: float = -1, *, cancel_check: Callable[[], bool] | None = None) -> NoLock:
        """Say that it waits, as a lock would that somebody holds, and go on."""
        if cancel_check is not None and timeout != 0:
            cancel_check()
        return self

    def release(self, force: bool = False) -> None:
        """Release nothing."""

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


class TrustingLock(NoLock):
    """Locks the file that it opened, and never looks whether that is still the one at the path."""

    def acquire(self, timeout: float = -1, *, cancel_check: Callable[[], bool] | None = None) -> TrustingLock:
        """Wait in the kernel."""
        from fcntl import LOCK_EX, LOCK_NB, flock

        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        super().acquire(timeout, cancel_check=cancel_check)
        flock(self.descriptor, LOCK_EX | LOCK_NB if timeout == 0 else LOCK_EX)
        return self

    def release(self, force: bool = False) -> None:
        """Close it."""
        os.close(self.descriptor)


def unlinking_lock(path: str | os.PathLike[str], **options: Any) -> Any:
    """Ours, with a file that goes with each hold."""
    return find_class(OURS)(path, unlink_on_release=True, **options)


class ImpatientLock:
    """The same, acquired by attempts that wait for nobody."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.lock = unlinking_lock(path, timeout=0)

    def release(self, force: bool = False) -> None:
        """Release."""
        self.lock.release(force=force)

    def __enter__(self) -> Self:
        while True:
            with suppress(TimeoutError):
                self.lock.acquire()
                return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


class RemovingLock:
    """Ours, but each hold ends with the removal of the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.lock = path, find_class(OURS)(path, poll_interval=0.002)

    def release(self, force: bool = False) -> None:
        """Release as well as remove; nothing that is not held is removed."""
        if self.lock.is_locked:
            os.unlink(self.path)
            self.lock.release(force=force)

    def __enter__(self) -> Self:
        self.lock.acquire()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


def take_turns(lock: Any, folder: str | os.PathLike[str], rounds: int, party: int) -> int:
    """Count in a file together with others, ``party`` in all; return how often somebody else was inside as well."""
    mark, counter = Path(folder, "inside"), Path(folder, "counter")
    Path(folder, f"ready.{os.getpid()}.{threading.get_ident()}").touch()
    deadline = time.monotonic() + LONG
    while len(list(Path(folder).glob("ready.*"))) < party:
        assert time.monotonic() < deadline, "the others never came"
        time.sleep(0.001)
    overlaps = 0
    for _ in range(rounds):
        with lock:
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                overlaps += 1
            count = int(counter.read_text() or 0)
            time.sleep(0.0005)  # time for others to come in, if nothing keeps them out
            counter.write_text(str(count + 1))
            mark.unlink(missing_ok=True)
    return overlaps


class Contender(Protocol):
    """Somebody who wants the lock on one path: the same for threads and for processes."""

    def acquire(self, timeout: float = -1) -> bool:
        """Acquire; False is a timeout."""

    def begin_acquire(self) -> Future[bool]:
        """Begin to wait without a limit; returns when the first attempt has failed."""

    def release(self) -> None:
        """Release."""

    def begin_turns(self, folder: Path, rounds: int, party: int) -> Future[int]:
        """Begin to `take_turns`."""

    def close(self) -> None:
        """Give up and be gone."""


class ThreadContender:
    """A thread of this process with a lock object of its own."""

    def __init__(self, path: Path, lock: str = OURS) -> None:
        self._lock = find_class(lock)(path)
        self._pool = ThreadPoolExecutor(1)
        self._waiting, self._abandoned = threading.Event(), threading.Event()

    def _acquire(self, timeout: float) -> bool:
        def check() -> bool:
            self._waiting.set()
            return self._abandoned.is_set()

        try:
            self._lock.acquire(timeout, cancel_check=check)
        except (TimeoutError, BlockingIOError):
            return False
        return True

    def acquire(self, timeout: float = -1) -> bool:
        """Acquire; False is a timeout."""
        return self._pool.submit(self._acquire, timeout).result(LONG)

    def begin_acquire(self) -> Future[bool]:
        """Begin to wait without a limit; returns when the first attempt has failed."""
        self._waiting.clear()
        wait = self._pool.submit(self._acquire, -1)
        assert self._waiting.wait(LONG), "it does not wait"
        return wait

    def release(self) -> None:
        """Release."""
        self._pool.submit(self._lock.release).result(LONG)

    def begin_turns(self, folder: Path, rounds: int, party: int) -> Future[int]:
        """Begin to `take_turns`."""
        return self._pool.submit(take_turns, self._lock, folder, rounds, party)

    def close(self) -> None:
        """Give up and be gone."""
        self._abandoned.set()
        self._pool.submit(self._lock.release, force=True)
        self._pool.shutdown()


class PeerError(Exception):
    """What a command raised in the peer."""

    def __init__(self, kind: str, text: str, errno: int | None, filename: str | None) -> None:
        super().__init__(kind, text)
        self.kind, self.text, self.errno, self.filename = kind, text, errno, filename


class Peer:
    """A spawned interpreter that does one command after the other."""

    def __init__(self, *options: str, lock: str = OURS, folder: Path | None = None, around: Sequence[str] = ()) -> None:
        command = [*around, sys.executable, *options, PROGRAM, lock, *([] if folder is None else [str(folder)])]
        self._errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )
        self._asked: deque[Future[Any]] = deque()
        self._told: dict[str, deque[Any]] = {}
        self._news = threading.Condition()
        self._is_gone = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            with self._news:
                if "event" in message:
                    self._told.setdefault(message["event"], deque()).append(message["value"])
                elif "error" in message:
                    self._asked.popleft().set_exception(PeerError(*message["error"]))
                else:
                    self._asked.popleft().set_result(message["answer"])
                self._news.notify_all()
        with self._news:
            self._is_gone = True
            for future in self._asked:
                future.set_exception(ConnectionError("the peer is gone"))
            self._news.notify_all()

    def begin(self, command: str, **arguments: Any) -> Future[Any]:
        """Send a command; its answer comes in its own time."""
        future: Future[Any] = Future()
        with self._news:
            if self._is_gone:
                raise ConnectionError(f"the peer is gone: {self.stderr()}")
            self._asked.append(future)
        assert self.process.stdin is not None
        line = json.dumps({"command": command, "arguments": arguments}, default=os.fspath)
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return future

    def do(self, command: str, **arguments: Any) -> Any:
        """Send a command and wait for its answer."""
        return self.begin(command, **arguments).result(LONG)

    def heard(self, event: str, unless: Future[Any] | None = None) -> Any:
        """Wait for an event that the peer tells of; return its value."""

        def is_over() -> bool:
            return bool(self._told.get(event)) or self._is_gone or (unless is not None and unless.done())

        with self._news:
            self._news.wait_for(is_over, LONG)
            if self._told.get(event):
                return self._told[event].popleft()
        raise AssertionError(f"no {event!r} from the peer: {unless} {self.stderr()}")

    def run(self, source: str, /, **values: Any) -> Any:
        """Have it run some Python with these values; return the one that is called ``answer`` then."""
        return self.do("run", source=textwrap.dedent(source), values=values)

    def begin_run(self, source: str, /, **values: Any) -> Future[Any]:
        """Begin what `run` does."""
        return self.begin("run", source=textwrap.dedent(source), values=values)

    def acquire(self, path: Path, **options: Any) -> bool:
        """Acquire the lock object that the peer has for this path; False is a timeout."""
        return bool(self.do("acquire", path=path, options=options))

    def begin_acquire(self, path: Path, **options: Any) -> Future[bool]:
        """Begin to wait for it; returns when the first attempt has failed."""
        wait = self.begin("acquire", path=path, options=options, announce=True)
        self.heard("waiting", unless=wait)
        return wait

    def release(self, path: Path, **options: Any) -> None:
        """Release it."""
        self.do("release", path=path, options=options)

    def state(self, path: Path) -> tuple[bool, int]:
        """What its ``is_locked`` and ``lock_counter`` say."""
        is_locked, lock_counter = self.do("state", path=path)
        return is_locked, lock_counter

    def stderr(self) -> str:
        """What it has written there so far."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def exit(self) -> tuple[int, str]:
        """Have the interpreter end as at the end of a program; return its code and what it had to say."""
        self.do("exit")
        return self.process.wait(LONG), self.stderr()

    def hard_exit(self) -> None:
        """Have it call ``os._exit``."""
        with suppress(ConnectionError):
            self.do("hard_exit")
        self.process.wait(LONG)

    def kill(self) -> None:
        """Kill it with SIGKILL, and no other process with it."""
        self.process.kill()
        self.process.wait(LONG)

    def stop(self) -> None:
        """Stop it, and see that it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def cont(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and its children, whatever they are doing."""
        if self.process.poll() is None:
            if os.name == "posix":
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):
            self.process.stdin.close()  # a forked child that has outlived the peer reads this end
        self._reader.join(LONG)
        self.process.stdout.close()
        self._errors.close()


class ProcessContender:
    """A process of its own."""

    def __init__(self, path: Path, lock: str = OURS, folder: Path | None = None) -> None:
        self.path, self.peer = path, Peer(lock=lock, folder=folder)

    def acquire(self, timeout: float = -1) -> bool:
        """Acquire; False is a timeout."""
        return self.peer.acquire(self.path, timeout=timeout)

    def begin_acquire(self) -> Future[bool]:
        """Begin to wait without a limit; returns when the first attempt has failed."""
        return self.peer.begin_acquire(self.path)

    def release(self) -> None:
        """Release."""
        self.peer.release(self.path)

    def begin_turns(self, folder: Path, rounds: int, party: int) -> Future[int]:
        """Begin to `take_turns`."""
        return self.peer.begin("turns", path=self.path, folder=folder, rounds=rounds, party=party)

    def close(self) -> None:
        """Be gone."""
        self.peer.close()


def run_program(source: str, *arguments: object, options: tuple[str, ...] = (), stdin: int = subprocess.DEVNULL) -> str:
    """Run a program of its own that must end well and leave nothing on stderr; return its output."""
    command = [sys.executable, *options, "-c", textwrap.dedent(source), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=3 * LONG, env=environment)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}: {done.stderr}"
    return done.stdout
