"""Processes that have other numbers, clocks, names or no /proc: a number is not the process that it seems to be."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ferrolock import SoftFileLock, Timeout
from peers import LONG, Peer
from soft_peers import (
    LINUX,
    NEVER_A_PROCESS,
    ROOT,
    SOFT,
    boot_id,
    contents,
    host_field,
    is_free,
    names,
    record,
    start_token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    LINUX,
    pytest.mark.skipif(
        "?pidns-" in host_field(), reason="this is a PID namespace itself: all others are other machines to it"
    ),
]

OWN_PIDS = ("--pid", "--fork", "--kill-child", "--mount-proc")
OWN_CLOCK = ("--time", "--boottime", "100000", "--fork", "--kill-child")

INNER = """
import os
answer = os.getpid(), os.stat("/proc/self/ns/pid").st_ino
"""

FORK = """
import os, signal
if last:
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(last))
ready, told = os.pipe()
child = os.fork()
if not child:
    os.write(told, b".")
    signal.pause()
os.read(ready, 1)
answer = child
"""


def free_number() -> int:
    """A number that no process of this namespace has, for one below to choose."""
    if not Path("/proc/sys/kernel/ns_last_pid").exists():
        pytest.skip("nobody can choose a number here")
    return next(pid for pid in range(30_000, 300, -1) if not Path(f"/proc/{pid}").exists())


def outer_pid(peer: Peer) -> int:
    """The number that this process knows the peer by; what it has started is ``unshare``."""
    peer.run("pass")  # by then it has been started
    [child] = Path(f"/proc/{peer.pid}/task/{peer.pid}/children").read_text().split()
    return int(child)


def kill_all_of_it(peer: Peer) -> None:
    """Kill a namespace, and see that all of it is gone."""
    descriptor = os.pidfd_open(outer_pid(peer))
    try:
        peer.kill()
        assert select.select([descriptor], [], [], LONG)[0], "it lives on"
    finally:
        os.close(descriptor)


def test_a_process_of_a_pid_namespace_says_which_and_is_another_machines(
    lock_path: Path, surrounded: Callable[..., Peer]
) -> None:
    inside = surrounded(*OWN_PIDS)
    pid, inode = inside.run(INNER)
    assert inside.acquire(lock_path)
    host = f"{host_field()}?pidns-{inode:x}"
    assert lock_path.read_bytes() == record(pid, host, start_token(outer_pid(inside)))
    before = contents(lock_path.parent)
    with pytest.raises(Timeout, match=re.escape(f"It is held by pid {pid} on {host}, which this host cannot probe.")):
        SoftFileLock(lock_path).acquire(timeout=0.03)
    kill_all_of_it(inside)
    assert not is_free(lock_path)
    assert contents(lock_path.parent) == before


def test_a_pid_namespace_judges_its_own(lock_path: Path, surrounded: Callable[..., Peer]) -> None:
    source = """
        import os
        def die():
            lock = FileLock(path)
            lock.acquire()
            os._exit(0)
        def attempt():
            try:
                with FileLock(path, timeout=0):
                    return True
            except TimeoutError:
                return False
        lock = FileLock(path)
        with lock:
            living = in_child(attempt)
        child = os.fork()
        if not child:
            die()
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        left = os.listdir(os.path.dirname(path))
        zombie = attempt()
        os.waitpid(child, 0)
        answer = living, left, zombie
    """
    assert surrounded(*OWN_PIDS).run(source, path=lock_path) == [False, [lock_path.name], True]
    assert names(lock_path.parent) == []


def test_a_process_outside_is_another_machines_to_a_pid_namespace(
    lock_path: Path, surrounded: Callable[..., Peer]
) -> None:
    """Whether its number is taken in there or not."""
    inside = surrounded(*OWN_PIDS)
    for pid in (1, NEVER_A_PROCESS):
        lock_path.write_bytes(record(pid))
        before = contents(lock_path.parent)
        assert not inside.acquire(lock_path, timeout=0)
        assert contents(lock_path.parent) == before


@pytest.mark.parametrize("with_token", [True, False], ids=["token", "no token"])
@pytest.mark.parametrize("number", ["taken", "free"])
def test_a_process_below_that_calls_itself_as_the_marker_says_holds(
    lock_path: Path, surrounded: Callable[..., Peer], number: str, with_token: bool
) -> None:
    """Containers share the host's name, and older filelocks do not say which namespace they are in."""
    inside = surrounded(*OWN_PIDS)
    pid = inside.run(FORK, last=free_number() - 1 if number == "free" else 0)
    assert Path(f"/proc/{pid}").exists() is (number == "taken")
    [outer] = Path(f"/proc/{outer_pid(inside)}/task/{outer_pid(inside)}/children").read_text().split()
    lock_path.write_bytes(record(pid, token=start_token(int(outer)) if with_token else None))
    before = contents(lock_path.parent)
    assert not is_free(lock_path)
    assert contents(lock_path.parent) == before
    kill_all_of_it(inside)
    if with_token or number == "free":  # else it is a living process's, for all that the marker says
        assert is_free(lock_path)
        assert names(lock_path.parent) == []


def test_with_an_offset_of_the_clock_nobody_tells_or_believes_a_start(
    lock_path: Path, surrounded: Callable[..., Peer]
) -> None:
    shifted = surrounded(*OWN_CLOCK)
    pid = outer_pid(shifted)
    assert shifted.acquire(lock_path)
    assert lock_path.read_bytes() == record(pid)
    assert not is_free(lock_path)
    shifted.release(lock_path)
    for token in (start_token(os.getpid()), start_token(os.getpid(), later=5)):
        lock_path.write_bytes(record(os.getpid(), token=token))
        before = contents(lock_path.parent)
        assert not shifted.acquire(lock_path, timeout=0)
        assert contents(lock_path.parent) == before
    lock_path.write_bytes(record(NEVER_A_PROCESS, token=(boot_id() << 64) | 5))
    assert shifted.acquire(lock_path, timeout=0)
    kill_all_of_it(shifted)
    assert is_free(lock_path)


def test_in_a_clock_of_its_own_without_offset_the_start_is_told(
    lock_path: Path, surrounded: Callable[..., Peer]
) -> None:
    inside = surrounded("--time", "--fork", "--kill-child")
    assert inside.acquire(lock_path)
    assert lock_path.read_bytes() == record(outer_pid(inside), token=start_token(outer_pid(inside)))


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        pytest.param("other", "other", id="plain"),
        pytest.param("my host?x", "my?20host?3fx", id="space-and-mark"),
        pytest.param("h\\351\\177", "h?e9?7f", id="bytes"),
        pytest.param("0123456789" * 6 + "0123", "0123456789" * 6 + "0123", id="longest"),
    ],
)
@pytest.mark.parametrize("whose", ["ours", "filelock's"])
def test_the_name_of_the_machine_is_escaped_as_filelock_does(
    lock_path: Path,
    surrounded: Callable[..., Peer],
    filelock_folder: Callable[[str], Path],
    name: str,
    escaped: str,
    whose: str,
) -> None:
    lock, folder = (SOFT, None) if whose == "ours" else ("filelock.SoftFileLock", filelock_folder("4.2.12"))
    before = f"printf '{name}' > /proc/sys/kernel/hostname"
    peer = surrounded("--uts", before=before, lock=lock, folder=folder)
    assert peer.acquire(lock_path)
    assert lock_path.read_bytes() == record(peer.pid, escaped, start_token(peer.pid))
    assert not is_free(lock_path)
    peer.kill()
    assert not is_free(lock_path), "another machine is not judged"


def test_without_proc_nothing_is_proved(lock_path: Path, surrounded: Callable[..., Peer]) -> None:
    """Neither when a process began, nor that none in a namespace below calls itself as the marker says."""
    blind = surrounded("--mount", before="mount -t tmpfs none /proc")
    assert blind.acquire(lock_path)
    assert lock_path.read_bytes() == record(blind.pid)
    assert not is_free(lock_path)
    blind.release(lock_path)
    for pid, token in ((os.getpid(), start_token(os.getpid(), later=5)), (NEVER_A_PROCESS, None)):
        lock_path.write_bytes(record(pid, token=token))
        before = contents(lock_path.parent)
        assert not blind.acquire(lock_path, timeout=0), f"the marker of {pid}"
        assert contents(lock_path.parent) == before
        assert is_free(lock_path)


@ROOT
def test_who_cannot_see_others_processes_does_not_say_that_there_are_none(
    lock_path: Path, surrounded: Callable[..., Peer]
) -> None:
    """With ``hidepid`` the list has only one's own: one of a namespace below may be missing."""
    user = surrounded("--mount", before="mount -t proc -o hidepid=2 proc /proc")
    lock_path.parent.chmod(0o777)
    for folder in lock_path.parent.parents[:2]:
        folder.chmod(0o755)
    become = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    assert user.run(f"{become}; answer = [os.path.exists(f'/proc/{{pid}}') for pid in (1, os.getpid())]") == [
        False,
        True,
    ]
    lock_path.write_bytes(record(NEVER_A_PROCESS))
    before = contents(lock_path.parent)
    assert not user.acquire(lock_path, timeout=0)
    assert contents(lock_path.parent) == before


ATTEMPT = """
import sys
from ferrolock import SoftFileLock, Timeout
try:
    with SoftFileLock(sys.argv[1], timeout=0):
        print("had", open(sys.argv[1]).read())
except Timeout:
    print("held")
"""


def attempt_from(where: Peer, namespace: str, path: Path) -> list[str]:
    """What an attempt comes to in that one of the peer's namespaces, and otherwise in this process's."""
    enter = ["nsenter", f"--target={outer_pid(where)}", namespace]
    if shutil.which("nsenter") is None or subprocess.run([*enter, "true"], check=False).returncode:
        pytest.skip("nsenter(1) does not get there")
    command = [*enter, sys.executable, "-c", ATTEMPT, os.fspath(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@ROOT
def test_numbers_of_another_namespaces_proc_prove_nothing_about_those_of_ones_own(
    lock_path: Path, surrounded: Callable[..., Peer]
) -> None:
    """As after ``nsenter --pid``: the processes are of one namespace, and /proc is another's."""
    inside = surrounded(*OWN_PIDS)
    pid, inode = inside.run(INNER)
    host = f"{host_field()}?pidns-{inode:x}"
    lock_path.write_bytes(record(pid, host, start_token(outer_pid(inside))))  # as filelock does: it locks no marker
    before = contents(lock_path.parent)
    assert attempt_from(inside, "--pid", lock_path) == ["held"]
    assert contents(lock_path.parent) == before
    lock_path.unlink()
    assert attempt_from(inside, "--pid", lock_path)[2:] == [host], "no start is told"


@ROOT
def test_another_namespaces_proc_tells_another_start_of_the_machine(
    lock_path: Path, surrounded: Callable[..., Peer]
) -> None:
    """Containers may be shown one of their own, at each of their starts another one."""
    boot = lock_path.with_name("boot_id")
    boot.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    inside = surrounded(*OWN_PIDS, before=f"mount --bind '{boot}' /proc/sys/kernel/random/boot_id")
    pid, inode = inside.run(INNER)
    token = start_token(outer_pid(inside), boot=0x0123456789ABCDEF0123456789ABCDEF)
    lock_path.write_bytes(record(pid, f"{host_field()}?pidns-{inode:x}", token))
    before = contents(lock_path.parent)
    assert attempt_from(inside, "--pid", lock_path) == ["held"]
    assert not inside.acquire(lock_path, timeout=0)
    assert contents(lock_path.parent) == before


@ROOT
def test_another_namespaces_proc_does_not_have_all_that_may_run_below(
    lock_path: Path, surrounded: Callable[..., Peer]
) -> None:
    """As after ``nsenter --mount``: /proc lists the processes of a namespace below, and only those."""
    inside, owner = surrounded(*OWN_PIDS), surrounded(*OWN_PIDS)
    pid = owner.run(FORK, last=free_number() - 1)
    lock_path.write_bytes(record(pid))
    before = contents(lock_path.parent)
    assert attempt_from(inside, "--mount", lock_path) == ["held"]
    assert contents(lock_path.parent) == before
