"""What it costs one process to wait for another: processor time, and the delay after the release.

In `contended` the releaser asks again at once, so candidates that poll pass the lock on only in the rare moments in
which it does not get there first. Here it does not come back: this is the latency of a waiter that has no rival.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cycles import rotated
from workers import FailedError, Team, Worker, team

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from peers import Ready

# Holds of the wake-up measurement, seconds: spread over the longest default poll interval (portalocker, 250 ms),
# because a release in step with a poll would flatter or punish. Steps of the golden ratio spread any number evenly.
SHORTEST, LONGEST = 0.03, 0.28
GOLDEN = 0.618034


@dataclass
class Waiting:
    """One candidate's figures."""

    waited_seconds: float = 0.0
    cpu_seconds: float = 0.0
    wake_ups_us: list[float] = field(default_factory=list)

    @property
    def cpu_ms_per_second(self) -> float | None:
        """Processor time per second of waiting."""
        return self.cpu_seconds * 1000 / self.waited_seconds if self.waited_seconds else None

    @property
    def wake_up_us(self) -> float | None:
        """The median delay from a release to the waiter's acquisition."""
        return statistics.median(self.wake_ups_us) if self.wake_ups_us else None

    def as_json(self) -> dict[str, float | int | None]:
        """Return the figures without the single wake-ups."""
        return {
            "waited_seconds": self.waited_seconds,
            "cpu_seconds": self.cpu_seconds,
            "cpu_ms_per_second": self.cpu_ms_per_second,
            "wake_ups": len(self.wake_ups_us),
            "wake_up_median_us": self.wake_up_us,
            "wake_up_longest_us": max(self.wake_ups_us, default=None),
        }


class Pair:
    """Two processes of one candidate that pass a lock to and fro."""

    def __init__(self, ready: Ready, workers: Team, scratch: Path) -> None:
        self.ready = ready
        self.result = Waiting()
        name = f"{ready.candidate.file_stem}-waiting.lock"
        self._holder, self._waiter = (workers.start(ready, "serve", str(scratch), name) for _ in range(2))
        self._waiting_since = 0.0

    def begin(self) -> None:
        """Let one take the lock and the other wait for it."""
        self._take(self._holder)
        self._holder.answer()
        self._take(self._waiter)
        self._waiting_since = time.monotonic()

    def end(self) -> tuple[float, float, float]:
        """Hand the lock over; return the seconds waited, the waiter's CPU seconds, and the delay in microseconds."""
        waited = time.monotonic() - self._waiting_since
        released = self._holder.ask("give").first
        acquired, cpu_ns = self._waiter.answer()
        self._waiter.ask("give")
        self._holder, self._waiter = self._waiter, self._holder
        return waited, cpu_ns / 1e9, (acquired - released) / 1000

    @staticmethod
    def _take(worker: Worker) -> None:
        worker.send("take")
        worker.expect("waiting")


def measure(
    candidates: Sequence[Ready], seconds: float, wake_ups: int, scratch: Path, skip: Callable[[str, str], None]
) -> dict[str, Waiting]:
    """Measure one long wait (all candidates at the same time: they are asleep), then many short ones, in rounds."""
    with team(scratch) as workers:
        pairs = [Pair(ready, workers, scratch) for ready in candidates]

        def each(order: Sequence[Pair], step: Callable[[Pair], None]) -> None:
            for pair in order:
                try:
                    step(pair)
                except FailedError as error:
                    skip(pair.ready.name, f"waiting: {error}")
                    pairs.remove(pair)

        def warm_up(pair: Pair) -> None:
            pair.begin()
            pair.end()

        def wake_up(pair: Pair) -> None:
            pair.begin()
            time.sleep(SHORTEST + (LONGEST - SHORTEST) * (len(pair.result.wake_ups_us) * GOLDEN % 1))
            pair.result.wake_ups_us.append(pair.end()[2])

        def finish(pair: Pair) -> None:
            pair.result.waited_seconds, pair.result.cpu_seconds, _ = pair.end()

        each(list(pairs), warm_up)
        each(list(pairs), Pair.begin)
        time.sleep(seconds)
        each(list(pairs), finish)
        for number in range(wake_ups):
            each(rotated(pairs, number), wake_up)
        return {pair.ready.name: pair.result for pair in pairs}
