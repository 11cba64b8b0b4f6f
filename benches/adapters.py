"""How each candidate is built, in the process that measures it.

The workload knows `acquire`, `release` and `with`; whatever else differs between the candidates is here. Each is used
with its own defaults, except that it waits without limit.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


class Lock(Protocol):
    """What all candidates have in common."""

    def acquire(self) -> object:
        """Take the lock, waiting as long as it takes."""

    def release(self) -> object:
        """Give the lock back."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exception: object) -> object: ...


class AsyncLock(Protocol):
    """What all async candidates have in common."""

    async def acquire(self) -> object:
        """Take the lock, waiting as long as it takes."""

    async def release(self) -> object:
        """Give the lock back."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *exception: object) -> object: ...


class ByHand:
    """What people write without a library: open, flock, and back again, with no check of anything."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> None:
        """Open the file and lock it; the kernel wakes a waiter, but no signal handler runs meanwhile."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        """Unlock and close."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)

    __enter__ = acquire

    def __exit__(self, *exception: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)


class NoLock:
    """Excludes nobody: the control that shows that overlaps are seen when there are any."""

    def __init__(self, path: str) -> None:
        self._path = path

    def acquire(self) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""

    __enter__ = acquire

    def __exit__(self, *exception: object) -> None:
        pass


class Side:
    """One mode of a lock of readers and writers, as if that were a lock."""

    def __init__(self, lock: Any, mode: str) -> None:
        self.acquire: Callable[[], object] = getattr(lock, f"acquire_{mode}")
        self.release: Callable[[], object] = lock.release

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class AsyncSide:
    """The same of an async lock."""

    def __init__(self, lock: Any, mode: str) -> None:
        self.acquire: Callable[[], Any] = getattr(lock, f"acquire_{mode}")
        self.release: Callable[[], Any] = lock.release

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *exception: object) -> None:
        await self.release()


def _find(module: ModuleType, lock_class: str) -> Callable[..., Lock]:
    """Return the constructor of a class, or of one side (`Class:mode`) of it."""
    name, _, mode = lock_class.partition(":")
    kind = getattr(module, name)
    if not mode:
        build: Callable[..., Lock] = kind
        return build
    side: Any = AsyncSide if name.startswith("Async") else Side
    return lambda path: side(kind(path, is_singleton=False), mode)


class Adapter:
    """A candidate's constructor, and what was imported to get it."""

    def __init__(self, build: Callable[[str], Any], *, endless: dict[str, Any] | None = None, origin: str) -> None:
        self.build = build
        self.origin = origin
        self._endless = endless or {}

    def endless(self, path: str) -> Any:
        """Build a lock that waits without limit."""
        return self.build(path, **self._endless)


# Without these a candidate would not wait without limit.
ENDLESS: dict[str, dict[str, Any]] = {
    "portalocker": {"timeout": 86_400.0},  # its default gives up after 5 s
}


def load(adapter: str, lock_class: str, folder: str, version: str) -> Adapter:
    """Import the candidate, from its own folder and in the version asked for, or raise."""
    if adapter == "by_hand":
        return Adapter(ByHand, origin="fcntl")
    if adapter == "no_lock":
        return Adapter(NoLock, origin="nothing")
    if adapter == "ours":
        ours = importlib.import_module("ferrolock")
        named = getattr(ours, lock_class.partition(":")[0])
        kind = f"{named.__module__}.{named.__qualname__}"
        return Adapter(_find(ours, lock_class), origin=f"ferrolock {ours.__version__}, {kind}, {ours.__file__}")
    module = _from_folder(adapter, folder, version)
    return Adapter(_find(module, lock_class), endless=ENDLESS.get(adapter), origin=str(module.__file__))


def _from_folder(name: str, folder: str, version: str) -> ModuleType:
    """Import a module from one folder; anything else by that name would be measured under a false one."""
    sys.path.insert(0, folder)
    module = importlib.import_module(name)
    if not Path(str(module.__file__)).resolve().is_relative_to(Path(folder).resolve()):
        message = f"{name} came from {module.__file__}, not from {folder}"
        raise ImportError(message)
    package = name.partition(".")[0]
    found = [distribution.version for distribution in importlib.metadata.distributions(name=package, path=[folder])]
    if found != [version]:
        message = f"{folder} has {package} {found}, not {version}"
        raise ImportError(message)
    return module
