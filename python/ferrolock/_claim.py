"""What is told of the claims on a strict lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StrictSoftFileClaimState = Literal["intent", "held"]
"""
How far a claim has come.

``"intent"``: its owner wants the lock, or has it: this claim stays until the release. ``"held"``: its owner has won, or
is about to find out whether it has.
"""


@dataclass(frozen=True)
class StrictSoftFileClaim:
    """Who has a strict lock or wants it, as its claim says."""

    name: str
    """The name of the claim, for :meth:`StrictSoftFileLock.force_break`."""

    state: StrictSoftFileClaimState
    """How far it has come."""

    token: str
    """What tells the attempt from all others; a holder's two claims have the same one."""

    pid: int
    """The process, by its number on its own machine."""

    hostname: str
    """The machine, as soft locks name it."""

    start: int | None = None
    """When the process began, in a number that tells it from others that had its ``pid``; None if it could not tell."""


__all__ = ["StrictSoftFileClaim", "StrictSoftFileClaimState"]
