"""Several contenders for one lock, judged by their own logs.

Each contender logs when it asked, when it had the lock and when it gave it back, on the clock that all processes of
the machine share; all figures come from the merged logs. The stamp of a release is taken before the call, that of an
acquisition after it, so two holds that overlap in the log overlapped in fact.
"""

from __future__ import annotations

import math
import os
import statistics
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from cycles import rotated
from workers import FailedError, Worker, team

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from peers import Family, Ready

# How long contenders may take to come to an end after a round. The deadline cuts each of them off in its next turn, so
# they are through one after the other, without holds; who polls and is slow about it would hold up the whole run.
ENDING_SECONDS = 15.0


class Turn(NamedTuple):
    """One hold, or (without `released`) a wait that the end of the run cut off."""

    acquired: int
    released: int
    asked: int
    who: int


@dataclass(frozen=True)
class Plan:
    """What the contenders do, again and again for `seconds`: hold (asleep, or busy), rest, ask again."""

    hold_ms: float
    style: str
    rest_ms: float
    seconds: float
    rounds: int

    @property
    def title(self) -> str:
        """The plan in words."""
        after = f"rests {self.rest_ms:g} ms" if self.rest_ms else "asks again at once"
        return f"each holds the lock {self.hold_ms:g} ms ({self.style}) and {after}"


@dataclass(frozen=True)
class Setting:
    """Who contends: `count` processes, or threads of one process, for locks of one family."""

    family: Family
    count: int
    kind: str

    @property
    def title(self) -> str:
        """The setting in words."""
        return f"{self.family.title}, {self.count} {self.kind}"

    def takes(self, ready: Ready) -> bool:
        """Tell whether a candidate can take part."""
        candidate = ready.candidate
        return candidate.family == self.family and candidate.waits and (candidate.threads or self.kind == "processes")


@dataclass
class Contention:
    """One candidate's figures of one setting; several rounds are pooled, and where they differ the worst is kept."""

    turns: int = 0
    cut_off: int = 0
    hand_overs_us: list[float] = field(default_factory=list)
    successions: int = 0
    to_another: int = 0
    least_to_most: float = 1.0
    passed_over: int = 0
    turns_waited: int = 0
    longest_wait_ms: float = 0.0
    cpu_seconds: float = 0.0
    overlaps: int = 0

    @property
    def median_us(self) -> float | None:
        """The median hand-over."""
        return statistics.median(self.hand_overs_us) if self.hand_overs_us else None

    @property
    def p99_us(self) -> float | None:
        """The hand-over that 99 of 100 do not exceed."""
        if not self.hand_overs_us:
            return None
        return sorted(self.hand_overs_us)[math.ceil(0.99 * len(self.hand_overs_us)) - 1]

    @property
    def share_to_another(self) -> float | None:
        """The share of acquisitions that went to another contender than the one before."""
        return self.to_another / self.successions if self.successions else None

    @property
    def cpu_us_per_turn(self) -> float | None:
        """The processor time that one turn cost, all contenders together.

        A turn that the deadline cut off was a lock taken and given back as well, and of many contenders it is a good
        part of their turns.
        """
        return self.cpu_seconds * 1e6 / (self.turns + self.cut_off) if self.turns else None

    def as_json(self) -> dict[str, float | int | None]:
        """Return the figures without the single hand-overs."""
        return {
            "turns": self.turns,
            "cut_off": self.cut_off,
            "hand_over_median_us": self.median_us,
            "hand_over_p99_us": self.p99_us,
            "hand_overs": len(self.hand_overs_us),
            "share_to_another": self.share_to_another,
            "least_to_most": self.least_to_most,
            "passed_over": self.passed_over,
            "turns_waited": self.turns_waited,
            "longest_wait_ms": self.longest_wait_ms,
            "cpu_seconds": self.cpu_seconds,
            "cpu_us_per_turn": self.cpu_us_per_turn,
            "overlaps": self.overlaps,
        }

    def add(self, logs: Sequence[array[int]], cpu_ns: int) -> None:
        """Judge the logs of one round, one log a contender."""
        counts = [len(log) // 3 - 1 for log in logs]
        held: list[Turn] = []
        waits: list[Turn] = []
        for who, log in enumerate(logs):
            rows = [Turn(log[i + 1], log[i + 2], log[i], who) for i in range(0, len(log), 3)]
            held += rows[:-1]
            waits += rows
        held.sort()
        self.turns += len(held)
        self.cut_off += len(logs)
        self.cpu_seconds += cpu_ns / 1e9
        self.least_to_most = min(self.least_to_most, min(counts) / max(1, *counts))
        self._add_successions(held)
        self._add_waits(held, waits)

    def _add_successions(self, held: Sequence[Turn]) -> None:
        latest_release = 0
        last: Turn | None = None
        for turn in held:
            if turn.acquired < latest_release:
                self.overlaps += 1
            latest_release = max(latest_release, turn.released)
            if last is not None:
                self.successions += 1
                if turn.who != last.who:
                    self.to_another += 1
                    self.hand_overs_us.append((turn.acquired - last.released) / 1000)
            last = turn

    def _add_waits(self, held: Sequence[Turn], waits: Sequence[Turn]) -> None:
        """Find the wait that saw most turns of others, and the one that was passed over by most who asked later."""
        starts = [turn.acquired for turn in held]
        end = held[-1].released if held else 0
        for wait in waits:
            until = min(wait.acquired, end)
            others = [
                turn
                for turn in held[bisect_right(starts, wait.asked) : bisect_left(starts, until)]
                if turn.who != wait.who
            ]
            self.turns_waited = max(self.turns_waited, len(others))
            self.passed_over = max(self.passed_over, sum(turn.asked > wait.asked for turn in others))
            self.longest_wait_ms = max(self.longest_wait_ms, (until - wait.asked) / 1e6)


def measure(
    setting: Setting,
    candidates: Sequence[Ready],
    plan: Plan,
    scratch: Path,
    skip: Callable[[str, str], None],
) -> dict[str, Contention]:
    """Let them contend under each candidate, round by round."""
    run = _in_threads if setting.kind == "threads" else _in_processes
    results: dict[str, Contention] = {}
    alive = list(candidates)
    for number in range(plan.rounds):
        for ready in rotated(alive, number):
            try:
                logs, cpu_ns = run(ready, setting.count, plan, scratch)
            except FailedError as error:
                skip(ready.name, f"{setting.title}: {error}")
                alive.remove(ready)
                results.pop(ready.name, None)
            else:
                results.setdefault(ready.name, Contention()).add(logs, cpu_ns)
    return results


def _arguments(ready: Ready, plan: Plan, scratch: Path) -> list[str]:
    path = scratch / f"{ready.candidate.file_stem}-contended.lock"
    return [str(path), str(int(plan.hold_ms * 1e6)), plan.style, str(int(plan.rest_ms * 1e6)), str(plan.seconds)]


def _in_processes(ready: Ready, count: int, plan: Plan, scratch: Path) -> tuple[list[array[int]], int]:
    barrier, opener = os.pipe()
    with team(scratch) as workers:
        try:
            arguments = [*_arguments(ready, plan, scratch), str(barrier)]
            contenders = [workers.start(ready, "contend", *arguments, inherit=(barrier,)) for _ in range(count)]
            for contender in contenders:
                contender.expect("ready")
        finally:
            os.close(barrier)
            os.close(opener)
        logs: list[array[int]] = []
        cpu_ns = 0
        for contender in contenders:
            its_cpu_ns, its_logs = handed_in(contender, plan)
            cpu_ns += its_cpu_ns
            logs += its_logs
        return logs, cpu_ns


def _in_threads(ready: Ready, count: int, plan: Plan, scratch: Path) -> tuple[list[array[int]], int]:
    with team(scratch) as workers:
        process = workers.start(ready, "threads", *_arguments(ready, plan, scratch), str(count))
        process.expect("ready")
        cpu_ns, logs = handed_in(process, plan)
        if len(logs) != count:
            message = f"{count - len(logs)} of {count} threads failed"
            raise FailedError(message)
        return logs, cpu_ns


def handed_in(worker: Worker, plan: Plan) -> tuple[int, list[array[int]]]:
    """Return the CPU time and the logs that a contender sends at its end."""
    cpu_ns, *rows = map(int, worker.line(plan.seconds + ENDING_SECONDS).split())
    return cpu_ns, [worker.numbers(3 * number) for number in rows]
