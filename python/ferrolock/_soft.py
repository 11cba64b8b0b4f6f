"""The soft lock: existence of the file is the lock."""

from __future__ import annotations

import atexit

from . import _native
from ._api import BaseFileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class SoftFileLockLifetimeWarning(FutureWarning):
    """A lifetime frees a lock while its holder may still be at work."""


class SoftFileLock(BaseFileLock):
    """
    A marker: a file whose existence is the lock, and that names its holder.

    While it is there, nobody else who goes by such files gets the lock, on any file system. It is removed when the
    lock is released, and at the end of the program. The marker of a process that died is taken over by the next one
    of the same machine that asks.
    """

    _has_lifetime = True
    _acquire = _native.NativeLock._acquire_below
    _release = _native.NativeLock._release_below

    _mechanism = "marker"
    """The way in which the lock is represented on disk."""

    def _configure(self, *args: Any, **options: Any) -> None:
        super()._configure(*args, mechanism=self._mechanism, **options)

    @property
    def pid(self) -> int | None:
        """The process that the marker at the path names, whoever that is; None where there is none."""
        return self._marker_pid()

    @property
    def is_lock_held_by_us(self) -> bool:
        """Whether the marker at the path names this process, through whatever lock object."""
        return self._is_marker_own()

    def break_lock(self) -> None:
        """
        Remove the marker at the path, whoever it belongs to.

        Its holder is not told, and goes on; its release leaves the next holder's marker alone. What cannot be
        removed stays.
        """
        try:
            self._remove_marker()
        except OSError:
            return

    @property
    def lifetime(self) -> float | None:
        """Seconds after which a marker counts as abandoned although its owner may live; None is never."""
        return self._lifetime

    @lifetime.setter
    def lifetime(self, value: float | None) -> None:
        _native.check_lifetime(value)
        if value is not None:
            type(self)._admit_lifetime(value, stacklevel=3)
        self._lifetime = value

    @classmethod
    def _refuse_unsupported(cls, preserve_lock_file: Any, on_acquired: Any) -> None:
        """Refuse what makes no sense for a marker."""
        if preserve_lock_file:
            msg = (
                f"preserve_lock_file=True is not supported by {cls.__name__}: removing its marker is how it releases."
                " FileLock keeps its file"
            )
            raise ValueError(msg)
        if on_acquired is not None:
            msg = (
                f"on_acquired is not supported by {cls.__name__}: the descriptor of a marker is not the lock. FileLock"
                " has one that is"
            )
            raise ValueError(msg)

    @classmethod
    def _admit_lifetime(cls, lifetime: float, stacklevel: int) -> float | None:
        """Warn: who takes a lock by its age takes it from a holder that may still be at work."""
        import warnings

        msg = (
            f"lifetime of {cls.__name__} takes the lock from a holder that may still be at work: a marker's age says"
            " nothing about its owner. A dead owner's marker is taken over without it, and SoftFileLease frees the lock"
            " of an owner that died on another machine."
        )
        warnings.warn(msg, SoftFileLockLifetimeWarning, stacklevel=stacklevel + 1)
        return lifetime


atexit.register(_native.end_holds_at_exit)

__all__ = ["SoftFileLock", "SoftFileLockLifetimeWarning"]
