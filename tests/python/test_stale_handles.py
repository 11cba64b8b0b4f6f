"""A client of a shared file system that remembers what another one has removed: its marker is looked at again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from soft_peers import LINUX, SOFT, Call, Victim

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peers import Peer

pytestmark = LINUX

TIMED_OUT = 100
NOT_LOCAL = "inject=fstatfs:error=ENOSYS"
LEASE = "ferrolock.SoftReadWriteLock"

CONTEND = """
import os
import ferrolock
os.getppid()
if kind == "ferrolock.SoftFileLock":
    ferrolock.SoftFileLock(path).acquire(timeout=0)
else:
    ferrolock.SoftReadWriteLock(path).acquire_write(timeout=0)
"""


@pytest.fixture(params=[(SOFT, ""), (LEASE, ".write")], ids=["soft", "lease"])
def contend(
    request: pytest.FixtureRequest, victim: Callable[..., Victim], spawn: Callable[..., Peer], lock_path: Path
) -> Callable[..., list[Call]]:
    """Has a contender come to a lock that somebody holds; gives what it calls about the marker."""
    kind, ending = request.param
    holder, marker = spawn(lock=kind), f'"{lock_path.name}{ending}"'
    holder.run("lock_on(path).acquire() if soft else lock_on(path).acquire_write()", path=lock_path, soft=kind == SOFT)

    def run(*faults: str) -> list[Call]:
        contender = victim(CONTEND, NOT_LOCAL, *faults, path=os.fspath(lock_path), kind=kind)
        contender.go().wait()
        assert contender.status() == TIMED_OUT, faults
        found: list[Call] = []
        is_about_it = False
        for call in contender.calls():
            is_about_it = call.name != "close" and (is_about_it or marker in call.text)
            if is_about_it and "fstatfs" not in call.name:
                found.append(call)
        return found

    return run


@pytest.mark.parametrize("error", ["ESTALE", "EBADFD", "ENOENT"])
def test_a_handle_that_is_stale_once_is_no_error(contend: Callable[..., list[Call]], error: str) -> None:
    calls = contend()
    names = {call.name for call in calls}
    assert {"openat", "read"} < names
    assert names & {"newfstatat", "fstat", "statx"}
    for call in calls:
        contend(call.fault(f"error={error}"))


def test_a_marker_that_the_server_does_not_know_any_more_is_looked_at_again(contend: Callable[..., list[Call]]) -> None:
    def looks(*faults: str) -> Any:
        return sum(call.name == "openat" for call in contend(*faults))

    assert looks("inject=fgetxattr:error=ESTALE:when=1") == looks() + 1
    assert looks("inject=fgetxattr:error=ENODATA:when=1") == looks()


def test_a_lock_file_that_another_machine_has_removed_is_opened_again(
    victim: Callable[..., Victim], lock_path: Path
) -> None:
    act = "import ferrolock; ferrolock.FileLock(path).acquire(timeout=0)"
    contender = victim(act, NOT_LOCAL, "inject=flock:error=ESTALE:when=1", path=os.fspath(lock_path)).go().wait()
    assert contender.status() == 0
    names = [call.name for call in contender.calls()]
    # The lock counts when the server has been asked about the path, which the client may only remember.
    locked = max(index for index, name in enumerate(names) if name == "lgetxattr")
    assert names.index("flock") < locked
    assert names[locked + 1] in {"newfstatat", "stat", "statx"}
