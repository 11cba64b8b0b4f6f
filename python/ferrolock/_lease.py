"""The soft lock that a holder has only for as long as it says that it lives."""

from __future__ import annotations

from . import _native
from ._api import BaseFileLock
from ._marker import MarkerSoftFileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any

    from ._compromise import LeaseCompromise


class LeaseSettingsMismatch(ValueError):  # noqa: N818 - filelock's name
    """The holder's lease is of another duration: all who contend for a path have to agree on it."""


class SoftFileLease(MarkerSoftFileLock):
    """
    A marker that its holder keeps fresh, and that others take when they have seen it unchanged for long enough.

    For a lock file that several machines share: the marker of a machine that is gone does not stay for ever. Who holds
    refreshes it every ``heartbeat_interval`` seconds, by threads that do not need the GIL. Who contends takes it when
    it has not changed for ``lease_duration`` seconds of the contender's own clock, or at once if its owner is proved
    dead.

    A holder that was stopped for longer (a suspended machine, a file system that does not answer) may lose the lock
    while it believes to have it. It is told, by :attr:`compromise` and ``on_compromise``, when it goes on; its release
    leaves the next holder's marker alone.

    It excludes, and is excluded by, all other soft locks of ferrolock on the path, and filelock's ``SoftFileLease`` and
    ``MarkerSoftFileLock``. filelock's ``SoftFileLock`` does not know leases, and takes one away that was not refreshed
    for two seconds.
    """

    _has_lifetime = False
    _mechanism = "lease_marker"

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = -1,
        thread_local: bool = True,  # noqa: FBT001, FBT002 - filelock's signature
        *,
        lease_duration: float = 30.0,
        heartbeat_interval: float | None = None,
        on_compromise: Callable[[LeaseCompromise], object] | None = None,
        **options: Any,
    ) -> None:
        """
        Touch no file; that is for :meth:`acquire`.

        The other parameters are those of :class:`SoftFileLock`.

        :param lease_duration: seconds without a change after which others may take the marker; the same for all who
            contend for the path
        :param heartbeat_interval: seconds between two refreshes; None is a third of the duration
        :param on_compromise: called with a `LeaseCompromise` when a hold was lost, on a thread of its own, where it may
            release what was lost
        :raises TypeError, ValueError: for an option of the wrong kind; a heartbeat has to be shorter than the lease
        """
        self._lease_options = {
            "lease_duration": lease_duration,
            "heartbeat_interval": heartbeat_interval,
            "on_compromise": on_compromise,
        }
        super().__init__(lock_file, timeout, mode, thread_local, **options)

    _initialize = __init__

    def _configure(self, *args: Any, **options: Any) -> None:
        lease = self.__dict__.pop("_lease_options")
        super()._configure(*args, **lease, **options)

    @property
    def lease_duration(self) -> float:
        """Seconds without a change after which others may take the marker."""
        return self._lease_duration

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between two refreshes of the marker."""
        return self._heartbeat_interval

    @property
    def token(self) -> str | None:
        """
        What the hold is known by, 32 digits drawn for each; None if nothing is held.

        It tells holds apart and not which came later: it fences nothing by itself.
        """
        return self._token

    @property
    def compromise(self) -> LeaseCompromise | None:
        """How the hold was lost, or the last one if nothing is held; None if it was not. The next hold forgets it."""
        return self._compromise

    lifetime = BaseFileLock.lifetime

    @classmethod
    def _admit_lifetime(cls, lifetime: float, stacklevel: int) -> float | None:  # noqa: ARG003 - others read it
        import warnings

        msg = f"lifetime is ignored for {cls.__name__}: lease_duration says when others may take the lock"
        warnings.warn(msg, UserWarning, stacklevel=stacklevel + 1)
        return None

    @classmethod
    def _compared(cls, options: dict[str, Any]) -> dict[str, Any]:
        given = {"lease_duration": 30.0, "heartbeat_interval": None, "on_compromise": None, **options}
        duration, heartbeat = _native.check_lease(
            given["lease_duration"], given["heartbeat_interval"], given["on_compromise"]
        )
        return {**given, "lease_duration": duration, "heartbeat_interval": heartbeat}

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        settings.update(lease_duration=self.lease_duration, heartbeat_interval=self.heartbeat_interval)
        if self._on_compromise is not None:
            settings["on_compromise"] = self._on_compromise
        return settings


__all__ = ["LeaseSettingsMismatch", "SoftFileLease"]
