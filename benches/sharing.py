"""Eight readers of one lock, on one core and on all of them: readers do not wait for each other, so cores must help."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peers import READ
from workers import FailedError, team

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from peers import Ready

READERS = 8
TASK = "with:absolute"


@dataclass(frozen=True)
class Sharing:
    """What one candidate's readers did together: cycles a second of each round, by the number of cores they had."""

    cycles_per_second: dict[int, list[float]] = field(default_factory=dict)

    def best(self, cores: int) -> float:
        """Return the best round."""
        return max(self.cycles_per_second[cores])

    @property
    def growth(self) -> float:
        """Return how many times as many cycles all the cores make as one does."""
        return self.best(max(self.cycles_per_second)) / self.best(1)


def measure(
    candidates: Sequence[Ready], seconds: float, rounds: int, scratch: Path, skip: Callable[[str, str], None]
) -> dict[str, Sharing]:
    """Have the readers of each package run, with one core and with all, in turns."""
    if not hasattr(os, "sched_setaffinity"):
        skip("readers on one core and on all", "this system cannot keep a process to a core")
        return {}
    everywhere = os.sched_getaffinity(0)
    if len(everywhere) == 1:
        skip("readers on one core and on all", "there is one core")
        return {}
    results = {}
    for ready in (ready for ready in candidates if ready.candidate.family == READ):
        sharing = Sharing({1: [], len(everywhere): []})
        try:
            for _ in range(rounds):
                for cores in ({min(everywhere)}, everywhere):
                    with _kept_to(cores):
                        sharing.cycles_per_second[len(cores)].append(_run(ready, seconds, scratch))
        except FailedError as error:
            skip(ready.name, f"readers on one core and on all: {error}")
        else:
            results[ready.name] = sharing
    return results


@contextmanager
def _kept_to(cores: AbstractSet[int]) -> Iterator[None]:
    """Keep this process and those it starts to some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _run(ready: Ready, seconds: float, scratch: Path) -> float:
    with team(scratch) as workers:
        arguments = ("serve", str(scratch), f"{ready.candidate.file_stem}-shared.lock")
        readers = [workers.start(ready, *arguments) for _ in range(READERS)]
        for reader in readers:
            reader.ask(TASK, 50)
        each = readers[0].ask(TASK, 200).first / 200 / 1e9
        count = max(50, int(seconds / READERS / each))
        start = time.monotonic()
        for reader in readers:
            reader.send(TASK, count)
        for reader in readers:
            reader.answer()
        return READERS * count / (time.monotonic() - start)
