"""``SoftReadWriteLock`` and that of filelock 3.29 and 3.32, whose files these are, on one path, both ways round."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import ferrolock
import rw_pair_laws
from peers import LONG, Peer
from rw_peers import BY_PACKAGE, Party
from soft_peers import laws
from soft_rw_peers import SOFT_RW, folder_of, markers, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Pair = tuple[Party, Party]


@pytest.fixture(autouse=True)
def _nothing_stays_held() -> Iterator[None]:
    yield
    ferrolock._native.remove_markers_at_exit()


QUICK = """
def lock_on(path, locks={}):
    module = __import__(FileLock.__module__.partition(".")[0])
    if path not in locks:
        options = dict(heartbeat_interval=HEART, stale_threshold=THRESHOLD, poll_interval=0.02)
        locks[path] = module.SoftReadWriteLock(path, is_singleton=False, **options)
    return locks[path]
"""


def party(peer: Peer, path: Path, heartbeat: float = 0.2, threshold: float = 10) -> Party:
    """A process whose lock has these terms."""
    made = Party(peer, path, BY_PACKAGE)
    peer.run(f"HEART, THRESHOLD = {heartbeat}, {threshold}\n{QUICK}")
    return made


@pytest.fixture(params=["3.29.0", "3.32.7"])
def theirs(
    request: pytest.FixtureRequest, spawn: Callable[..., Peer], filelock_folder: Callable[[str], Path], lock_path: Path
) -> Callable[..., Party]:
    """Makes processes with the real filelock."""
    folder = filelock_folder(request.param)

    def make(**terms: float) -> Party:
        peer = spawn(lock="filelock.SoftReadWriteLock", folder=folder)
        told = peer.run("import filelock, sys; answer = filelock.__version__, 'ferrolock' in sys.modules")
        assert told == [request.param, False]
        return party(peer, lock_path, **terms)

    return make


@pytest.fixture
def ours(spawn: Callable[..., Peer], lock_path: Path) -> Callable[..., Party]:
    """Makes processes with ferrolock."""
    return lambda **terms: party(spawn(lock=SOFT_RW), lock_path, **terms)


@pytest.fixture(params=["ours inside", "theirs inside"])
def pair(request: pytest.FixtureRequest, ours: Callable[..., Party], theirs: Callable[..., Party]) -> Pair:
    """Who is inside, and who comes."""
    return (ours(), theirs()) if request.param == "ours inside" else (theirs(), ours())


globals().update(laws(rw_pair_laws, without=set()))


def test_a_writer_that_waits_keeps_the_others_readers_out_until_it_gives_up(
    pair: Pair, ours: Callable[..., Party], theirs: Callable[..., Party]
) -> None:
    inside, comes = pair
    late = [ours(), theirs()]
    assert inside.enter("read", LONG)
    wait = comes.begin("write", 1)
    assert [party.enter("read", 0.1) for party in late] == [False, False]
    assert wait.result(LONG) is False
    assert [party.enter("read", LONG) for party in late] == [True, True]
    for reader in [*late, inside]:
        reader.leave()
    assert comes.enter("write", LONG)


@pytest.mark.parametrize("mode", ["read", "write"])
def test_a_heart_that_beats_is_seen_by_the_other(pair: Pair, mode: str) -> None:
    inside, comes = pair
    assert inside.enter(mode, LONG)
    comes.run("HEART, THRESHOLD = 0.2, 0.7")
    assert not comes.enter("write", 2)
    inside.leave()
    assert comes.enter("write", LONG)


@pytest.mark.parametrize("mode", ["read", "write"])
@pytest.mark.parametrize("holder", ["ours", "theirs"])
def test_a_holder_that_was_killed_is_evicted_by_the_other(
    ours: Callable[..., Party], theirs: Callable[..., Party], lock_path: Path, mode: str, holder: str
) -> None:
    """We know at once that one of ours is dead, where the marker tells of this start of the machine; filelock never."""
    inside = (ours if holder == "ours" else theirs)(heartbeat=0.1, threshold=0.5)
    comes = (theirs if holder == "ours" else ours)(heartbeat=0.1, threshold=0.5)
    assert inside.enter(mode, LONG)
    inside.peer.kill()
    begin = time.monotonic()
    assert not comes.enter("write", 0.1)
    assert comes.enter("write", LONG)
    assert time.monotonic() - begin > 0.3
    left = [entry.name for entry in folder_of(lock_path).iterdir() if not entry.name.startswith(".")]
    assert left == []
    if holder == "ours" and mode == "write":
        # A claim that nobody else knows of; the next one of ours takes it for dead.
        assert len(markers(lock_path, "write")) == 1
        comes.leave()
        assert ours().enter("write", 0)


@pytest.mark.parametrize("mode", ["read", "write"])
def test_one_of_ours_that_filelock_evicts_is_told(
    ours: Callable[..., Party], theirs: Callable[..., Party], mode: str
) -> None:
    inside, comes = ours(heartbeat=0.1, threshold=0.5), theirs(heartbeat=0.1, threshold=0.5)
    assert inside.enter(mode, LONG)
    inside.peer.stop()
    assert comes.enter("write", LONG)
    inside.peer.cont()
    until(lambda: bool(inside.run("answer = lock_on(path).compromise is not None")))
    reason = inside.run("answer = lock_on(path).compromise.reason")
    assert reason in {"evicted", "owner-changed"}
    inside.leave()
    assert not inside.enter("read", 0.1), "the successor is there still"
    comes.leave()
    assert inside.enter("write", LONG)
