"""What a lock with ``_acquire`` and ``_release`` of its own needs beside them: its context."""

from __future__ import annotations

import atexit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._api import BaseFileLock

UNSET_FILE_MODE = -1
"""The mode that leaves the permissions of a new lock file to the umask."""


class FileLockContext:
    """A lock object under the names that filelock has for its insides. Nothing is kept here."""

    __slots__ = ("_lock",)

    def __init__(self, lock: BaseFileLock) -> None:
        self._lock = lock

    @property
    def lock_file(self) -> str:
        """The path, as it was given."""
        return self._lock.lock_file

    @property
    def lock_file_fd(self) -> int | None:
        """
        The descriptor by which the lock is held in this context (on Windows a handle, but of a backend).

        A backend sets it: to a descriptor in ``_acquire``, and to None in ``_release``.
        """
        return self._lock._descriptor

    @lock_file_fd.setter
    def lock_file_fd(self, value: int | None) -> None:
        self._lock._descriptor = value

    @property
    def lock_counter(self) -> int:
        """How many levels of the hold are left to release."""
        return self._lock.lock_counter

    @property
    def timeout(self) -> float:
        """Seconds to wait."""
        return self._lock.timeout

    @timeout.setter
    def timeout(self, value: float) -> None:
        self._lock.timeout = value

    @property
    def blocking(self) -> bool:
        """Whether to wait."""
        return self._lock.blocking

    @blocking.setter
    def blocking(self, value: bool) -> None:
        self._lock.blocking = value

    @property
    def poll_interval(self) -> float:
        """Seconds between two attempts of a wait."""
        return self._lock.poll_interval

    @poll_interval.setter
    def poll_interval(self, value: float) -> None:
        self._lock.poll_interval = value

    @property
    def lifetime(self) -> float | None:
        """Seconds after which a marker counts as abandoned."""
        return self._lock.lifetime

    @lifetime.setter
    def lifetime(self, value: float | None) -> None:
        self._lock.lifetime = value

    @property
    def mode(self) -> int:
        """The permission bits as they were given; -1 is none."""
        return self._lock.mode if self._lock.has_explicit_mode else UNSET_FILE_MODE


class ThreadLocalFileContext(FileLockContext):
    """That of a lock whose threads have a hold each."""

    __slots__ = ()


last_releases: list[Callable[[], None]] = []
"""What ``_at_exit`` does, from when it is imported."""


@atexit.register
def _release_all() -> None:
    """Registered with the package, so that what the program registers after its import finds the locks as they are."""
    for release in last_releases:
        release()
