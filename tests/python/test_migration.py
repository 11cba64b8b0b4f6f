"""From lockfile's ``PIDLockFile`` to ``SoftFileLock``: the same steps with either, and what each makes of the other.

lockfile is imported by the peers only: it is old enough to be in the way of warnings as errors some day.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from peers import LONG, PeerError, blocks_then_proceeds, run_program, still_waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers import Peer

THEIRS = "lockfile.pidlockfile.PIDLockFile"
OURS = "ferrolock.SoftFileLock"
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "migrate-from-lockfile.md"
GRACE = 2.0
"""Seconds for which a bare pid of nobody must have been seen unchanged."""

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lockfile") is None, reason="lockfile is not installed: pip install lockfile==0.12.2"
)

WORDS: dict[str, dict[str, str]] = {
    THEIRS: {
        "acquire": "lock.acquire()",
        "attempt": "lock.acquire(0)",
        "wait": "lock.acquire(0.05)",
        "release": "lock.release()",
        "break": "lock.break_lock()",
        "holder": "answer = lock.read_pid()",
        "mine": "answer = lock.i_am_locking()",
        "taken": "answer = lock.is_locked()",
        "block": "with lock as same: answer = same is lock and lock.i_am_locking()",
    },
    OURS: {
        "acquire": "lock.acquire(timeout=0)",
        "attempt": "lock.acquire(timeout=0)",
        "wait": "lock.acquire(timeout=0.05)",
        "release": "lock.release()",
        "break": "lock.break_lock()",
        "holder": "answer = lock.pid",
        "mine": "answer = lock.is_lock_held_by_us",
        "taken": "answer = lock.pid is not None",
        "block": "with lock as same: answer = same is lock and lock.is_lock_held_by_us",
    },
}
"""How the guide says it, before and after."""

REFUSALS = {"AlreadyLocked", "LockTimeout", "Timeout"}


@pytest.fixture
def start(spawn: Callable[..., Peer], lock_path: Path) -> Callable[[str], Peer]:
    """Starts a process that has a lock object of that class on the path, as ``lock``."""

    def begin(kind: str) -> Peer:
        peer = spawn(lock=kind)
        peer.run("lock = lock_on(path)", path=lock_path)
        return peer

    return begin


def outcome(peer: Peer, source: str) -> Any:
    """What it came to, or the name of what it raised."""
    try:
        return peer.run(source)
    except PeerError as error:
        return error.kind


SCENARIOS: dict[str, list[tuple[str, str, Any]]] = {
    "nobody holds": [
        ("one", "holder", None),
        ("one", "mine", False),
        ("one", "taken", False),
        ("one", "break", None),
    ],
    "one holds, another is refused": [
        ("one", "acquire", None),
        ("one", "holder", "one"),
        ("one", "mine", True),
        ("another", "holder", "one"),
        ("another", "mine", False),
        ("another", "taken", True),
        ("another", "attempt", "refused"),
        ("another", "wait", "refused"),
        ("one", "release", None),
        ("another", "taken", False),
        ("another", "attempt", None),
        ("one", "holder", "another"),
        ("one", "attempt", "refused"),
    ],
    "a broken lock is anybody's": [
        ("one", "acquire", None),
        ("another", "break", None),
        ("one", "mine", False),
        ("another", "taken", False),
        ("another", "acquire", None),
        ("one", "mine", False),
        ("one", "holder", "another"),
        ("another", "mine", True),
        ("another", "release", None),
        ("one", "taken", False),
    ],
    "a block holds and lets go": [
        ("one", "block", True),
        ("another", "block", True),
        ("one", "taken", False),
    ],
}


@pytest.mark.parametrize("kind", [THEIRS, OURS])
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_steps_lead_to_the_same(start: Callable[[str], Peer], kind: str, name: str) -> None:
    peers = {"one": start(kind), "another": start(kind)}
    names = {peer.pid: who for who, peer in peers.items()}
    for number, (who, step, expected) in enumerate(SCENARIOS[name]):
        came_to = outcome(peers[who], WORDS[kind][step])
        if step == "holder":
            came_to = names.get(came_to)
        elif came_to in REFUSALS:
            came_to = "refused"
        assert came_to == expected, f"step {number}: {who} {step}"


@pytest.mark.parametrize("kind", [THEIRS, OURS])
def test_a_dead_holders_file_stays_and_only_ours_takes_it_over(start: Callable[[str], Peer], kind: str) -> None:
    holder, contender = start(kind), start(kind)
    words = WORDS[kind]
    holder.run(words["acquire"])
    holder.kill()
    assert contender.run(words["holder"]) == holder.pid
    if kind == THEIRS:
        assert outcome(contender, words["attempt"]) == "AlreadyLocked"
        contender.run(words["break"])
    contender.run(words["attempt"])
    assert contender.run(words["mine"])


class Difference(NamedTuple):
    """What some code with a ``lock`` object, its ``kind`` and its ``path`` comes to with either."""

    source: str
    theirs: Any
    ours: Any


PRELUDE = """
import os
from pathlib import Path
kind, read, write = FileLock, Path(path).read_text, Path(path).write_text
"""

IN_THREAD = """
import threading
raised = []
def work():
    try:
        lock.release()
    except Exception as error:
        raised.append(type(error).__name__)
thread = threading.Thread(target=work)
thread.start()
thread.join()
answer = raised, os.path.exists(path)
"""

DIFFERENCES = {
    "a release of what is not held": Difference("lock.release()", "NotLocked", None),
    "a release of what was removed": Difference("lock.acquire(); os.unlink(path); lock.release()", "NotLocked", None),
    "a release of what is another's now": Difference(
        "lock.acquire(); os.unlink(path); write('1\\n'); lock.release(); answer = read()",
        "NotMyLock",
        "1\n",
    ),
    "a second acquire": Difference("lock.acquire(); lock.acquire()", "AlreadyLocked", None),
    "an attempt through another object": Difference(
        "lock.acquire(); kind(path).acquire(0)", "AlreadyLocked", "Timeout"
    ),
    "a wait through another object": Difference(
        "lock.acquire(); kind(path).acquire()", "AlreadyLocked", "RuntimeError"
    ),
    "a release through another object": Difference(
        "lock.acquire(); kind(path).release(); answer = os.path.exists(path)", False, True
    ),
    "a release in another thread": Difference(f"lock.acquire()\n{IN_THREAD}", [[], False], [[], True]),
    "whether it is locked": Difference("lock.acquire(); answer = lock.is_locked()", True, "TypeError"),
    "the pid of what is not held": Difference("answer = lock.pid == os.getpid()", True, False),
    "an object that nobody keeps": Difference("kind(path).acquire(); answer = os.path.exists(path)", True, False),
    "a missing folder": Difference("kind(path + '.d/x').acquire()", "LockFailed", None),
    "a folder at the path": Difference("os.mkdir(path); lock.acquire()", "AlreadyLocked", "IsADirectoryError"),
    "a link at the path": Difference("os.symlink('nowhere', path); lock.acquire()", "AlreadyLocked", "OSError"),
    "the second argument": Difference("answer = kind(path, True).timeout", None, "TypeError"),
    "no timeout": Difference("answer = kind(path, timeout=None).timeout", None, "TypeError"),
    "lines in the file": Difference("lock.acquire(); answer = read().count('\\n') > 1", False, True),
}


@pytest.mark.parametrize("side", ["theirs", "ours"])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_differences_that_the_guide_names(
    start: Callable[[str], Peer], lock_path: Path, side: str, name: str
) -> None:
    kind = THEIRS if side == "theirs" else OURS
    if kind == OURS and os.name != "posix" and ("unlink" in DIFFERENCES[name].source or "link at" in name):
        pytest.skip("on Windows nobody removes a file that is open, and links need a privilege")
    peer = start(kind)
    peer.run(PRELUDE, path=os.fspath(lock_path))
    assert outcome(peer, DIFFERENCES[name].source) == getattr(DIFFERENCES[name], side)


@pytest.mark.parametrize("timeout", [-1, None])
def test_without_a_timeout_or_with_a_negative_one_only_ours_waits(
    start: Callable[[str], Peer], lock_path: Path, timeout: float | None
) -> None:
    theirs, other_theirs = start(THEIRS), start(THEIRS)
    theirs.run("lock.acquire()")
    assert outcome(other_theirs, f"lock.acquire({timeout})") == "AlreadyLocked"
    theirs.run("lock.release()")
    ours, other_ours = start(OURS), start(OURS)
    ours.run("lock.acquire()")
    wait = other_ours.begin_acquire(lock_path, timeout=timeout)
    assert blocks_then_proceeds(wait, lambda: ours.release(lock_path))


@pytest.mark.parametrize(("kind", "stays"), [(THEIRS, True), (OURS, False)])
def test_the_end_of_the_program_removes_only_ours(
    start: Callable[[str], Peer], lock_path: Path, kind: str, stays: bool
) -> None:
    peer = start(kind)
    peer.run("lock.acquire()")
    assert peer.exit() == (0, "")
    assert lock_path.exists() is stays


# One of each on one path.


@pytest.fixture
def theirs(start: Callable[[str], Peer]) -> Peer:
    """A process with a `PIDLockFile`."""
    return start(THEIRS)


@pytest.fixture
def ours(start: Callable[[str], Peer]) -> Peer:
    """A process with a `SoftFileLock`."""
    return start(OURS)


def test_ours_waits_for_their_holder(theirs: Peer, ours: Peer, lock_path: Path) -> None:
    theirs.run("lock.acquire()")
    assert lock_path.read_bytes() == b"%d\n" % theirs.pid
    assert not ours.acquire(lock_path, timeout=0)
    assert not ours.acquire(lock_path, timeout=0.02)
    assert ours.run("answer = lock.pid, lock.is_lock_held_by_us") == [theirs.pid, False]
    assert blocks_then_proceeds(ours.begin_acquire(lock_path), lambda: theirs.run("lock.release()"))
    assert outcome(theirs, "lock.acquire()") == "AlreadyLocked"


def test_ours_goes_on_waiting_for_their_living_holder(theirs: Peer, ours: Peer, lock_path: Path) -> None:
    """A file that says who holds it is not taken for garbage, however long it stays as it is."""
    theirs.run("lock.acquire()")
    wait = ours.begin_acquire(lock_path)
    assert still_waits(wait, GRACE + 0.5)
    theirs.run("lock.release()")
    assert wait.result(LONG)


def test_filelock_itself_takes_the_lock_from_their_living_holder(
    theirs: Peer, spawn: Callable[..., Peer], filelock_folder: Callable[[str], Path], lock_path: Path
) -> None:
    filelock = spawn(lock="filelock.SoftFileLock", folder=filelock_folder("4.2.12"))
    theirs.run("lock.acquire()")
    assert filelock.acquire(lock_path, timeout=LONG)
    assert outcome(theirs, "lock.release()") == "NotMyLock"


def test_theirs_is_refused_while_ours_holds(theirs: Peer, ours: Peer, lock_path: Path) -> None:
    assert ours.acquire(lock_path)
    marker = lock_path.read_bytes()
    assert outcome(theirs, "lock.acquire()") == "AlreadyLocked"
    assert outcome(theirs, "lock.acquire(0)") == "AlreadyLocked"
    assert outcome(theirs, "lock.acquire(0.05)") == "LockTimeout"
    assert theirs.run("answer = lock.read_pid(), lock.i_am_locking(), lock.is_locked()") == [ours.pid, False, True]
    assert outcome(theirs, "lock.release()") == "NotMyLock"
    assert lock_path.read_bytes() == marker
    ours.release(lock_path)
    theirs.run("lock.acquire()")


TELLING = """
import lockfile.pidlockfile, time, types
def sleep(seconds):
    tell("waiting")
    time.sleep(min(seconds, 0.01))
lockfile.pidlockfile.time = types.SimpleNamespace(time=time.time, sleep=sleep)
"""


def test_theirs_waits_for_our_holder(theirs: Peer, ours: Peer, lock_path: Path) -> None:
    assert ours.acquire(lock_path)
    theirs.run(TELLING)
    wait = theirs.begin_run(f"lock.acquire({LONG}); answer = lock.read_pid()")
    theirs.heard("waiting", unless=wait)
    assert blocks_then_proceeds(wait, lambda: ours.release(lock_path)) == theirs.pid
    assert not ours.acquire(lock_path, timeout=0)


def test_what_their_dead_holder_left_is_taken_over_after_a_grace(theirs: Peer, ours: Peer, lock_path: Path) -> None:
    theirs.run("lock.acquire()")
    theirs.kill()
    assert ours.run("answer = lock.pid") == theirs.pid
    took = ours.run(f"""
        import time
        begin = time.monotonic()
        for _ in range(3):
            try:
                lock.acquire(timeout=0)
            except TimeoutError:
                continue
            raise AssertionError("at once")
        lock.acquire(timeout={LONG})
        answer = time.monotonic() - begin
    """)
    assert took >= GRACE
    assert ours.run("answer = lock.is_lock_held_by_us")
    assert len(lock_path.read_bytes().splitlines()) > 1


def test_what_our_dead_holder_left_stays_in_the_way_of_theirs(
    theirs: Peer, ours: Peer, start: Callable[[str], Peer], lock_path: Path
) -> None:
    assert ours.acquire(lock_path)
    ours.kill()
    assert outcome(theirs, "lock.acquire(0.1)") == "LockTimeout"
    assert theirs.run("answer = lock.read_pid()") == ours.pid
    another = start(OURS)
    assert another.acquire(lock_path, timeout=0)
    another.release(lock_path)
    theirs.run("lock.acquire()")


def test_what_they_leave_when_they_die_while_writing_is_held(theirs: Peer, ours: Peer, lock_path: Path) -> None:
    """Others write empty markers and hold them: nothing proves that this one is nobody's."""
    lock_path.touch()
    assert theirs.run("answer = lock.is_locked(), lock.read_pid()") == [True, None]
    assert not ours.acquire(lock_path, timeout=GRACE + 0.5)
    assert ours.run("answer = lock.pid, lock.is_lock_held_by_us") == [None, False]
    ours.run("lock.break_lock()")
    assert ours.acquire(lock_path, timeout=0)


def test_in_one_process_theirs_takes_our_marker_for_its_own(theirs: Peer, lock_path: Path) -> None:
    seen = theirs.run(
        """
        import os
        from ferrolock import SoftFileLock
        soft = SoftFileLock(path)
        lock.acquire()
        theirs = soft.is_lock_held_by_us, soft.is_locked
        lock.release()
        soft.acquire()
        ours = lock.i_am_locking(), soft.is_lock_held_by_us
        lock.release()
        answer = theirs, ours, os.path.exists(path), soft.is_lock_held_by_us
        soft.release()
        """,
        path=lock_path,
    )
    assert seen == [[True, False], [True, True], False, False]


@pytest.mark.skipif(os.name != "posix", reason="a shell and its kill")
def test_the_first_line_is_the_pid_for_other_programs(ours: Peer, lock_path: Path) -> None:
    assert ours.acquire(lock_path)
    attempt = ["sh", "-c", 'kill -0 "$(head -n 1 "$1")" && read pid <"$1" && echo "$pid"', "sh", str(lock_path)]
    assert subprocess.run(attempt, capture_output=True, text=True, timeout=LONG).stdout == f"{ours.pid}\n"


def test_the_guide_has_every_public_name() -> None:
    if not GUIDE.is_file():
        pytest.skip("the tests were taken out of their tree")
    names = run_program("""
        import inspect, lockfile, lockfile.pidlockfile as module
        lock = module.PIDLockFile("x")
        names = {name for name in dir(lock) if name[0] != "_"}
        names |= {name for name, value in vars(module).items() if inspect.isfunction(value)}
        names |= {name for name in lockfile.__all__ if inspect.isclass(vars(lockfile)[name])} - {"LockBase"}
        print(*names | {"locked", "PIDLockFile", "with"})
    """).split()
    assert len(names) > 25
    text = GUIDE.read_text(encoding="utf-8")
    before = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert set(names) <= set(re.findall(r"\w+", before))
