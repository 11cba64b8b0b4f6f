"""Whoever dies or is stopped at whatever system call of a strict lock: nobody loses it, and what is left is told of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ferrolock import SoftFileLock, StrictSoftFileLock, Timeout
from soft_peers import LINUX, STRICT, Call, Victim, names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peers import Peer

    Make = Callable[..., Victim]
    Spawn = Callable[..., Peer]

pytestmark = LINUX

CYCLE = """
import ferrolock
lock = ferrolock.StrictSoftFileLock(path)
lock.acquire(timeout=0)
lock.release()
"""
KILLED = -9
NEW, USED = "the first one", "one that was used before"


def claims_folder(path: Path) -> Path:
    """Where the claims are."""
    return path.with_name(f"{path.name}.filelock") / "claims"


def fresh(lock_path: Path, number: int, kind: str) -> Path:
    """A path for one death."""
    path = lock_path.parent / str(number) / "x.lock"
    path.parent.mkdir()
    if kind == USED:
        with StrictSoftFileLock(path):
            pass
    return path


def changes(calls: list[Call]) -> list[Call]:
    """The calls that change something: between two that only look there is no difference."""
    return [call for call in calls if call.name in {"mkdirat", "fchmod", "write", "linkat", "unlinkat", "exit_group"}]


@pytest.mark.parametrize(
    ("kind", "has_unnamed"), [(NEW, True), (USED, True), (USED, False)], ids=["first", "later", "without unnamed files"]
)
def test_a_contender_may_die_at_every_call(victim: Make, lock_path: Path, kind: str, has_unnamed: bool) -> None:
    """What it has published stays, says whose it is, and is removed by hand; what it has not is in nobody's way."""
    whole = victim(CYCLE, path=fresh(lock_path, 0, kind)).go().wait()
    faults: list[str] = []
    if not has_unnamed:
        [unnamed] = [call for call in whole.calls() if "O_TMPFILE" in call.text]
        faults = [unnamed.fault("error=EOPNOTSUPP")]
        whole = victim(CYCLE, *faults, path=fresh(lock_path, 1, kind)).go().wait()
    calls = changes(whole.calls())
    assert whole.status() == 0, whole.record.read_text()[-2000:]
    left: dict[tuple[str, ...], list[str]] = {}
    for number, call in enumerate(calls, 2):
        path = fresh(lock_path, number, kind)
        killed = victim(CYCLE, *faults, call.fault("signal=KILL"), path=path).go().wait()
        lock = StrictSoftFileLock(path)
        states = tuple(claim.state for claim in lock.claims)
        left.setdefault(states, []).append(call.name)
        assert all(claim.pid == killed.pid for claim in lock.claims), f"after a death at {call}"
        for claim in lock.claims:
            with pytest.raises(Timeout, match=f"process {killed.pid}, which has ended"):
                lock.acquire(timeout=0)
            lock.force_break(claim.name)
        with lock:
            assert len(lock.claims) == 2
            with pytest.raises(Timeout):
                SoftFileLock(path, timeout=0).acquire()
        assert path.read_bytes() == STRICT
        litter = [name for name in names(claims_folder(path)) + names(path.parent) if name.startswith(".")]
        is_fresh = re.compile(r"\.(x\.lock|intent-v1-[0-9a-f]{32}\.claim)\.private-v1-[0-9a-f]{32}\.tmp").fullmatch
        assert len(litter) <= (not has_unnamed), f"after a death at {call}: {litter}"
        assert all(is_fresh(name) for name in litter), f"after a death at {call}: {litter}"
        assert killed.status() == KILLED, f"{call} was not reached"
    assert left.keys() == {(), ("intent",), ("held", "intent")}
    assert "unlinkat" in left["held", "intent"], "the first name to go"
    assert "unlinkat" in left["intent",], "and the second"


def test_who_is_stopped_anywhere_keeps_the_lock_or_does_not_get_it(victim: Make, lock_path: Path, spawn: Spawn) -> None:
    """
    Stopped after each call of an attempt, while somebody else comes: two never hold.

    Whoever has published nothing yet finds the other's claim when it goes on.
    """
    act = CYCLE.replace("lock.release()", "os._exit(42)")
    whole = victim(act, path=fresh(lock_path, 0, USED)).go().wait()
    calls = [call for call in whole.calls() if call.name == "linkat" or '"."' in call.text]
    assert whole.status() == 42
    other = spawn(lock="ferrolock.StrictSoftFileLock")
    outcomes = set()
    for number, call in enumerate(calls, 1):
        path = fresh(lock_path, number, USED)
        stopped = victim(act, call.fault("signal=STOP"), path=path).go().wait_until_stopped()
        gets_it = other.acquire(path, timeout=0)
        status = stopped.cont().wait().status()
        assert (gets_it, status) in {(True, 100), (False, 42)}, f"stopped at {call}"
        outcomes.add(gets_it)
        if gets_it:
            other.release(path)
            assert names(claims_folder(path)) == []
    assert outcomes == {True, False}


def another(path: Path, state: str, digit: str) -> None:
    """A claim that somebody publishes just now."""
    token = digit * 32
    file = claims_folder(path) / f"{state}-v1-{token}.claim"
    file.write_text(f"filelock-strict-v1\n{token}\n4711\n{b'elsewhere'.hex()}\n\n")


def without(path: Path, state: str) -> None:
    """The same without the victim's claim in that state."""
    [name] = [name for name in names(claims_folder(path)) if name.startswith(state)]
    (claims_folder(path) / name).unlink()


def replace(path: Path) -> None:
    """Another file that says the same."""
    path.rename(path.with_name("aside"))
    path.write_bytes(STRICT)


HAD, NOT_HAD = 42, 100
MEANWHILE: dict[str, tuple[str, Callable[[Path], object], int]] = {
    "a greater wish, at the doorway": ("publish", lambda path: another(path, "intent", "f"), HAD),
    "a smaller wish, at the doorway": ("publish", lambda path: another(path, "intent", "0"), NOT_HAD),
    "a greater one that is held": ("publish", lambda path: another(path, "held", "f"), NOT_HAD),
    "without the own wish": ("publish", lambda path: without(path, "intent"), NOT_HAD),
    "a greater wish, too late for the doorway": ("doorway", lambda path: another(path, "intent", "f"), HAD),
    "a smaller wish, too late for the doorway": ("doorway", lambda path: another(path, "intent", "0"), NOT_HAD),
    "a greater one that is held, too late": ("hold", lambda path: another(path, "held", "f"), HAD),
    "a smaller one that is held, too late": ("hold", lambda path: another(path, "held", "0"), NOT_HAD),
    "without the first name": ("hold", lambda path: without(path, "intent"), NOT_HAD),
    "without the second name": ("hold", lambda path: without(path, "held"), NOT_HAD),
    "without the sentinel": ("hold", lambda path: path.unlink(), NOT_HAD),
    "another sentinel": ("hold", replace, NOT_HAD),
    "another folder": ("verify", lambda path: claims_folder(path).rename(path.with_name("elsewhere")), NOT_HAD),
}


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_what_decides_is_what_is_there_when_it_is_looked_at(victim: Make, lock_path: Path, meanwhile: str) -> None:
    """The victim is stopped on its way, and somebody else is not."""
    after, act, outcome = MEANWHILE[meanwhile]
    attempt = CYCLE.replace("lock.release()", "os._exit(42)")
    calls = victim(attempt, path=fresh(lock_path, 0, USED)).go().wait().calls()
    publish, hold = (number for number, call in enumerate(calls) if call.name == "linkat")
    listings = [number for number, call in enumerate(calls) if call.name == "getdents64"]
    doorway = max(number for number in listings if number < hold)
    steps = {"publish": publish, "doorway": doorway, "hold": hold, "verify": listings[-1]}
    path = fresh(lock_path, 1, USED)
    stopped = victim(attempt, calls[steps[after]].fault("signal=STOP"), path=path).go().wait_until_stopped()
    act(path)
    stopped.cont().wait()
    left = [claim.state for claim in StrictSoftFileLock(path).claims if claim.pid == stopped.pid]
    assert (stopped.status(), left) == (outcome, ["held", "intent"] if outcome == HAD else [])


def test_an_attempt_that_fails_leaves_no_claim(victim: Make, lock_path: Path) -> None:
    """Whatever call fails."""
    whole = victim(CYCLE, path=fresh(lock_path, 0, USED)).go().wait()
    calls = [call for call in whole.calls() if call.name in {"openat", "write", "linkat", "getdents64"}]
    assert whole.status() == 0
    for number, call in enumerate(calls, 1):
        path = fresh(lock_path, number, USED)
        failed = victim(CYCLE, call.fault("error=ENOSPC"), path=path).go().wait()
        assert names(claims_folder(path)) == [], f"after a failure of {call}"
        assert failed.status() != 101, failed.record.read_text()[-1000:]


def test_a_withdrawal_that_fails_is_made_up_for(victim: Make, lock_path: Path) -> None:
    """An attempt that failed and cannot remove its claim: the next one of that process does it."""
    act = """
        import ferrolock
        lock = ferrolock.StrictSoftFileLock(path)
        try:
            lock.acquire(timeout=0)
        except OSError:
            pass
        left = len(os.listdir(path + ".filelock/claims"))
        lock.acquire(timeout=0)
        os._exit(10 * left + len(os.listdir(path + ".filelock/claims")))
    """
    whole = victim(CYCLE, path=fresh(lock_path, 0, USED)).go().wait()
    link = next(call for call in reversed(whole.calls()) if call.name == "linkat")
    removals = [call for call in whole.calls() if call.name == "unlinkat"]
    path = fresh(lock_path, 1, USED)
    faults = [link.fault("error=ENOSPC"), f"inject=unlinkat:error=EIO:when={removals[0].number}..{removals[1].number}"]
    assert whole.status() == 0
    assert victim(act, *faults, path=path).go().wait().status() == 12
