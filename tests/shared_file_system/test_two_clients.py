"""
Locks on a real distributed file system: two clients of one GlusterFS volume, mounted on /run/a and /run/b.

`gluster.sh python -m pytest tests/shared_file_system` sets that up. Every process is in a PID namespace of its own and
has a host name of its own, so that each is another machine to all others: none can prove that another one is dead.

By hand: FERROLOCK_SECONDS is how long the readers and writers contend, FERROLOCK_PEER a folder with filelock 3.29 in it
that takes part.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from peers import LONG, Peer
from turns import HEARTBEAT, MACHINE, MOUNTS, THRESHOLD, numbers, overlaps, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("FERROLOCK_SECONDS", "20"))
PEER = os.environ.get("FERROLOCK_PEER")

pytestmark = [
    pytest.mark.skipif(not Path("/run/b.pid").exists(), reason="this is for gluster.sh, which mounts two clients"),
    pytest.mark.timeout(SECONDS + 80),
]

LOCK = """
from ferrolock import SoftReadWriteLock
import turns
lock = SoftReadWriteLock(
    path,
    is_singleton=False,
    heartbeat_interval=turns.HEARTBEAT,
    stale_threshold=turns.THRESHOLD,
    on_compromise=lambda lost: tell("lost", lost.reason),
)
"""

ACQUIRE = """
import time
from ferrolock import Timeout
begin = time.monotonic()
try:
    (lock.acquire_read if mode == "read" else lock.acquire_write)(timeout)
except Timeout:
    answer = None
else:
    answer = time.monotonic() - begin, lock.generation
"""

TURNS = """
import sys
if peer:
    sys.path.insert(0, peer)
from turns import take_turns
answer = take_turns(kind, path, mode, timeout, seconds, hold, rest)
"""


class Machine(Peer):
    """A process that is all of a machine, with its client of the volume."""

    def __init__(self, mount: str, number: int, path: str) -> None:
        around = (*MACHINE, f'hostname machine{number} && exec "$0" "$@"')
        super().__init__(folder=HERE, around=around)
        self.path = MOUNTS[mount] / path
        self.run("pass")
        # What this process has started is unshare.
        [child] = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        self.inner = int(child)

    def stop(self) -> None:
        """Stop it, and see that it has stopped."""
        os.kill(self.inner, signal.SIGSTOP)
        await_stop(self.inner)

    def cont(self) -> None:
        """Let it go on."""
        os.kill(self.inner, signal.SIGCONT)

    def make_lock(self) -> None:
        """Have it make a lock object, which tells of a lost hold."""
        self.run(LOCK, path=self.path)

    def enter(self, mode: str, timeout: float = LONG) -> tuple[float, int] | None:
        """Come in; how long that took and the number, or None for a timeout."""
        return self.begin_run(ACQUIRE, mode=mode, timeout=timeout).result(timeout + LONG)  # type: ignore[no-any-return]

    def leave(self) -> None:
        """Go out."""
        self.run("lock.release()")

    def is_lost(self) -> bool:
        """Whether the hold that it believes in is lost."""
        return bool(self.run("answer = lock.compromise is not None"))


def await_stop(pid: int) -> None:
    """See that a process has stopped."""
    deadline = time.monotonic() + LONG
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "it does not stop"
        time.sleep(0.001)


@contextmanager
def frozen(mount: str) -> Iterator[None]:
    """Stop the client of a mount: no call on it comes back."""
    client = int(Path(f"/run/{mount}.pid").read_text())
    os.kill(client, signal.SIGSTOP)
    try:
        await_stop(client)
        yield
    finally:
        os.kill(client, signal.SIGCONT)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Machine]]:
    """Starts machines that end with the test; all have one folder of the volume."""
    folder = f"{request.node.name}/x.lock"
    with ExitStack() as stack:
        started: list[Machine] = []

        def start(mount: str) -> Machine:
            started.append(stack.enter_context(Machine(mount, len(started), folder)))
            return started[-1]

        yield start


def contend(
    machine: Callable[[str], Machine], crew: list[tuple[str, str, str]], seconds: float, rest: float = 0.02
) -> list[Any]:
    """Have a machine for each class, mode and mount take turns with the others."""
    machines = [(machine(mount), kind, mode) for kind, mode, mount in crew]
    options = {"timeout": 3.0, "seconds": seconds, "hold": 0.005, "rest": rest}
    runs = [
        one.begin_run(TURNS, kind=kind, mode=mode, path=one.path, peer=PEER if "filelock" in kind else None, **options)
        for one, kind, mode in machines
    ]
    reports = [run.result(seconds + 20) for run in runs]
    for report, (_, _, mount) in zip(reports, crew, strict=True):
        print(f"{mount}: {summary(report)}")
    return reports


def test_readers_and_writers_of_two_clients_exclude_each_other(machine: Callable[[str], Machine]) -> None:
    crew = [("ferrolock.SoftReadWriteLock", mode, mount) for mount in MOUNTS for mode in ("write", "read") * 2]
    if PEER:
        crew += [("filelock.SoftReadWriteLock", mode, mount) for mount in MOUNTS for mode in ("write", "read")]
    reports = contend(machine, crew, SECONDS)
    ours = [report for report in reports if report["kind"].startswith("ferrolock")]
    assert overlaps(reports) == 0
    given = numbers(ours)
    assert all(earlier < later for earlier, later in pairwise(given))
    check_that_all_were_served(ours)


@pytest.mark.parametrize("kind", ["ferrolock.SoftFileLock", "ferrolock.StrictSoftFileLock", "ferrolock.FileLock"])
def test_file_locks_of_two_clients_exclude_each_other(machine: Callable[[str], Machine], kind: str) -> None:
    # With hardly a gap between two holders: who goes by what its client remembers seldom finds one.
    crew = [(kind, "write", mount) for mount in MOUNTS for _ in range(2)]
    reports = contend(machine, crew, SECONDS / 4, rest=0.005)
    assert overlaps(reports) == 0
    check_that_all_were_served(reports)


def test_who_locks_nothing_is_found_out(machine: Callable[[str], Machine]) -> None:
    """The negative control."""
    crew = [("nothing", mode, mount) for mount in MOUNTS for mode in ("write", "read")]
    assert overlaps(contend(machine, crew, 1)) > 0


def test_a_killed_writer_is_evicted_by_the_other_client(machine: Callable[[str], Machine]) -> None:
    victim, successor = machine("a"), machine("b")
    victim.make_lock()
    successor.make_lock()
    entered = victim.enter("write")
    assert entered
    assert successor.enter("read", timeout=0) is None
    victim.kill()
    waited, number = successor.enter("write", timeout=THRESHOLD + LONG) or (0, 0)
    assert waited > THRESHOLD - HEARTBEAT, "it might have lived"
    assert number > entered[1]


@pytest.mark.parametrize("mode", ["read", "write"])
def test_a_stopped_holder_loses_its_hold_and_is_told(machine: Callable[[str], Machine], mode: str) -> None:
    sleeper, successor = machine("a"), machine("b")
    sleeper.make_lock()
    successor.make_lock()
    entered = sleeper.enter(mode)
    assert entered
    sleeper.stop()
    assert loses_to(successor, entered[1])
    sleeper.cont()
    check_that_it_was_told(sleeper, successor)


def test_a_holder_behind_a_frozen_client_loses_its_hold_and_is_told(machine: Callable[[str], Machine]) -> None:
    cut_off, successor = machine("a"), machine("b")
    cut_off.make_lock()
    successor.make_lock()
    entered = cut_off.enter("write")
    assert entered
    with frozen("a"):
        assert loses_to(successor, entered[1])
    check_that_it_was_told(cut_off, successor)


def test_a_frozen_client_stops_no_heart_of_another_mount(machine: Callable[[str], Machine]) -> None:
    both, contender = machine("a"), machine("b")
    path = contender.path
    both.make_lock()
    both.run("frozen = lock\nfrozen.acquire_write()")
    both.path = contender.path = path.with_name("y.lock")
    both.make_lock()
    contender.make_lock()
    assert both.enter("write")
    with frozen("a"):
        assert contender.enter("read", timeout=2 * THRESHOLD) is None
    assert not both.is_lost()
    both.leave()
    assert contender.enter("read")


def check_that_all_were_served(reports: list[Any]) -> None:
    """Check that a timeout is the worst that anybody met, and that everybody had a tenth of the turns due to it."""
    for report in reports:
        assert report["errors"] == {}
        alike = [len(other["inside"]) for other in reports if other["mode"] == report["mode"]]
        assert len(report["inside"]) > 0.1 * sum(alike) / len(alike), alike


def loses_to(successor: Machine, number: int) -> bool:
    """Whether another one comes in, after the threshold, and with a greater number."""
    waited, greater = successor.enter("write", timeout=THRESHOLD + LONG) or (0, 0)
    return waited > THRESHOLD - 2 * HEARTBEAT and greater > number


def check_that_it_was_told(loser: Machine, successor: Machine) -> None:
    """Check that it is told of its loss, that its release takes nothing from its successor, and that it can go on."""
    assert loser.heard("lost") in {"evicted", "owner-changed", "refresh-failed"}
    assert loser.is_lost()
    loser.leave()
    assert loser.enter("read", timeout=1.5 * HEARTBEAT) is None
    assert not successor.is_lost()
    successor.leave()
    assert loser.enter("write")
    loser.leave()
