"""
A process that reads and writes in a loop, and writes down when it was inside: `python rw_worker.py ...`.

Not a test: `test_read_write_stress.py` starts it, with a folder of filelock's on its path or without.
"""

from __future__ import annotations

import json
import random
import sys
import time
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def by_package(package: str, path: str) -> Callable[[str], AbstractContextManager[Any]]:
    """Lock by a ReadWriteLock, or a SoftReadWriteLock that looks for others often."""
    module, _, name = package.partition(".")
    options = {"heartbeat_interval": 0.5, "stale_threshold": 20, "poll_interval": 0.01} if name else {}
    lock = getattr(__import__(module), name or "ReadWriteLock")(path, timeout=30, **options)
    return lambda mode: lock.read_lock() if mode == "read" else lock.write_lock()


def by_sqlite(path: str) -> Callable[[str], AbstractContextManager[Any]]:
    """Lock by a transaction."""
    import sqlite3

    @contextmanager
    def enter(mode: str) -> Iterator[None]:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            if mode == "read":
                connection.execute("BEGIN")
                connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
            else:
                connection.execute("BEGIN EXCLUSIVE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    return enter


def by_nothing(_path: str) -> Callable[[str], AbstractContextManager[Any]]:
    """Lock nothing, for the control."""
    return lambda _mode: nullcontext()


def main(kind: str, mode: str, path: str, seconds: float, hold: float, rest: float) -> None:
    """Take turns until the time is over; say what happened as one line of JSON."""
    ways = {"sqlite3": by_sqlite, "nothing": by_nothing}
    enter = ways[kind](path) if kind in ways else by_package(kind, path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    inside: list[tuple[int, int]] = []
    waits: list[int] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        asked = time.monotonic_ns()
        with enter(mode):
            begin = time.monotonic_ns()
            time.sleep(hold * random.random() * 2)
            inside.append((begin, time.monotonic_ns()))
        waits.append(begin - asked)
        if rest:
            time.sleep(rest * random.random() * 2)
    sys.stdout.write(json.dumps({"kind": kind, "mode": mode, "inside": inside, "waits": waits}) + "\n")


if __name__ == "__main__":
    kind, mode, path, *numbers = sys.argv[1:]
    main(kind, mode, path, *(float(number) for number in numbers))
