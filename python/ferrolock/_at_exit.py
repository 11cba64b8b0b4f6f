"""
The last release of locks with ``_acquire`` and ``_release`` of their own.

Imported with the first of them: what it needs takes longer to import than the rest of the package.
"""

from __future__ import annotations

from contextlib import suppress
from weakref import WeakValueDictionary

from ._backend import last_releases
from ._native import NativeLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._api import BaseFileLock

_living: WeakValueDictionary[int, BaseFileLock] = WeakValueDictionary()
"""By what they are: a subclass may have its own idea of what is equal."""


def release_at_exit(lock: BaseFileLock) -> None:
    """Have the lock released at the end of the program, for what it has made may outlast the process."""
    _living[id(lock)] = lock


def _release_all() -> None:
    """
    Release what this thread holds, and threads that have ended.

    A thread that is still there goes on with what it has, and with what it shares with this one.
    """
    import threading

    is_alone = threading.active_count() == 1
    for known in _living.valuerefs():  # a list at once: threads that are still there make more
        lock = known()
        if lock is not None and (lock.is_thread_local() or is_alone):
            with suppress(Exception):  # there is nobody to tell
                NativeLock.release(lock, force=True)


last_releases.append(_release_all)
