"""Who is compared, and how each one is had: bare C is compiled on the spot, the Python peers come from pip.

Every Python peer lives in a folder of its own, which only its own processes put on their path. That matters twice:
two releases of filelock share one import name, and ferrolock answers to that name as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = "ferrolock"
BARE_C = "bare C"
FILELOCK = "filelock 4.2.12"
CONTROL = "no lock (control)"


@dataclass(frozen=True)
class Candidate:
    """One row of the tables; `adapter` names the entry of adapters.py that builds its lock (None: the C program)."""

    name: str
    adapter: str | None
    requirement: str | None = None
    module: str | None = None
    lock_class: str | None = None
    min_python: tuple[int, int] = (3, 10)
    reentrant: bool = False
    threads: bool = False

    @property
    def file_stem(self) -> str:
        """The name in a form that can be part of a file name."""
        return "".join(character if character.isalnum() else "-" for character in self.name)


CANDIDATES = (
    Candidate(BARE_C, None),
    Candidate("fcntl by hand", "by_hand", module="fcntl", lock_class="flock"),
    Candidate(OURS, "ours", module="ferrolock", lock_class="FileLock", reentrant=True, threads=True),
    Candidate(
        FILELOCK,
        "filelock",
        requirement="filelock==4.2.12",
        module="filelock",
        lock_class="FileLock",
        min_python=(3, 11),
        reentrant=True,
        threads=True,
    ),
    Candidate(
        "filelock 3.29.0",
        "filelock",
        requirement="filelock==3.29.0",
        module="filelock",
        lock_class="FileLock",
        reentrant=True,
    ),
    Candidate(
        "fasteners 0.20", "fasteners", requirement="fasteners==0.20", module="fasteners", lock_class="InterProcessLock"
    ),
    Candidate(
        "portalocker 4.4.2", "portalocker", requirement="portalocker==4.4.2", module="portalocker", lock_class="Lock"
    ),
)
NO_LOCK = Candidate(CONTROL, "no_lock")


@dataclass(frozen=True)
class Ready:
    """A candidate that can be run: `folder` is where its package is, `program` the compiled C."""

    candidate: Candidate
    folder: Path | None = None
    program: Path | None = None

    @property
    def name(self) -> str:
        """The row's name."""
        return self.candidate.name

    def command(self, mode: str, *arguments: str) -> list[str]:
        """Return the command line that runs this candidate in one mode of the shared workload."""
        if self.program is not None:
            return [str(self.program), mode, *arguments]
        folder = "" if self.folder is None else str(self.folder)
        version = (self.candidate.requirement or "").partition("==")[2]
        return [
            sys.executable,
            str(HERE / "workload.py"),
            str(self.candidate.adapter),
            folder,
            version,
            mode,
            *arguments,
        ]


class UnavailableError(Exception):
    """A candidate cannot be had here; the text says why."""


def default_folder() -> Path:
    """Where the peers are kept between runs: a folder of this interpreter's version under the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "ferrolock-benches" / f"{sys.implementation.cache_tag}"


def prepare(candidate: Candidate, peers: Path, scratch: Path) -> Ready:
    """Compile or install what the candidate needs."""
    if candidate.adapter is None:
        return Ready(candidate, program=_compiled(scratch))
    if candidate.requirement is None:
        return Ready(candidate)
    if sys.version_info < candidate.min_python:
        needed = ".".join(map(str, candidate.min_python))
        message = f"needs Python {needed} or newer"
        raise UnavailableError(message)
    return Ready(candidate, folder=_installed(candidate.requirement, peers))


def _compiled(scratch: Path) -> Path:
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        message = "no C compiler (cc) found"
        raise UnavailableError(message)
    program = scratch / "bare_cycle"
    _run([compiler, "-O2", "-o", str(program), str(HERE / "bare_cycle.c")])
    return program


def _installed(requirement: str, peers: Path) -> Path:
    """Return the folder that has the requirement and nothing else.

    It gets its name only when pip is done, so an interrupted installation is never taken for a whole one.
    """
    folder = peers / requirement.replace("==", "-")
    if folder.is_dir():
        return folder
    peers.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=peers, prefix=".installing-") as unfinished:
        target = Path(unfinished) / "target"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        _run([*pip, "--target", str(target), requirement])
        target.rename(folder)
    return folder


def _run(command: list[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        lines = [line for line in finished.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        message = (errors or lines or [f"exit code {finished.returncode}"])[0].strip()
        raise UnavailableError(message)
