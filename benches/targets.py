"""What the project promises of its own figures, and what this run found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from contended import Setting
from peers import ASYNC, ASYNC_READ, ASYNC_WRITE, KERNEL, READ, SOFT, SOFT_READ, SOFT_WRITE, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from contended import Contention
    from cycles import Figure
    from peers import Family
    from readers import Crowd
    from sharing import Sharing
    from waiting import Waiting

# Contenders of which fairness and speed are promised.
KERNEL_PROCESSES = (2, 8, 32)
SOFT_PROCESSES = (8,)
ASYNC_PROCESSES = (2,)
# Between these numbers of threads the price of a turn must not grow: a release wakes one waiter, not all.
FEW_THREADS, MANY_THREADS = 8, 200


@dataclass(frozen=True)
class Target:
    """A promise about our own figure, and what this run found."""

    text: str
    found: float | None
    limit: float
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """Return whether the target was reached."""
        if self.found is None:
            return "not measured"
        return "reached" if (self.found >= self.limit if self.at_least else self.found <= self.limit) else "missed"


@dataclass(frozen=True)
class Promise:
    """A bound on one figure of a contended setting."""

    text: str
    of: Callable[[Contention], float | None]
    limit: float
    at_least: bool = False


def judged(
    figures: Mapping[str, Figure],
    contended: Mapping[Setting, Mapping[str, Contention]],
    waits: Mapping[str, Waiting],
    crowds: Mapping[str, Crowd],
    sharing: Mapping[str, Sharing],
) -> list[Target]:
    """Judge our figures; who contended for other holds than the promised ones is not to be handed in."""
    return [*_cycles(figures), *_contended(contended), *_waits(waits), *_crowds(crowds), *_sharing(sharing)]


def _cycles(figures: Mapping[str, Figure]) -> Iterator[Target]:
    def best(key: str) -> float | None:
        return figures[key].best(KERNEL.ours) if key in figures else None

    def ratio(key: str, name: str, base: str) -> float | None:
        return figures[key].ratio(name, base) if key in figures else None

    for family, to_bare_c, times_faster in (
        (KERNEL, 1.5, 10),
        (SOFT, 1.6, 5),
        (READ, 1.6, 15),
        (WRITE, 1.6, 15),
        (SOFT_READ, 1.5, 15),
        (SOFT_WRITE, 1.5, 15),
    ):
        for key, path in (("with_absolute", "absolute path"), ("with_relative", "relative path")):
            what = f"{family.title}: with lock:, {path}"
            yield Target(f"{what}, at most {to_bare_c} x bare C", ratio(key, family.ours, family.bare_c), to_bare_c)
            found = ratio(key, family.filelock, family.ours)
            yield Target(f"{what}, at least {times_faster} x faster than filelock 4.2.12", found, times_faster, True)
    for family in (ASYNC, ASYNC_READ, ASYNC_WRITE):
        found = ratio("with_absolute", family.filelock, family.ours)
        yield Target(f"{family.title}: async with lock:, at least 10 x faster than filelock 4.2.12", found, 10, True)
    yield Target("reentrant cycle under 0.2 us", best("reentrant"), 0.2)
    yield Target("construction under 0.6 us", best("construction"), 0.6)
    yield Target("import ferrolock under 3 ms", best("import"), 3.0)


def _crowds(crowds: Mapping[str, Crowd]) -> Iterator[Target]:
    ours = crowds.get(READ.ours)
    text = "6 readers and 2 writers"
    share, tail = (None, None) if ours is None else (ours.writers_share, ours.p99_ms / ours.median_ms)
    yield Target(f"{text}: the least served writer has 20 % of a fair share", share, 0.2, True)
    yield Target(f"{text}: p99 of the waits at most 50 x the median", tail, 50)
    yield Target(f"{text}: overlaps", None if ours is None else float(ours.overlaps), 0)


def _sharing(sharing: Mapping[str, Sharing]) -> Iterator[Target]:
    ours = sharing.get(READ.ours)
    text = "8 readers: cycles on all cores at least 1.2 x those on one"
    yield Target(text, None if ours is None else ours.growth, 1.2, at_least=True)


def _contended(results: Mapping[Setting, Mapping[str, Contention]]) -> Iterator[Target]:
    groups = ((KERNEL, KERNEL_PROCESSES), (SOFT, SOFT_PROCESSES), (ASYNC, ASYNC_PROCESSES))
    for family, numbers in groups:
        for count in numbers:
            setting = Setting(family, count, "processes")
            result = results.get(setting, {}).get(family.ours)
            for promise in _promises(family, count):
                found = None if result is None else promise.of(result)
                yield Target(f"{setting.title}: {promise.text}", found, promise.limit, promise.at_least)
    few, many = (
        results.get(Setting(KERNEL, count, "threads"), {}).get(KERNEL.ours) for count in (FEW_THREADS, MANY_THREADS)
    )
    before, after = (None if result is None else result.cpu_us_per_turn for result in (few, many))
    text = f"{KERNEL.title}: CPU/turn of {MANY_THREADS} threads at most 1.5 x that of {FEW_THREADS} threads"
    yield Target(text, after / before if before and after is not None else None, 1.5)


def _promises(family: Family, count: int) -> Iterator[Promise]:
    def percent_to_another(result: Contention) -> float | None:
        share = result.share_to_another
        return None if share is None else 100 * share

    if family == KERNEL:
        yield Promise("median hand-over at most 100 us", lambda result: result.median_us, 100)
        yield Promise("p99 of the hand-over at most 2000 us", lambda result: result.p99_us, 2000)
        yield Promise("at least 90 % of the turns to another", percent_to_another, 90, at_least=True)
        most = 2 * count
        yield Promise(f"passed over at most {most} times", lambda result: result.passed_over, most)
    else:
        yield Promise("median hand-over at most 200 us", lambda result: result.median_us, 200)
    yield Promise("least/most at least 0.8", lambda result: result.least_to_most, 0.8, at_least=True)
    yield Promise("no overlaps", lambda result: result.overlaps, 0)


def _waits(waits: Mapping[str, Waiting]) -> Iterator[Target]:
    for family in (KERNEL, SOFT):
        result = waits.get(family.ours)
        # 20 ms in a wait of 10 s.
        text = f"{family.title}: CPU while waiting at most 2 ms/s"
        yield Target(text, None if result is None else result.cpu_ms_per_second, 2)
