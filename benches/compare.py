"""Every figure of ferrolock beside its peers, in one run: `python benches/compare.py`.

Ratios are what to read: the machine is shared and its speed wanders, but all candidates wander together, because they
take turns. The exit code says whether the report could be made, not whether the targets were reached.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import contended
import cycles
import readers
import report
import sharing
import targets
import waiting
from peers import (
    ASYNC,
    CANDIDATES,
    FAMILY_OF,
    KERNEL,
    NO_LOCK,
    OURS,
    SOFT,
    Family,
    Ready,
    UnavailableError,
    default_folder,
    prepare,
)
from workers import FailedError

SECTIONS = (*cycles.TASKS, "import", "contended", "readers", "wait")


@dataclass
class Session:
    """What one run has found so far, and where it is written."""

    options: argparse.Namespace
    scratch: Path
    out: TextIO
    candidates: list[Ready] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    figures: dict[str, cycles.Figure] = field(default_factory=dict)
    contended: dict[contended.Setting, dict[str, contended.Contention]] = field(default_factory=dict)
    waits: dict[str, waiting.Waiting] = field(default_factory=dict)
    crowds: dict[str, readers.Crowd] = field(default_factory=dict)
    sharing: dict[str, sharing.Sharing] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Print a part of the report at once."""
        self.out.write(text + "\n")
        self.out.flush()

    def progress(self, text: str) -> None:
        """Tell somebody who is watching what is being measured."""
        if sys.stderr.isatty():
            sys.stderr.write(f"... {text}\n")
            sys.stderr.flush()

    def skip(self, name: str, why: str) -> None:
        """Leave something out, aloud."""
        self.skipped.append({"name": name, "why": why})
        self.say(f"skipped: {name}: {why}")

    def wants(self, section: str) -> bool:
        """Tell whether a section was asked for."""
        return section in self.options.only


def positive(text: str) -> float:
    """Read a number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        message = f"{text} is not a positive number"
        raise argparse.ArgumentTypeError(message)
    return value


def not_negative(text: str) -> float:
    """Read a number that may be zero."""
    return positive(text) if float(text) else 0.0


def counts(text: str) -> list[int]:
    """Read a list of numbers of contenders; `none` is an empty one."""
    if text == "none":
        return []
    values = [int(part) for part in text.split(",")]
    if min(values) <= 1:
        message = "contention takes at least two"
        raise argparse.ArgumentTypeError(message)
    return values


def sections(text: str) -> list[str]:
    """Read a list of sections."""
    chosen = text.split(",")
    unknown = sorted(set(chosen) - set(SECTIONS))
    if unknown:
        message = f"no such section: {', '.join(unknown)} (there are {', '.join(SECTIONS)})"
        raise argparse.ArgumentTypeError(message)
    return chosen


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; what is not given depends on --quick."""
    parser = argparse.ArgumentParser(description="Compare ferrolock with bare C and with other lock libraries.")
    parser.add_argument("--quick", action="store_true", help="a rough run, under 25 s")
    parser.add_argument("--only", type=sections, default=list(SECTIONS), help=f"from {','.join(SECTIONS)}")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON (-: to standard output)")
    parser.add_argument("--peers", type=Path, default=default_folder(), help="where the peers are kept (%(default)s)")
    parser.add_argument("--dir", type=Path, help="make the lock files under this folder")
    for name, what, default in (
        ("--processes", "processes on a kernel lock", "2,8,32; --quick: 8"),
        ("--soft-processes", "processes on a soft lock", "8"),
        ("--async-processes", "processes, each with an event loop, on an async lock", "2"),
        ("--threads", "threads of one process on one kernel lock object", "8,200; --quick: none"),
    ):
        parser.add_argument(name, type=counts, metavar="N,N", help=f"contenders: {what}, or none ({default})")
    parser.add_argument("--hold", type=positive, default=1.0, metavar="MS", help="how long a holder keeps the lock (1)")
    parser.add_argument("--hold-by", choices=("sleep", "spin"), default="sleep", help="what a holder does (sleep)")
    parser.add_argument("--rest", type=not_negative, default=0.0, metavar="MS", help="pause before it asks again (0)")
    parser.add_argument("--seconds", type=positive, help="length of one contended round (1; --quick: 0.5)")
    parser.add_argument("--wait", type=positive, help="length of the long wait in seconds (3; --quick: 1)")
    parser.add_argument("--control", action="store_true", help="add a lock that excludes nobody: overlaps must show")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.peers = options.peers.resolve()
    if options.processes is None:
        options.processes = [8] if quick else list(targets.KERNEL_PROCESSES)
    if options.soft_processes is None:
        options.soft_processes = list(targets.SOFT_PROCESSES)
    if options.async_processes is None:
        options.async_processes = list(targets.ASYNC_PROCESSES)
    if options.threads is None:
        options.threads = [] if quick else [targets.FEW_THREADS, targets.MANY_THREADS]
    options.seconds = options.seconds or (0.5 if quick else 1.0)
    options.wait = options.wait or (1.0 if quick else 3.0)
    return options


def assemble(session: Session) -> None:
    """Get every candidate; without our own there is nothing to compare."""
    identities: dict[str, str | None] = {}
    for candidate in CANDIDATES:
        session.progress(f"preparing {candidate.name}")
        try:
            ready = prepare(candidate, session.options.peers, session.scratch)
            identities[candidate.name] = cycles.origin_of(ready, session.scratch)
        except (UnavailableError, FailedError) as error:
            if candidate.name == OURS:
                sys.exit(f"ferrolock itself cannot be imported by {sys.executable}: {error}")
            session.skip(candidate.name, str(error))
        else:
            session.candidates.append(ready)
    for family in dict.fromkeys(FAMILY_OF.values()):
        ours = identities.get(family.ours)
        if ours is None:
            continue
        session.say(f"ours, {family.title}: {ours}")
        if not cycles.is_ours(ours):
            session.say("WARNING: the class is not ferrolock's own; these are somebody else's figures under our name")
    session.found["candidates"] = identities


def measure_alone(session: Session) -> None:
    """Measure what one process can."""
    quick = session.options.quick
    plan = cycles.Plan(rounds=4, batch_seconds=0.005, imports=2) if quick else cycles.Plan(20, 0.02, 25)
    tasks = [task for section, group in cycles.TASKS.items() if session.wants(section) for task in group]
    if tasks:
        session.progress("cycles")
        show(session, cycles.measure(tasks, session.candidates, plan, session.scratch, session.skip))
    if session.wants("import"):
        session.progress("import")
        show(session, cycles.measure_imports(session.candidates, plan, session.skip))


def show(session: Session, figures: list[cycles.Figure]) -> None:
    """Print figures, and keep them for the targets."""
    for figure in figures:
        session.figures[figure.key] = figure
        session.say("\n" + report.figure_table(figure))


def settings(options: argparse.Namespace) -> list[contended.Setting]:
    """List who contends with whom."""
    crowds: list[tuple[Family, str, list[int]]] = [
        (KERNEL, "processes", options.processes),
        (KERNEL, "threads", options.threads),
        (SOFT, "processes", options.soft_processes),
        (ASYNC, "processes", options.async_processes),
    ]
    return [contended.Setting(family, count, kind) for family, kind, counts in crowds for count in counts]


def measure_together(session: Session) -> None:
    """Measure contention, between processes and between threads."""
    options = session.options
    plan = contended.Plan(options.hold, options.hold_by, options.rest, options.seconds, 1 if options.quick else 2)
    extra = [Ready(NO_LOCK)] if options.control else []
    for setting in settings(options):
        session.progress(setting.title)
        entrants = [ready for ready in session.candidates if setting.takes(ready)] + extra
        result = contended.measure(setting, entrants, plan, session.scratch, session.skip)
        session.say("\n" + report.contended_table(f"{setting.title}: {plan.title}", result))
        session.contended[setting] = result


def measure_readers(session: Session) -> None:
    """Measure six readers and two writers on one lock, and readers alone on one core and on all."""
    options = session.options
    session.progress("readers and writers")
    plan = contended.Plan(options.hold, options.hold_by, options.rest, 2 * options.seconds, 1)
    session.crowds = readers.measure(session.candidates, plan, session.scratch, session.skip)
    title = f"one lock, {readers.READERS} readers and {readers.WRITERS} writers: {plan.title}"
    session.say("\n" + report.crowd_table(title, session.crowds))
    session.progress("readers on one core and on all")
    rounds = 1 if options.quick else 3
    session.sharing = sharing.measure(session.candidates, options.seconds, rounds, session.scratch, session.skip)
    session.say("\n" + report.sharing_table(f"{sharing.READERS} reader processes, no writer", session.sharing))


def measure_waiting(session: Session) -> None:
    """Measure what a waiter costs, and how late it is."""
    options = session.options
    session.progress("waiting")
    entrants = [ready for ready in session.candidates if ready.candidate.waits]
    session.waits = waiting.measure(entrants, options.wait, 2 if options.quick else 12, session.scratch, session.skip)
    title = f"one process waits for another: {options.wait:g} s, then short waits whose holder does not come back"
    session.say("\n" + report.waiting_table(title, session.waits))


NOTES = """\
how to read it
  families      kernel, soft, read, write and async locks (these in `async with`): a ratio is taken against bare C, or
                filelock 4.2.12, of the same family; an async lock's bare C is a kernel lock's
  best, median  over rounds in which the candidates take turns; ratios compare best rounds. Each round times one batch
                with the garbage collector off, after a warm-up; the cost of the empty loop is subtracted (not in C).
                Imports are fresh interpreters, nothing subtracted; what the interpreter has loaded at its start
                anyway costs an import nothing.
  hand-over     from a holder's release stamp to the acquisition by another contender. A releaser that polls usually
                gets the lock again itself, and then no hand-over happens: read it with `to another` and `least/most`.
  to another    share of acquisitions that go to another contender than the one before
  least/most    turns of the least served over turns of the most served (the worst round)
  passed over   turns that contenders who asked later got while one waited (the worst wait); `turns waited`: all turns
                of others during one wait
  CPU           user and system time of all contenders; a sleeping holder uses none, so this is the price of the lock.
                The deadline cuts one turn of each contender off: those are not in `turns`, but they are in CPU/turn
  overlaps      two holds at once, in the merged log: must be 0
  wake-up       from the release to the acquisition of the only waiter
  fasteners uses POSIX record locks: it excludes other processes, but not threads."""


def is_promised(options: argparse.Namespace) -> bool:
    """Tell whether contenders hold as the targets say: 1 ms, asleep, and no rest."""
    return (options.hold, options.hold_by, options.rest) == (1.0, "sleep", 0.0)


def finish(session: Session, started: float) -> None:
    """Print the footer, and write the JSON."""
    promised = session.contended if is_promised(session.options) else {}
    judged = targets.judged(session.figures, promised, session.waits, session.crowds, session.sharing)
    seconds = time.monotonic() - started
    session.say(f"\n{NOTES}\n\n{report.target_table(judged)}\n\n{seconds:.0f} s, {len(session.skipped)} left out")
    destination = session.options.json
    if destination is None:
        return
    document = {
        "environment": session.found.pop("environment"),
        "options": {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(session.options).items()
        },
        "seconds": seconds,
        "skipped": session.skipped,
        "figures": {
            figure.key: {
                "title": figure.title,
                "unit": figure.unit,
                "candidates": {
                    name: {
                        "best": figure.best(name),
                        "median": figure.median(name),
                        "to_bare_c": figure.ratio(name, FAMILY_OF[name].bare_c),
                        "faster_than_filelock_4_2_12": figure.ratio(FAMILY_OF[name].filelock, name),
                        "rounds": rounds,
                    }
                    for name, rounds in figure.rounds.items()
                    if rounds
                },
            }
            for figure in session.figures.values()
        },
        **session.found,
        "contended": {
            setting.title: {name: result.as_json() for name, result in results.items()}
            for setting, results in session.contended.items()
        },
        "readers": {name: asdict(result) for name, result in session.crowds.items()},
        "sharing": {name: asdict(result) for name, result in session.sharing.items()},
        "wait": {name: result.as_json() for name, result in session.waits.items()},
        "targets": [
            {"text": target.text, "found": target.found, "limit": target.limit, "verdict": target.verdict}
            for target in judged
        ],
    }
    text = json.dumps(document, indent=2) + "\n"
    if destination == "-":
        sys.stdout.write(text)
    else:
        Path(destination).write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Make the report."""
    options = parse(arguments)
    if sys.platform == "win32":
        sys.exit("the comparison needs flock: it runs on Unix")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ferrolock-bench-", dir=options.dir) as scratch:
        session = Session(options, Path(scratch).resolve(), sys.stderr if options.json == "-" else sys.stdout)
        facts = report.environment(session.scratch)
        session.found["environment"] = facts
        session.say(report.head_line(facts))
        assemble(session)
        measure_alone(session)
        if session.wants("contended"):
            measure_together(session)
        if session.wants("readers"):
            measure_readers(session)
        if session.wants("wait"):
            measure_waiting(session)
        finish(session, started)


if __name__ == "__main__":
    main()
