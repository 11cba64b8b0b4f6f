"""What cannot be a marker, and what cannot be read, written or made: a clear error, or held, and no trace on disk."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import SoftFileLock, SoftFileLockLifetimeWarning, Timeout
from peers import LONG, Peer, PeerError
from soft_peers import LINUX, NEVER_A_PROCESS, ROOT, contents, facts, is_free, names, record
from test_paths import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, FIFOs and permission bits are Unix's")

NOBODY = 65534
CONTENTS = pytest.mark.parametrize(
    "content",
    [record(NEVER_A_PROCESS), record(os.getpid()), b"garbage\n", b""],
    ids=["dead", "living", "garbage", "empty"],
)


def listen(path: Path) -> None:
    """Make a socket there."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:  # a socket's name must be short
            listener.bind(f"/proc/self/fd/{folder}/{path.name}" if os.path.exists("/proc/self/fd") else str(path))
    finally:
        os.close(folder)


def make_fifo(path: Path) -> None:
    """Make a FIFO there, on systems that have any."""
    os.mkfifo(path)


def link_to_a_file(path: Path) -> None:
    """Make a link to what would be a dead owner's marker."""
    path.with_name("target").write_bytes(record(NEVER_A_PROCESS))
    path.symlink_to("target")


NO_FILES: dict[str, tuple[Callable[[Path], object], int]] = {
    "a link": (link_to_a_file, errno.ELOOP),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), errno.ELOOP),
    "a link to itself": (lambda path: path.symlink_to(path.name), errno.ELOOP),
    "a FIFO": (make_fifo, errno.EINVAL),
    "a socket": (listen, errno.EINVAL),
    "a folder": (os.mkdir, errno.EISDIR),
}


@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.parametrize(
    "options", [{}, {"timeout": 0}, {"timeout": 1}, {"blocking": False}, {"lifetime": 0}], ids=repr
)
def test_what_is_no_file_is_refused_and_stays(lock_path: Path, what: str, options: dict[str, Any]) -> None:
    """As a damaged marker, which it is for filelock, it would be removed after two seconds."""
    make, code = NO_FILES[what]
    make(lock_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SoftFileLockLifetimeWarning)
        lock = SoftFileLock(lock_path, **options)
    with refused(lock_path.parent, code, filename=lock_path) as caught:
        lock.acquire()
    assert isinstance(caught.value, IsADirectoryError) is (what == "a folder")
    assert (lock.is_locked, lock.lock_counter) == (False, 0)


@pytest.mark.parametrize("what", NO_FILES)
def test_a_wait_ends_when_what_is_no_file_takes_the_markers_place(
    lock_path: Path, soft: Callable[[], Peer], what: str
) -> None:
    make, code = NO_FILES[what]
    waiter = soft()
    with SoftFileLock(lock_path):
        wait = waiter.begin_acquire(lock_path)
        lock_path.unlink()
        make(lock_path)
        with pytest.raises(PeerError) as caught:
            wait.result(LONG)
        before = contents(lock_path.parent)
    assert (caught.value.errno, caught.value.filename) == (code, str(lock_path))
    assert contents(lock_path.parent) == before


@pytest.mark.parametrize("size", [1025, 10**6, 2**40], ids=["1-KiB-and-one", "1-MB", "1-TiB-of-nothing"])
def test_a_large_file_is_not_read_to_its_end(lock_path: Path, size: int) -> None:
    lock_path.write_bytes(record(NEVER_A_PROCESS))
    os.truncate(lock_path, size)
    before = facts(lock_path)
    assert SoftFileLock(lock_path).pid is None
    assert not is_free(lock_path)
    assert facts(lock_path) == before


# Names


def test_a_name_may_have_any_bytes(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n '\x01.lock"))
    with SoftFileLock(path, timeout=0):
        assert names(tmp_path) == [path.name]
    path.write_bytes(record(NEVER_A_PROCESS))
    with SoftFileLock(path, timeout=0):
        assert names(tmp_path) == [path.name]
    assert names(tmp_path) == []


def test_a_name_that_leaves_no_room_for_others_beside_it_is_held_by_the_dead(tmp_path: Path) -> None:
    """Nobody can make the marker that would have to be exchanged for it."""
    path = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    with SoftFileLock(path):
        assert not is_free(path)
    assert names(tmp_path) == []
    path.write_bytes(record(NEVER_A_PROCESS))
    before = contents(tmp_path)
    with pytest.raises(Timeout):
        SoftFileLock(path).acquire(timeout=0.02)
    assert contents(tmp_path) == before


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (os.pathconf(tmp_path, "PC_NAME_MAX") + 1))
    with refused(tmp_path, errno.ENAMETOOLONG, filename=path):
        SoftFileLock(path).acquire()


# Permissions


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp()).resolve()
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        folder.chmod(0o777)
        shutil.rmtree(folder)


@pytest.fixture
def user(soft: Callable[[], Peer]) -> Peer:
    """A process whom permission bits bind."""
    peer = soft()
    become = "import os; os.setgroups([]); os.setgid(uid); os.setuid(uid)"
    if os.geteuid() == 0:
        peer.run(become, uid=NOBODY)
    return peer


def outcome(user: Peer, path: Path, **options: Any) -> tuple[str, int | None, str | None]:
    """How an attempt ends: the kind of the error, its errno and its file."""
    try:
        return ("got it" if user.acquire(path, timeout=0, **options) else "held"), None, None
    except PeerError as error:
        return error.kind, error.errno, error.filename


@CONTENTS
def test_a_file_that_must_not_be_read_is_held(user: Peer, public_folder: Path, content: bytes) -> None:
    path = public_folder / "x.lock"
    path.write_bytes(content)
    path.chmod(0o200)
    before = facts(path)
    assert [outcome(user, path) for _ in range(2)] == [("held", None, None)] * 2
    assert user.run("answer = lock_on(path).pid", path=path) is None
    assert facts(path) == before
    assert names(public_folder) == ["x.lock"]


@CONTENTS
def test_a_file_that_must_not_be_written_is_refused(user: Peer, public_folder: Path, content: bytes) -> None:
    path = public_folder / "x.lock"
    path.write_bytes(content)
    path.chmod(0o444)
    before = contents(public_folder)
    assert outcome(user, path) == ("PermissionError", errno.EACCES, str(path))
    assert contents(public_folder) == before


@pytest.mark.parametrize(("mode", "content"), [(0o555, None), (0o555, "dead"), (0o666, None), (0o666, "dead")])
def test_a_folder_that_must_not_be_written_or_searched_is_refused(
    user: Peer, public_folder: Path, mode: int, content: str | None
) -> None:
    folder = public_folder / "folder"
    folder.mkdir()
    path = folder / "x.lock"
    if content:
        path.write_bytes(record(NEVER_A_PROCESS))
    before = contents(folder)
    folder.chmod(mode)
    assert outcome(user, path) == ("PermissionError", errno.EACCES, str(path))
    folder.chmod(0o755)
    assert contents(folder) == before


@ROOT
def test_in_a_folder_where_only_owners_may_remove_the_dead_hold(user: Peer, public_folder: Path) -> None:
    """A sticky one, as /tmp: another user's marker cannot be exchanged."""
    folder = public_folder / "folder"
    folder.mkdir()
    folder.chmod(0o1777)
    path = folder / "x.lock"
    path.write_bytes(record(NEVER_A_PROCESS))
    path.chmod(0o644)
    before = contents(folder)
    assert outcome(user, path) == ("held", None, None)
    assert contents(folder) == before
    assert is_free(path), "root may"


@ROOT
def test_in_a_common_folder_the_marker_of_another_users_dead_is_taken(user: Peer, public_folder: Path) -> None:
    path = public_folder / "x.lock"
    path.write_bytes(record(NEVER_A_PROCESS))
    path.chmod(0o644)
    assert outcome(user, path) == ("got it", None, None)
    assert path.lstat().st_uid == NOBODY
    assert not is_free(path), "root waits for others as everybody does"
    user.release(path)
    assert names(public_folder) == []


@ROOT
def test_a_waiter_is_woken_by_another_user(user: Peer, public_folder: Path) -> None:
    path = public_folder / "x.lock"
    lock = SoftFileLock(path)
    lock.acquire()
    wait = user.begin_acquire(path)
    lock.release()
    assert wait.result(LONG)
    user.release(path)
    assert names(public_folder) == []


# No room


FULL = {
    "no room for content": ("size=8k", "open(folder + '/filler', 'ab', 0).write(bytes(1024))"),
    "no room for a file": ("size=1m,nr_inodes=5", "os.mkdir(f'{folder}/filler.{len(os.listdir(folder))}')"),
}
FILL = """
import errno, os
try:
    while True:
        {more}
except OSError as error:
    assert error.errno == errno.ENOSPC
before = sorted(os.listdir(folder))
"""
ATTEMPT = """
def attempt():
    try:
        with FileLock(path, timeout=0):
            return "got it"
    except TimeoutError:
        return "held"
    except OSError as error:
        return [error.errno, error.filename]
answer = attempt(), sorted(os.listdir(folder)) == before, os.path.exists(path) and open(path).read()
"""


@LINUX
@pytest.mark.parametrize("full", FULL)
@pytest.mark.parametrize("marker", ["", record(NEVER_A_PROCESS).decode()], ids=["free", "dead"])
def test_a_full_disk_is_an_error_that_leaves_nothing_behind(
    tmp_path: Path, surrounded: Callable[..., Peer], full: str, marker: str
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    path = folder / "x.lock"
    options, more = FULL[full]
    peer = surrounded("--mount", before=f"mount -t tmpfs -o {options} none '{folder}'")
    assert peer.run("import os; answer = os.listdir(folder)", folder=folder, path=path) == []
    if marker:
        peer.run("open(path, 'w').write(marker)", marker=marker)
    peer.run(FILL.format(more=more))
    assert peer.run(ATTEMPT) == [[errno.ENOSPC, str(path)], True, marker or False]
    peer.run(
        """
        for name in {*before} - {"x.lock"}:
            os.rmdir(f"{folder}/{name}") if "." in name else os.unlink(f"{folder}/{name}")
        before = []
        """
    )
    assert peer.run(ATTEMPT) == ["got it", True, False]


@LINUX
def test_who_waits_needs_no_room_also_if_the_lock_was_free_when_it_last_asked(
    lock_path: Path, soft: Callable[[], Peer]
) -> None:
    source = """
        import resource
        lock = FileLock(path, timeout=0)
        with lock:
            pass
        open(path, "w").write(marker)
        allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, allowed[1]))
        try:
            lock.acquire()
        except TimeoutError:
            answer = "held"
        except OSError as error:
            answer = error.errno
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    """
    assert soft().run(source, path=lock_path, marker="1\nelsewhere\n") == "held"
    assert names(lock_path.parent) == [lock_path.name]


LIMITS = {
    "no file may grow": ("RLIMIT_FSIZE", "20", errno.EFBIG),
    "no more descriptors": ("RLIMIT_NOFILE", "len(os.listdir('/dev/fd')) - 1", errno.EMFILE),
    "one more descriptor": ("RLIMIT_NOFILE", "len(os.listdir('/dev/fd'))", errno.EMFILE),
    "two more descriptors": ("RLIMIT_NOFILE", "len(os.listdir('/dev/fd')) + 1", errno.EMFILE),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("marker", ["", record(NEVER_A_PROCESS).decode()], ids=["free", "dead"])
def test_a_process_at_its_limits_gets_an_error_and_leaves_nothing_behind(
    lock_path: Path, soft: Callable[[], Peer], limit: str, marker: str
) -> None:
    """Or it gets the lock, where it needs no more than it has, or cannot look whether the holder is dead."""
    resource, value, code = LIMITS[limit]
    peer = soft()
    source = f"""
        import os, resource
        {"open(path, 'w').write(marker)" if marker else ""}
        before = sorted(os.listdir(folder))
        exec(attempt.rpartition("answer")[0])
        allowed = resource.getrlimit(resource.{resource})
        resource.setrlimit(resource.{resource}, ({value}, allowed[1]))
        answer = attempt()
        resource.setrlimit(resource.{resource}, allowed)
        answer = answer, sorted(os.listdir(folder))
    """
    result, left = peer.run(source, path=lock_path, folder=lock_path.parent, marker=marker, attempt=ATTEMPT)
    if limit == "two more descriptors" and result == "got it":
        assert left == []
    else:
        allowed: list[object] = [[code, str(lock_path)], *(["held"] if marker and code == errno.EMFILE else [])]
        assert result in allowed
        assert left == ([lock_path.name] if marker else [])
    assert peer.acquire(lock_path, timeout=0)
    peer.release(lock_path)
    assert names(lock_path.parent) == []
