"""``SoftReadWriteLock`` in a crowd: nobody is inside with a writer, everybody comes in, and nothing is left."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from soft_rw_peers import allowed, folder_of
from test_read_write_stress import overlaps, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from test_read_write_stress import Crew

OURS, THEIRS = "ferrolock.SoftReadWriteLock", "filelock.SoftReadWriteLock"


def check_left(path: Path) -> None:
    """The folder of readers, and the number of the last writer."""
    assert allowed(path) == "write"
    assert os.listdir(path.parent) == [folder_of(path).name]
    left = [entry.name for entry in folder_of(path).iterdir()]
    assert all(re.fullmatch(r"\.generation\.\d+|\.seen\.[0-9a-f]+", name) for name in left), left


def test_readers_and_writers_of_ours(lock_path: Path) -> None:
    crew: Crew = [(OURS, mode, None) for mode in ("read", "read", "write") * 2]
    reports = run(crew, lock_path, hold=0.002, rest=0.004)
    assert overlaps(reports) == 0
    for report in reports:
        assert len(report["waits"]) > 5, report["mode"]
    check_left(lock_path)


def test_beside_filelocks(lock_path: Path, filelock_folder: Callable[[str], Path]) -> None:
    crew: Crew = [
        (kind, mode, folder)
        for kind, folder in ((OURS, None), (THEIRS, filelock_folder("3.29.0")), (THEIRS, filelock_folder("3.32.7")))
        for mode in ("read", "write")
    ]
    reports = run(crew, lock_path, hold=0.002, rest=0.01)
    assert overlaps(reports) == 0
    for report in reports:
        assert len(report["waits"]) > 2, (report["kind"], report["mode"])
    check_left(lock_path)


def test_what_does_not_lock_is_found_out(lock_path: Path) -> None:
    """The negative control, by the same workers."""
    crew: Crew = [("nothing", mode, None) for mode in ("read", "write")]
    assert overlaps(run(crew, lock_path, hold=0.002, rest=0.004)) > 5
