"""Processes under measurement, as the parent sees them: started, asked with a bound, and killed whatever happens."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from array import array
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peers import Ready

# An answer that takes longer is a hang. It is far beyond any poll interval of any candidate.
ANSWER_SECONDS = 60.0


class FailedError(Exception):
    """A process under measurement ended, hung, or answered nonsense."""


class Answer(NamedTuple):
    """The two numbers of a `serve` answer; what they are depends on the task."""

    first: int
    second: int


class Worker:
    """One process of one candidate."""

    def __init__(self, ready: Ready, mode: str, *arguments: str, errors: Path, inherit: tuple[int, ...] = ()) -> None:
        self.name = ready.name
        self._errors = errors
        self._unread = b""
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                ready.command(mode, *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=inherit,
            )
        self._streams = [cast("IO[bytes]", stream) for stream in (self._process.stdin, self._process.stdout)]
        self._input, self._output = (stream.fileno() for stream in self._streams)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    def send(self, task: str, count: int = 0) -> None:
        """Ask for something, without waiting for the answer."""
        try:
            os.write(self._input, f"{task} {count}\n".encode())
        except OSError:
            self._fail("is gone")

    def line(self, within: float = ANSWER_SECONDS) -> str:
        """Read one line."""
        deadline = time.monotonic() + within
        while b"\n" not in self._unread:
            self._read_some(deadline)
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def expect(self, line: str) -> None:
        """Read one line that must be this one."""
        found = self.line()
        if found != line:
            self._fail(f"said {found!r} instead of {line!r}")

    def ask(self, task: str, count: int = 0) -> Answer:
        """Send a task and read its answer."""
        self.send(task, count)
        return self.answer()

    def answer(self) -> Answer:
        """Read the two numbers of an answer."""
        first, second = self.line().split()
        return Answer(int(first), int(second))

    def numbers(self, count: int, within: float = ANSWER_SECONDS) -> array[int]:
        """Read binary 64-bit numbers."""
        numbers: array[int] = array("q")
        size = count * numbers.itemsize
        deadline = time.monotonic() + within
        while len(self._unread) < size:
            self._read_some(deadline)
        numbers.frombytes(self._unread[:size])
        self._unread = self._unread[size:]
        return numbers

    def close(self) -> None:
        """End the process, by force: nothing it could still say matters."""
        self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in self._streams:
            stream.close()

    def _read_some(self, deadline: float) -> None:
        if not self._selector.select(max(0.0, deadline - time.monotonic())):
            self._fail("gave no answer in time")
        some = os.read(self._output, 1 << 20)
        if not some:
            self._fail("ended early")
        self._unread += some

    def _fail(self, what: str) -> NoReturn:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        raise FailedError(f"the process {what}: {lines[-1]}" if lines else f"the process {what}")


class Team:
    """Workers that all end when the `with` block does; their stderr goes to files in `scratch`."""

    def __init__(self, scratch: Path, stack: ExitStack) -> None:
        self._scratch = scratch
        self._stack = stack
        self._count = 0

    def start(self, ready: Ready, mode: str, *arguments: str, inherit: tuple[int, ...] = ()) -> Worker:
        """Start one more process of a candidate."""
        self._count += 1
        errors = self._scratch / f"{ready.candidate.file_stem}-{self._count}.stderr"
        worker = Worker(ready, mode, *arguments, errors=errors, inherit=inherit)
        self._stack.callback(worker.close)
        return worker


@contextmanager
def team(scratch: Path) -> Iterator[Team]:
    """Open a team."""
    with ExitStack() as stack:
        yield Team(scratch, stack)
