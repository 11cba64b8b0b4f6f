"""Which file a path means, how it is created, and what is refused without leaving a trace."""

from __future__ import annotations

import errno
import os
import pathlib
import socket
import stat
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import FileLock, Timeout
from peers import LONG, ThreadContender, is_free, still_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UNIX = pytest.mark.skipif(os.name != "posix", reason="says what Unix does")
ROOT = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files to other users")
NOBODY = 65534


def contents(folder: Path) -> dict[str, Any]:
    """All that can be seen in a folder: names, kinds, owners, modes, times, content."""
    found = {}
    for entry in [folder, *sorted(folder.rglob("*"))]:
        facts = entry.lstat()
        data = entry.read_bytes() if stat.S_ISREG(facts.st_mode) and os.access(entry, os.R_OK) else facts.st_size
        found[str(entry)] = (facts.st_mode, facts.st_uid, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, data)
    return found


@contextmanager
def refused(folder: Path, *errnos: int, filename: Path | None) -> Iterator[pytest.ExceptionInfo[OSError]]:
    """Check that the block raises an OSError of this kind about this file, and that nothing has changed on disk."""
    before = contents(folder)
    with pytest.raises(OSError, match=r"\S") as caught:
        yield caught
    assert not isinstance(caught.value, Timeout)
    assert caught.value.errno in errnos, caught.value
    if filename is not None:
        assert caught.value.filename == str(filename)
    assert contents(folder) == before


LIMITS = pytest.mark.parametrize("limit", [{}, {"timeout": 0}, {"timeout": 1}, {"blocking": False}], ids=repr)


def attempt(path: str | os.PathLike[str], limit: dict[str, Any]) -> None:
    """Acquire something that cannot be acquired; the object stays as good as new."""
    lock = FileLock(path)
    try:
        lock.acquire(**limit)
    finally:
        assert (lock.is_locked, lock.lock_counter) == (False, 0)


@UNIX
@LIMITS
def test_a_symbolic_link_is_refused(tmp_path: Path, limit: dict[str, Any]) -> None:
    (tmp_path / "target").write_bytes(b"data")
    for name, target in (("link", "target"), ("dangling", "nowhere"), ("circle", "circle")):
        link = tmp_path / name
        link.symlink_to(target)
        with refused(tmp_path, errno.ELOOP, filename=link):
            attempt(link, limit)


@LIMITS
def test_a_folder_is_refused(tmp_path: Path, limit: dict[str, Any]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with refused(tmp_path, errno.EACCES if os.name == "nt" else errno.EISDIR, filename=folder) as caught:
        attempt(folder, limit)
    assert type(caught.value) is (PermissionError if os.name == "nt" else IsADirectoryError)


@UNIX
@LIMITS
def test_a_fifo_is_refused_without_waiting_for_its_other_end(tmp_path: Path, limit: dict[str, Any]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with refused(tmp_path, errno.EINVAL, errno.ENXIO, filename=fifo):
        attempt(fifo, limit)


@UNIX
def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with refused(tmp_path, errno.EINVAL, errno.ENXIO, errno.EOPNOTSUPP, filename=tmp_path / "socket"):
            attempt("socket", {})


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device like /dev/null. The real one is for those who cannot do it harm, should a lock remove its file."""
    if os.geteuid() != 0:
        return pathlib.Path(os.devnull)
    path = tmp_path / "null"
    os.mknod(path, 0o666 | stat.S_IFCHR, os.stat(os.devnull).st_rdev)
    return path


@UNIX
@LIMITS
def test_a_device_is_refused(device: Path, limit: dict[str, Any]) -> None:
    before = device.lstat()
    with pytest.raises(OSError, match=r"\S") as caught:
        attempt(device, limit)
    assert not isinstance(caught.value, Timeout)
    assert isinstance(caught.value.errno, int)
    assert caught.value.filename == str(device)
    after = device.lstat()
    assert (after.st_mode, after.st_rdev, after.st_mtime_ns) == (before.st_mode, before.st_rdev, before.st_mtime_ns)


TOO_LONG = "x" * 300


@LIMITS
def test_a_name_that_is_too_long_is_refused(tmp_path: Path, limit: dict[str, Any]) -> None:
    path = tmp_path / TOO_LONG
    with refused(tmp_path, errno.ENAMETOOLONG, errno.EINVAL, filename=path):
        attempt(path, limit)


@pytest.mark.parametrize("below", [f"missing/{TOO_LONG}", f"missing/{TOO_LONG}/x.lock"], ids=["file", "folder"])
def test_no_folder_is_created_for_a_name_that_is_too_long(tmp_path: Path, below: str) -> None:
    with refused(tmp_path, errno.ENAMETOOLONG, errno.EINVAL, filename=None):
        attempt(tmp_path / below, {})


@UNIX
def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["y" * 200] * 30)
    with refused(tmp_path, errno.ENAMETOOLONG, filename=path):
        attempt(path, {})


@LIMITS
@pytest.mark.parametrize("below", ["x.lock", "deeper/x.lock"])
def test_a_parent_that_is_a_file_is_refused(tmp_path: Path, limit: dict[str, Any], below: str) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with refused(tmp_path, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, filename=None):
        attempt(tmp_path / "file" / below, limit)


@LIMITS
def test_an_empty_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, Any]) -> None:
    monkeypatch.chdir(tmp_path)
    with refused(tmp_path, errno.ENOENT, filename=None) as caught:
        attempt("", limit)
    assert type(caught.value) is FileNotFoundError


@pytest.mark.parametrize("name", ["x\0.lock", "\0", "x.lock\0"])
def test_an_embedded_nul_is_an_error_of_the_value(tmp_path: Path, name: str) -> None:
    before = contents(tmp_path)
    lock = FileLock(str(tmp_path / "sub") + os.sep + name)
    with pytest.raises(ValueError, match="null"):
        lock.acquire()
    assert contents(tmp_path) == before


def test_bytes_are_an_error_of_the_type(tmp_path: Path) -> None:
    before = contents(tmp_path)
    lock = FileLock(os.fsencode(tmp_path / "x.lock"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bytes"):
        lock.acquire()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("spell", [str, pathlib.Path, os.path.relpath], ids=["str", "PathLike", "relative"])
def test_a_path_is_a_str_or_path_like(lock_path: Path, spell: Callable[[Path], Any]) -> None:
    spelling = spell(lock_path)
    with FileLock(spelling) as lock:
        assert lock.lock_file == os.fspath(spelling)
        assert not is_free(lock_path)
    assert is_free(lock_path)


@pytest.mark.parametrize("name", ["schloß.lock", "замок", "x\n.lock", " ", "a b", "...", "-", "~", "%41", "🔒"])
def test_any_name_that_a_file_can_have_will_do(tmp_path: Path, name: str) -> None:
    if os.name == "nt":
        pytest.skip("Windows forbids some of these names")
    with FileLock(tmp_path / name):
        assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names have to be text")
def test_a_name_that_is_no_text_will_do(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.lock")
    with FileLock(tmp_path / name) as lock:
        assert lock.lock_file == str(tmp_path / name)
        assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\xfe.lock"]


def test_missing_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c" / "x.lock"
    lock = FileLock(path)
    assert not (tmp_path / "a").exists()
    with lock:
        assert not is_free(path)


def test_missing_folders_are_created_by_whoever_is_first(tmp_path: Path) -> None:
    """All of them may: none fails because another was faster."""
    path = tmp_path / "a" / "b" / "c" / "x.lock"
    contenders = [ThreadContender(path) for _ in range(8)]
    try:
        (tmp_path / "turns").mkdir()
        (tmp_path / "turns" / "counter").touch()
        turns = [contender.begin_turns(tmp_path / "turns", 1, len(contenders)) for contender in contenders]
        assert sum(turn.result(LONG) for turn in turns) == 0
    finally:
        for contender in contenders:
            contender.close()


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Another umask for a moment."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


@UNIX
@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o027], ids=oct)
def test_the_umask_applies_where_no_mode_is_asked_for(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "folder" / "x.lock"
    with umask(mask), FileLock(path):
        pass
    assert oct(mode_of(path)) == oct(0o666 & ~mask)
    assert oct(mode_of(path.parent)) == oct(0o777 & ~mask)


@UNIX
@pytest.mark.parametrize("mode", [0o600, 0o666, 0o777, 0o640, 0o707], ids=oct)
@pytest.mark.parametrize("mask", [0, 0o077], ids=oct)
def test_a_mode_that_is_asked_for_is_exact(lock_path: Path, mode: int, mask: int) -> None:
    with umask(mask), FileLock(lock_path, mode=mode):
        assert oct(mode_of(lock_path)) == oct(mode)


@UNIX
@pytest.mark.parametrize("mode", [-1, 0o600, 0o777])
def test_an_existing_file_keeps_its_mode(lock_path: Path, mode: int) -> None:
    lock_path.touch()
    lock_path.chmod(0o646)
    with FileLock(lock_path, mode=mode), pytest.raises(Timeout):
        FileLock(lock_path, mode=0o606, timeout=0).acquire()
    assert oct(mode_of(lock_path)) == oct(0o646)


def test_a_relative_path_is_resolved_when_an_acquisition_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    lock = FileLock("x.lock")
    monkeypatch.chdir(tmp_path / "two")
    with lock:
        assert not (tmp_path / "one" / "x.lock").exists()
        monkeypatch.chdir(tmp_path / "one")
        with lock:
            assert lock.lock_counter == 2
        assert not is_free(tmp_path / "two" / "x.lock")
        assert not (tmp_path / "one" / "x.lock").exists()
    assert is_free(tmp_path / "two" / "x.lock")
    with lock:
        assert not is_free(tmp_path / "one" / "x.lock")


@pytest.mark.parametrize("change", ["chdir", "retarget"])
def test_a_wait_is_for_the_file_of_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    if os.name == "nt" and change == "retarget":
        pytest.skip("links need a privilege on Windows")
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    monkeypatch.chdir(one)
    if change == "retarget":
        (tmp_path / "link").symlink_to("one")
    path = pathlib.Path("x.lock") if change == "chdir" else tmp_path / "link" / "x.lock"
    waiter = ThreadContender(path)
    try:
        with FileLock(one / "x.lock"):
            wait = waiter.begin_acquire()
            if change == "chdir":
                monkeypatch.chdir(two)
            else:
                (tmp_path / "new").symlink_to("two")
                os.replace(tmp_path / "new", tmp_path / "link")
            assert still_waits(wait)
        assert wait.result(LONG)
        assert not is_free(one / "x.lock")
        assert not (two / "x.lock").exists()
        waiter.release()
        assert is_free(one / "x.lock")
    finally:
        waiter.close()


@UNIX
def test_links_above_the_file_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with FileLock(tmp_path / "link" / "x.lock"):
        assert not is_free(tmp_path / "real" / "x.lock")
        with pytest.raises(Timeout):
            FileLock(tmp_path / "link" / ".." / "real" / "x.lock", timeout=0).acquire()


@UNIX
def test_a_hard_link_is_the_same_lock(lock_path: Path) -> None:
    lock_path.touch()
    other = lock_path.with_name("other")
    os.link(lock_path, other)
    with FileLock(lock_path):
        assert not is_free(other)


def test_the_error_of_a_relative_path_names_the_file_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with refused(tmp_path, errno.EISDIR, errno.EACCES, filename=tmp_path / "folder"):
        attempt("folder", {})
