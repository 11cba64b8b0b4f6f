"""Backends as users write them: each makes one attempt, and knows nothing of waiting. Processes import them too."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ferrolock import BaseAsyncFileLock, BaseFileLock

if TYPE_CHECKING:
    from collections.abc import Callable


class Exclusive(BaseFileLock):
    """A file that exists as long as the lock is held."""

    def _acquire(self) -> None:
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_EXCL, self._open_mode())
        except FileExistsError:
            return
        self._context.lock_file_fd = descriptor

    def _release(self) -> None:
        descriptor = self._context.lock_file_fd
        assert descriptor is not None
        os.unlink(self.lock_file)
        self._context.lock_file_fd = None
        os.close(descriptor)


class Counted(Exclusive):
    """Remembers who called which step, and asks what to do there."""

    steps: list[tuple[str, str]]
    in_acquire: Callable[[], object] | None = None
    in_release: Callable[[], object] | None = None

    def _note(self, step: str) -> None:
        self.__dict__.setdefault("steps", []).append((step, threading.current_thread().name))

    def _acquire(self) -> None:
        self._note("acquire")
        if self.in_acquire is not None:
            self.in_acquire()
        super()._acquire()

    def _release(self) -> None:
        self._note("release")
        if self.in_release is not None:
            self.in_release()
        super()._release()

    def names(self) -> list[str]:
        """The steps, without who called them."""
        return [step for step, _ in self.__dict__.get("steps", [])]


class AsyncCounted(Counted, BaseAsyncFileLock):
    """The same steps, for tasks."""


class AsyncCoroutines(BaseAsyncFileLock):
    """Its steps are coroutines."""

    threads: set[str]

    async def _acquire(self) -> None:  # type: ignore[override]
        import asyncio

        self.__dict__.setdefault("threads", set()).add(threading.current_thread().name)
        await asyncio.sleep(0)
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        self._context.lock_file_fd = descriptor

    async def _release(self) -> None:  # type: ignore[override]
        import asyncio

        self.threads.add(threading.current_thread().name)
        await asyncio.sleep(0)
        descriptor = self._context.lock_file_fd
        assert descriptor is not None
        os.unlink(self.lock_file)
        self._context.lock_file_fd = None
        os.close(descriptor)
