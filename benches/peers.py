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


@dataclass(frozen=True)
class Family:
    """Candidates that lock in the same way. Every ratio is taken inside one, against the rows that are named here."""

    title: str
    ours: str
    bare_c: str
    filelock: str


KERNEL = Family("kernel locks", ours=OURS, bare_c="bare C", filelock="filelock 4.2.12")
SOFT = Family(
    "soft locks",
    ours=f"{OURS} SoftFileLock",
    bare_c="bare C, marker",
    filelock="filelock 4.2.12 SoftFileLock",
)
READ = Family(
    "read locks",
    ours=f"{OURS} read",
    bare_c="bare C, read",
    filelock="filelock 4.2.12 read",
)
WRITE = Family(
    "write locks",
    ours=f"{OURS} write",
    bare_c="bare C, write",
    filelock="filelock 4.2.12 write",
)
SOFT_READ = Family(
    "soft read locks",
    ours=f"{OURS} soft read",
    bare_c="bare C, soft read",
    filelock="filelock 4.2.12 soft read",
)
SOFT_WRITE = Family(
    "soft write locks",
    ours=f"{OURS} soft write",
    bare_c="bare C, soft write",
    filelock="filelock 4.2.12 soft write",
)
ASYNC = Family(
    "async locks", ours=f"{OURS} AsyncFileLock", bare_c=KERNEL.bare_c, filelock="filelock 4.2.12 AsyncFileLock"
)
ASYNC_READ, ASYNC_WRITE, ASYNC_SOFT_READ, ASYNC_SOFT_WRITE = (
    Family(
        f"async {family.title}",
        ours=family.ours.replace(OURS, f"{OURS} async"),
        bare_c=family.bare_c,
        filelock=family.filelock.replace("4.2.12", "4.2.12 async"),
    )
    for family in (READ, WRITE, SOFT_READ, SOFT_WRITE)
)


@dataclass(frozen=True)
class Candidate:
    """One row of the tables.

    `adapter` names the entry of adapters.py that builds its lock, or, of a `compiled` one, that of bare_cycle.c.
    `module` is what its import figure imports; of two that share a package, one has it. Who does not wait takes part
    where nobody has to.
    """

    name: str
    family: Family
    adapter: str
    compiled: bool = False
    requirement: str | None = None
    module: str | None = None
    lock_class: str = ""
    min_python: tuple[int, int] = (3, 10)
    reentrant: bool = False
    waits: bool = True
    threads: bool = False

    @property
    def file_stem(self) -> str:
        """The name in a form that can be part of a file name."""
        return "".join(character if character.isalnum() else "-" for character in self.name)


CANDIDATES = (
    Candidate(KERNEL.bare_c, KERNEL, "flock", compiled=True),
    Candidate("fcntl by hand", KERNEL, "by_hand", module="fcntl", lock_class="flock"),
    Candidate(KERNEL.ours, KERNEL, "ours", module="ferrolock", lock_class="FileLock", reentrant=True, threads=True),
    Candidate(
        KERNEL.filelock,
        KERNEL,
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
        KERNEL,
        "filelock",
        requirement="filelock==3.29.0",
        module="filelock",
        lock_class="FileLock",
        reentrant=True,
    ),
    Candidate(
        "fasteners 0.20",
        KERNEL,
        "fasteners",
        requirement="fasteners==0.20",
        module="fasteners",
        lock_class="InterProcessLock",
    ),
    Candidate(
        "portalocker 4.4.2",
        KERNEL,
        "portalocker",
        requirement="portalocker==4.4.2",
        module="portalocker",
        lock_class="Lock",
    ),
    Candidate(SOFT.bare_c, SOFT, "marker", compiled=True, waits=False),
    Candidate(SOFT.ours, SOFT, "ours", lock_class="SoftFileLock", reentrant=True),
    Candidate(
        SOFT.filelock,
        SOFT,
        "filelock",
        requirement="filelock==4.2.12",
        lock_class="SoftFileLock",
        min_python=(3, 11),
        reentrant=True,
    ),
    Candidate(
        "filelock 3.29.0 SoftFileLock",
        SOFT,
        "filelock",
        requirement="filelock==3.29.0",
        lock_class="SoftFileLock",
        reentrant=True,
    ),
    Candidate(ASYNC.ours, ASYNC, "ours", lock_class="AsyncFileLock", reentrant=True),
    Candidate(
        ASYNC.filelock,
        ASYNC,
        "filelock",
        requirement="filelock==4.2.12",
        lock_class="AsyncFileLock",
        min_python=(3, 11),
        reentrant=True,
    ),
    # Without a timeout it refuses instead of waiting, and with one it pauses for a tenth of it: neither is a wait
    # without limit.
    Candidate(
        "lockfile 0.12.2 PIDLockFile",
        SOFT,
        "lockfile.pidlockfile",
        requirement="lockfile==0.12.2",
        lock_class="PIDLockFile",
        waits=False,
    ),
    *(
        candidate
        for family, kind, mode, prefix in (
            (READ, "ReadWriteLock", "read", ""),
            (WRITE, "ReadWriteLock", "write", ""),
            (SOFT_READ, "SoftReadWriteLock", "read", "soft_"),
            (SOFT_WRITE, "SoftReadWriteLock", "write", "soft_"),
        )
        for candidate in (
            Candidate(family.bare_c, family, prefix + mode, compiled=True, waits=False),
            Candidate(family.ours, family, "ours", lock_class=f"{kind}:{mode}", waits=False),
            Candidate(
                family.filelock,
                family,
                "filelock",
                requirement="filelock==4.2.12",
                lock_class=f"{kind}:{mode}",
                min_python=(3, 11),
                waits=False,
            ),
            Candidate(
                f"filelock 3.29.0 {prefix.replace('_', ' ')}{mode}",
                family,
                "filelock",
                requirement="filelock==3.29.0",
                lock_class=f"{kind}:{mode}",
                waits=False,
            ),
        )
    ),
    *(
        candidate
        for family, lock_class in (
            (ASYNC_READ, "AsyncReadWriteLock:read"),
            (ASYNC_WRITE, "AsyncReadWriteLock:write"),
            (ASYNC_SOFT_READ, "AsyncSoftReadWriteLock:read"),
            (ASYNC_SOFT_WRITE, "AsyncSoftReadWriteLock:write"),
        )
        for candidate in (
            Candidate(family.ours, family, "ours", lock_class=lock_class, waits=False),
            Candidate(
                family.filelock,
                family,
                "filelock",
                requirement="filelock==4.2.12",
                lock_class=lock_class,
                min_python=(3, 11),
                waits=False,
            ),
        )
    ),
)
NO_LOCK = Candidate("no lock (control)", KERNEL, "no_lock")
FAMILY_OF = {candidate.name: candidate.family for candidate in (*CANDIDATES, NO_LOCK)}


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
            return [str(self.program), self.candidate.adapter, mode, *arguments]
        folder = "" if self.folder is None else str(self.folder)
        version = (self.candidate.requirement or "").partition("==")[2]
        return [
            sys.executable,
            str(HERE / "workload.py"),
            self.candidate.adapter,
            self.candidate.lock_class,
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
    if candidate.compiled:
        return Ready(candidate, program=_compiled(scratch))
    if candidate.requirement is None:
        return Ready(candidate)
    if sys.version_info < candidate.min_python:
        needed = ".".join(map(str, candidate.min_python))
        message = f"needs Python {needed} or newer"
        raise UnavailableError(message)
    return Ready(candidate, folder=installed(candidate.requirement, peers))


def _compiled(scratch: Path) -> Path:
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        message = "no C compiler (cc) found"
        raise UnavailableError(message)
    program = scratch / "bare_cycle"
    if program.exists():
        return program
    _run([compiler, "-O2", "-o", str(program), str(HERE / "bare_cycle.c")])
    return program


def installed(requirement: str, peers: Path) -> Path:
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
