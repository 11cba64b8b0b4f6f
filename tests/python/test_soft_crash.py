"""Whoever dies at whatever system call: the next contender gets the lock soon, and nobody alive loses it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from ferrolock import SoftFileLock
from soft_peers import LINUX, Call, Victim, dead_record, is_free, names, record, start_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from peers import Peer

    Make = Callable[..., Victim]

pytestmark = LINUX

SOON = 3.0
"""Seconds within which the next contender has the lock."""

KILLED, TERMINATED = -9, -15

CYCLE = """
lock = FileLock(path)
lock.acquire(timeout=0)
lock.release()
"""
UNSUPPORTED = "error=EOPNOTSUPP"


def every_call(victim: Make, path: Path, prepare: Callable[[Path], object], act: str, *faults: str) -> list[Call]:
    """What a victim does that nobody kills."""
    prepare(path)
    whole = victim(act, *faults, path=path).go().wait()
    calls = whole.calls()
    assert whole.status() in (0, 100), whole.record.read_text()[-1000:]
    return calls


def deaths(
    victim: Make, path: Path, prepare: Callable[[Path], object], act: str, *faults: str
) -> Iterator[tuple[Call, Victim]]:
    """The same again and again, and each time it is killed at another call: before the call does anything."""
    calls = every_call(victim, path, prepare, act, *faults)
    spoiled = {fault.split("=")[1].split(":")[0] for fault in faults}
    for call in calls:
        if call.name in spoiled:
            continue  # strace has one fault for a kind of call
        prepare(path)
        killed = victim(act, *faults, call.fault("signal=KILL"), path=path).go().wait()
        yield call, killed
        assert killed.status() == KILLED, f"{call} was not reached"


def clear(path: Path) -> None:
    """Take away what earlier deaths have left."""
    for name in names(path.parent):
        (path.parent / name).unlink()


def leave_a_dead_owners(path: Path) -> None:
    """The marker of somebody who is dead."""
    clear(path)
    path.write_bytes(dead_record())


def check_the_next_gets_it(path: Path, call: Call, *litter: str) -> None:
    """A contender has the lock soon, while the dead one is still a zombie; nothing is left but litter."""
    try:
        with SoftFileLock(path, timeout=SOON) as lock:
            assert lock.is_lock_held_by_us
    except TimeoutError as error:
        found = {name: (path.parent / name).read_bytes() for name in names(path.parent)}
        raise AssertionError(f"after a death at {call}: {error} {found}") from None
    left = [name for name in names(path.parent) if not any(re.fullmatch(pattern, name) for pattern in litter)]
    assert left == [], f"after a death at {call}"


def test_a_holder_may_die_at_every_call(victim: Make, lock_path: Path) -> None:
    """Of acquiring, holding and releasing. Nothing is left, not even litter."""
    at = []
    for call, _ in deaths(victim, lock_path, clear, CYCLE):
        at.append(call.name)
        check_the_next_gets_it(lock_path, call)
    assert {"openat", "write", "linkat", "unlinkat", "close"} <= {*at}
    assert at.count("unlinkat") == 1, "a cycle removes one name"


def test_a_reclaimer_may_die_at_every_call(victim: Make, lock_path: Path) -> None:
    """Litter: its own marker, aside, or the dead owner's, which nobody asks for any more."""
    at = []
    for call, killed in deaths(victim, lock_path, leave_a_dead_owners, CYCLE):
        at.append(call.name)
        check_the_next_gets_it(lock_path, call, rf"x\.lock\.break\.{killed.pid}\.[0-9a-f]{{32}}")
    assert at.count("renameat2") == 1
    assert at.count("unlinkat") == 2


def test_a_holder_may_die_where_files_always_have_names(victim: Make, lock_path: Path) -> None:
    """A private name, and a hard link: litter is the private name."""
    [unnamed] = [call for call in every_call(victim, lock_path, clear, CYCLE) if "O_TMPFILE" in call.text]
    at = []
    for call, killed in deaths(victim, lock_path, clear, CYCLE, unnamed.fault(UNSUPPORTED)):
        at.append(call.name)
        check_the_next_gets_it(lock_path, call, rf"\.ferrolock\.{killed.pid}\.[0-9a-f]{{32}}")
    assert at.count("linkat") == 1
    assert at.count("unlinkat") == 2


def test_a_holder_that_dies_where_there_are_no_links_leaves_an_empty_file_at_worst(
    victim: Make, lock_path: Path
) -> None:
    """There the name comes first, and an empty file is held for ever: somebody may be about to write to it."""
    [unnamed] = [call for call in every_call(victim, lock_path, clear, CYCLE) if "O_TMPFILE" in call.text]
    no_links = (unnamed.fault(UNSUPPORTED), "inject=linkat:error=EPERM")
    empty = []
    for call, _ in deaths(victim, lock_path, clear, CYCLE, *no_links):
        if names(lock_path.parent) == ["x.lock"] and not lock_path.read_bytes():
            empty.append(call.name)
            assert not is_free(lock_path)
            SoftFileLock(lock_path).break_lock()
        else:
            check_the_next_gets_it(lock_path, call, r"\.ferrolock\.[0-9]+\.[0-9a-f]{32}")
    assert "write" in empty
    assert not {"unlinkat", "close", "exit_group"} & {*empty}, "it was held by then, and has a record"


def test_a_holder_may_die_while_it_says_that_its_marker_is_released(victim: Make, lock_path: Path) -> None:
    """A contender has it aside, and puts it back when its owner is dead, whatever it says by then."""
    act = CYCLE.replace("lock.release()", "import os; os.rename(path, aside); lock.release()")
    aside = lock_path.with_name("x.lock.break.1.0123456789abcdef0123456789abcdef")

    def release_aside(*faults: str) -> Victim:
        clear(lock_path)
        return victim(act, *faults, path=lock_path, aside=aside).go().wait()

    calls = release_aside().calls()
    begin = [call.name for call in calls].index("rename")
    assert "write" in [call.name for call in calls[begin:]]
    found = set()
    for call in calls[begin + 1 :]:
        killed = release_aside(call.fault("signal=KILL"))
        aside.rename(lock_path)
        if lock_path.read_bytes() in found:
            continue  # a record cut short takes two seconds to be judged
        found.add(lock_path.read_bytes())
        check_the_next_gets_it(lock_path, call)
        assert killed.status() == KILLED
    assert b"filelock/released\n" in found


# A live owner's marker that a contender has aside who dies


@pytest.fixture
def holder(soft: Callable[[], Peer]) -> Peer:
    """A live owner."""
    return soft()


def check_it_holds(holder: Peer, path: Path, at: object, *litter: str) -> None:
    """Contenders do not get the lock, and see to it that the live owner's marker is where it belongs."""
    for _ in range(3):
        assert not is_free(path), f"a live owner has lost its lock, after a death at {at}"
    found = {name: (path.parent / name).read_bytes() for name in names(path.parent)}
    own = record(holder.pid, token=start_token(holder.pid))
    assert found.pop(path.name) == own, f"after a death at {at}: {found}"
    left = [name for name in found if not any(re.fullmatch(pattern, name) for pattern in litter)]
    assert left == [], f"after a death at {at}"


def strand(holder: Peer, path: Path) -> None:
    """Make it so: somebody who is dead has the lock's name, and the live owner's marker aside."""
    holder.release(path)
    clear(path)
    assert holder.acquire(path, timeout=0)
    breaker = int(dead_record().split()[0])
    path.rename(path.with_name(f"{path.name}.break.{breaker}.{0xABC:032x}"))
    path.write_bytes(dead_record())


@pytest.mark.parametrize("name", ["x.lock", "\N{LOCK}.lock", "x\udcff.lock"], ids=["ascii", "utf-8", "other"])
def test_a_live_owners_marker_that_a_dead_contender_had_aside_is_put_back(
    tmp_path: Path, holder: Peer, name: str
) -> None:
    path = tmp_path / name
    strand(holder, path)
    check_it_holds(holder, path, "-")
    holder.release(path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"4711\nelsewhere\n", b"1\nfilelock-strict-v1\0\n0\n"], ids=repr)
def test_whatever_may_be_a_live_owners_is_put_back(lock_path: Path, content: bytes) -> None:
    aside = lock_path.with_name(f"x.lock.break.{int(dead_record().split()[0])}.{0xABC:032x}")
    aside.write_bytes(content)
    lock_path.write_bytes(dead_record())
    assert not is_free(lock_path)
    assert names(lock_path.parent) == ["x.lock"]
    assert lock_path.read_bytes() == content
    assert not is_free(lock_path)


def test_what_a_dead_contender_had_aside_is_put_back_by_one_with_its_number(lock_path: Path) -> None:
    """Numbers are given again: the aside that has ours is not ours."""
    own_number = record(os.getpid(), token=start_token(os.getpid(), later=-1))
    lock_path.with_name(f"x.lock.break.{os.getpid()}.{0xABC:032x}").write_bytes(b"4711\nelsewhere\n")
    lock_path.write_bytes(own_number)
    assert not is_free(lock_path)
    assert names(lock_path.parent) == ["x.lock"]
    assert lock_path.read_bytes() == b"4711\nelsewhere\n"


def test_what_a_dead_contender_was_about_to_put_back_is_put_back_by_one_with_its_number(lock_path: Path) -> None:
    """As in a container that was started again: the first process has the same number each time."""
    lock_path.with_name(f"x.lock.restore.{os.getpid()}.{0xABC:032x}").write_bytes(b"4711\nelsewhere\n")
    lock_path.write_bytes(dead_record())
    assert not is_free(lock_path)
    assert names(lock_path.parent) == ["x.lock"]
    assert lock_path.read_bytes() == b"4711\nelsewhere\n"


@pytest.mark.parametrize("kind", ["break", "restore"])
def test_what_is_certainly_nobodys_is_removed(lock_path: Path, kind: str) -> None:
    breaker = int(dead_record().split()[0])
    for number, content in enumerate([dead_record(), record(breaker), b"filelock/released\n"]):
        aside = lock_path.with_name(f"x.lock.{kind}.{breaker}.{number:032x}")
        aside.write_bytes(content)
    lock_path.write_bytes(dead_record())
    assert is_free(lock_path)
    assert names(lock_path.parent) == []


@pytest.mark.parametrize(
    "name",
    [
        "x.lock.break.4711.0123456789abcdef0123456789abcdef",
        "x.lock.break.{pid}.0123456789ABCDEF0123456789ABCDEF",
        "x.lock.break.{pid}.0123456789abcdef",
        "x.lock.break.{pid}",
        "x.lock.break.0.0123456789abcdef0123456789abcdef",
        "x.lock.restore.+{pid}.0123456789abcdef0123456789abcdef",
        "x.lock.restore.99999999999.0123456789abcdef0123456789abcdef",
        "x.lock2.break.{pid}.0123456789abcdef0123456789abcdef",
    ],
)
def test_files_with_other_names_are_none_of_our_business(lock_path: Path, name: str) -> None:
    stranger = lock_path.with_name(name.format(pid=int(dead_record().split()[0])))
    stranger.write_bytes(record(1))
    lock_path.write_bytes(dead_record())
    assert is_free(lock_path)
    assert names(lock_path.parent) == [stranger.name]
    assert stranger.read_bytes() == record(1)


def test_who_puts_a_live_owners_marker_back_may_die_at_every_call(victim: Make, lock_path: Path, holder: Peer) -> None:
    at = []
    attempt = CYCLE.replace("lock.release()", "os._exit(99)")
    for call, killed in deaths(victim, lock_path, lambda path: strand(holder, path), attempt):
        at.append(call.name)
        litter = rf"x\.lock\.(break|restore)\.{killed.pid}\.[0-9a-f]{{32}}"
        check_it_holds(holder, lock_path, call, litter)
        holder.release(lock_path)
        check_the_next_gets_it(lock_path, call, litter)
    assert {"renameat", "renameat2", "unlinkat"} <= {*at}


def test_who_has_taken_a_live_owners_marker_by_mistake_may_die_at_every_call(
    victim: Make, lock_path: Path, holder: Peer
) -> None:
    """
    It was stopped between its last look and the exchange, and somebody else was faster.

    What it does from then on: it exchanges, sees whose marker it got, and puts it back. It is killed before or after
    each of these calls; between two that only look there is no difference.
    """
    calls = every_call(victim, lock_path, leave_a_dead_owners, CYCLE)
    exchange = [call.name for call in calls].index("renameat2")
    look = calls[exchange - 1]
    assert look.name == "newfstatat"
    stop = look.fault("signal=STOP")

    def overtaken(*faults: str) -> Victim:
        leave_a_dead_owners(lock_path)
        # The lock on the dead one's file, by which contenders of ours keep each other away, does nothing here.
        stopped = victim(CYCLE, stop, "inject=flock:retval=0", *faults, path=lock_path).go().wait_until_stopped()
        assert holder.acquire(lock_path, timeout=0)
        return stopped.cont().wait()

    whole = overtaken()
    made = [call for call in whole.calls() if call.name != look.name]
    assert whole.status() == 100, "both have it"
    check_it_holds(holder, lock_path, "-")
    holder.release(lock_path)
    made = made[[call.name for call in made].index("renameat2") :]
    assert [call.name for call in made].count("renameat2") == 2, "it did not take it by mistake"
    for call in made:
        for signal_name, status in (("KILL", KILLED), ("TERM", TERMINATED)):
            killed = overtaken(call.fault(f"signal={signal_name}"))
            litter = rf"x\.lock\.(break|restore)\.{killed.pid}\.[0-9a-f]{{32}}"
            check_it_holds(holder, lock_path, (call, signal_name), litter)
            holder.release(lock_path)
            check_the_next_gets_it(lock_path, call, litter)
            assert killed.status() == status or call.name == "exit_group", f"{call} was not reached"


def test_who_fails_to_put_a_marker_back_and_lives_on_keeps_nobody_from_it(
    victim: Make, lock_path: Path, holder: Peer, soft: Callable[[], Peer]
) -> None:
    """Neither from putting it back, nor from taking the place of the next one who dies."""
    parent = soft()
    source = """
        lock = FileLock(path)
        os.getppid()
        try:
            lock.acquire(timeout=0)
        except OSError:
            pass
        os.getppid()
        tell("tried")
        os.read(until, 1)
    """
    until, end = parent.run("import os; answer = os.pipe()")

    def fail(*faults: str) -> Victim:
        strand(holder, lock_path)
        failing = victim(source, *faults, parent=parent, path=lock_path, until=until).go()
        parent.heard("tried")
        return failing

    def end_of(failing: Victim) -> Victim:
        parent.run("os.write(end, b'.')", end=end)
        assert failing.wait().status() == 0
        return failing

    calls = end_of(fail()).calls()
    begin, stop = (number for number, call in enumerate(calls) if call.name == "getppid")
    tried = [call for call in calls[begin + 1 : stop] if '"x.lock' in call.text or call.name in {"fstat", "read"}]
    assert {"rename", "renameat"} & {call.name for call in tried}
    for call in tried:
        failing = fail(call.fault("error=EIO"))
        litter = r"x\.lock\.break\.[0-9]+\.[0-9a-f]{32}"
        check_it_holds(holder, lock_path, call, litter)
        holder.release(lock_path)
        lock_path.write_bytes(dead_record())
        assert is_free(lock_path), f"nobody gets it after a failure of {call}"
        end_of(failing)
