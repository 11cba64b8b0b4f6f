"""One contender of the demo: a fresh interpreter that takes its turns and reports them over its standard output.

It is told what to do in two lines of JSON on standard input (the setup; then, once everybody is ready, the common
start and end) and answers each with one line.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

clock_ns = time.perf_counter_ns
"""The stamps of all processes are compared, so the clock must be one for the whole system and finer than a hand-over.

``time.monotonic`` ticks every 16 ms on Windows before Python 3.13; this one is system-wide everywhere since 3.10.
"""


class Witness:
    """A mark inside the critical section that only a second holder can disturb.

    A shared page holds the number of the occupant and a counter. On entering the page must be vacant, on leaving it
    must still name the one who entered: of two who are inside together at least one sees the other, even if both
    entered in the same instant. The counter is read on entering and written, plus one, on leaving, so two who are
    inside together lose an addition. Neither uses a clock, so both are independent of the log of stamps.
    """

    _COUNTER = struct.Struct("<Q")
    _OCCUPANT = _COUNTER.size
    SIZE = _COUNTER.size + 1

    def __init__(self, path: Path) -> None:
        """Map the page; the file must exist and be of ``SIZE`` bytes."""
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), self.SIZE)
        self._count = 0

    @property
    def count(self) -> int:
        """Additions that arrived."""
        return int(self._COUNTER.unpack_from(self._page)[0])

    def enter(self, number: int) -> int:
        """Mark the section as occupied by ``number``; return the occupant found there, 0 for none."""
        found = self._page[self._OCCUPANT]
        self._page[self._OCCUPANT] = number
        self._count = self.count
        return found

    def leave(self) -> int:
        """Add one, mark the section as vacant, and return the occupant found: 0 if somebody else has vacated it."""
        found = self._page[self._OCCUPANT]
        self._COUNTER.pack_into(self._page, 0, self._count + 1)
        self._page[self._OCCUPANT] = 0
        return found

    def close(self) -> None:
        """Unmap the page (on Windows a mapped file cannot be removed)."""
        self._page.close()


def take_turns(
    lock: AbstractContextManager[object], witness: Witness, number: int, period_ns: tuple[int, int], hold_s: float
) -> dict[str, list[Any]]:
    """Contend for a period; return ``turns`` (acquired, released, since its start) and ``met`` (whom, inside).

    The stamps are taken inside the lock, as its first and last act, so a turn is never logged as longer than it was.
    A turn won after the end is given back unused. Without its parent a contender stops: nobody will read its report.
    """
    start_ns, end_ns = period_ns
    turns: list[list[int]] = []
    met: list[int] = []
    parent = os.getppid()
    while (early_ns := start_ns - clock_ns()) > 0:
        time.sleep(early_ns / 1e9)
    while clock_ns() < end_ns and os.getppid() == parent:
        with lock:
            acquired = clock_ns()
            if acquired >= end_ns:
                break
            on_entering = witness.enter(number)
            time.sleep(hold_s)
            on_leaving = witness.leave()
            released = clock_ns()
        turns.append([acquired - start_ns, released - start_ns])
        if on_entering or on_leaving != number:
            met.append(on_entering or on_leaving)
    return {"turns": turns, "met": met}


def _say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _hear() -> dict[str, Any] | None:
    line = sys.stdin.readline()
    heard: dict[str, Any] | None = json.loads(line) if line else None
    return heard


def main() -> None:
    """Take part in one demo."""
    # Ctrl-C reaches every process of the terminal; the parent alone answers it, and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup = _hear()
    if setup is None:
        return
    module, _, name = setup["lock"].partition(":")
    folder = Path(setup["folder"])
    lock = getattr(importlib.import_module(module), name)(folder / "demo.lock")
    witness = Witness(folder / "witness")
    _say({"clock_ns": clock_ns()})
    times = _hear()
    if times is not None:
        period_ns = times["start_ns"], times["end_ns"]
        _say(take_turns(lock, witness, setup["number"], period_ns, setup["hold_s"]))
    witness.close()
