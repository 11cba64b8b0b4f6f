"""A lock that does nothing must not look like a lock."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ferrolock import FileLock

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("strace") is None, reason="fakes a file system with strace"
)

NOT_LOCAL = ("inject=fstatfs,statfs:error=ENOSYS",)
"""No file system is known to be of this machine."""

DOES_NOTHING = (*NOT_LOCAL, "inject=flock:retval=0")
"""And the lock call says yes to everybody."""

PROGRAM = """
import os, sys, warnings
from ferrolock import FileLock, Timeout
warnings.simplefilter("always")
path = sys.argv[1]
folder = os.path.dirname(path)
"""

TAKE_TURNS = f"""{PROGRAM}
first, second = FileLock(path), FileLock(path)
with warnings.catch_warnings(record=True) as caught:
    with first:
        print(sorted(os.listdir(folder)))
        try:
            second.acquire(timeout=0)
            print("both")
        except Timeout:
            print("one")
    with second:
        print("next")
print(sorted(os.listdir(folder)))
print(len(caught), [warning.filename == __file__ and str(warning.message) for warning in caught])
"""


def under_strace(path: Path, program: str, faults: tuple[str, ...]) -> list[str]:
    """Run ``program`` where system calls behave in another way, and give the lines it prints."""
    source = path.parent.parent / "program.py"
    source.write_text(program)
    options = [option for fault in faults for option in ("-e", fault)]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *options, sys.executable, str(source), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "ptrace" in done.stderr.lower() and not done.stdout:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lock file alone in its folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "x.lock"


def test_where_the_lock_call_does_nothing_a_marker_beside_the_file_is_the_lock(path: Path) -> None:
    held, excluded, then, left, warned = under_strace(path, TAKE_TURNS, DOES_NOTHING)
    assert held == "['x.lock', 'x.lock.soft']"
    assert excluded == "one"
    assert then == "next"
    assert left == "['x.lock']"
    assert warned.startswith("1 [")
    assert str(path) in warned
    assert "excludes nobody" in warned


def test_the_fake_file_system_does_exclude_nobody(path: Path) -> None:
    # The negative control: what the other tests are protected from.
    flock = """
import fcntl, sys
first, second = open(sys.argv[1], "w"), open(sys.argv[1], "w")
for file in (first, second):
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("both")
"""
    assert under_strace(path, flock, DOES_NOTHING) == ["both"]


def test_without_the_fallback_such_a_file_system_is_an_error(path: Path) -> None:
    program = f"""{PROGRAM}
import errno
try:
    FileLock(path, fallback_to_soft=False).acquire()
except OSError as error:
    print(error.errno == errno.ENOTSUP, error.filename == path, "excludes nobody" in error.strerror)
print(sorted(os.listdir(folder)))
"""
    assert under_strace(path, program, DOES_NOTHING) == ["True True True", "['x.lock']"]


def test_two_processes_exclude_each_other_there(path: Path) -> None:
    program = f"""{PROGRAM}
import subprocess
contend = "import sys; from ferrolock import FileLock; FileLock(sys.argv[1], timeout=0).acquire()"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    with FileLock(path):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", contend, path], capture_output=True, text=True)
        print(done.stderr.strip().splitlines()[-1].split(":")[0])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", contend, path], capture_output=True, text=True)
    print(done.returncode)
"""
    assert under_strace(path, program, DOES_NOTHING) == ["ferrolock._error.Timeout", "0"]


def test_a_warning_that_is_an_error_leaves_nothing_held(path: Path) -> None:
    program = f"""{PROGRAM}
warnings.simplefilter("error")
lock = FileLock(path)
try:
    lock.acquire()
except UserWarning:
    print("raised", lock.is_locked, sorted(os.listdir(folder)))
with lock:
    print("then held")
"""
    assert under_strace(path, program, DOES_NOTHING) == ["raised False ['x.lock']", "then held"]


def test_an_unknown_file_system_that_excludes_is_used_as_it_is(path: Path) -> None:
    held, excluded, then, left, warned = under_strace(path, TAKE_TURNS, NOT_LOCAL)
    assert (held, excluded, then, left) == ("['x.lock']", "one", "next", "['x.lock']")
    assert warned == "0 []"


def test_a_lock_that_cannot_be_proved_is_none(path: Path) -> None:
    program = f"""{PROGRAM}
import errno
lock = FileLock(path)
try:
    lock.acquire(timeout=0)
except OSError as error:
    print(errno.errorcode[error.errno], lock.is_locked)
"""
    # The first flock succeeds, the second one, the proof, fails in a way that says nothing.
    faults = (*NOT_LOCAL, "inject=flock:error=EIO:when=2")
    assert under_strace(path, program, faults) == ["EIO False"]


def test_waiting_polls_where_the_file_system_is_not_known(path: Path) -> None:
    program = f"{PROGRAM}print(FileLock(path).waits_by, os.listdir(folder))\n"
    assert under_strace(path, program, NOT_LOCAL) == ["polling []"]
    assert FileLock(path).waits_by == "kernel"
    assert FileLock(path.parent / "not" / "there" / "x.lock").waits_by == "kernel"
    assert not list(path.parent.iterdir())


def test_a_mount_that_keeps_its_locks_to_this_host_is_named_once(path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace may be made here")
    device = path.parent.stat().st_dev
    mounts = path.parent.parent / "mountinfo"
    number = f"{device >> 8 & 0xFFF}:{device & 0xFF | device >> 12 & 0xFFF00}"
    mounts.write_text(f"1 0 {number} / /mnt/here rw - nfs server:/here rw,vers=3,local_lock=all\n")
    program = f"""{PROGRAM}
import subprocess
subprocess.run(["mount", "--bind", {str(mounts)!r}, f"/proc/{{os.getpid()}}/mountinfo"], check=True)
with warnings.catch_warnings(record=True) as caught:
    for _ in range(2):
        with FileLock(path):
            pass
print([str(warning.message) for warning in caught])
"""
    source = path.parent.parent / "program.py"
    source.write_text(program)
    faults = [option for fault in NOT_LOCAL for option in ("-e", fault)]
    command = ["unshare", "-m", "strace", "-f", "-qq", "-o", "/dev/null", *faults, sys.executable, str(source)]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("honoured on this host only") == 1
    assert "/mnt/here" in done.stdout
    assert "local_lock=all" in done.stdout
