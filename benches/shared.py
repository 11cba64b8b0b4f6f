"""Locks of readers and writers on a real distributed file system: ours beside filelock's, on two clients of GlusterFS.

`python benches/shared.py`, as root, where GlusterFS is installed; `tests/shared_file_system/gluster.sh` mounts the
clients, and leaves nothing behind. Each process is another machine to the others. Nobody dies and nobody is stopped:
whatever is raised but a timeout is a fault of the lock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import peers

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT / "tests" / "shared_file_system"
sys.path.insert(0, str(SHARED))

import turns  # noqa: E402 -- the folder has to be known first

OURS = "ferrolock"
PACKAGES = (OURS, "filelock==3.29.0", "filelock==4.2.12")
MODES = ("write", "read")
# The mounts, the namespaces, and the wait that is under way at the end.
SET_UP_SECONDS, LAST_SECONDS = 40, 30
COLUMNS = "{:16} {:>7} {:>9} {:>10} {:>11} {:>9} {:>9} {:>12}"
HEADS = ("", "turns", "overlaps", "median ms", "longest ms", "timeouts", "errors", "first after")


def main() -> int:
    """Fetch the peers, go where the volume is mounted, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each package is tried (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="of each mode on each client (%(default)s)")
    parser.add_argument("--peers", type=Path, default=peers.default_folder(), help="where filelock is kept")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--turns", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turns is not None:
        take_turns(**json.loads(options.turns))
    elif options.inside:
        compare(options.seconds, options.processes, options.peers)
    else:
        # There is no network where the volume is.
        for package in PACKAGES[1:]:
            peers.installed(package, options.peers)
        limit = SET_UP_SECONDS + len(PACKAGES) * (options.seconds + LAST_SECONDS)
        environment = {**os.environ, "SHARED_LIMIT": str(int(limit))}
        arguments = [sys.executable, __file__, *sys.argv[1:], "--inside"]
        return subprocess.run([SHARED / "gluster.sh", *arguments], env=environment, check=False).returncode
    return 0


def take_turns(folder: str | None, **work: Any) -> None:
    """Be one of those who contend; print a report."""
    if folder is not None:
        sys.path.insert(0, folder)
    print(json.dumps(turns.take_turns(**work)))


def compare(seconds: float, processes: int, folder: Path) -> None:
    """Try all packages, one after the other."""
    print(
        f"GlusterFS, two clients: {processes} writers and {processes} readers on each, {seconds:g} s for each package"
    )
    print(
        f"(an error is what is raised but a timeout; 'first after' is when the first process met one)\n\n{row(*HEADS)}"
    )
    for package in PACKAGES:
        reports = contend(package, None if package == OURS else peers.installed(package, folder), seconds, processes)
        waits = sorted(wait / 1e6 for report in reports for wait in report["waits"]) or [0.0]
        failures = [report["failed_after"] for report in reports if report["failed_after"] is not None]
        print(
            row(
                package.replace("==", " "),
                sum(len(report["inside"]) for report in reports),
                turns.overlaps(reports),
                f"{waits[len(waits) // 2]:.1f}",
                f"{waits[-1]:.0f}",
                sum(report["timeouts"] for report in reports),
                sum(sum(report["errors"].values()) for report in reports),
                f"{min(failures):.1f} s" if failures else "-",
            ),
            flush=True,
        )
        for kind, count in sorted(kinds(reports).items()):
            print(f"    {count} x {kind}")


def row(*cells: object) -> str:
    """Make a line of the table."""
    return COLUMNS.format(*map(str, cells)).rstrip()


def contend(package: str, folder: Path | None, seconds: float, processes: int) -> list[Any]:
    """Have processes on both clients take turns; return their reports."""
    name = package.partition("==")[0]
    work: dict[str, Any] = {"folder": folder and str(folder), "kind": f"{name}.SoftReadWriteLock", "seconds": seconds}
    work |= {"timeout": 3.0, "hold": 0.005, "rest": 0.02}
    started = []
    for number, (mount, mode) in enumerate(
        (mount, mode) for mount in turns.MOUNTS.values() for mode in MODES * processes
    ):
        work |= {"path": str(mount / f"{package}.lock"), "mode": mode}
        machine = (*turns.MACHINE, f'hostname machine{number} && exec "$0" "$@"')
        command = [*machine, sys.executable, __file__, "--turns", json.dumps(work)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    try:
        return [json.loads(process.communicate(timeout=seconds + LAST_SECONDS)[0]) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def kinds(reports: list[Any]) -> dict[str, int]:
    """Count the errors by what they are, whatever file they name."""
    counted: dict[str, int] = {}
    for report in reports:
        for text, count in report["errors"].items():
            kind = text.partition(": '")[0]
            counted[kind] = counted.get(kind, 0) + count
    return counted


if __name__ == "__main__":
    sys.exit(main())
