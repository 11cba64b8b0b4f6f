"""A lock that does nothing must not look like a lock."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ferrolock import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("strace") is None, reason="fakes a file system with strace"
)

NOT_LOCAL = ("inject=fstatfs,statfs:error=ENOSYS",)
"""No file system is known to be of this machine."""

DOES_NOTHING = (*NOT_LOCAL, "inject=flock:retval=0")
"""And the lock call says yes to everybody."""

NOT_THERE = ("inject=flock:error=ENOSYS",)
"""There is no lock call at all."""

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


def under_strace(path: Path, program: str, faults: tuple[str, ...], only: tuple[Path, ...] = ()) -> list[str]:
    """Run ``program`` where system calls (``only`` on these files) behave in another way; give the lines it prints."""
    source = path.parent.parent / "program.py"
    source.write_text(program)
    options = [option for fault in faults for option in ("-e", fault)]
    options += [option for file in only for option in ("-P", str(file))]
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


def test_without_a_lock_call_a_marker_at_the_path_is_the_lock(path: Path) -> None:
    held, excluded, then, left, warned = under_strace(path, TAKE_TURNS, NOT_THERE)
    assert (held, excluded, then, left) == ("['x.lock']", "one", "next", "[]")
    assert warned.startswith("1 ['flock not supported on this filesystem, falling back to SoftFileLock")
    assert str(path) in warned


@pytest.mark.parametrize("options", ["fallback_to_soft=False", "preserve_lock_file=True", "on_acquired=print"])
def test_without_the_fallback_a_lock_call_that_is_not_there_is_an_error(path: Path, options: str) -> None:
    program = f"""{PROGRAM}
import errno
try:
    FileLock(path, {options}).acquire()
except OSError as error:
    print(errno.errorcode[error.errno], error.filename == path)
print(os.listdir(folder))
# Another lock object of the process has found out about the file system. This one's answer is the same.
os.unlink(path)
warnings.simplefilter("ignore")
with FileLock(path):
    try:
        FileLock(path, {options}).acquire(timeout=0)
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    assert under_strace(path, program, NOT_THERE) == ["ENOSYS True", "['x.lock']", "ENOSYS"]


def test_a_lock_object_stays_what_it_is_where_there_is_no_lock_call(path: Path) -> None:
    program = f"""{PROGRAM}
import asyncio
from ferrolock import AsyncFileLock, SoftFileLock
warnings.simplefilter("ignore")
lock = FileLock(path)
with lock, lock:
    soft = SoftFileLock(path)
    print(type(lock).__name__, lock.lock_counter, lock.waits_by, soft.is_lock_held_by_us)
    try:
        soft.acquire(timeout=0)
    except Timeout:
        print("excluded")
    try:
        FileLock(path).acquire()
    except RuntimeError as error:
        print(str(error).split(":")[0])
with SoftFileLock(path):
    try:
        lock.acquire(timeout=0.05)
    except Timeout as timeout:
        print("held by this process" in str(timeout))
async def main():
    async with AsyncFileLock(path) as lock:
        waits = asyncio.ensure_future(AsyncFileLock(path, poll_interval=0.01).acquire())
        await asyncio.sleep(0.05)
        print(type(lock).__name__, waits.done(), os.path.getsize(path) > 0)
    await (await waits).lock.release()
asyncio.run(main())
print(os.listdir(folder))
"""
    assert under_strace(path, program, NOT_THERE) == [
        f"{FileLock.__name__} 2 polling True",
        "excluded",
        "Deadlock",
        "True",
        f"Async{FileLock.__name__} False True",
        "[]",
    ]


def test_an_empty_file_that_was_there_is_somebodys_marker_where_there_is_no_lock_call(path: Path) -> None:
    path.touch()
    program = f"""{PROGRAM}
warnings.simplefilter("ignore")
for _ in range(2):
    try:
        FileLock(path).acquire(timeout=0.05)
    except Timeout:
        print("held", os.listdir(folder), os.path.getsize(path))
"""
    assert under_strace(path, program, NOT_THERE) == ["held ['x.lock'] 0"] * 2


def test_a_child_finds_out_again_that_there_is_no_lock_call(path: Path) -> None:
    program = f"""{PROGRAM}
warnings.simplefilter("ignore")
lock = FileLock(path)
lock.acquire()
child = os.fork()
if not child:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        os._exit(7)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.listdir(folder))
"""
    assert under_strace(path, program, NOT_THERE) == ["7 ['x.lock']"]


def test_filelock_and_we_exclude_each_other_where_there_is_no_lock_call(
    path: Path, filelock_folder: Callable[[str], Path]
) -> None:
    theirs = f"""
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {str(filelock_folder("4.2.12"))!r})
from filelock import FileLock, Timeout
"""
    contend = "import sys; FileLock(sys.argv[1]).acquire(timeout=0.1); print('acquired')"
    for holder, contender in ((PROGRAM, theirs), (theirs, PROGRAM)):
        program = f"""{holder}
import subprocess
warnings.simplefilter("ignore")
contend = {contender + contend!r}
command = [sys.executable, "-W", "ignore", "-c", contend, sys.argv[1]]
with FileLock(sys.argv[1]):
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr.strip().splitlines()[-1].split(":")[0].split(".")[-1])
done = subprocess.run(command, capture_output=True, text=True)
print(done.stdout.strip() or done.stderr)
"""
        assert under_strace(path, program, NOT_THERE) == ["Timeout", "acquired"]


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
