"""Readers and writers of every kind on one file at once: nobody is inside with a writer, and nobody waits for long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

WORKER = Path(__file__).with_name("rw_worker.py")
SECONDS = 4.0
LONGEST_WAIT = 6.0
"""Seconds: participants that poll, and wait up to 100 ms between two attempts, need luck to meet a gap."""

Crew = Sequence[tuple[str, str, "Path | None"]]


def run(crew: Crew, path: Path, hold: float, rest: float) -> list[dict[str, Any]]:
    """Have them all take turns for a while; return when each was inside, and how long it waited."""
    with ExitStack() as stack:
        workers = []
        for kind, mode, folder in crew:
            command = [sys.executable, str(WORKER), kind, mode, str(path), str(SECONDS), str(hold), str(rest)]
            environment = {**os.environ, **({} if folder is None else {"PYTHONPATH": str(folder)})}
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            stack.enter_context(worker)
            stack.callback(worker.kill)
            workers.append(worker)
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return [json.loads(worker.communicate(timeout=SECONDS + 40)[0]) for worker in workers]


def overlaps(reports: list[dict[str, Any]]) -> int:
    """How often somebody was inside with a writer."""
    turns = sorted((*span, report["mode"]) for report in reports for span in report["inside"])
    found = 0
    inside: list[tuple[int, int, str]] = []
    for turn in turns:
        inside = [other for other in inside if other[1] > turn[0]]
        found += sum("write" in (other[2], turn[2]) for other in inside)
        inside.append(turn)
    return found


def test_everybody_excludes_everybody_and_nobody_stalls(tmp_path: Path, filelock_folder: Callable[[str], Path]) -> None:
    crew: Crew = [
        (kind, mode, folder)
        for kind, folder in (
            ("ferrolock", None),
            ("filelock", filelock_folder("4.2.12")),
            ("filelock", filelock_folder("3.29.0")),
            ("sqlite3", None),
        )
        for mode in ("read", "write")
    ]
    reports = run([*crew, ("ferrolock", "write", None)], tmp_path / "x.db", hold=0.001, rest=0.003)
    assert overlaps(reports) == 0
    for report in reports:
        assert len(report["waits"]) > 5, report["kind"]
        assert max(report["waits"]) < LONGEST_WAIT * 1e9, (report["kind"], report["mode"])


@pytest.mark.skipif(sys.platform != "linux", reason="the order is kept on Linux")
def test_neither_readers_nor_writers_starve(tmp_path: Path) -> None:
    crew: Crew = [("ferrolock", "read", None)] * 6 + [("ferrolock", "write", None)] * 2
    reports = run(crew, tmp_path / "x.db", hold=0.001, rest=0)
    assert overlaps(reports) == 0
    turns = {mode: [len(report["waits"]) for report in reports if report["mode"] == mode] for mode in ("read", "write")}
    fair = sum(map(sum, turns.values())) / len(crew)
    assert min(turns["write"]) > 0.2 * fair, turns
    assert min(turns["read"]) > 0.2 * fair, turns
    waits = sorted(wait for report in reports for wait in report["waits"])
    assert waits[len(waits) * 99 // 100] < 50 * max(waits[len(waits) // 2], 1_000_000)


def test_the_count_of_overlaps_counts() -> None:
    """The negative control."""

    def report(mode: str, *inside: tuple[int, int]) -> dict[str, Any]:
        return {"mode": mode, "inside": inside}

    assert overlaps([report("read", (0, 9)), report("read", (1, 2), (3, 12))]) == 0
    assert overlaps([report("write", (0, 2)), report("read", (2, 3))]) == 0
    assert overlaps([report("write", (0, 3)), report("read", (2, 4)), report("write", (5, 6), (5, 9))]) == 2
