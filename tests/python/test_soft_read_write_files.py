"""What ``SoftReadWriteLock`` has on disk: the tutorial's last chapter, filelock's layout, what strangers leave."""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
from ferrolock import SoftReadWriteLock, Timeout
from peers import LONG, Peer, run_program
from rw_peers import MODES, acquire
from soft_peers import boot_id, host_field, record, start_token
from soft_rw_peers import SOFT_RW, allowed, folder_of, markers, other, until_claimed
from test_tutorial import MARK, TUTORIAL, restore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _nothing_stays_held() -> Iterator[None]:
    yield
    ferrolock._native.remove_markers_at_exit()


FIRST = """
    from filelock
    rw =
    with rw.read_lock
        # Any
        data =
    with rw.write_lock
        # Exactly
        open(
"""
SECOND = """
    rw =
        "/shared
        heartbeat_interval
        stale_threshold
    )
"""


def chapter() -> str:
    """The tutorial's chapter about this lock."""
    if not TUTORIAL.is_file():
        pytest.skip("the text of the tutorial is not here")
    text = TUTORIAL.read_text(encoding="utf-8")
    return text[text.index("Reader/writer locks on a shared NFS") :]


def block(text: str, ends_before: str, layout: str) -> str:
    """The code right before some words."""
    end = text.index(ends_before)
    return restore(text[text.rindex(MARK, 0, end) + len(MARK) : end].strip(), layout)


def test_the_tutorials_last_chapter_runs_as_it_stands(tmp_path: Path) -> None:
    """Only the name of the package and the folder are ours."""
    text = chapter()
    blocks = [block(text, "While the lock is held", FIRST), block(text, "See :doc:`concepts`", SECOND)]
    assert text.count(MARK) == len(blocks)
    for words, count in (("filelock", 1), ("/shared/nfs/", 4), ("with rw.", 2), ("heartbeat_interval=120", 1)):
        assert "".join(blocks).count(words) == count, words
    (tmp_path / "data.json").write_text("old")
    blocks = [
        text.replace("from filelock import", "from ferrolock import").replace("/shared/nfs", str(tmp_path))
        for text in blocks
    ]
    output = run_program(
        f"""
        import sys
        new_data = "new"
        first, second = {blocks!r}
        exec(compile(first, "<tutorial>", "exec"), globals())
        print(data, rw.heartbeat_interval, rw.stale_threshold)
        del rw
        exec(compile(second, "<tutorial>", "exec"), globals())
        print(rw.heartbeat_interval, rw.stale_threshold)
        """
    )
    assert output.split() == ["old", "30.0", "90.0", "120.0", "360.0"]
    assert (tmp_path / "data.json").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["data.json", "work.lock.readers"]


def test_the_files_are_those_that_the_tutorial_shows(lock_path: Path) -> None:
    """And each is there when it says so."""
    shown = re.findall(r"work\.lock\.(\w+/?) +# ([^#]*?)(?= work\.lock| A daemon)", chapter())
    assert [name for name, _ in shown] == ["state", "write", "readers/"]
    assert "exists only during transitions" in shown[0][1]
    lock = SoftReadWriteLock(lock_path)
    for mode, there in (("read", ["x.lock.readers"]), ("write", ["x.lock.readers", "x.lock.write"])):
        with acquire(lock, mode):
            assert sorted(os.listdir(lock_path.parent)) == there
        assert os.listdir(lock_path.parent) == ["x.lock.readers"]


def is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def visible(path: Path) -> list[str]:
    """What filelock looks at in the folder of readers."""
    return sorted(entry.name for entry in folder_of(path).iterdir() if is_visible(entry))


def check_marker(data: bytes, pid: int, threshold: int, interval: int) -> None:
    """It is what filelock takes for a marker, with our terms behind the host."""
    assert re.fullmatch(rb"[0-9a-f]{32}\n[1-9][0-9]{0,9}\n[!-~]{1,253}\n", data)
    _, number, host = data.decode().splitlines()
    start = start_token(pid)
    terms = f"?lease-{threshold}-{interval}-{boot_id():x}-{start & (2**64 - 1):x}"
    assert (number, host) == (str(pid), host_field() + terms)


@pytest.mark.skipif(os.name != "posix" or not os.path.exists("/proc/self/stat"), reason="start tokens are Linux's")
def test_bytes_names_and_modes_are_filelocks(lock_path: Path, spawn: Callable[..., Peer]) -> None:
    peer = spawn(lock=SOFT_RW)
    umask = os.umask(0)
    try:
        one, two = other(lock_path), other(lock_path, heartbeat_interval=1.5)
        with one.read_lock(), two.read_lock():
            peer.run("os = __import__('os')\nos.umask(0)\nlock_on(path).acquire_read()", path=lock_path)
            assert os.listdir(lock_path.parent) == ["x.lock.readers"]
            folder = folder_of(lock_path)
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            found = {}
            for name in visible(lock_path):
                assert re.fullmatch(r"[0-9a-f]{32}\.[1-9][0-9]*", name)
                found[name.split(".")[1], (folder / name).read_text().split("-")[1]] = folder / name
                assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
            assert sorted(found) == sorted(
                [(str(os.getpid()), "90000"), (str(os.getpid()), "4500"), (str(peer.pid), "90000")]
            )
            check_marker(found[str(os.getpid()), "4500"].read_bytes(), os.getpid(), 4500, 1500)
            check_marker(found[str(peer.pid), "90000"].read_bytes(), peer.pid, 90000, 30000)
            peer.run("lock_on(path).release()")
        with one.write_lock():
            write = lock_path.with_name("x.lock.write")
            assert visible(lock_path) == []
            check_marker(write.read_bytes(), os.getpid(), 90000, 30000)
            assert stat.S_IMODE(write.stat().st_mode) == 0o600
            [claim] = markers(lock_path, "write")
            assert claim.samefile(write)
        assert sorted(entry.name for entry in folder.iterdir()) == [".generation.1"]
    finally:
        os.umask(umask)


def test_a_writer_that_waits_has_its_marker_there_and_takes_it_back(
    lock_path: Path, spawn: Callable[..., Peer]
) -> None:
    reader, writer = other(lock_path), spawn(lock=SOFT_RW)
    write = lock_path.with_name("x.lock.write")
    with reader.read_lock():
        wait = writer.begin_run("lock_on(path).acquire_write(3)", path=lock_path)
        until_claimed(lock_path)
        assert write.read_text().splitlines()[1] == str(writer.pid)
        assert len(visible(lock_path)) == 1
        with ThreadPoolExecutor(1) as elsewhere:
            assert elsewhere.submit(allowed, lock_path).result(LONG) == "nothing"
        with pytest.raises(Exception, match="Timeout"):
            wait.result(LONG)
        assert not write.exists()
        assert [entry.name for entry in folder_of(lock_path).iterdir()] == visible(lock_path)
        with other(lock_path).read_lock(timeout=0):
            pass


# What strangers leave there.


def test_a_marker_of_filelocks_is_held_and_one_of_a_dead_writer_is_not(lock_path: Path) -> None:
    write = lock_path.with_name("x.lock.write")
    write.write_text("0" * 32 + "\n4711\nelsewhere\n")
    assert allowed(lock_path) == "nothing"
    quick = other(lock_path, heartbeat_interval=0.05, stale_threshold=0.3, poll_interval=0.02)
    with quick.read_lock(timeout=LONG):
        assert not write.exists()
    (folder_of(lock_path) / ("1" * 32 + ".4711")).write_text("1" * 32 + "\n4711\nelsewhere\n")
    assert allowed(lock_path) == "read"
    with quick.write_lock(timeout=LONG):
        assert visible(lock_path) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_transition_of_a_dead_process_of_this_machine_is_over(lock_path: Path, mode: str) -> None:
    state = lock_path.with_name("x.lock.state")
    state.write_bytes(record(2**22 + 1, token=start_token(os.getpid(), boot=boot_id() ^ 1)))
    with acquire(other(lock_path), mode, 0):
        assert not state.exists()


def test_a_transition_that_may_go_on_keeps_all_out_for_as_long_as_it_may(lock_path: Path) -> None:
    """There filelock 3.29 waits for ever, whatever the limit."""
    state = lock_path.with_name("x.lock.state")
    state.write_bytes(b"4711\nelsewhere\n")
    for mode in MODES:
        with pytest.raises(Timeout):
            acquire(other(lock_path), mode, 0.05)
    quick = other(lock_path, heartbeat_interval=0.05, stale_threshold=0.3, poll_interval=0.02)
    with quick.write_lock(timeout=LONG):
        assert not state.exists()


NODES: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to("elsewhere"),
    "FIFO": lambda path: os.mkfifo(path),  # noqa: PLW0108 - nobody has it on Windows
}


@pytest.mark.skipif(os.name != "posix", reason="there are no such files")
@pytest.mark.parametrize("end", ["state", "write", "readers"])
@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("mode", MODES)
def test_what_can_never_be_a_marker_is_an_error_and_stays(lock_path: Path, end: str, kind: str, mode: str) -> None:
    if (end, kind) == ("readers", "folder"):
        pytest.skip("that is what it is")
    node = lock_path.with_name(f"x.lock.{end}")
    NODES[kind](node)
    before = node.lstat().st_ino
    with pytest.raises(OSError, match=r".") as error:
        acquire(other(lock_path), mode, 1)
    assert not isinstance(error.value, TimeoutError)
    assert str(error.value.filename).startswith(str(lock_path))
    assert node.lstat().st_ino == before
    assert not lock_path.with_name("elsewhere").exists()
    left = {name for name in os.listdir(lock_path.parent) if name != "x.lock.readers"}
    assert left <= {node.name}
    made: Any = folder_of(lock_path)
    if end != "readers" and made.exists():
        assert os.listdir(made) == []
