"""``ReadWriteLock`` and filelock's on one file, both ways round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import rw_pair_laws
from peers import LONG, Peer
from rw_peers import OURS, Party, let_in
from soft_peers import laws

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Pair = tuple[Party, Party]


@pytest.fixture(params=["4.2.12", "3.29.0"])
def theirs(
    request: pytest.FixtureRequest, spawn: Callable[..., Peer], filelock_folder: Callable[[str], Path], lock_path: Path
) -> Party:
    """A process with the real filelock."""
    peer = spawn(lock="filelock.ReadWriteLock", folder=filelock_folder(request.param))
    assert peer.run("import filelock, sys; answer = filelock.__version__, 'ferrolock' in sys.modules") == [
        request.param,
        False,
    ]
    return Party(peer, lock_path)


@pytest.fixture
def ours(spawn: Callable[..., Peer], lock_path: Path) -> Party:
    """A process with ferrolock."""
    return Party(spawn(lock=OURS), lock_path)


@pytest.fixture(params=["ours inside", "theirs inside"])
def pair(request: pytest.FixtureRequest, ours: Party, theirs: Party) -> Pair:
    """Who is inside, and who comes."""
    return (ours, theirs) if request.param == "ours inside" else (theirs, ours)


globals().update(laws(rw_pair_laws, without=set()))


def test_a_writer_that_waits_keeps_the_others_readers_out(pair: Pair, spawn: Callable[..., Peer]) -> None:
    inside, comes = pair
    late = Party(spawn(lock=OURS), comes.path)
    assert inside.enter("read")
    wait = comes.begin("write")
    assert not late.enter("read")
    inside.leave()
    assert wait.result(LONG) is True
    comes.leave()
    assert late.enter("read")


def test_a_holder_that_is_killed_lets_the_other_in(pair: Pair) -> None:
    inside, comes = pair
    assert inside.enter("write")
    let_in(comes.begin("read"), inside.peer.kill)


def test_a_timeout_of_either_leaves_nothing_locked(pair: Pair, spawn: Callable[..., Peer]) -> None:
    inside, comes = pair
    late = Party(spawn(lock=OURS), comes.path)
    assert inside.enter("read")
    assert not comes.enter("write", 0.1)
    assert late.enter("read"), "its claim is gone"
    late.leave()
    inside.leave()
    assert late.enter("write")
