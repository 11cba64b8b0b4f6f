"""One strict lock with filelock's programs, both ways round: exclusion, hand-over, claims, the dead and the stopped."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import SoftFileLockProtocolError, StrictSoftFileLock, Timeout
from peers import LONG, Peer, ProcessContender, blocks_then_proceeds
from soft_peers import LINUX, STRICT, Call, Victim, contents, names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Victim]
    Spawn = Callable[..., Peer]
    Find = Callable[[str], Path]

OURS, THEIRS = "ferrolock.StrictSoftFileLock", "filelock.StrictSoftFileLock"
VERSION, CARELESS = "4.2.12", "3.29.0"
TOKEN = "0123456789abcdef0123456789abcdef"

CLAIMS = "answer = [[c.name, c.state, c.token, c.pid, c.hostname, c.start] for c in FileLock(path).claims]"
BREAK = "lock = FileLock(path)\nfor claim in lock.claims: lock.force_break(claim.name)"


def claims_folder(path: Path) -> Path:
    """Where the claims are."""
    return path.with_name(f"{path.name}.filelock") / "claims"


@pytest.fixture
def theirs(spawn: Spawn, filelock_folder: Find) -> Peer:
    """A process with the real filelock."""
    peer = spawn(lock=THEIRS, folder=filelock_folder(VERSION))
    about = "import filelock, sys; answer = filelock.__version__, 'ferrolock' in sys.modules"
    assert peer.run(about) == [VERSION, False]
    return peer


@pytest.fixture
def ours(spawn: Spawn) -> Peer:
    """A process with ferrolock."""
    return spawn(lock=OURS)


@pytest.fixture(params=["ours holds", "theirs holds"])
def pair(request: pytest.FixtureRequest, ours: Peer, theirs: Peer) -> tuple[Peer, Peer]:
    """The holder and the contender."""
    return (ours, theirs) if request.param == "ours holds" else (theirs, ours)


def test_a_hold_excludes_the_other_and_a_release_lets_it_in(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    for _ in range(3):
        assert holder.acquire(lock_path)
        assert not contender.acquire(lock_path, timeout=0)
        assert not contender.acquire(lock_path, timeout=0.02)
        holder.release(lock_path)
        assert contender.acquire(lock_path, timeout=0)
        assert not holder.acquire(lock_path, timeout=0)
        contender.release(lock_path)
    assert names(claims_folder(lock_path)) == []
    assert names(lock_path.parent) == ["x.lock", "x.lock.filelock"]
    assert lock_path.read_bytes() == STRICT


def test_a_waiter_takes_over(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    assert blocks_then_proceeds(contender.begin_acquire(lock_path), lambda: holder.release(lock_path))
    assert not holder.acquire(lock_path, timeout=0)


def test_each_reads_the_others_claims(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, reader = pair
    assert reader.run(CLAIMS, path=os.fspath(lock_path)) == []
    assert holder.acquire(lock_path)
    found = reader.run(CLAIMS)
    assert [(name.split("-")[0], state, pid) for name, state, _, pid, _, _ in found] == [
        ("held", "held", holder.pid),
        ("intent", "intent", holder.pid),
    ]
    assert holder.run(CLAIMS, path=os.fspath(lock_path)) == found


@LINUX
def test_nobody_takes_the_claims_of_the_others_dead_until_they_are_removed(
    pair: tuple[Peer, Peer], lock_path: Path
) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    holder.kill()
    before = contents(claims_folder(lock_path))
    assert not contender.acquire(lock_path, timeout=0.1)
    assert contents(claims_folder(lock_path)) == before
    contender.run(BREAK, path=os.fspath(lock_path))
    assert contender.acquire(lock_path, timeout=0)


@LINUX
def test_a_stopped_holder_keeps_the_lock(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = pair
    assert holder.acquire(lock_path)
    holder.stop()
    assert not contender.acquire(lock_path, timeout=0.1)
    holder.cont()
    assert blocks_then_proceeds(contender.begin_acquire(lock_path), lambda: holder.release(lock_path))


def test_many_of_both_take_turns(lock_path: Path, filelock_folder: Find) -> None:
    """Between holds all of them publish at once, again and again."""
    with StrictSoftFileLock(lock_path):
        (lock_path.parent / "counter").touch()
    folder = filelock_folder(VERSION)
    contenders = [ProcessContender(lock_path, *which) for which in [(OURS, None), (THEIRS, folder)] * 2]
    try:
        for contender in contenders:
            contender.peer.run("lock_on(path).poll_interval = 0.001", path=os.fspath(lock_path))
        turns = [contender.begin_turns(lock_path.parent, 12, len(contenders)) for contender in contenders]
        assert sum(turn.result(3 * LONG) for turn in turns) == 0
    finally:
        for contender in contenders:
            contender.close()
    assert (lock_path.parent / "counter").read_text() == str(12 * len(contenders))
    assert names(claims_folder(lock_path)) == []


ATTEMPT = """
lock = FileLock(path)
lock.acquire(timeout=0)
os._exit(42)
"""


@pytest.mark.parametrize("who", ["ours is stopped", "theirs is stopped"])
def test_whoever_is_stopped_on_its_way_never_holds_beside_the_other(
    victim: Make, lock_path: Path, ours: Peer, theirs: Peer, who: str
) -> None:
    """Stopped after each call that changes something, or lists the claims, while the other one comes."""
    stopped_one, other = (ours, theirs) if who == "ours is stopped" else (theirs, ours)

    def start(number: int, *faults: str) -> tuple[Path, Victim]:
        path = lock_path.parent / str(number) / "x.lock"
        path.parent.mkdir()
        with StrictSoftFileLock(path):
            pass
        return path, victim(ATTEMPT, *faults, parent=stopped_one, path=os.fspath(path)).go()

    def is_a_step(call: Call) -> bool:
        return call.name in {"linkat", "unlinkat", "getdents64"} and "ENOENT" not in call.text

    _, whole = start(0)
    calls = [call for call in whole.wait().calls() if is_a_step(call)]
    assert whole.status() == 42
    outcomes = set()
    for number, call in enumerate(calls, 1):
        path, stopped = start(number, call.fault("signal=STOP"))
        stopped.wait_until_stopped()
        gets_it = other.acquire(path, timeout=0)
        status = stopped.cont().wait().status()
        assert (gets_it, status) in {(True, 100), (False, 42), (False, 100)}, f"stopped at {call}"
        outcomes.add((gets_it, status))
        if gets_it:
            other.release(path)
    assert {(True, 100), (False, 42)} <= outcomes


@pytest.mark.parametrize("token", ["0" * 32, "f" * 32], ids=["a smaller", "a greater"])
def test_both_give_way_to_any_claim_that_is_there_before(pair: tuple[Peer, Peer], lock_path: Path, token: str) -> None:
    for contender in pair:
        assert contender.acquire(lock_path, timeout=0)
        contender.release(lock_path)
    file = claims_folder(lock_path) / f"intent-v1-{token}.claim"
    file.write_text(f"filelock-strict-v1\n{token}\n4711\n{b'elsewhere'.hex()}\n\n")
    for contender in pair:
        assert not contender.acquire(lock_path, timeout=0)
    file.unlink()
    for contender in pair:
        assert contender.acquire(lock_path, timeout=0)
        contender.release(lock_path)


def test_both_read_the_same_as_claims(theirs: Peer, lock_path: Path) -> None:
    """Whatever is written there: a claim to both, or to neither."""
    host = b"vm".hex()

    def with_(pid: str = "12", host: str = host, start: str = "", token: str = TOKEN) -> str:
        return f"filelock-strict-v1\n{token}\n{pid}\n{host}\n{start}\n"

    texts = [
        *(
            with_(pid=pid)
            for pid in ("1", "0", "01", "+1", " 1", "1_0", "2147483647", "2147483648", "-1", "", "x", "1.0")
        ),
        *(with_(host=host) for host in ("", "7", "766D", "766d", "20", "7620", "0a", "00", "7f", "ff", "c3a9", "c2a0")),
        *(with_(start=start) for start in ("0", "00", "1", "01", "-1", "+1", " 1", "9" * 40, "x")),
        *(with_(token=token) for token in ("0" * 32, TOKEN.upper(), "")),
        with_().rstrip("\n"),
        with_() + "\n",
        with_() + "more\n",
        "\n" + with_(),
        with_().replace("\n", "\r\n"),
        with_().replace("v1", "v2"),
        with_().replace("\n", "\x0b", 1),
        with_(host="76" * 500),
        "",
        "\n" * 5,
    ]
    file = claims_folder(lock_path) / f"held-v1-{TOKEN}.claim"
    file.parent.mkdir(parents=True)
    read = """
        try:
            answer = [[c.name, c.state, c.token, c.pid, c.hostname, c.start] for c in FileLock(path).claims]
        except OSError as error:
            answer = type(error).__name__, error.claim_name
    """
    both: dict[bool, int] = {True: 0, False: 0}
    for text in texts:
        file.write_bytes(text.encode())
        ours: Any
        try:
            ours = [
                [c.name, c.state, c.token, c.pid, c.hostname, c.start] for c in StrictSoftFileLock(lock_path).claims
            ]
        except SoftFileLockProtocolError as error:
            ours = [type(error).__name__, error.claim_name]
        assert ours == theirs.run(read, path=os.fspath(lock_path)), repr(text)
        both[isinstance(ours[0], list)] += 1
    assert min(both.values()) > 5


# Soft locks of either on the path of strict ones


@pytest.fixture(params=[VERSION, CARELESS])
def their_soft(request: pytest.FixtureRequest, spawn: Spawn, filelock_folder: Find) -> Peer:
    """A process with filelock's soft locks."""
    return spawn(lock="filelock.SoftFileLock", folder=filelock_folder(request.param))


def test_a_soft_lock_of_theirs_and_a_strict_lock_of_ours_exclude_each_other(their_soft: Peer, lock_path: Path) -> None:
    lock = StrictSoftFileLock(lock_path)
    assert their_soft.acquire(lock_path)
    with pytest.raises(Timeout, match=f"process {their_soft.pid}"):
        lock.acquire(timeout=0.02)
    their_soft.release(lock_path)
    with lock:
        assert not their_soft.acquire(lock_path, timeout=0.1)
        assert lock_path.read_bytes() == STRICT
    assert not their_soft.acquire(lock_path, timeout=0)


def test_a_strict_lock_of_theirs_and_a_soft_lock_of_ours_exclude_each_other(
    theirs: Peer, spawn: Spawn, lock_path: Path
) -> None:
    soft = spawn(lock="ferrolock.SoftFileLock")
    assert soft.acquire(lock_path)
    assert not theirs.acquire(lock_path, timeout=0.02)
    soft.release(lock_path)
    assert theirs.acquire(lock_path)
    assert not soft.acquire(lock_path, timeout=0.1)
    theirs.release(lock_path)
    assert not soft.acquire(lock_path, timeout=0)
    assert lock_path.read_bytes() == STRICT


@LINUX
def test_what_a_killed_contender_of_theirs_has_left_on_its_way_is_cleared(
    victim: Make, theirs: Peer, lock_path: Path
) -> None:
    """Its private record is in nobody's way, and gone when it is old."""
    with StrictSoftFileLock(lock_path):
        pass

    def start(*faults: str) -> Victim:
        return victim(ATTEMPT, *faults, parent=theirs, path=os.fspath(lock_path)).go().wait()

    whole = start()
    assert whole.status() == 42
    link = next(call for call in whole.calls() if call.name == "linkat" and "private" in call.text)
    for claim in StrictSoftFileLock(lock_path).claims:
        StrictSoftFileLock(lock_path).force_break(claim.name)
    assert start(link.fault("signal=KILL")).status() == -signal.SIGKILL
    [private] = names(claims_folder(lock_path))
    assert private.startswith(".intent-v1-")
    with StrictSoftFileLock(lock_path) as lock:
        assert len(lock.claims) == 2
    assert names(claims_folder(lock_path)) == [private]
    os.utime(claims_folder(lock_path) / private, (1, 1))
    with StrictSoftFileLock(lock_path):
        pass
    assert names(claims_folder(lock_path)) == []
