"""Six readers and two writers on one lock: who is served, how long each waits, and how much readers share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contended import handed_in
from peers import READ, WRITE, Ready
from workers import FailedError, team

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from contended import Plan

READERS, WRITERS = 6, 2


@dataclass(frozen=True)
class Crowd:
    """What came of it: the figures of all rounds pooled."""

    reads: int
    writes: int
    writers_share: float
    """Turns of the least served writer over a fair share of all."""
    median_ms: float
    p99_ms: float
    longest_ms: float
    overlaps: int
    """Turns with a writer in which somebody else was inside."""


def measure(
    candidates: Sequence[Ready], plan: Plan, scratch: Path, skip: Callable[[str, str], None]
) -> dict[str, Crowd]:
    """Have the readers and writers of each package take turns."""
    results: dict[str, Crowd] = {}
    for reader in (ready for ready in candidates if ready.candidate.family == READ and ready.program is None):
        writer = next(
            (
                ready
                for ready in candidates
                if ready.candidate.family == WRITE
                and ready.candidate.requirement == reader.candidate.requirement
                and ready.program is None
            ),
            None,
        )
        if writer is None:
            continue
        try:
            results[reader.name] = _run(reader, writer, plan, scratch)
        except FailedError as error:
            skip(reader.name, f"readers and writers: {error}")
    return results


def _run(reader: Ready, writer: Ready, plan: Plan, scratch: Path) -> Crowd:
    barrier, opener = os.pipe()
    path = scratch / f"{reader.candidate.file_stem}-crowd.lock"
    arguments = [str(path), str(int(plan.hold_ms * 1e6)), plan.style, str(int(plan.rest_ms * 1e6)), str(plan.seconds)]
    with team(scratch) as workers:
        try:
            started = [
                workers.start(ready, "contend", *arguments, str(barrier), inherit=(barrier,))
                for ready in [reader] * READERS + [writer] * WRITERS
            ]
            for worker in started:
                worker.expect("ready")
        finally:
            os.close(barrier)
            os.close(opener)
        logs = [handed_in(worker, plan)[1][0] for worker in started]
    return _judge(logs[:READERS], logs[READERS:])


def _judge(readers: Sequence[array[int]], writers: Sequence[array[int]]) -> Crowd:
    everybody = [*readers, *writers]
    counts = [len(log) // 3 for log in everybody]
    waits = sorted(log[at + 1] - log[at] for log in everybody for at in range(0, len(log), 3))
    turns = sorted(
        (log[at + 1], log[at + 2], is_writer)
        for logs, is_writer in ((readers, False), (writers, True))
        for log in logs
        for at in range(0, len(log), 3)
    )
    overlaps = 0
    last_read = last_write = 0
    for acquired, released, is_writer in turns:
        overlaps += acquired < last_write or (is_writer and acquired < last_read)
        if is_writer:
            last_write = max(last_write, released)
        else:
            last_read = max(last_read, released)
    return Crowd(
        reads=sum(counts[: len(readers)]),
        writes=sum(counts[len(readers) :]),
        writers_share=min(counts[len(readers) :]) / (sum(counts) / len(counts)),
        median_ms=waits[len(waits) // 2] / 1e6,
        p99_ms=waits[len(waits) * 99 // 100] / 1e6,
        longest_ms=waits[-1] / 1e6,
        overlaps=overlaps,
    )
