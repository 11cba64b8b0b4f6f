"""What other users and file systems may keep us from, refused without leaving a trace."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import FileLock
from peers import LONG, Peer, PeerError, is_free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
from test_paths import LIMITS, NOBODY, ROOT, UNIX, contents, refused


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest."""
    folder = pathlib.Path(tempfile.mkdtemp()).resolve()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


BECOME = """
import os, traceback
try:
    FileLock(folder).acquire(timeout=0)
except OSError:
    traceback.format_exc()  # loads what Python could not read any more without the rights that are given away here
os.setgroups([])
os.setegid(uid)
os.seteuid(uid)
"""


@pytest.fixture
def unprivileged(spawn: Callable[..., Peer], tmp_path: Path) -> Peer:
    """A process whom permission bits bind."""
    peer = spawn()
    if os.geteuid() == 0:
        peer.run(BECOME, folder=tmp_path, uid=NOBODY)
    return peer


PERMISSIONS = {
    "a folder that must not be written": (0o555, None),
    "a folder that must not be searched": (0o666, None),
    "a lock file that must not be read or written": (0o777, 0o000),
    "a lock file that must not be written": (0o777, 0o444),
    "a lock file that must not be read": (0o777, 0o222),
}


@UNIX
@pytest.mark.parametrize("name", ["x.lock", "missing/x.lock"])
@pytest.mark.parametrize("situation", PERMISSIONS)
def test_no_permission_is_refused(unprivileged: Peer, public_folder: Path, situation: str, name: str) -> None:
    folder_mode, file_mode = PERMISSIONS[situation]
    folder = public_folder / "folder"
    folder.mkdir()
    path = folder / name
    if file_mode is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"data")
        path.chmod(file_mode)
    folder.chmod(folder_mode)
    try:
        before = contents(public_folder)
        with pytest.raises(PeerError) as caught:
            unprivileged.acquire(path)
        assert (caught.value.kind, caught.value.errno) == ("PermissionError", errno.EACCES)
        assert caught.value.filename in (str(path), str(path.parent))
        assert unprivileged.state(path) == (False, 0)
        assert contents(public_folder) == before
    finally:
        folder.chmod(0o755)


@UNIX
def test_a_lock_file_that_exists_needs_no_right_to_create_it(unprivileged: Peer, public_folder: Path) -> None:
    path = public_folder / "x.lock"
    path.touch()
    path.chmod(0o666)
    public_folder.chmod(0o555)
    assert unprivileged.acquire(path, timeout=0)
    assert not is_free(path)


STICKY = {
    # owner of the sticky folder, owner of the lock file, whether the superuser may lock it
    "another user's file in our folder": (0, 1001, False),
    "another user's file in a third one's folder": (1002, 1001, False),
    "the folder's owner's file": (1001, 1001, True),
    "our own file": (1001, 0, True),
}


@ROOT
@pytest.mark.parametrize("situation", STICKY)
@LIMITS
def test_another_users_file_in_a_sticky_folder_is_refused(
    public_folder: Path, situation: str, limit: dict[str, Any]
) -> None:
    """Anybody may put a file there, at any name, and keep it locked for ever."""
    folder_owner, file_owner, allowed = STICKY[situation]
    path = public_folder / "x.lock"
    path.write_bytes(b"data")
    os.chown(path, file_owner, -1)
    os.chown(public_folder, folder_owner, -1)
    public_folder.chmod(0o1777)
    before = contents(public_folder)
    if allowed:
        with FileLock(path).acquire(**limit):
            assert not is_free(path)
    else:
        lock = FileLock(path)
        with refused(public_folder, errno.EACCES, filename=path) as caught:
            lock.acquire(**limit)
        assert (lock.is_locked, lock.lock_counter) == (False, 0)
        assert type(caught.value) is PermissionError
        assert str(file_owner) in str(caught.value)
    assert contents(public_folder) == before
    public_folder.chmod(0o777)  # the rule is for sticky folders
    with FileLock(path, timeout=0):
        assert not is_free(path)


READ_ONLY = """
import json, subprocess, sys
from pathlib import Path
from ferrolock import FileLock

folder = Path(sys.argv[1])
mount = ["mount", "-t", "tmpfs", "none", str(folder)]
subprocess.run(mount, check=True)
(folder / "old.lock").write_bytes(b"data")
subprocess.run([*mount[:1], "-o", "remount,ro", str(folder)], check=True)
answers = []
for name in ("new.lock", "old.lock", "missing/new.lock"):
    lock = FileLock(folder / name)
    for limit in ({}, {"timeout": 0}):
        try:
            lock.acquire(**limit)
        except OSError as error:
            answers.append([type(error).__name__, error.errno, str(folder) in error.filename, lock.lock_counter])
listing = [(entry.name, entry.read_text()) for entry in folder.iterdir()]
print(json.dumps([answers, listing]))
"""


@UNIX
def test_a_read_only_file_system_is_refused(tmp_path: Path) -> None:
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    try:
        subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", str(tmp_path)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    command = [*unshare, sys.executable, "-c", READ_ONLY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stderr) == (0, "")
    answers, listing = json.loads(done.stdout)
    assert answers == [["OSError", errno.EROFS, True, 0]] * 6
    assert listing == [["old.lock", "data"]]
