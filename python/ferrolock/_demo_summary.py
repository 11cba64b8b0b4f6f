"""What a run of the demo comes to: pure functions from the logs of all processes to figures.

Processes are numbered from 1, stamps are nanoseconds since the common start.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Turn(NamedTuple):
    """One hold of the lock; ordered by time."""

    acquired_ns: int
    released_ns: int
    process: int


class Meeting(NamedTuple):
    """A disturbance that a process noticed inside its own turn; ``other`` is 0 where it cannot tell by whom."""

    process: int
    other: int


class Overlap(NamedTuple):
    """A turn (of ``second``) that began while ``first`` was inside; from ``start_ns`` to ``end_ns`` both were."""

    first: int
    second: int
    start_ns: int
    end_ns: int


class Share(NamedTuple):
    """The turns one process had, also as a fraction of all turns."""

    process: int
    turns: int
    fraction: float


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the nearest-rank percentile of at least one value: one that was measured, never one in between."""
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[max(rank, 1) - 1]


@dataclass(frozen=True)
class Summary:
    """The figures of one run."""

    turns: tuple[Turn, ...]
    """All turns of all processes in the order they were acquired."""
    shares: tuple[Share, ...]
    """One per process, also for those that never had a turn."""
    hand_overs_ns: tuple[int, ...]
    """Sorted: from one process's release to the next acquisition where that was another process's."""
    overlaps: tuple[Overlap, ...]
    """One for each turn that, by the stamps, began while another was going on."""
    meetings: tuple[Meeting, ...]
    """One for each turn that was disturbed by somebody else inside, by the mark in the critical section."""
    lost_updates: int
    """Turns whose addition to the shared counter did not arrive."""

    @property
    def overlap_count(self) -> int:
        """The overlaps in the log; if the log has none, whatever was noticed inside. 0 only if all three agree."""
        return len(self.overlaps) or len(self.meetings) or abs(self.lost_updates)

    @property
    def least_to_most(self) -> float | None:
        """The smallest share divided by the largest; ``None`` if nobody had a turn."""
        most = max((share.turns for share in self.shares), default=0)
        return min(share.turns for share in self.shares) / most if most else None

    @property
    def median_hold_ns(self) -> int | None:
        """How long a turn really took; ``None`` if nobody had one."""
        holds = sorted(turn.released_ns - turn.acquired_ns for turn in self.turns)
        return percentile(holds, 50) if holds else None

    def longest_wait(self, run_ns: int) -> tuple[int, int]:
        """Return the longest time that a process went without the lock, and which: all want it all the time.

        Also counted is the time before the first turn and after the last. A fast hand-over between few says nothing
        of those who are passed over; this does.
        """
        last_ns = dict.fromkeys((share.process for share in self.shares), 0)
        waits = [(0, 0)]
        for turn in self.turns:
            waits.append((turn.acquired_ns - last_ns[turn.process], turn.process))
            last_ns[turn.process] = turn.released_ns
        waits += [(run_ns - since_ns, process) for process, since_ns in last_ns.items()]
        return max(waits, key=lambda wait: wait[0])

    def pairs(self) -> list[tuple[tuple[int, int], int]]:
        """Who was inside together, the most frequent pair first; a 0 in a pair is a process that is not known."""
        seen: Iterable[tuple[int, int]] = ((overlap.first, overlap.second) for overlap in self.overlaps)
        if not self.overlaps:
            seen = ((meeting.process, meeting.other) for meeting in self.meetings)
        return Counter((min(pair), max(pair)) for pair in seen).most_common()


def find_overlaps(turns: Sequence[Turn]) -> list[Overlap]:
    """Find each turn that began while another was going on. ``turns`` must be sorted.

    A turn that begins at the very stamp at which another ends does not overlap it. Where several others were inside,
    the one that stays longest is named.
    """
    overlaps = []
    inside: list[Turn] = []
    for turn in turns:
        inside = [other for other in inside if other.released_ns > turn.acquired_ns]
        if inside:
            longest = max(inside, key=lambda other: other.released_ns)
            end_ns = min(longest.released_ns, turn.released_ns)
            overlaps.append(Overlap(longest.process, turn.process, turn.acquired_ns, end_ns))
        inside.append(turn)
    return overlaps


def summarise(
    logs: Sequence[Iterable[tuple[int, int]]], meetings: Iterable[Meeting] = (), counted: int | None = None
) -> Summary:
    """Merge one log of (acquired, released) per process, and what was noticed inside, into the figures of the run.

    ``counted`` is the final value of the shared counter; without one no update is taken as lost.
    """
    turns = sorted(Turn(acquired, released, number) for number, log in enumerate(logs, 1) for acquired, released in log)
    tally = Counter(turn.process for turn in turns)
    shares = (Share(number, tally[number], tally[number] / max(len(turns), 1)) for number in range(1, len(logs) + 1))
    hand_overs = (
        after.acquired_ns - before.released_ns
        for before, after in pairwise(turns)
        if after.process != before.process and after.acquired_ns >= before.released_ns
    )
    return Summary(
        turns=tuple(turns),
        shares=tuple(shares),
        hand_overs_ns=tuple(sorted(hand_overs)),
        overlaps=tuple(find_overlaps(turns)),
        meetings=tuple(meetings),
        lost_updates=0 if counted is None else len(turns) - counted,
    )
