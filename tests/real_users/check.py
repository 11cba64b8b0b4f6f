"""Each program once alone, then several times at once behind a lock that somebody holds: ``check.py FOLDER``.

The first run tells which locks it takes. Then its files are removed, the first of the locks is held from here, and
the processes are started: each must say that it waits for that lock, none may have it, and all must come to a good end
when it is released. What they say is what ferrolock logs (``probe/sitecustomize.py``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import filelock

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
LONG_S = 60.0

ACQUIRED = "Lock %s acquired on %s"
WAITS = "Lock %s on %s is waited for by %s"
"""ferrolock's own: filelock has no such message."""


@dataclass
class Program:
    """Something that takes locks, and how often it runs at once."""

    name: str
    at_once: int
    command: list[str]
    """``{number}`` is the how many-th it is."""
    says: str = ""
    """What each must have written."""


def python(source: str) -> list[str]:
    """The command that runs the source."""
    return [sys.executable, "-c", textwrap.dedent(source)]


PROGRAMS = [
    Program(
        "virtualenv",
        4,
        [str(BIN / "virtualenv"), "-q", "--no-download", "env{number}"],
    ),
    Program("tox", 1, [str(BIN / "tox"), "run-parallel", "--parallel-no-spinner", "-q", "-e", "one,two"], "one: OK"),
    Program(
        "huggingface_hub",
        2,
        python("""
            from huggingface_hub.utils import WeakFileLock

            with WeakFileLock("weak.lock") as lock:
                print(type(lock).__module__)
        """),
        "ferrolock._unix",
    ),
    Program(
        "datasets",
        3,
        python("""
            from datasets import load_dataset
            from datasets.utils._filelock import FileLock

            rows = load_dataset("json", data_files="rows.json", split="train", cache_dir="cache")
            print(rows.num_rows, sum(rows["n"]), FileLock.__mro__[1].__module__)
        """),
        "100 4950 ferrolock._unix",
    ),
    Program(
        "tldextract",
        2,
        python("""
            from pathlib import Path

            import tldextract

            url = Path("suffixes.dat").absolute().as_uri()
            extract = tldextract.TLDExtract(cache_dir="tld", suffix_list_urls=[url], fallback_to_snapshot=False)
            print(extract("a.b.example").domain)
        """),
        "a",
    ),
    Program(
        "cachecontrol",
        2,
        python("""
            from cachecontrol.caches.file_cache import FileCache

            cache = FileCache("web")
            cache.set("key", b"value")
            print(cache.get("key"))
        """),
        "b'value'",
    ),
]

TOX = """
[tox]
env_list = one, two
[testenv]
package = wheel
commands = python -c "import real_user; print(real_user.__name__)"
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import os, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name, info = "real_user-1-py3-none-any.whl", "real_user-1.dist-info/"
    files = {
        "real_user.py": "",
        info + "METADATA": "Metadata-Version: 2.1\\nName: real_user\\nVersion: 1\\n",
        info + "WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(info + "RECORD", "".join(f"{path},,\\n" for path in [*files, info + "RECORD"]))
    return name

def build_sdist(sdist_directory, config_settings=None):
    raise NotImplementedError
"""


class Stage:
    """A folder for one program, and what its processes log."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program, self.folder, self.log = program, folder / program.name, folder / f"{program.name}.log"

    def set_up(self) -> None:
        """Begin anew: nothing is there but what the program is given."""
        for folder in (self.folder, self.log):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        (self.folder / "tox.ini").write_text(TOX)
        (self.folder / "pyproject.toml").write_text(PROJECT)
        (self.folder / "backend.py").write_text(BACKEND)
        (self.folder / "rows.json").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(100)))
        os.utime(self.folder / "rows.json", (10**9, 10**9))  # datasets names its files after it
        (self.folder / "suffixes.dat").write_text("// ===BEGIN ICANN DOMAINS===\nexample\nb.example\n")

    def start(self, number: int) -> subprocess.Popen[str]:
        """Start the program, the how many-th of its kind."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE / "probe"),
            "REAL_USERS_LOG": str(self.log),
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "VIRTUALENV_OVERRIDE_APP_DATA": str(self.folder / "app"),
            "VIRTUALENV_NO_PERIODIC_UPDATE": "1",
        }
        command = [word.replace("{number}", str(number)) for word in self.program.command]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def end(self, process: subprocess.Popen[str]) -> None:
        """Wait for its good end."""
        output, _ = process.communicate(timeout=LONG_S)
        assert process.returncode == 0, f"{self.program.name} ended with {process.returncode}: {output}"
        assert self.program.says in output, f"{self.program.name} says: {output}"

    def told(self) -> dict[str, list[tuple[str, str]]]:
        """What the processes have logged so far: messages and paths, and never of another library's locks."""
        told = {}
        for file in self.log.iterdir():
            with suppress(json.JSONDecodeError):  # a line may be half written
                records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
                assert {module for _, _, module in records} <= {"ferrolock._unix", "ferrolock._windows"}, records
                told[file.name] = [(message, os.path.join(self.folder, path)) for message, path, _ in records]
        return told

    def processes_that(self, message: str, path: str) -> int:
        """How many processes have logged that of the lock."""
        return sum((message, path) in records for records in self.told().values())

    def check(self) -> str:
        """Run it alone, and then behind a lock; return what was seen."""
        self.set_up()
        self.end(self.start(0))
        taken = [path for records in self.told().values() for message, path in records if message == ACQUIRED]
        assert taken, f"{self.program.name} has taken no lock of ours"
        path, count = taken[0], self.program.at_once
        self.set_up()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path):
            processes = [self.start(number) for number in range(1, count + 1)]
            deadline = time.monotonic() + LONG_S
            while self.processes_that(WAITS, path) < count:
                assert time.monotonic() < deadline, f"{self.program.name} does not wait for {path}: {self.told()}"
                ended = [process for process in processes if process.poll() is not None]
                assert not ended, f"{self.program.name} did not wait: {[process.communicate() for process in ended]}"
                time.sleep(0.01)
            assert not self.processes_that(ACQUIRED, path), f"two have {path}"
        for process in processes:
            self.end(process)
        assert self.processes_that(ACQUIRED, path) == count
        locks = len({path for records in self.told().values() for _, path in records})
        return f"{count} at once, {locks} locks; all waited for {os.path.relpath(path, self.folder)}"


def main() -> None:
    """Check all programs."""
    assert filelock.FileLock.__module__.startswith("ferrolock."), filelock
    try:
        version = metadata.version("filelock")
    except metadata.PackageNotFoundError:
        version = ""
    assert not version, f"filelock {version} is installed"
    folder = Path(sys.argv[1]) / "stages"
    folder.mkdir()
    for program in PROGRAMS:
        begin = time.monotonic()
        seen = Stage(program, folder).check()
        print(f"{program.name} {metadata.version(program.name)}: {seen} ({time.monotonic() - begin:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
