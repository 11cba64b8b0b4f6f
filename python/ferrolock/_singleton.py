"""One lock object for each path and class: ``is_singleton=True``."""

from __future__ import annotations

import os
import threading
from math import isnan
from weakref import WeakKeyDictionary, WeakValueDictionary

from . import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from ._api import BaseFileLock
    from ._read_write import ReadWriteLockBase

    AnyLock = TypeVar("AnyLock", BaseFileLock, ReadWriteLockBase)


class _Cache:
    """The living singletons of one class."""

    def __init__(self) -> None:
        self.locks: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self.construction = threading.RLock()
        """Two threads that construct the same singleton get one object. Reentrant: a constructor may be interrupted
        by a finalizer or a signal handler that constructs another. One for each class: a constructor may take long,
        and wait for those of other classes."""


_caches: WeakKeyDictionary[type, _Cache] = WeakKeyDictionary()
_listing = threading.RLock()


def _cache_of(cls: type) -> _Cache:
    with _listing:
        cache = _caches.get(cls)
        if cache is None:
            cache = _caches[cls] = _Cache()
        return cache


def living(cls: type) -> WeakValueDictionary[str, Any]:
    """The singletons of a class that somebody still has, by path."""
    return _cache_of(cls).locks


def _fresh_construction_locks() -> None:
    global _listing  # noqa: PLW0603 - the point of it
    _listing = threading.RLock()
    for cache in list(_caches.values()):
        cache.construction = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_construction_locks)


def get_or_construct(
    cls: type,
    lock_file: str | os.PathLike[str],
    options: dict[str, Any],
    construct: Callable[[], AnyLock],
    describe: Callable[[list[str], dict[str, Any], dict[str, Any]], str] | None = None,
) -> AnyLock:
    """
    Give the living lock of this class on the same path, or construct one.

    :param options: what the caller asked for; a living lock must have been made with the same
    :param describe: words the refusal, from the names that differ and the options that were and are given
    :raises ValueError: if it was made with other options
    """
    key = _native.canonical_path(lock_file)
    cache = _cache_of(cls)
    with cache.construction:
        lock: AnyLock | None = cache.locks.get(key)
        if lock is not None and _still_leads_to(key, lock):
            _refuse_other_options(lock._singleton_options, options, describe or _list_differences)
            return lock
        lock = construct()
        lock._singleton_options = options
        cache.locks[key] = lock
        return lock


def _still_leads_to(key: str, lock: BaseFileLock | ReadWriteLockBase) -> bool:
    """A relative path leads elsewhere after a ``chdir``; but a hold stays where it was taken."""
    if lock._is_finalizing():
        return False
    if lock._is_held_by_anyone():
        return lock._is_held_at(key)
    return _native.canonical_path(lock.lock_file) == key


def _refuse_other_options(
    existing: dict[str, Any],
    passed: dict[str, Any],
    describe: Callable[[list[str], dict[str, Any], dict[str, Any]], str],
) -> None:
    # Who unpickles has no loop and no executor, and they are None if nobody passes them.
    existing = {name: existing.get(name) for name in passed}
    different = [name for name in passed if _behaviour(name, existing[name]) != _behaviour(name, passed[name])]
    if different:
        raise ValueError(describe(different, existing, passed))


def _list_differences(different: list[str], existing: dict[str, Any], passed: dict[str, Any]) -> str:
    lines = "".join(
        f"\n\t{name} (existing lock has {existing[name]} but {passed[name]} was passed)" for name in different
    )
    message = "Singleton lock instances cannot be initialized with differing arguments\nNon-matching arguments: "
    return message + lines


def _behaviour(name: str, value: Any) -> Any:
    """What tells two values of an option apart: all ways to say "no limit" are one."""
    if name == "timeout":
        value = float(value)
        if value < 0 or value == float("inf"):
            return -1.0
        return "nan" if isnan(value) else value
    # These are what they are, whatever they say they are equal to.
    return id(value) if name in {"on_acquired", "loop", "executor"} else value
