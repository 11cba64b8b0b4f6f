"""Markers that say on what terms they are held."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ._soft import SoftFileLock

OwnerMode = Literal["lease", "exclusive", "unknown"]
"""
On what terms a marker is held.

``"exclusive"``: until its owner gives it back, or is proved dead. ``"lease"``: for as long as its owner refreshes it.
``"unknown"``: those of a later release, which nobody here may judge.
"""


class OwnerRecord(NamedTuple):
    """What a marker says of its owner."""

    pid: int
    """The process, by its number on its own machine."""

    hostname: str
    """The machine, and the PID namespace where that is not the machine's own."""

    mode: OwnerMode
    """On what terms it holds."""

    token: str | None = None
    """What this one acquisition is known by; a lease has one."""

    lease_duration: float | None = None
    """Seconds after which others may take a lease that was not refreshed."""

    start: int | None = None
    """When the process began, to tell it from others that had the same number."""


class MarkerSoftFileLock(SoftFileLock):
    """
    A :class:`SoftFileLock` whose marker says that it is held exclusively, and until when it is not said.

    It excludes, and is excluded by, all other soft locks of ferrolock on the path, and filelock's
    ``MarkerSoftFileLock`` and ``SoftFileLease``. filelock's ``SoftFileLock`` does not know such markers, and takes them
    away after two seconds.
    """

    _mechanism = "exclusive_marker"

    @property
    def owner(self) -> OwnerRecord | None:
        """What the marker at the path says of its owner; None where there is none, or one that says no terms."""
        record = self._marker_owner()
        return None if record is None else _owner(record)

    @property
    def pid(self) -> int | None:
        """The process that the marker at the path names, if it says on what terms; None where there is none."""
        owner = self.owner
        return None if owner is None else owner.pid

    @property
    def is_lock_held_by_us(self) -> bool:
        """Whether the marker at the path says on what terms it is held, and names this process."""
        record = self._marker_owner()
        return record is not None and record[-1]

    def force_break(self) -> None:
        """Remove the marker at the path, whoever it belongs to, as :meth:`break_lock` does."""
        self.break_lock()


def _owner(record: tuple[int, str, OwnerMode, str | None, float | None, str | None, bool]) -> OwnerRecord:
    pid, hostname, mode, token, duration, start, _is_own = record
    return OwnerRecord(pid, hostname, mode, token, duration, None if start is None else int(start))


__all__ = ["MarkerSoftFileLock", "OwnerMode", "OwnerRecord"]
