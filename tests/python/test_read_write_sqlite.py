"""``ReadWriteLock`` and SQLite on one file: they exclude each other, also in one process."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import rw_pair_laws
from ferrolock import ReadWriteLock
from peers import LONG, Peer, run_program
from rw_peers import BY_PACKAGE, BY_SQLITE, OURS, Party
from soft_peers import laws

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")

Pair = tuple[Party, Party]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with content."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE numbers (value INTEGER)")
        connection.execute("INSERT INTO numbers VALUES (7)")
    return path


@pytest.fixture
def sqlite(spawn: Callable[..., Peer], database: Path) -> Party:
    """A process that uses the database."""
    return Party(spawn(lock=OURS), database, BY_SQLITE)


@pytest.fixture
def ours(spawn: Callable[..., Peer], database: Path) -> Party:
    """A process that locks it."""
    return Party(spawn(lock=OURS), database, BY_PACKAGE)


@pytest.fixture(params=["ours inside", "sqlite inside"])
def pair(request: pytest.FixtureRequest, ours: Party, sqlite: Party) -> Pair:
    """Who is inside, and who comes."""
    return (ours, sqlite) if request.param == "ours inside" else (sqlite, ours)


globals().update(laws(rw_pair_laws, without=set()))


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_transaction_that_writes_keeps_our_writer_out(ours: Party, sqlite: Party, begin: str) -> None:
    sqlite.run("assert enter(path, 'write', 0, begin)", begin=begin)
    assert not ours.enter("write", 0)
    assert not ours.enter("write", 0.05)
    # Who has written nothing to the file yet lets readers in, SQLite's and ours.
    assert ours.enter("read", 0) is (begin == "BEGIN IMMEDIATE")


def test_a_transaction_that_becomes_a_writer_comes_to_an_end_while_ours_waits(ours: Party, sqlite: Party) -> None:
    sqlite.run(
        "assert enter(path, 'write', 0, 'BEGIN IMMEDIATE')\nconnections[-1].execute('UPDATE numbers SET value = 8')"
    )
    wait = ours.begin("write")
    sqlite.run("connections[-1].execute('COMMIT')\nconnections.pop().close()")
    assert wait.result(LONG) is True
    ours.leave()
    assert sqlite.run("answer = sqlite3.connect(path).execute('SELECT value FROM numbers').fetchall()") == [[8]]


def test_the_database_keeps_every_byte(ours: Party, database: Path) -> None:
    before = database.read_bytes(), database.stat().st_mtime_ns
    for mode in ("read", "write"):
        assert ours.enter(mode)
        ours.leave()
    assert (database.read_bytes(), database.stat().st_mtime_ns) == before
    assert os.listdir(database.parent) == [database.name]


def in_wal_mode(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)


def test_a_database_in_wal_mode_is_refused(database: Path) -> None:
    in_wal_mode(database)
    with pytest.raises(ValueError, match="WAL"):
        ReadWriteLock(database)


@pytest.mark.parametrize("mode", ["read", "write"])
def test_a_database_that_changes_to_wal_mode_is_refused_from_then_on(database: Path, mode: str) -> None:
    lock = ReadWriteLock(database)
    in_wal_mode(database)
    with pytest.raises(ValueError, match="WAL"):
        lock.acquire_read() if mode == "read" else lock.acquire_write(timeout=5)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",), "nothing is locked"


@posix_only
@pytest.mark.parametrize("held", ["read", "write"])
@pytest.mark.parametrize("asked", ["read", "write"])
def test_our_descriptors_leave_sqlites_locks_of_this_process_alone(
    ours: Party, sqlite: Party, held: str, asked: str
) -> None:
    """POSIX: a close of any descriptor of a file gives up all record locks that the process has on it."""
    ours.run(BY_SQLITE)
    ours.run("from ferrolock import ReadWriteLock, Timeout")
    for limit in (0, 0.05):
        assert ours.enter(held)
        ours.run(
            """
            for is_kept in (True, False):
                lock = ReadWriteLock(path, is_singleton=False)
                try:
                    (lock.acquire_read if asked == "read" else lock.acquire_write)(limit)
                    lock.release()
                except Timeout:
                    assert (held, asked) != ("read", "read")
                if is_kept:
                    lock.close()
                del lock
            """,
            held=held,
            asked=asked,
            limit=limit,
        )
        assert not sqlite.enter("write"), "the transaction lost its lock"
        assert sqlite.enter("read") is (held == "read")
        if held == "read":
            sqlite.leave()
        ours.leave()


@posix_only
def test_the_look_for_wal_mode_leaves_sqlites_locks_of_this_process_alone(ours: Party, sqlite: Party) -> None:
    ours.run(BY_SQLITE)
    ours.run("c = sqlite3.connect(path)\nassert c.execute('PRAGMA journal_mode=WAL').fetchone() == ('wal',)\nc.close()")
    assert ours.enter("read")
    assert ours.run(
        """
        from ferrolock import ReadWriteLock
        try:
            ReadWriteLock(path)
        except ValueError as error:
            answer = "WAL" in str(error)
        """
    )
    # Leaving WAL mode takes a lock of the whole database.
    source = """
        c = sqlite3.connect(path, timeout=0)
        try:
            answer = c.execute('PRAGMA journal_mode=DELETE').fetchone()
        except sqlite3.OperationalError as error:
            answer = str(error)
        c.close()
    """
    assert sqlite.run(source) == "database is locked"
    ours.leave()
    assert sqlite.run(source) == ["delete"]


@posix_only
def test_closing_others_descriptors_leaves_our_lock_alone(ours: Party, sqlite: Party) -> None:
    assert ours.enter("write")
    ours.run(
        """
        import sqlite3
        open(path).close()
        c = sqlite3.connect(path, timeout=0)
        try:
            c.execute("SELECT * FROM numbers")
            answer = "read"
        except sqlite3.OperationalError:
            c.close()
        assert answer is None, "it excludes SQLite in the same process too"
        """
    )
    assert not sqlite.enter("read")
    ours.leave()
    assert sqlite.enter("write")


USE = """
import gc, sys
from ferrolock import ReadWriteLock, Timeout
from peers import descriptors

path = sys.argv[1]

def use():
    lock = ReadWriteLock(path)
    with lock.write_lock():
        try:
            ReadWriteLock(path, is_singleton=False).acquire_read(0.02)
        except Timeout:
            pass
    lock.close()
    with ReadWriteLock(path).read_lock():
        pass
    gc.collect()
    return len(descriptors(path))
"""


@posix_only
def test_no_descriptor_is_left_of_a_lock_that_is_closed_or_gone(database: Path) -> None:
    run_program(USE + "assert use() == 0", database)


@posix_only
@pytest.mark.parametrize(
    "record_lock",
    [
        "import sqlite3",
        "import fcntl; f = open(path, 'r+'); fcntl.lockf(f, fcntl.LOCK_EX, 1); use(); f.close()",
    ],
    ids=["sqlite3 is imported", "a record lock was seen"],
)
def test_nothing_is_closed_where_a_record_lock_may_come_before_the_close(database: Path, record_lock: str) -> None:
    """Between the look and the close: the locks are the process's, and go with the close."""
    run_program(
        f"{USE}\n{record_lock}\nleft = [use() for _ in range(5)]\nassert left[0] == left[-1] > 0, left", database
    )


@posix_only
def test_descriptors_that_are_not_closed_do_not_become_too_many(tmp_path: Path) -> None:
    run_program(
        """
        import os, sqlite3, sys
        from ferrolock import ReadWriteLock

        def count():
            return len(os.listdir("/dev/fd"))

        before = count()
        for number in range(300):
            with ReadWriteLock(os.path.join(sys.argv[1], str(number))).write_lock():
                pass
        assert count() - before < 140, count()
        """,
        tmp_path,
    )
