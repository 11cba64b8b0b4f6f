"""What is told of a hold that was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CompromiseReason = Literal["marker-missing", "owner-changed", "refresh-failed", "evicted"]
"""
How a hold was lost.

``"evicted"``: a contender took its marker for a dead holder's, or somebody removed it. ``"marker-missing"``: the folder
of the markers is gone. ``"owner-changed"``: somebody else's marker has its name. ``"refresh-failed"``: it could not be
refreshed for so long that others may have evicted it.
"""


@dataclass(frozen=True)
class LeaseCompromise:
    """A hold that was lost while its holder believed in it: others may have the lock by now."""

    lock_file: str
    """The path of the lock, as it was given."""

    token: str
    """What the marker was known by."""

    reason: CompromiseReason
    """How it was lost."""

    error: Exception | None = None
    """What the operating system said, where it said anything."""


__all__ = ["CompromiseReason", "LeaseCompromise"]
