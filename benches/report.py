"""The printed form: aligned tables, the machine they come from, and the targets."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peers import BARE_C, FILELOCK, OURS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contended import Contention
    from cycles import Figure
    from waiting import Waiting

NOTHING = "-"


def number(value: float | None, digits: int = 3) -> str:
    """Write a value with about three significant digits, and never in powers of ten."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or abs(value) >= 10**digits:
        return f"{value:.0f}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{digits - whole}f}"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align the columns: names to the left, numbers to the right; a header may take two lines."""
    heads = [cell.split("\n") for cell in header]
    tallest = max(len(head) for head in heads)
    lines = [[([""] * (tallest - len(head)) + head)[line] for head in heads] for line in range(tallest)] + list(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [title]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[0] = line[0].ljust(widths[0])
        text.append("  " + "  ".join(cells).rstrip())
    return "\n".join(text)


def figure_table(figure: Figure) -> str:
    """Write one figure with its ratios."""
    rows = []
    for name in figure.names:
        row = [name, number(figure.best(name)), number(figure.median(name))]
        if BARE_C in figure.names:
            row.append(number(figure.ratio(name, BARE_C)))
        row.append(number(figure.ratio(FILELOCK, name)))
        rows.append(row)
    header = ["", f"best\n[{figure.unit}]", f"median\n[{figure.unit}]"]
    if BARE_C in figure.names:
        header.append("x\nbare C")
    return table(figure.title, [*header, "times faster than\nfilelock 4.2.12"], rows)


def quotient(value: float | None, divisor: float | None) -> float | None:
    """Divide where both are known."""
    return value / divisor if value is not None and divisor else None


def contended_table(title: str, results: Mapping[str, Contention]) -> str:
    """Write one contended setting."""
    header = [
        "",
        "turns",
        "hand-over\nmedian [us]",
        "x\nbare C",
        "x filelock\n4.2.12",
        "hand-over\np99 [us]",
        "to another\n[%]",
        "least\n/most",
        "passed\nover",
        "turns\nwaited",
        "longest\nwait [ms]",
        "CPU\n[s]",
        "CPU/turn\n[us]",
        "x\nbare C",
        "x filelock\n4.2.12",
        "overlaps",
    ]
    floor, filelock = results.get(BARE_C), results.get(FILELOCK)
    rows = []
    for name, result in results.items():
        share = result.share_to_another
        median, cpu = result.median_us, result.cpu_us_per_turn
        rows.append(
            [
                name,
                str(result.turns),
                number(median),
                number(quotient(median, floor.median_us if floor else None)),
                number(quotient(median, filelock.median_us if filelock else None)),
                number(result.p99_us),
                number(None if share is None else 100 * share),
                number(result.least_to_most),
                str(result.passed_over),
                str(result.turns_waited),
                number(result.longest_wait_ms),
                number(result.cpu_seconds),
                number(cpu),
                number(quotient(cpu, floor.cpu_us_per_turn if floor else None)),
                number(quotient(cpu, filelock.cpu_us_per_turn if filelock else None)),
                str(result.overlaps),
            ]
        )
    return table(title, header, rows)


def waiting_table(title: str, results: Mapping[str, Waiting]) -> str:
    """Write what waiting costs."""
    header = [
        "",
        "CPU while\nwaiting [ms/s]",
        "x filelock\n4.2.12",
        "wake-up\nmedian [us]",
        "x\nbare C",
        "x filelock\n4.2.12",
        "wake-up\nlongest [us]",
    ]
    floor, filelock = results.get(BARE_C), results.get(FILELOCK)
    rows = []
    for name, result in results.items():
        cpu, wake_up = result.cpu_ms_per_second, result.wake_up_us
        rows.append(
            [
                name,
                number(cpu),
                number(quotient(cpu, filelock.cpu_ms_per_second if filelock else None)),
                number(wake_up),
                number(quotient(wake_up, floor.wake_up_us if floor else None)),
                number(quotient(wake_up, filelock.wake_up_us if filelock else None)),
                number(max(result.wake_ups_us, default=None)),
            ]
        )
    return table(title, header, rows)


def environment(scratch: Path) -> dict[str, str | int | list[float]]:
    """Describe the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(affinity(0)) if affinity else os.cpu_count() or 0,
        "file_system": file_system(scratch),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "executable": sys.executable,
    }


def head_line(facts: Mapping[str, str | int | list[float]]) -> str:
    """Write the machine in one line."""
    load = facts["load_average"]
    busy = load[0] if isinstance(load, list) else load
    return (
        f"{facts['python']} | {facts['kernel']} | {facts['cpus']} CPUs, load {busy} | "
        f"lock files on {facts['file_system']}"
    )


def file_system(folder: Path) -> str:
    """Return the type of the file system a folder is on, as the kernel's list of mounts has it."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "an unknown file system"
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "an unknown file system"


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


def targets(figures: Mapping[str, Figure]) -> list[Target]:
    """Judge our figures against what the project promises."""

    def against(key: str, base: str) -> float | None:
        return figures[key].ratio(OURS, base) if key in figures else None

    def faster(key: str) -> float | None:
        return figures[key].ratio(FILELOCK, OURS) if key in figures and figures[key].best(OURS) else None

    def best(key: str) -> float | None:
        return figures[key].best(OURS) if key in figures else None

    return [
        Target("with lock:, absolute path, at most 1.5 x bare C", against("with_absolute", BARE_C), 1.5),
        Target("with lock:, relative path, at most 1.5 x bare C", against("with_relative", BARE_C), 1.5),
        Target(
            "with lock:, absolute path, at least 10 x faster than filelock 4.2.12",
            faster("with_absolute"),
            10,
            at_least=True,
        ),
        Target(
            "with lock:, relative path, at least 10 x faster than filelock 4.2.12",
            faster("with_relative"),
            10,
            at_least=True,
        ),
        Target("reentrant cycle under 0.2 us", best("reentrant"), 0.2),
        Target("construction under 0.6 us", best("construction"), 0.6),
        Target("import ferrolock under 3 ms", best("import"), 3.0),
    ]


def target_table(judged: Sequence[Target]) -> str:
    """Write the targets this run can judge."""
    rows = [[target.text, number(target.found), target.verdict] for target in judged if target.found is not None]
    if not rows:
        return "targets: none measured in this run"
    missing = len(judged) - len(rows)
    title = "targets (best rounds of this run" + (f"; {missing} not measured)" if missing else ")")
    return table(title, ["", "found", ""], rows)
