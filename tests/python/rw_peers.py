"""What the tests of readers and writers share; among it processes that contend, with ferrolock, filelock or SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ferrolock import Timeout
from peers import LONG, Peer, still_waits

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from ferrolock import AcquireReturnProxy
    from ferrolock._read_write import ReadWriteLockBase

    L = TypeVar("L", bound=ReadWriteLockBase)

MODES = ["read", "write"]


def acquire(lock: L, mode: str, *args: Any, **options: Any) -> AcquireReturnProxy[L]:
    """Acquire in a mode."""
    return lock.acquire_read(*args, **options) if mode == "read" else lock.acquire_write(*args, **options)


def allowed_to(lock: ReadWriteLockBase) -> str:
    """What may be done by this lock object, which nobody uses, right now: write, read or nothing."""
    for mode in ("write", "read"):
        try:
            acquire(lock, mode, blocking=False).lock.release()
        except Timeout:
            continue
        return mode
    return "nothing"


BY_PACKAGE = """
def enter(path, mode, timeout):
    lock = lock_on(path)
    try:
        (lock.acquire_read if mode == "read" else lock.acquire_write)(timeout)
    except TimeoutError:
        if "_con" in vars(lock):
            lock._con.rollback()  # filelock 3.29 leaves the transaction open that came to nothing
        return False
    return True

def leave(path):
    lock_on(path).release()
"""

BY_SQLITE = """
import sqlite3
connections = []

def enter(path, mode, timeout, begin="BEGIN EXCLUSIVE"):
    connection = sqlite3.connect(path, timeout=30 if timeout < 0 else timeout, isolation_level=None)
    try:
        if mode == "read":
            connection.execute("BEGIN")
            connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
        else:
            connection.execute(begin)
    except sqlite3.OperationalError as error:
        connection.close()
        assert "locked" in str(error), error
        return False
    connections.append(connection)
    return True

def leave(path):
    connection = connections.pop()
    connection.execute("ROLLBACK")
    connection.close()
"""

OURS = "ferrolock.ReadWriteLock"


class Party:
    """A process that comes in and goes out on command."""

    def __init__(self, peer: Peer, path: Path, how: str = BY_PACKAGE) -> None:
        self.peer, self.path = peer, path
        peer.run(how)

    def enter(self, mode: str, timeout: float = 0) -> bool:
        """Come in to read or to write; False is a timeout."""
        return bool(self.peer.run("answer = enter(path, mode, timeout)", path=self.path, mode=mode, timeout=timeout))

    def begin(self, mode: str, timeout: float = -1) -> Future[Any]:
        """Begin to wait; returns just before it asks, and sees that it is not let in."""
        source = "tell('asking')\nanswer = enter(path, mode, timeout)"
        wait = self.peer.begin_run(source, path=self.path, mode=mode, timeout=timeout)
        self.peer.heard("asking", unless=wait)
        assert still_waits(wait), f"nothing stopped it: {wait.exception() or wait.result()}"
        return wait

    def leave(self) -> None:
        """Go out."""
        self.peer.run("leave(path)", path=self.path)

    def run(self, source: str, **values: Any) -> Any:
        """Have it run some Python, with its `path`."""
        return self.peer.run(source, path=self.path, **values)


def let_in(wait: Future[Any], let_go: Callable[[], object]) -> None:
    """Check that a wait ends when somebody lets go."""
    let_go()
    assert wait.result(LONG) is True
