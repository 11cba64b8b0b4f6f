"""What a StrictSoftFileLock has that others have not: claims, that nobody takes, and what keeps it from its path."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Literal

import pytest

import ferrolock
from ferrolock import (
    AsyncStrictSoftFileLock,
    BaseFileLock,
    SoftFileLock,
    SoftFileLockProtocolError,
    StrictSoftFileClaim,
    StrictSoftFileLock,
    Timeout,
)
from peers import LONG, Peer, blocks_then_proceeds
from soft_peers import LINUX, ROOT, STRICT, contents, dead_record, host_field, names, record, start_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Spawn = Callable[..., Peer]

CLASS = "ferrolock.StrictSoftFileLock"
TOKEN = "0123456789abcdef0123456789abcdef"
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs links, FIFOs or forks")


def is_free(path: Path) -> bool:
    """Whether a strict lock of no concern to the test can be had right now."""
    try:
        with StrictSoftFileLock(path, timeout=0):
            return True
    except Timeout:
        return False


def claims_folder(path: Path) -> Path:
    """Where the claims are."""
    return path.with_name(f"{path.name}.filelock") / "claims"


def claim(path: Path, state: str, content: bytes | None = None, token: str = TOKEN) -> Path:
    """Make a claim by hand: that of a process of another machine, if nothing else is said."""
    claims_folder(path).mkdir(parents=True, exist_ok=True)
    file = claims_folder(path) / f"{state}-v1-{token}.claim"
    host = b"elsewhere".hex()
    file.write_bytes(f"filelock-strict-v1\n{token}\n4711\n{host}\n12\n".encode() if content is None else content)
    return file


@pytest.fixture
def peer(spawn: Spawn) -> Peer:
    """A process with strict locks."""
    return spawn(lock=CLASS)


def test_the_class_is_public_and_a_file_lock() -> None:
    assert StrictSoftFileLock in BaseFileLock.__subclasses__()
    assert not issubclass(StrictSoftFileLock, SoftFileLock)
    assert ferrolock.StrictSoftFileClaimState == Literal["intent", "held"]
    assert issubclass(AsyncStrictSoftFileLock, StrictSoftFileLock)


def test_asking_makes_nothing(lock_path: Path) -> None:
    lock = StrictSoftFileLock(lock_path.parent / "folder" / "x.lock")
    assert lock.claims == ()
    assert lock.lock_path_occupant is None
    with pytest.raises(FileNotFoundError, match="name"):
        lock.force_break("name")
    assert names(lock_path.parent) == []


@LINUX
def test_a_holder_has_two_claims_of_one_token(lock_path: Path) -> None:
    lock = StrictSoftFileLock(lock_path)
    with lock, lock:
        held, intent = lock.claims
        assert lock.lock_counter == 2
        assert (held.state, intent.state) == ("held", "intent")
        assert held.name == f"held-v1-{held.token}.claim"
        assert names(claims_folder(lock_path)) == [held.name, intent.name]
        start = start_token(os.getpid())
        owner = (os.getpid(), host_field(), start)
        assert (held.pid, held.hostname, held.start) == owner
        assert intent == StrictSoftFileClaim(intent.name, "intent", held.token, *owner)
        assert hash(intent) == hash(intent)
        bytes_ = (claims_folder(lock_path) / held.name).read_bytes()
        text = f"filelock-strict-v1\n{held.token}\n{os.getpid()}\n{host_field().encode().hex()}\n{start}\n"
        assert bytes_ == text.encode()
    assert lock.claims == ()
    assert names(lock_path.parent) == ["x.lock", "x.lock.filelock"]
    assert lock_path.read_bytes() == STRICT


def test_each_hold_has_a_token_of_its_own(lock_path: Path) -> None:
    lock = StrictSoftFileLock(lock_path)
    tokens = set()
    for _ in range(20):
        with lock:
            tokens.add(lock.claims[0].token)
    assert len(tokens) == 20


@POSIX
def test_a_forked_child_draws_other_tokens_than_its_parent(lock_path: Path, peer: Peer) -> None:
    source = """
        def token(name):
            with FileLock(f"{path}.{name}") as lock:
                return lock.claims[0].token
        token("first")
        answer = in_child(lambda: [token("child") for _ in range(3)]), [token("parent") for _ in range(3)]
    """
    child, parent = peer.run(source, path=lock_path)
    assert len({*child, *parent}) == 6


def test_a_waiter_has_it_when_the_holder_releases(lock_path: Path, peer: Peer) -> None:
    lock = StrictSoftFileLock(lock_path)
    with lock:
        pass
    lock.acquire()
    assert not peer.acquire(lock_path, timeout=0)
    assert not peer.acquire(lock_path, timeout=0.03)
    assert blocks_then_proceeds(peer.begin_acquire(lock_path), lock.release)
    assert not is_free(lock_path)
    with pytest.raises(Timeout) as timeout:
        lock.acquire(timeout=0)
    assert f"process {peer.pid}" in str(timeout.value)
    peer.release(lock_path)
    assert is_free(lock_path)


def test_waiting_for_oneself_is_refused_whichever_soft_lock_it_is(lock_path: Path) -> None:
    soft = SoftFileLock(lock_path)
    with soft, pytest.raises(RuntimeError, match="Deadlock"):
        StrictSoftFileLock(lock_path).acquire()
    with StrictSoftFileLock(lock_path):
        for cls in (StrictSoftFileLock, SoftFileLock):
            with pytest.raises(RuntimeError, match="Deadlock"):
                cls(lock_path).acquire()
            with pytest.raises(Timeout):
                cls(lock_path).acquire(timeout=0.01)


def test_a_soft_lock_keeps_it_out_and_is_kept_out(lock_path: Path) -> None:
    lock, soft = StrictSoftFileLock(lock_path), SoftFileLock(lock_path)
    with soft:
        with pytest.raises(Timeout, match="by this process"):
            lock.acquire(timeout=0)
        assert f"held by process {os.getpid()}" in str(lock.lock_path_occupant)
    with lock, pytest.raises(Timeout):
        soft.acquire(timeout=0)
    with pytest.raises(Timeout):
        soft.acquire(timeout=0)
    assert lock.lock_path_occupant is None


# The dead


@LINUX
def test_the_claims_of_a_dead_holder_stay_until_both_are_removed_by_hand(lock_path: Path, peer: Peer) -> None:
    assert peer.acquire(lock_path)
    peer.kill()
    lock = StrictSoftFileLock(lock_path)
    before = contents(claims_folder(lock_path))
    with pytest.raises(Timeout, match=f"process {peer.pid}, which has ended: .*force_break"):
        lock.acquire(timeout=0.05)
    assert contents(claims_folder(lock_path)) == before
    for name in [claim.name for claim in lock.claims]:
        assert not is_free(lock_path)
        lock.force_break(name)
    assert is_free(lock_path)


def test_a_claim_of_another_machine_is_told_of(lock_path: Path) -> None:
    claim(lock_path, "intent")
    lock = StrictSoftFileLock(lock_path)
    with pytest.raises(Timeout, match="held by pid 4711 on elsewhere"):
        lock.acquire(timeout=0)
    expected = StrictSoftFileClaim(f"intent-v1-{TOKEN}.claim", "intent", TOKEN, 4711, "elsewhere", 12)
    assert lock.claims == (expected,)
    lock.force_break(expected.name)
    with lock:
        assert len(lock.claims) == 2


def test_who_was_broken_is_not_told_and_releases_quietly(lock_path: Path, peer: Peer) -> None:
    lock = StrictSoftFileLock(lock_path)
    lock.acquire()
    for each in lock.claims:
        lock.force_break(each.name)
    assert lock.is_locked
    assert peer.acquire(lock_path, timeout=0)
    lock.release()
    assert not is_free(lock_path)
    peer.release(lock_path)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0b"])
def test_only_a_name_can_be_broken(lock_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="claim_name"):
        StrictSoftFileLock(lock_path).force_break(name)


@POSIX
def test_what_a_program_holds_at_its_end_is_given_back(lock_path: Path) -> None:
    source = """
        import sys, threading
        from ferrolock import StrictSoftFileLock
        lock = StrictSoftFileLock(sys.argv[1])
        thread = threading.Thread(target=StrictSoftFileLock(sys.argv[1] + ".2").acquire)
        thread.start(), thread.join()
        lock.acquire()
        other = StrictSoftFileLock(sys.argv[1] + ".3", thread_local=False)
        other.acquire()
        raise SystemExit(len(lock.claims))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(source), str(lock_path)], timeout=3 * LONG)
    assert done.returncode == 2
    for path in (lock_path, lock_path.with_name("x.lock.2"), lock_path.with_name("x.lock.3")):
        assert names(claims_folder(path)) == []


@POSIX
def test_a_child_that_ends_leaves_its_parents_claims_alone(lock_path: Path) -> None:
    source = """
        import os, sys
        from ferrolock import StrictSoftFileLock
        lock = StrictSoftFileLock(sys.argv[1])
        lock.acquire()
        pid = os.fork()
        if not pid:
            lock.release(force=True)
            sys.exit(len(lock.claims))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os._exit(10 * status + len(lock.claims))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(source), str(lock_path)], timeout=3 * LONG)
    assert done.returncode == 22


# What is not as it should be


def refusal(path: Path) -> SoftFileLockProtocolError:
    """What keeps a strict lock from the path for good; nothing is changed by asking."""
    with pytest.raises(SoftFileLockProtocolError) as refused:
        StrictSoftFileLock(path, timeout=0).acquire()
    assert refused.value.lock_file == os.fspath(path)
    assert refused.value.args == (str(refused.value),)
    return refused.value


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to("nowhere"),
    "a special file": lambda path: os.mkfifo(path),  # noqa: PLW0108 - there is none on Windows
    "left by process": lambda path: path.write_bytes(dead_record()),
}


@LINUX
@pytest.mark.parametrize("what", FOREIGN)
def test_what_never_becomes_the_sentinel_is_refused_at_once_and_stays(lock_path: Path, what: str) -> None:
    FOREIGN[what](lock_path)
    before = lock_path.lstat()
    refused = refusal(lock_path)
    assert what in refused.reason
    assert refused.claim_name is None
    assert what in str(StrictSoftFileLock(lock_path).lock_path_occupant)
    assert lock_path.lstat().st_mtime_ns == before.st_mtime_ns
    assert names(claims_folder(lock_path)) == []


def test_what_may_be_about_to_become_a_marker_is_waited_for_and_then_refused(lock_path: Path) -> None:
    """All at once, for it takes two seconds."""
    contents = [b"", b"garbage\n", b"x" * 1_000_000, STRICT + b"1", b"filelock/released\n"]
    paths = [lock_path.with_name(f"{number}.lock") for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    begin = time.monotonic()
    for path in paths:
        assert not is_free(path)
    for path, content in zip(paths, contents, strict=True):
        with pytest.raises(SoftFileLockProtocolError, match="neither the sentinel"):
            StrictSoftFileLock(path, timeout=LONG).acquire()
        assert path.read_bytes() == content
    assert time.monotonic() - begin >= 2


@pytest.mark.parametrize("token", [None, 7], ids=["without a start", "of a start long ago"])
def test_a_marker_whose_owner_may_live_is_contention(lock_path: Path, token: int | None) -> None:
    lock_path.write_bytes(record(4711, "elsewhere", token))
    with pytest.raises(Timeout, match="held by pid 4711 on elsewhere"):
        StrictSoftFileLock(lock_path, timeout=0.01).acquire()


NO_CLAIMS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "another name": ("garbage", lambda file: file.write_bytes(b""), "the name of no claim"),
    "another version": (f"held-v2-{TOKEN}.claim", lambda file: file.write_bytes(b""), "another version"),
    "empty": (f"held-v1-{TOKEN}.claim", lambda file: file.write_bytes(b""), "not the record"),
    "giant": (f"intent-v1-{TOKEN}.claim", lambda file: file.write_bytes(b"x" * 1_000_000), "not the record"),
    "another token": (
        f"held-v1-{TOKEN}.claim",
        lambda file: file.write_bytes(b"filelock-strict-v1\n" + b"0" * 32 + b"\n1\n766d\n\n"),
        "not the record",
    ),
    "a folder": (f"held-v1-{TOKEN}.claim", lambda file: file.mkdir(), "regular file"),
    "a link": (f"held-v1-{TOKEN}.claim", lambda file: file.symlink_to("nowhere"), "regular file"),
    "a FIFO": (f"held-v1-{TOKEN}.claim", lambda file: os.mkfifo(file), "regular file"),  # noqa: PLW0108 - as above
}


@POSIX
@pytest.mark.parametrize("what", NO_CLAIMS)
def test_what_is_no_claim_stops_everybody_until_it_is_removed(lock_path: Path, what: str) -> None:
    name, make, reason = NO_CLAIMS[what]
    claims_folder(lock_path).mkdir(parents=True)
    file = claims_folder(lock_path) / name
    make(file)
    refused = refusal(lock_path)
    assert refused.claim_name == name
    assert reason in refused.reason
    assert str(refused).startswith(f"Invalid strict soft-lock state at {lock_path}: claim '{name}': ")
    lock = StrictSoftFileLock(lock_path)
    with pytest.raises(SoftFileLockProtocolError):
        _ = lock.claims
    if file.is_dir():
        with pytest.raises(OSError):
            lock.force_break(name)
        file.rmdir()
    else:
        lock.force_break(name)
    assert is_free(lock_path)


def test_the_error_is_copied_whole() -> None:
    error = SoftFileLockProtocolError("x.lock", "held", "why")
    error.more = 1  # type: ignore[attr-defined]
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.lock_file, copy.claim_name, copy.reason) == (
        SoftFileLockProtocolError,
        "Invalid strict soft-lock state at x.lock: claim 'held': why",
        "x.lock",
        "held",
        "why",
    )
    assert copy.more == 1
    assert isinstance(copy, OSError)
    assert str(SoftFileLockProtocolError("x", None, "why")) == "Invalid strict soft-lock state at x: why"


@ROOT
@POSIX
def test_another_users_folder_where_anybody_may_make_one_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    for parts in (["x.lock.filelock"], ["x.lock.filelock", "claims"]):
        made = tmp_path
        for part in parts:
            made /= part
            made.mkdir(exist_ok=True)
        made.parent.chmod(0o1777)
        os.chown(made, 65534, 65534)
        refused = refusal(tmp_path / "x.lock")
        assert f"{parts[-1]} belongs to another user" in refused.reason
        os.chown(made, 0, 0)
    assert is_free(tmp_path / "x.lock")


@POSIX
@pytest.mark.parametrize(
    ("umask", "mode", "folder", "file"),
    [(0o022, -1, 0o1755, 0o644), (0, -1, 0o1777, 0o666), (0o022, 0o600, 0o1700, 0o600), (0, 0o660, 0o1770, 0o660)],
)
def test_the_files_have_filelocks_permissions(lock_path: Path, umask: int, mode: int, folder: int, file: int) -> None:
    before = os.umask(umask)
    try:
        with StrictSoftFileLock(lock_path, mode=mode):
            claims = claims_folder(lock_path)
            files = [lock_path, *claims.iterdir()]
            assert {path.stat().st_mode & 0o7777 for path in files} == {file}
            assert {path.stat().st_mode & 0o7777 for path in (claims, claims.parent)} == {folder}
    finally:
        os.umask(before)


# Options, and tasks


def test_a_lifetime_is_ignored_with_a_warning(lock_path: Path) -> None:
    with pytest.warns(UserWarning, match="lifetime is ignored for StrictSoftFileLock: no claim") as warned:
        lock = StrictSoftFileLock(lock_path, lifetime=3)
    assert lock.lifetime is None
    assert warned[0].filename == __file__


def test_its_settings_travel(lock_path: Path) -> None:
    lock = StrictSoftFileLock(lock_path, timeout=3, mode=0o600)
    with lock:
        copy = pickle.loads(pickle.dumps(lock))
        assert (type(copy), copy.is_locked, copy.timeout, copy.mode) == (StrictSoftFileLock, False, 3.0, 0o600)
        with pytest.raises(Timeout):
            copy.acquire(timeout=0)


def test_tasks_exclude_each_other_and_a_cancelled_one_leaves_nothing(lock_path: Path) -> None:
    async def main() -> None:
        first, second, third = (AsyncStrictSoftFileLock(lock_path) for _ in range(3))
        async with first:
            with pytest.raises(Timeout):
                await second.acquire(timeout=0)
            waits = [asyncio.ensure_future(lock.acquire()) for lock in (second, third)]
            await asyncio.wait(waits, timeout=0.06)
            assert not any(wait.done() for wait in waits)
            waits[0].cancel()
            await asyncio.wait(waits[:1])
            assert len(first.claims) == 2
        await asyncio.wait_for(waits[1], LONG)
        assert third.is_locked
        assert not second.is_locked
        assert {claim.token for claim in third.claims} == {third.claims[0].token}
        await third.release()
        assert third.claims == ()

    asyncio.run(main())


def test_many_tasks_and_threads_take_turns(lock_path: Path) -> None:
    inside: list[int] = []

    async def turn() -> None:
        for _ in range(5):
            async with AsyncStrictSoftFileLock(lock_path, poll_interval=0.002):
                inside.append(1)
                await asyncio.sleep(0.001)
                assert sum(inside) == 1
                inside.pop()

    async def main() -> None:
        await asyncio.wait_for(asyncio.gather(*(turn() for _ in range(5))), 3 * LONG)

    asyncio.run(main())
    assert names(claims_folder(lock_path)) == []
