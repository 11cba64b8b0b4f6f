"""What the tests of SoftReadWriteLock share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ferrolock import SoftReadWriteLock
from peers import LONG
from rw_peers import allowed_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOFT_RW = "ferrolock.SoftReadWriteLock"


def other(path: Path, **options: Any) -> SoftReadWriteLock:
    """A lock object of its own."""
    return SoftReadWriteLock(path, is_singleton=False, **options)


def allowed(path: Path) -> str:
    """What somebody else may do right now: write, read or nothing."""
    return allowed_to(other(path))


def folder_of(path: Path) -> Path:
    """The folder of those who read."""
    return path.with_name(f"{path.name}.readers")


def markers(path: Path, mode: str) -> list[Path]:
    """Those of all readers, or the claims of all writers of ours."""
    begins = {"read": False, "write": True}[mode]
    found = [entry for entry in folder_of(path).iterdir() if entry.name.startswith(".") == begins]
    return [entry for entry in found if mode == "read" or entry.name.startswith(".writer.")]


def until(condition: Callable[[], bool], what: str = "waited in vain") -> None:
    """Wait for something that nobody tells of."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def until_claimed(path: Path) -> None:
    """Wait for a writer's claim."""
    until(path.with_name(f"{path.name}.write").exists)
