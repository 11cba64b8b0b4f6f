"""What the tests of SoftReadWriteLock share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ferrolock import SoftReadWriteLock, Timeout
from peers import LONG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ferrolock import AcquireReturnProxy

MODES = ["read", "write"]
SOFT_RW = "ferrolock.SoftReadWriteLock"


def other(path: Path, **options: Any) -> SoftReadWriteLock:
    """A lock object of its own."""
    return SoftReadWriteLock(path, is_singleton=False, **options)


def acquire(lock: SoftReadWriteLock, mode: str, *args: Any, **options: Any) -> AcquireReturnProxy[SoftReadWriteLock]:
    """Acquire in a mode."""
    return lock.acquire_read(*args, **options) if mode == "read" else lock.acquire_write(*args, **options)


def allowed(path: Path) -> str:
    """What somebody else may do right now: write, read or nothing."""
    lock = other(path)
    for mode in ("write", "read"):
        try:
            acquire(lock, mode, blocking=False).lock.release()
        except Timeout:
            continue
        return mode
    return "nothing"


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
    """Wait for a writer's claim that stays: the first attempt of a wait takes its own back before the next one."""
    write = path.with_name(f"{path.name}.write")

    def inode() -> int | None:
        try:
            return write.stat().st_ino
        except FileNotFoundError:
            return None

    def is_there_to_stay() -> bool:
        seen = inode()
        time.sleep(0.05)
        return seen is not None and seen == inode()

    until(is_there_to_stay)
