"""The printed form: aligned tables, and the machine they come from."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from peers import FAMILY_OF

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contended import Contention
    from cycles import Figure
    from readers import Crowd
    from sharing import Sharing
    from targets import Target
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
    """Align the columns: names to the left, numbers to the right; a header may take two lines.

    A column in which nobody has a value is left out.
    """
    shown = [column for column in range(len(header)) if not rows or any(row[column] != NOTHING for row in rows)]
    heads = [header[column].split("\n") for column in shown]
    tallest = max(len(head) for head in heads)
    lines = [[([""] * (tallest - len(head)) + head)[line] for head in heads] for line in range(tallest)]
    lines += [[row[column] for column in shown] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = [title]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[0] = line[0].ljust(widths[0])
        text.append("  " + "  ".join(cells).rstrip())
    return "\n".join(text)


def quotient(value: float | None, divisor: float | None) -> float | None:
    """Divide where both are known."""
    return value / divisor if value is not None and divisor else None


def against(values: Mapping[str, float | None], name: str) -> tuple[str, str]:
    """Write a candidate's value as a multiple of bare C's and of filelock 4.2.12's, those of its own family."""
    family = FAMILY_OF[name]
    to_bare_c, to_filelock = (quotient(values[name], values.get(base)) for base in (family.bare_c, family.filelock))
    return number(to_bare_c), number(to_filelock)


def figure_table(figure: Figure) -> str:
    """Write one figure with its ratios."""
    rows = []
    for name in figure.names:
        family = FAMILY_OF[name]
        to_bare_c, times_faster = figure.ratio(name, family.bare_c), figure.ratio(family.filelock, name)
        rows.append(
            [name, number(figure.best(name)), number(figure.median(name)), number(to_bare_c), number(times_faster)]
        )
    header = [
        "",
        f"best\n[{figure.unit}]",
        f"median\n[{figure.unit}]",
        "x\nbare C",
        "times faster than\nfilelock 4.2.12",
    ]
    return table(figure.title, header, rows)


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
    medians = {name: result.median_us for name, result in results.items()}
    cpus = {name: result.cpu_us_per_turn for name, result in results.items()}
    rows = []
    for name, result in results.items():
        share = result.share_to_another
        rows.append(
            [
                name,
                str(result.turns),
                number(medians[name]),
                *against(medians, name),
                number(result.p99_us),
                number(None if share is None else 100 * share),
                number(result.least_to_most),
                str(result.passed_over),
                str(result.turns_waited),
                number(result.longest_wait_ms),
                number(result.cpu_seconds),
                number(cpus[name]),
                *against(cpus, name),
                str(result.overlaps),
            ]
        )
    return table(title, header, rows)


def crowd_table(title: str, results: Mapping[str, Crowd]) -> str:
    """Write what became of readers and writers on one lock."""
    header = [
        "",
        "reads",
        "writes",
        "least writer\n/fair share",
        "wait\nmedian [ms]",
        "p99 [ms]",
        "longest\n[ms]",
        "overlaps",
    ]
    rows = [
        [
            name.removesuffix(" read"),
            str(crowd.reads),
            str(crowd.writes),
            number(crowd.writers_share),
            number(crowd.median_ms),
            number(crowd.p99_ms),
            number(crowd.longest_ms),
            str(crowd.overlaps),
        ]
        for name, crowd in results.items()
    ]
    return table(title, header, rows)


def sharing_table(title: str, results: Mapping[str, Sharing]) -> str:
    """Write what readers do together on one core and on all."""
    header = ["", "cycles/s\non one core", "cycles/s\non all cores", "x"]
    rows = [
        [
            name,
            number(sharing.best(1)),
            number(sharing.best(max(sharing.cycles_per_second))),
            number(sharing.growth),
        ]
        for name, sharing in results.items()
    ]
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
    cpus = {name: result.cpu_ms_per_second for name, result in results.items()}
    wake_ups = {name: result.wake_up_us for name, result in results.items()}
    rows = []
    for name, result in results.items():
        rows.append(
            [
                name,
                number(cpus[name]),
                against(cpus, name)[1],
                number(wake_ups[name]),
                *against(wake_ups, name),
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


def target_table(judged: Sequence[Target]) -> str:
    """Write the targets this run can judge."""
    rows = [[target.text, number(target.found), target.verdict] for target in judged if target.found is not None]
    if not rows:
        return "targets: none measured in this run"
    missing = len(judged) - len(rows)
    title = "targets (of cycles: the best rounds" + (f"; {missing} not measured)" if missing else ")")
    return table(title, ["", "found", ""], rows)
