"""The demo's processes: started, spoken to over pipes, and ended, whatever happens."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE_S = 30.0
"""How long a process may be overdue before the demo gives up on it; it never is unless a turn was lost."""
TICK_S = 0.1
# The parent's own search path, so that the children import the very package that runs here, however it was found.
BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from ferrolock import _demo_worker; _demo_worker.main()"

Inbox = queue.SimpleQueue[tuple[int, bytes]]


class DemoError(Exception):
    """The demo could not be carried through, so it has nothing to say about the lock."""


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """Narrow the type: Popen has a pipe where one was asked for."""
    if stream is None:
        raise DemoError("no pipe to a process")
    return stream


class Contender:
    """One child process. What it reports arrives in the inbox line by line; an empty line is its end."""

    def __init__(self, number: int, folder: Path, inbox: Inbox) -> None:
        """Start the process; it waits for its setup."""
        self.number = number
        # A file, not a pipe: nobody has to drain it while the demo runs.
        self.errors = folder / f"errors-{number}"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._input = _pipe(self.process.stdin)
        self._reader = threading.Thread(target=self._read, args=(inbox,), daemon=True)
        self._reader.start()

    def _read(self, inbox: Inbox) -> None:
        with _pipe(self.process.stdout) as lines:
            for line in lines:
                inbox.put((self.number, line))
        inbox.put((self.number, b""))

    def tell(self, message: dict[str, Any]) -> None:
        """Send one line; a process that is gone is found out by its end of file."""
        with contextlib.suppress(OSError):
            self._input.write(json.dumps(message).encode() + b"\n")
            self._input.flush()

    def complaint(self) -> str:
        """Return what it wrote to its standard error."""
        return self.errors.read_text(errors="replace").strip()

    def await_exit(self) -> None:
        """Wait until it is gone, which must be soon and in order."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise DemoError(f"process {self.number} reported its turns but does not end") from None
        if status:
            raise DemoError(self.obituary())

    def obituary(self) -> str:
        """Say how it ended, and its last words."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            return f"process {self.number} closed its report but does not end"
        how = f"exit status {status}"
        if status < 0:
            how = f"signal {-status}"
            if -status in set(signal.Signals):
                how = signal.Signals(-status).name
        message = f"process {self.number} died before the demo was over ({how})"
        words = self.complaint().splitlines()[-12:]
        return "\n".join((message, *(f"    {line}" for line in words)))

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()

    def bury(self) -> None:
        """Free what it leaves behind, after its end."""
        self.process.wait()
        self._reader.join()
        # Closing flushes, which fails where the process ended before it read everything.
        with contextlib.suppress(OSError):
            self._input.close()


class Crew:
    """All contenders of one run; whoever makes a crew must see to it that it is dismissed."""

    def __init__(self, folder: Path) -> None:
        """Start empty, so that a failure to start one ends those already started."""
        self.members: list[Contender] = []
        self._folder = folder
        self._inbox: Inbox = queue.SimpleQueue()

    def dismiss(self) -> None:
        """End all processes, also those that are still at work."""
        for member in self.members:
            member.stop()
        for member in self.members:
            member.bury()

    def hire(self) -> Contender:
        """Start one more process."""
        try:
            member = Contender(len(self.members) + 1, self._folder, self._inbox)
        except OSError as error:
            raise DemoError(f"process {len(self.members) + 1} could not be started: {error}") from error
        self.members.append(member)
        return member

    def hear(self, until_s: float, *, last: bool, tick: Callable[[], None]) -> list[dict[str, Any]]:
        """Wait for one line from each, in their order; after the last one a process may end.

        ``tick`` is called several times a second. Raises DemoError as soon as one has died, or when ``until_s``
        (of ``time.monotonic``) has passed.
        """
        heard: dict[int, dict[str, Any]] = {}
        while len(heard) < len(self.members):
            tick()
            try:
                number, line = self._inbox.get(timeout=TICK_S)
            except queue.Empty:
                if time.monotonic() > until_s:
                    silent = ", ".join(str(member.number) for member in self.members if member.number not in heard)
                    raise DemoError(f"nothing heard of process {silent} for {PATIENCE_S:g} s past its time") from None
                continue
            if not line.endswith(b"\n"):
                if last and number in heard:
                    continue
                raise DemoError(self.members[number - 1].obituary())
            try:
                heard[number] = json.loads(line)
            except ValueError:
                raise DemoError(f"process {number} reported something else than its turns: {line[:80]!r}") from None
        return [heard[member.number] for member in self.members]
