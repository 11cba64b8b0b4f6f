"""What one process can measure alone: cycles of an uncontended lock, construction, import.

The machine is shared, so nothing is measured in one go: every round asks each candidate for one short batch, in an
order that rotates, and a candidate's figure is its best round (the median is shown beside it). Whatever slows the
machine for a while slows all of them alike, and the best rounds are the ones nothing disturbed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from peers import OURS
from workers import FailedError, Worker, team

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peers import Ready

T = TypeVar("T")

WARM_UP = 50
FEWEST, MOST = 20, 500_000
IMPORT = """\
import sys, time
folder, module, name = sys.argv[1:]
if sys.path[:1] == [""]:
    del sys.path[0]
if folder:
    sys.path.insert(0, folder)
start = time.perf_counter_ns()
package = __import__(module)
imported = time.perf_counter_ns()
getattr(package, name)
usable = time.perf_counter_ns()
print(imported - start, usable - start, getattr(package, "__file__", None))
"""


@dataclass
class Figure:
    """One measured quantity: every candidate's value of every round, in `unit`."""

    key: str
    title: str
    unit: str
    rounds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The candidates that have a value, in the order of the tables."""
        return [name for name, values in self.rounds.items() if values]

    def best(self, name: str) -> float | None:
        """Return the candidate's best round."""
        values = self.rounds.get(name)
        return min(values) if values else None

    def median(self, name: str) -> float | None:
        """Return the candidate's median round."""
        values = self.rounds.get(name)
        return statistics.median(values) if values else None

    def ratio(self, name: str, base: str) -> float | None:
        """Return how many times as long as `base` the candidate takes, best round to best round."""
        value, divisor = self.best(name), self.best(base)
        return value / divisor if value is not None and divisor else None


@dataclass(frozen=True)
class Task:
    """A figure that `serve` can measure, and who takes part."""

    key: str
    title: str
    request: str
    c_request: str | None = None
    by_hand: bool = True
    reentrant_only: bool = False

    def request_for(self, ready: Ready) -> str | None:
        """Return the line to send to this candidate, or None where it has nothing of the kind."""
        if ready.program is not None:
            return self.c_request
        if self.reentrant_only and not ready.candidate.reentrant:
            return None
        return self.request if self.by_hand or ready.candidate.adapter != "by_hand" else None


TASKS = {
    "uncontended": (
        Task("with_absolute", "with lock:, absolute path", "with:absolute", "with:absolute"),
        Task("with_relative", "with lock:, relative path", "with:relative", "with:relative"),
        Task("acquire_absolute", "acquire() and release(), absolute path", "acquire:absolute", "with:absolute"),
        Task("acquire_relative", "acquire() and release(), relative path", "acquire:relative", "with:relative"),
    ),
    "reentrant": (Task("reentrant", "with lock:, on a lock already held", "nested:absolute", reentrant_only=True),),
    "construction": (
        Task("construction", "building a lock object (and dropping it)", "construct:absolute", by_hand=False),
    ),
}


def rotated(items: Sequence[T], by: int) -> list[T]:
    """Return the items in an order that starts elsewhere each time, so that nobody always runs after the same other."""
    start = by % len(items) if items else 0
    return [*items[start:], *items[:start]]


class Batches:
    """One worker's batches: how many turns make one, for each task, by the quickest that was seen."""

    def __init__(self, worker: Worker, seconds: float) -> None:
        self._worker = worker
        self._nanoseconds = seconds * 1e9
        self._quickest: dict[str, float] = {}

    def microseconds(self, request: str) -> float:
        """Run one batch, after a tenth of it to warm up, and return the time of one turn without the loop's own."""
        if request not in self._quickest:
            # Other workers may be starting still; a batch that is too small for that is paid for by its first turns.
            self._quickest[request] = min(self._worker.ask(request, WARM_UP).first for _ in range(3)) / WARM_UP
        count = min(MOST, max(FEWEST, int(self._nanoseconds / max(self._quickest[request], 1.0))))
        self._worker.ask(request, max(1, count // 10))
        spent, loop = self._worker.ask(request, count)
        self._quickest[request] = min(self._quickest[request], spent / count)
        return (spent - loop) / count / 1000


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int
    batch_seconds: float
    imports: int


def measure(
    tasks: Sequence[Task], candidates: Sequence[Ready], plan: Plan, scratch: Path, skip: Callable[[str, str], None]
) -> list[Figure]:
    """Measure the tasks; a candidate that fails is left out from there on, and `skip` is told."""
    figures = [
        Figure(task.key, task.title, "us", {ready.name: [] for ready in candidates if task.request_for(ready)})
        for task in tasks
    ]
    with team(scratch) as workers:
        batches = {
            ready.name: Batches(
                workers.start(ready, "serve", str(scratch), f"{ready.candidate.file_stem}.lock"), plan.batch_seconds
            )
            for ready in candidates
        }
        alive = list(candidates)
        for number in range(plan.rounds):
            for task, figure in zip(tasks, figures, strict=True):
                for ready in rotated(alive, number):
                    request = task.request_for(ready)
                    if request is None:
                        continue
                    try:
                        value = batches[ready.name].microseconds(request)
                    except FailedError as error:
                        skip(ready.name, str(error))
                        alive.remove(ready)
                    else:
                        figure.rounds[ready.name].append(value)
    return figures


def measure_imports(candidates: Sequence[Ready], plan: Plan, skip: Callable[[str, str], None]) -> list[Figure]:
    """Time the import in fresh interpreters, with nothing subtracted."""
    alive = [ready for ready in candidates if ready.candidate.module is not None]
    package = Figure("import", "import of the package", "ms", {ready.name: [] for ready in alive})
    title = "import of the package and its lock class"
    usable = Figure("import_class", title, "ms", {ready.name: [] for ready in alive})
    for number in range(plan.imports + 1):
        for ready in rotated(alive, number):
            try:
                imported, ready_to_use = _import_once(ready)
            except FailedError as error:
                skip(ready.name, str(error))
                alive.remove(ready)
                continue
            if number > 0:  # The first one fills the caches: compiled modules, and the page cache.
                package.rounds[ready.name].append(imported)
                usable.rounds[ready.name].append(ready_to_use)
    return [package, usable]


def _import_once(ready: Ready) -> tuple[float, float]:
    candidate = ready.candidate
    arguments = [str(ready.folder or ""), str(candidate.module), str(candidate.lock_class)]
    # Users import compiled modules; without this variable the first round leaves them behind.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", IMPORT, *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise FailedError((finished.stderr.strip().splitlines() or ["the import failed"])[-1])
    imported, usable, origin = finished.stdout.split(maxsplit=2)
    if ready.folder is not None and not Path(origin.strip()).is_relative_to(ready.folder):
        message = f"imported from {origin.strip()}"
        raise FailedError(message)
    return int(imported) / 1e6, int(usable) / 1e6


def origin_of(ready: Ready, scratch: Path) -> str | None:
    """Return what a Python candidate really is, in its own words; raises FailedError where it cannot be loaded."""
    if ready.program is not None:
        return None
    with team(scratch) as workers:
        return workers.start(ready, "origin").line()


def is_ours(origin: str) -> bool:
    """Tell whether the class measured under our name is defined by our package."""
    kind = ""
    with suppress(ValueError):
        _, kind, _ = origin.split(", ", 2)
    return kind.partition(".")[0] == OURS
