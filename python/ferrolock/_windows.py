"""The kernel lock of Windows."""

from __future__ import annotations

from . import _native
from ._api import BaseFileLock

TYPE_CHECKING = False


class WindowsFileLock(BaseFileLock):
    """
    A ``LockFileEx`` on the first byte of a file, which Windows gives back when its holder dies.

    While it is held, no other thread, process or program that locks that byte gets it. The file is created
    if need be, its content is never touched, and it stays when the lock is released, unless
    ``unlink_on_release`` was asked for.
    """

    if TYPE_CHECKING or _native.MECHANISM == "LockFileEx":
        _acquire = _native.NativeLock._acquire_below
        _release = _native.NativeLock._release_below
    else:

        def _acquire(self) -> None:
            """Not on this platform."""
            raise NotImplementedError

        def _release(self) -> None:
            """Not on this platform."""
            raise NotImplementedError


__all__ = ["WindowsFileLock"]
