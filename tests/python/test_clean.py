"""``python -m ferrolock clean``: what goes, what stays, and what it says of it."""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ferrolock import FileLock, ReadWriteLock, SoftFileLock
from ferrolock.__main__ import main
from peers import LONG, Peer, PeerError, is_free
from soft_peers import dead_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNIX = pytest.mark.skipif(os.name != "posix", reason="needs flock, links and modes")
LONG_AGO = 10**9


class Folder:
    """A folder, and what ``clean`` makes of it."""

    def __init__(self, path: Path, output: pytest.CaptureFixture[str]) -> None:
        self.path, self._output = path, output

    def leave(self, name: str, content: bytes = b"") -> Path:
        """Leave an old file behind."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (LONG_AGO, LONG_AGO))
        return path

    def names(self) -> set[str]:
        """What is there, also below."""
        return {os.path.join(root, name) for root, _, names in os.walk(self.path) for name in names}

    def clean(self, *options: str, status: int = 0) -> str:
        """Run it; return what it said."""
        here = os.getcwd()
        assert main(["clean", str(self.path), *options]) == status
        assert os.getcwd() == here
        said = self._output.readouterr()
        assert bool(said.err) == (status != 0)
        return said.out


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    """A folder of its own."""
    (tmp_path / "folder").mkdir()
    return Folder(tmp_path / "folder", capsys)


def test_it_says_what_is_left_over_and_removes_it_only_if_told(folder: Folder) -> None:
    lock = folder.leave("x.lock")
    said = folder.clean()
    assert f"would remove  {lock} (lock file)" in said
    assert "1 left over, 0 in place; nothing was removed: --delete does that" in said
    assert lock.exists()
    said = folder.clean("--delete")
    assert f"removed       {lock} (lock file)" in said
    assert "1 removed, 0 in place" in said
    assert not lock.exists()
    assert folder.clean() == "no file matches\n"


def test_only_names_that_match_are_looked_at(folder: Folder) -> None:
    kept = folder.leave("x.lck")
    folder.clean("--delete")
    assert kept.exists()
    other = folder.leave("y.pid")
    folder.clean("--delete", "--pattern", "*.lck", "--pattern", "y.*")
    assert not kept.exists()
    assert not other.exists()


def test_folders_below_are_looked_at_only_if_told(folder: Folder) -> None:
    deep = folder.leave("below/x.lock")
    folder.clean("--delete")
    assert deep.exists()
    folder.clean("--delete", "--recursive")
    assert not deep.exists()
    assert deep.parent.is_dir()


@UNIX
def test_links_are_not_followed(folder: Folder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    elsewhere = outside / "x.lock"
    elsewhere.touch()
    os.utime(elsewhere, (LONG_AGO, LONG_AGO))
    (folder.path / "link.lock").symlink_to(elsewhere)
    (folder.path / "dangling.lock").symlink_to("nowhere")
    (folder.path / "below").symlink_to(outside)
    (folder.path / "folder.lock").mkdir()
    os.mkfifo(folder.path / "fifo.lock")
    before = folder.names()
    said = folder.clean("--delete", "--recursive")
    assert folder.names() == before
    assert elsewhere.exists()
    assert "fifo.lock: it holds data, has another name or is no regular file" in said


@UNIX
def test_a_folder_that_is_named_by_a_link_is_looked_at(folder: Folder, tmp_path: Path) -> None:
    path = folder.leave("x.lock")
    (tmp_path / "link").symlink_to(folder.path)
    folder.path = tmp_path / "link"
    assert f"removed       {folder.path / path.name} (lock file)" in folder.clean("--delete")
    assert not path.exists()


@UNIX
def test_what_is_more_than_a_lock_file_stays(folder: Folder) -> None:
    data = folder.leave("data.lock", b"[package]\n")
    named = folder.leave("named.lock")
    os.link(named, folder.path / "other")
    said = folder.clean("--delete")
    assert said.count("it holds data, has another name") == 2
    assert data.read_bytes() == b"[package]\n"
    assert named.exists()


def test_a_young_file_stays_for_it_may_be_about_to_be_written(folder: Folder) -> None:
    young = folder.path / "x.lock"
    young.touch()
    assert "it has not been there for long" in folder.clean("--delete")
    assert young.exists()
    folder.clean("--delete", "--older-than", "0")
    assert not young.exists()


def stays_in_use(folder: Folder, path: Path) -> bool:
    """Whether it is said to be in use, and stays."""
    os.utime(path, (LONG_AGO, LONG_AGO))
    said = folder.clean(), folder.clean("--delete")
    return path.exists() and all(f"{path}: somebody holds it or waits for it" in text for text in said)


def test_a_lock_that_somebody_holds_stays(folder: Folder, spawn: Callable[..., Peer]) -> None:
    path = folder.path / "x.lock"
    holder = spawn()
    with FileLock(path):
        assert stays_in_use(folder, path)
    holder.acquire(path)
    assert stays_in_use(folder, path)
    holder.kill()
    assert not stays_in_use(folder, path)


def test_a_lock_of_readers_that_somebody_holds_stays(folder: Folder, spawn: Callable[..., Peer]) -> None:
    path = folder.path / "x.lock"
    lock = ReadWriteLock(path)
    for hold in (lock.read_lock, lock.write_lock):
        with hold():
            assert stays_in_use(folder, path)
    lock.close()
    code = "import sqlite3; db = sqlite3.connect(path, isolation_level=None); db.execute('BEGIN EXCLUSIVE')"
    spawn().run(code, path=path)
    assert stays_in_use(folder, path)


@UNIX
@pytest.mark.parametrize("length", [0, 1], ids=["of all", "of a byte"])
def test_a_record_lock_keeps_a_file(folder: Folder, spawn: Callable[..., Peer], length: int) -> None:
    """As fasteners and portalocker take it, and others."""
    path = folder.leave("x.lock")
    code = "import fcntl; file = open(path, 'r+'); fcntl.lockf(file, fcntl.LOCK_EX, length)"
    spawn().run(code, path=path, length=length)
    assert stays_in_use(folder, path)


@UNIX
def test_looking_gives_up_no_record_lock_of_this_process(folder: Folder, spawn: Callable[..., Peer]) -> None:
    import fcntl

    path = folder.leave("x.lock")
    other = spawn()
    asks = "import fcntl; fcntl.lockf(open(path, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with open(path, "r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        for _ in range(2):
            assert stays_in_use(folder, path)
            with pytest.raises(PeerError) as refused:
                other.run(asks, path=path)
            assert refused.value.errno in {errno.EACCES, errno.EAGAIN}
    other.run(asks, path=path)


def locks() -> list[str]:
    """All file locks of this machine."""
    with open("/proc/locks", encoding="ascii") as file:
        return file.readlines()


def wait_until_in_line(path: Path) -> None:
    """Wait until somebody's description has a lock on bytes of the file: the head of the line."""
    deadline = time.monotonic() + LONG
    inode = f":{path.stat().st_ino} "
    while not any("OFDLCK" in line and inode in line for line in locks()):
        assert time.monotonic() < deadline, "nobody stands in line"


@pytest.mark.skipif(sys.platform != "linux", reason="there is a line on Linux only")
def test_a_file_for_which_somebody_waits_stays(folder: Folder, spawn: Callable[..., Peer]) -> None:
    path = folder.path / "x.lock"
    waiter = spawn()
    holder = FileLock(path)
    holder.acquire()
    wait = waiter.begin_acquire(path)
    wait_until_in_line(path)
    waiter.stop()
    holder.release()
    try:
        assert stays_in_use(folder, path)
    finally:
        waiter.cont()
    assert wait.result(LONG)


def test_the_marker_of_the_dead_goes_and_that_of_the_living_stays(folder: Folder) -> None:
    dead, alive = folder.leave("dead.lock", dead_record()), folder.path / "alive.lock"
    foreign = folder.leave("foreign.lock", b"999999\nanother-machine\n")
    bare = folder.leave("bare.lock", b"999999\n")
    with SoftFileLock(alive):
        assert f"would remove  {dead} (marker)" in folder.clean()
        assert dead.exists()
        said = folder.clean("--delete")
        assert f"removed       {dead} (marker)" in said
        assert f"{alive}: somebody holds it" in said
        assert f"{foreign}: somebody holds it" in said
        assert f"{bare}: it holds data" in said
        assert folder.names() == {str(alive), str(foreign), str(bare)}


def test_who_comes_after_a_removal_gets_the_lock(folder: Folder) -> None:
    path = folder.leave("x.lock")
    with open(path):
        folder.clean("--delete")
        assert not path.exists()
    assert is_free(path)


@UNIX
def test_what_cannot_be_looked_at_is_told_and_makes_a_status_of_1(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder.leave("x.lock")
    folder.path.chmod(0o500)
    path.chmod(0)
    try:
        if os.access(path, os.W_OK):
            pytest.skip("whoever may do everything is refused nothing")
        assert main(["clean", str(folder.path)]) == 1
    finally:
        folder.path.chmod(0o700)
    said = capsys.readouterr()
    assert f"failed        {path}: Permission denied" in said.err
    assert "1 failed" in said.out


def test_wrong_arguments_make_a_status_of_2(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", str(folder.path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    for wrong in (["clean"], ["clean", str(folder.path), "--older-than", "-1"], ["clean", ".", "--older-than", "nan"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
