"""The kernel lock of Unix."""

from __future__ import annotations

from . import _native
from ._api import BaseFileLock

TYPE_CHECKING = False

has_fcntl: bool = _native.MECHANISM == "flock"
"""Whether this platform has ``flock``."""


class UnixFileLock(BaseFileLock):
    """
    A ``flock`` on a file, which the kernel gives back when its holder dies.

    While it is held, no other thread, process or program that locks the same file with ``flock`` gets it.
    The file is created if need be, its content is never touched, and it stays when the lock is released, unless
    ``unlink_on_release`` was asked for.
    """

    # What tells it from a backend in Python: the core acquires and releases, and these say so.
    if TYPE_CHECKING or has_fcntl:
        _acquire = _native.NativeLock._acquire_below
        _release = _native.NativeLock._release_below
    else:

        def _acquire(self) -> None:
            """Not on this platform."""
            raise NotImplementedError

        def _release(self) -> None:
            """Not on this platform."""
            raise NotImplementedError


__all__ = ["UnixFileLock", "has_fcntl"]
