"""Leases and exclusive markers with filelock's programs, both ways round, and what its other releases make of them."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from ferrolock import MarkerSoftFileLock, SoftFileLease, Timeout
from peers import LONG, Peer, blocks_then_proceeds
from soft_peers import LINUX, host_field, names, start_token
from test_soft_lease_processes import DURATION, prepare, stopped, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Spawn = Callable[..., Peer]
    Find = Callable[[str], Path]

NEW, OLD = "4.2.12", "3.29.0"
PATIENT = 30.0


def pair_of(kind: str, spawn: Spawn, folder: Path, first: str) -> tuple[Peer, Peer]:
    """A process of ours and one of filelock's, the holder first."""
    ours, theirs = spawn(lock=f"ferrolock.{kind}"), spawn(lock=f"filelock.{kind}", folder=folder)
    assert theirs.run("import sys; answer = 'ferrolock' in sys.modules") is False
    return (ours, theirs) if first == "ours" else (theirs, ours)


@pytest.fixture(params=["ours", "theirs"])
def pair(request: pytest.FixtureRequest, spawn: Spawn, filelock_folder: Find) -> tuple[Peer, Peer]:
    """The holder and the contender, with leases."""
    return pair_of("SoftFileLease", spawn, filelock_folder(NEW), request.param)


@pytest.fixture(params=["ours", "theirs"])
def exclusive_pair(request: pytest.FixtureRequest, spawn: Spawn, filelock_folder: Find) -> tuple[Peer, Peer]:
    """The same with markers that say that they are exclusive."""
    return pair_of("MarkerSoftFileLock", spawn, filelock_folder(NEW), request.param)


def test_a_lease_excludes_the_other_and_is_handed_over(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = (prepare(peer, lock_path, lease_duration=PATIENT) for peer in pair)
    for _ in range(2):
        assert holder.acquire(lock_path)
        assert not contender.acquire(lock_path, timeout=0)
        assert blocks_then_proceeds(contender.begin_acquire(lock_path), lambda: holder.release(lock_path))
        assert not holder.acquire(lock_path, timeout=0)
        contender.release(lock_path)
        assert names(lock_path.parent) == []


def test_an_exclusive_marker_excludes_the_other_and_is_handed_over(
    exclusive_pair: tuple[Peer, Peer], lock_path: Path
) -> None:
    holder, contender = exclusive_pair
    assert holder.acquire(lock_path)
    assert not contender.acquire(lock_path, timeout=0)
    assert blocks_then_proceeds(contender.begin_acquire(lock_path), lambda: holder.release(lock_path))
    assert not holder.acquire(lock_path, timeout=0)
    contender.kill()
    assert holder.acquire(lock_path, timeout=LONG)
    holder.release(lock_path)
    assert names(lock_path.parent) == []


def test_a_lease_and_an_exclusive_marker_exclude_each_other(
    pair: tuple[Peer, Peer], exclusive_pair: tuple[Peer, Peer], lock_path: Path
) -> None:
    for holder, contender in (*zip(pair, exclusive_pair, strict=True), *zip(exclusive_pair, pair, strict=True)):
        assert holder.acquire(lock_path)
        assert not contender.acquire(lock_path, timeout=0.05)
        holder.release(lock_path)
        assert contender.acquire(lock_path, timeout=0)
        contender.release(lock_path)


def test_a_lease_that_is_refreshed_stays(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, contender = (prepare(peer, lock_path, lease_duration=1.0) for peer in pair)
    assert holder.acquire(lock_path)
    assert not contender.acquire(lock_path, timeout=2.2)
    assert holder.run("answer = lease.compromise, told") == [None, []]
    holder.release(lock_path)


def test_a_stopped_holder_is_evicted_told_and_leaves_its_successor_alone(
    pair: tuple[Peer, Peer], lock_path: Path
) -> None:
    holder, contender = (prepare(peer, lock_path) for peer in pair)
    assert holder.acquire(lock_path)
    begun = time.monotonic()
    with stopped(holder):
        assert contender.acquire(lock_path, timeout=LONG)
        assert time.monotonic() - begun >= DURATION
    assert told(holder) == ["owner-changed"]
    marker = lock_path.read_bytes()
    holder.release(lock_path)
    assert lock_path.read_bytes() == marker
    assert contender.run("answer = lease.compromise") is None
    contender.release(lock_path)
    assert names(lock_path.parent) == []


def test_a_killed_holders_lease_is_taken_at_once_whatever_its_duration(
    pair: tuple[Peer, Peer], lock_path: Path
) -> None:
    holder = prepare(pair[0], lock_path, lease_duration=3600.0)
    contender = prepare(pair[1], lock_path, lease_duration=PATIENT)
    assert holder.acquire(lock_path)
    holder.kill()
    assert contender.acquire(lock_path, timeout=1)
    contender.release(lock_path)
    assert names(lock_path.parent) == []


def test_both_refuse_a_living_holder_of_another_duration(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder = prepare(pair[0], lock_path, lease_duration=PATIENT)
    contender = prepare(pair[1], lock_path, lease_duration=PATIENT + 1)
    assert holder.acquire(lock_path)
    source = """
    try:
        lease.acquire(timeout=1)
    except ValueError as error:
        answer = type(error).__name__
    """
    assert contender.run(source) == "LeaseSettingsMismatch"
    assert not prepare(contender, lock_path, lease_duration=PATIENT).acquire(lock_path, timeout=0)


@LINUX
def test_both_write_and_read_the_same(pair: tuple[Peer, Peer], lock_path: Path) -> None:
    holder, reader = (prepare(peer, lock_path, lease_duration=PATIENT) for peer in pair)
    assert holder.acquire(lock_path)
    token = holder.run("answer = lease.token")
    start = start_token(holder.pid)
    assert reader.run("answer = list(lease.owner)") == [holder.pid, host_field(), "lease", token, PATIENT, start]
    text = f"pid={holder.pid}\nhost={host_field()}\nmode=lease\ntoken={token}\nduration=30.0\nstart={start}\n"
    assert lock_path.read_text() == f"filelock/2\n{text}"
    assert reader.run("answer = lease.pid, lease.is_lock_held_by_us") == [holder.pid, False]
    assert holder.run("answer = lease.pid, lease.is_lock_held_by_us") == [holder.pid, True]


@pytest.mark.parametrize("version", [NEW, OLD])
def test_filelocks_plain_soft_lock_takes_markers_with_terms_for_garbage(
    spawn: Spawn, filelock_folder: Find, version: str, lock_path: Path
) -> None:
    """What filelock's documentation says too: it goes after two seconds, unless it is refreshed more often."""
    theirs = spawn(lock="filelock.SoftFileLock", folder=filelock_folder(version))
    with SoftFileLease(lock_path, heartbeat_interval=0.1) as lease:
        assert not theirs.acquire(lock_path, timeout=2.6)
        assert lease.compromise is None
    evicted = lock_path.with_name("y.lock")
    with MarkerSoftFileLock(evicted):
        assert not theirs.acquire(evicted, timeout=1.2)
        assert theirs.acquire(evicted, timeout=LONG)
        marker = evicted.read_bytes()
    assert evicted.read_bytes() == marker, "the late release leaves it alone"


@pytest.mark.parametrize("version", [NEW, OLD])
def test_filelocks_plain_soft_lock_excludes_them(
    spawn: Spawn, filelock_folder: Find, version: str, lock_path: Path
) -> None:
    theirs = spawn(lock="filelock.SoftFileLock", folder=filelock_folder(version))
    assert theirs.acquire(lock_path)
    for lock_class in (SoftFileLease, MarkerSoftFileLock):
        with pytest.raises(Timeout):
            lock_class(lock_path).acquire(timeout=0.1)
    theirs.kill()
    for lock_class in (SoftFileLease, MarkerSoftFileLock):
        with lock_class(lock_path, timeout=0) as lock:
            assert lock.is_lock_held_by_us


LINES = [
    *("pid=5", "pid=0", "pid=007", "pid=+5", "pid=", "pid=2147483648", "pid", "host=vm", "host=", "host=a=b", "host= "),
    *("mode=lease", "mode=exclusive", "mode=odd", "mode=", "mode=Lease", "token=ab", "token=", "token=a b", "x=y", "="),
    *("duration=30.0", "duration=3", "duration=0", "duration=0.0", "duration=1e-07", "duration=1e5", "duration=.5"),
    *(
        "duration=1e+400",
        "duration=1e-400",
        "duration=5.",
        "duration= 5",
        "duration=",
        "duration=inf",
        "duration=\u0663",
    ),
    *("start=7", "start=x", "start=", "start=-1", "start=00", "", " ", "nonsense", "PID=5", "pid =5", "start=\u0663"),
]

TERMS = ["mode=exclusive", "mode=odd", "mode="]


def test_a_file_says_to_us_what_it_says_to_filelock(spawn: Spawn, filelock_folder: Find, tmp_path: Path) -> None:
    """Hundreds of files of such lines, by the one and by the other."""
    dice = random.Random(1)
    good = ["pid=4711", "host=vm", "mode=lease", "token=ab", "duration=30.0", "start=7"]
    texts = [f"mode=lease\ntoken=a\nduration=3\nhost=vm\npid=5\n{line}\n" for line in LINES]
    for _ in range(500):
        lines = [line for line in good if dice.random() < 0.93] + dice.choices(LINES, k=dice.choice([0, 0, 0, 1, 2]))
        lines = [dice.choice(TERMS) if line == "mode=lease" and dice.random() < 0.5 else line for line in lines]
        dice.shuffle(lines)
        texts.append(
            dice.choice(["\n", "\n", "\r\n", "\x1c", "\u2028"]).join(lines) + dice.choice(["\n", "\n\n", " \n", ""])
        )
    magics = ["filelock/2\n"] * 12 + [
        "filelock/2\r\n",
        "\n filelock/2\n",
        "filelock/2 \n",
        "filelock/3\n",
        "filelock/20\n",
    ]
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes((dice.choice(magics) + text).encode())
    peer = spawn(lock="filelock.MarkerSoftFileLock", folder=filelock_folder(NEW))
    source = "answer = [owner and list(owner) for owner in (FileLock(path).owner for path in paths)]"
    theirs = peer.run(source, paths=[os.fspath(path) for path in paths])
    owners = [MarkerSoftFileLock(path).owner for path in paths]
    ours = [owner and list(owner) for owner in owners]
    differences = [
        (path.read_bytes(), mine, other) for path, mine, other in zip(paths, ours, theirs, strict=True) if mine != other
    ]
    assert differences == []
    counts = Counter(owner and owner.mode for owner in owners)
    assert len(counts) == 4
    assert min(counts.values()) >= 10, counts
