"""The lock of readers and writers on file systems that several machines share."""

from __future__ import annotations

from ._native import NativeReadWriteLock
from ._read_write import ReadWriteLockBase

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import Self

    from ._compromise import LeaseCompromise


_LEASE_OPTIONS = ("heartbeat_interval", "stale_threshold", "poll_interval", "on_compromise")


class SoftReadWriteLock(ReadWriteLockBase):
    """
    Any number of readers, or one writer, among processes of all machines that share a file system.

    Who holds has a file beside the path and keeps it fresh (a *heartbeat*, by threads that do not need the GIL); who
    sees it unchanged for ``stale_threshold`` seconds takes its holder for dead and removes it. The files are those of
    filelock 3.27 to 3.32, which take part; filelock 4 has others and does not. A writer that waits keeps new readers
    out.

    Who is stopped for longer than the threshold (a suspended machine, a file system that does not answer) may lose what
    it holds, and is told by :attr:`compromise` and ``on_compromise``; a store that compares :attr:`generation` can
    refuse its late writes.

    Levels, threads and singletons are as with :class:`ReadWriteLock`. A lock object that is held stays alive until it
    is released, or the program ends.
    """

    _mechanism = "lease"

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        heartbeat_interval: float = 30,
        stale_threshold: float | None = None,
        poll_interval: float = 0.25,
        on_compromise: Callable[[LeaseCompromise], object] | None = None,
    ) -> None:
        """
        Touch no file: the first acquisition makes what is needed, missing folders too.

        :param lock_file: the path beside which the files are: ``.state``, ``.write`` and ``.readers/`` after it
        :param timeout: seconds to wait where nothing else is said; -1 or infinity is no limit
        :param blocking: wait at all, where nothing else is said
        :param is_singleton: give the living lock of this class on the same path, if there is one; it keeps the
            intervals that it has
        :param heartbeat_interval: seconds between two refreshes of a marker
        :param stale_threshold: seconds without a change after which a holder counts as dead, where it does not ask for
            more itself; None is three heartbeats
        :param poll_interval: the longest pause of a waiter, in seconds; the first one is of a millisecond
        :param on_compromise: called with a `LeaseCompromise` when a hold was lost, on a thread of its own, where it may
            release the lock
        :raises TypeError, ValueError: for an option of the wrong kind; a heartbeat has to be shorter than the
            threshold, and so has a pause
        """
        self._is_singleton = is_singleton
        self._configure(
            lock_file,
            timeout,
            blocking,
            mechanism=self._mechanism,
            heartbeat_interval=heartbeat_interval,
            stale_threshold=stale_threshold,
            poll_interval=poll_interval,
            on_compromise=on_compromise,
        )

    @classmethod
    def get_lock(
        cls, lock_file: str | os.PathLike[str], timeout: float = -1, *, blocking: bool = True, **options: Any
    ) -> Self:
        """Give the one lock object of this class on the path, as calling the class does."""
        lock: Self = cls(lock_file, timeout, blocking=blocking, **options)
        return lock

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between two refreshes of a marker."""
        return self._heartbeat_interval

    @property
    def stale_threshold(self) -> float:
        """Seconds without a change after which a holder counts as dead, where it does not ask for more itself."""
        return self._stale_threshold

    @property
    def poll_interval(self) -> float:
        """The longest pause of a waiter, in seconds."""
        return self._poll_interval

    @poll_interval.setter
    def poll_interval(self, value: float) -> None:
        self._poll_interval = value

    @property
    def generation(self) -> int | None:
        """
        The fencing token of the present hold; None if nothing is held.

        A writer's is greater than that of every writer of ours before it on this path, so a store that remembers the
        greatest one it has seen can refuse a writer that was evicted and does not know it yet. A reader's is that of
        the last writer before it.
        """
        return self._generation

    @property
    def compromise(self) -> LeaseCompromise | None:
        """How the present hold was lost, or the last one; None if it was not. The next hold forgets it."""
        return self._compromise

    @classmethod
    def _given(cls, **options: Any) -> dict[str, Any]:
        lease = {name: options[name] for name in _LEASE_OPTIONS if name in options}
        given = super()._given(**options)
        NativeReadWriteLock._check_lease(**lease)
        # Who has nothing to be called takes what there is.
        return given if options.get("on_compromise") is None else {**given, "on_compromise": options["on_compromise"]}

    @classmethod
    def _describe(cls, different: list[str], existing: dict[str, Any], passed: dict[str, Any]) -> str:
        if different == ["on_compromise"]:
            was, given = existing["on_compromise"], passed["on_compromise"]
            return f"Singleton lock created with on_compromise={was}, cannot be changed to {given}"
        return super()._describe(different, existing, passed)

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        for name in ("heartbeat_interval", "stale_threshold", "poll_interval"):
            settings[name] = getattr(self, name)
        if self._on_compromise is not None:
            settings["on_compromise"] = self._on_compromise
        return settings


__all__ = ["SoftReadWriteLock"]
