"""What a process does that takes turns with others, on whichever machine, and what is made of its report."""

from __future__ import annotations

import random
import time
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MOUNTS = {"a": Path("/run/a"), "b": Path("/run/b")}
"""Of the two clients, made by `gluster.sh`."""

MACHINE = ("unshare", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
"""What a process is run by that is all of a machine, whose name a shell sets."""

HEARTBEAT, THRESHOLD = 1.0, 4.0
"""Seconds. A client may be wrong for two about what another one has changed."""


def entrance(kind: str, path: str, mode: str, timeout: float) -> tuple[Any, Callable[[], AbstractContextManager[Any]]]:
    """The lock of that class, and how to come in."""
    if kind == "nothing":
        return None, nullcontext
    package, _, name = kind.rpartition(".")
    lock = getattr(import_module(package), name)
    if name != "SoftReadWriteLock":
        lock = lock(path, timeout)
        return lock, lock.acquire
    lock = lock(path, timeout, heartbeat_interval=HEARTBEAT, stale_threshold=THRESHOLD)
    return lock, lock.read_lock if mode == "read" else lock.write_lock


def take_turns(kind: str, path: str, mode: str, timeout: float, seconds: float, hold: float, rest: float) -> Any:
    """Take turns for a while; tell when it was inside, with which number, how long it waited, what was raised."""
    lock, enter = entrance(kind, path, mode, timeout)
    inside: list[tuple[int, int, int | None]] = []
    waits: list[int] = []
    timeouts = 0
    errors: dict[str, int] = {}
    failed_after = None
    begun = time.monotonic()
    end = begun + seconds
    while time.monotonic() < end:
        asked = time.monotonic_ns()
        try:
            with enter():
                begin = time.monotonic_ns()
                number = getattr(lock, "generation", None)
                time.sleep(hold * random.random() * 2)
                inside.append((begin, time.monotonic_ns(), number))
                waits.append(begin - asked)
                assert getattr(lock, "compromise", None) is None, "it was lost"
        except TimeoutError:
            timeouts += 1
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            errors[text] = errors.get(text, 0) + 1
            failed_after = failed_after or time.monotonic() - begun
        time.sleep(rest * random.random() * 2)
    report = {"kind": kind, "mode": mode, "inside": inside, "waits": waits, "timeouts": timeouts, "errors": errors}
    return {**report, "failed_after": failed_after}


def overlaps(reports: list[Any]) -> int:
    """How often somebody was inside with a writer."""
    turns = sorted((begin, end, report["mode"]) for report in reports for begin, end, _ in report["inside"])
    found = 0
    inside: list[tuple[int, int, str]] = []
    for turn in turns:
        inside = [other for other in inside if other[1] > turn[0]]
        found += sum("write" in (other[2], turn[2]) for other in inside)
        inside.append(turn)
    return found


def numbers(reports: list[Any]) -> list[int]:
    """The numbers of the writers, in the order in which they came in."""
    writers = [report for report in reports if report["mode"] == "write"]
    turns = sorted((begin, number) for report in writers for begin, _, number in report["inside"])
    return [number for _, number in turns if number is not None]


def summary(report: Any) -> str:
    """A line about it."""
    waits = sorted(report["waits"]) or [0]
    middle, longest = waits[len(waits) // 2] / 1e6, waits[-1] / 1e6
    return (
        f"{report['kind']} {report['mode']}: {len(report['inside'])} turns, waits of {middle:.1f} ms, at most "
        f"{longest:.0f} ms, {report['timeouts']} timeouts, {report['errors'] or 'no errors'}"
    )
