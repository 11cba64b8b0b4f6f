"""What ferrolock and filelock 4.2.12 offer, name by name and signature by signature; all differences are here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock

if TYPE_CHECKING:
    from collections.abc import Callable

ONLY_THEIRS = {
    "asyncio": "there as an attribute; in `__all__` it would take the place of the standard module in a star import",
}

ONLY_OURS = {
    "LockClosedError": "filelock raises sqlite3's own error of a closed database, and a RuntimeError",
    "install": "takes the name filelock over",
}

MORE_OPTIONS = {
    "unlink_on_release": "removes the lock file with the hold",
}

MORE_MEMBERS = {
    **MORE_OPTIONS,
    "waits_by": "tells how a wait goes on",
    # Attributes of the object in filelock, which a class does not show.
    **dict.fromkeys(("blocking", "heartbeat_interval", "lock", "lock_file"), "an attribute of the object there"),
    **dict.fromkeys(("poll_interval", "stale_threshold", "timeout"), "an attribute of the object there"),
}

OTHER_SIGNATURES = {
    ("SoftReadWriteLock", "get_lock"): "takes all that the class takes; filelock's only what ReadWriteLock takes",
}


def described(package: str, *folders: Path) -> Any:
    """Have a process of its own describe the package, without the other one's name in it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program = f"import sys; sys.path[:0] = {[str(folder) for folder in folders]!r}"
    source = Path(__file__).with_name("surface.py")
    command = (
        f"{program}; import runpy; sys.argv[1:] = [{package!r}]; runpy.run_path({str(source)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ours() -> Any:
    """What ferrolock offers."""
    return described("ferrolock")


@pytest.fixture(scope="module")
def theirs(filelock_folder: Callable[[str], Path]) -> Any:
    """What filelock offers."""
    return described("filelock", filelock_folder("4.2.12"))


def as_filelock_shows_it(cls: Any) -> Any:
    """
    The parameters of a class without the last word, and without options of ours.

    filelock shows what its metaclass takes, for subclasses with options of their own; ferrolock what the class takes.
    """
    parameters = cls["parameters"] or ()
    return [parameter for parameter in parameters if parameter[0] not in MORE_OPTIONS and parameter[1] != "VAR_KEYWORD"]


def test_both_have_the_same_names(ours: Any, theirs: Any) -> None:
    assert set(theirs) - set(ours) == set(ONLY_THEIRS)
    assert set(ours) - set(theirs) == set(ONLY_OURS)
    for name in ONLY_THEIRS:
        assert hasattr(ferrolock, name)


def test_what_both_have_is_the_same_kind_of_thing(ours: Any, theirs: Any) -> None:
    for name in set(ours) & set(theirs):
        for fact in ("kind", "values", "required", "builtins"):
            assert ours[name].get(fact) == theirs[name].get(fact), (name, fact)
        assert set(ours[name].get("names", ())) - set(MORE_OPTIONS) == set(theirs[name].get("names", ())), name


def test_functions_and_classes_take_the_same(ours: Any, theirs: Any) -> None:
    compared = 0
    for name in set(ours) & set(theirs):
        if theirs[name]["kind"] in {"class", "function"}:
            assert as_filelock_shows_it(ours[name]) == as_filelock_shows_it(theirs[name]), name
            compared += bool(theirs[name]["parameters"])
    assert compared > 15


def test_their_objects_have_the_same_members(ours: Any, theirs: Any) -> None:
    other_signatures, more = set(), set()
    for name in set(ours) & set(theirs):
        own, filelocks = ours[name].get("members", {}), theirs[name].get("members", {})
        assert set(filelocks) <= set(own), (name, set(filelocks) - set(own))
        more |= set(own) - set(filelocks)
        other_signatures |= {(name, member) for member, takes in filelocks.items() if own[member] != takes}
    assert more == set(MORE_MEMBERS)
    assert other_signatures == set(OTHER_SIGNATURES)
