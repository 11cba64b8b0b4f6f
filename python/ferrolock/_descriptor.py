"""Descriptors: the lock of an open file that somebody else opened, and the descriptor of a lock."""

from __future__ import annotations

import sys

from . import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def lock_descriptor(fd: int, *, blocking: bool = True, poll_interval: float = 0.05) -> bool:
    """
    Lock the file of an open descriptor as :class:`FileLock` would lock it.

    It excludes everybody who locks that file, but not who has a copy of the descriptor: the lock is the open file's.
    There is nothing else to it, no path and no count: locking the same descriptor again succeeds, and closing its last
    copy gives the lock back, as :func:`unlock_descriptor` does.

    :param fd: the descriptor
    :param blocking: wait until the lock is had; false makes one attempt
    :param poll_interval: the longest pause between two attempts, in seconds, when it waits
    :return: whether the lock is had: only false if it was not to be waited for
    :raises TypeError, ValueError: for a poll interval that is no positive number of seconds, or a negative descriptor
    :raises OSError: if the operating system failed, or there is no such descriptor
    """
    return _native.lock_descriptor(_system_number(fd), blocking=bool(blocking), poll_interval=poll_interval)


def unlock_descriptor(fd: int) -> None:
    """
    Give back the lock of an open file, for all copies of its descriptor.

    One that is not locked is fine.

    :param fd: the descriptor
    :raises ValueError: for a negative one
    :raises OSError: if the operating system failed, or there is no such descriptor
    """
    _native.unlock_descriptor(_system_number(fd))


def _system_number(fd: int) -> int:
    """What the operating system knows the open file by."""
    if sys.platform == "win32":
        import msvcrt

        return msvcrt.get_osfhandle(fd)
    else:  # noqa: RET505 - as a branch, so that type checkers leave it alone
        if fd < 0:
            msg = f"file descriptor cannot be a negative integer ({fd})"
            raise ValueError(msg)
        return fd


def lend(handle: int, function: Callable[[int], object]) -> None:
    """
    Call a function with a descriptor for a handle of Windows, which is good for the time of the call.

    It is a second handle for the same open file, so whatever is locked through either is locked through both.
    """
    if sys.platform == "win32":
        import _winapi
        import msvcrt
        import os

        process = _winapi.GetCurrentProcess()
        own = _winapi.DuplicateHandle(process, handle, process, 0, 0, _winapi.DUPLICATE_SAME_ACCESS)
        try:
            descriptor = msvcrt.open_osfhandle(own, os.O_RDWR)
        except OSError:
            _winapi.CloseHandle(own)
            raise
        try:
            function(descriptor)
        finally:
            os.close(descriptor)
