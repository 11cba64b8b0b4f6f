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

    _mechanism = "LockFileEx"  # what the native half makes where nothing else is asked for

    if not TYPE_CHECKING and _native.MECHANISM != "LockFileEx":

        def acquire(self, *args: object, **kwargs: object) -> _native.AcquireReturnProxy:
            """Not on this platform."""
            raise NotImplementedError


__all__ = ["WindowsFileLock"]
