"""Greenlets that share a thread, under real gevent and eventlet.

What is asked for: two never hold one thread-local lock together, and a wait lets the others run. To refuse at once,
with the reason, would do as well; to let both in, never.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import FileLock
from peers import OURS, is_free, run_program

if TYPE_CHECKING:
    from pathlib import Path

GEVENT = """
from gevent import monkey
BEFORE
monkey.patch_all()
import gevent
spawn, sleep, wait_for = gevent.spawn, gevent.sleep, gevent.joinall
Expired = gevent.Timeout

def kill(greenlet):
    greenlet.kill()

class limited:
    def __init__(self, seconds):
        self.timeout = gevent.Timeout(seconds)
    def __enter__(self):
        self.timeout.start()
    def __exit__(self, *exception):
        self.timeout.close()
"""

EVENTLET = """
import eventlet
BEFORE
eventlet.monkey_patch()
spawn, sleep, kill = eventlet.spawn, eventlet.sleep, eventlet.kill
Expired = eventlet.Timeout
limited = eventlet.Timeout

def wait_for(greenlets):
    for greenlet in greenlets:
        greenlet.wait()
"""

PROGRAM = """
import json, sys, threading
from peers import find_class

path = sys.argv[1]
lock = find_class(sys.argv[2])(path)
inside = most = ticks = 0
refusals, timeouts, notes = [], [], {}

def report():
    notes.update(most=most, ticks=ticks, refusals=refusals, timeouts=len(timeouts))
    print(json.dumps(notes))

def stay(turns, seconds=0.002, **limit):
    "Acquire, stay inside while others run, and release, so often."
    global inside, most
    for _ in range(turns):
        try:
            lock.acquire(**limit)
        except RuntimeError as error:
            refusals.append(str(error))
            continue
        except TimeoutError:
            timeouts.append(1)
            continue
        inside += 1
        most = max(most, inside)
        sleep(seconds)
        inside -= 1
        lock.release()

def tick():
    global ticks
    while True:
        ticks += 1
        sleep(0.001)
"""

HUBS = {"gevent": GEVENT, "eventlet": EVENTLET}


@pytest.fixture(params=HUBS)
def hub(request: pytest.FixtureRequest) -> str:
    """The program that patches Python with one of them."""
    name = str(request.param)
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return HUBS[name]


def run(hub: str, path: Path, program: str, lock: str = OURS, before: str = "") -> Any:
    """Run it in an interpreter of its own, patched before ferrolock is imported; return what it reports."""
    source = hub.replace("BEFORE", before) + PROGRAM + program + "\nreport()\n"
    return json.loads(run_program(source, path, lock, options=("-W", "ignore")))


def check_exclusion(report: dict[str, Any]) -> None:
    """Never two inside; whoever was refused was told why."""
    assert report["most"] <= 1, "two greenlets were inside together"
    if report["refusals"]:
        assert all("greenlet" in text or "gevent" in text or "patched" in text for text in report["refusals"])
    else:
        assert report["most"] == 1


TWO_TAKE_TURNS = """
wait_for([spawn(stay, 10), spawn(stay, 10), spawn(stay, 10)])
notes["free"] = not lock.is_locked if hasattr(lock, "is_locked") else None
"""


@pytest.mark.parametrize("before", ["", "import ferrolock", "import ferrolock; ferrolock.FileLock('early').is_locked"])
def test_greenlets_do_not_hold_one_lock_together(hub: str, lock_path: Path, before: str) -> None:
    report = run(hub, lock_path, TWO_TAKE_TURNS, before=before)
    check_exclusion(report)
    assert report["free"]
    assert is_free(lock_path)


def test_greenlets_do_not_hold_a_backend_together(hub: str, lock_path: Path) -> None:
    # Nor do they lose each other's descriptors: the step of one is cut short by another's.
    before = "import backends, os; backends.os = type(os)('os'); vars(backends.os).update(vars(os))"
    program = f"""
import backends
backends.os.open = lambda *arguments: (sleep(0.001), os.open(*arguments))[1]
backends.os.unlink = lambda *arguments: (sleep(0.001), os.unlink(*arguments))[1]
import os
{TWO_TAKE_TURNS}"""
    report = run(hub, lock_path, program, lock="backends.Exclusive", before=before)
    check_exclusion(report)
    assert not lock_path.exists()


# A thread of the system's, that wants the interpreter whenever it is let go.
BUSY = """
import _thread, backends
def burn():
    while True:
        str(1)
_thread.start_new_thread(burn, ())
"""
SLOW = """
import os
class Slow(backends.Exclusive):
    seconds = 0.01
    def _release(self):
        sleep(self.seconds)
        super()._release()
locks = [Slow(sys.argv[1] + str(number)) for number in range(4)]
def left():
    return [lock for lock in os.listdir(os.path.dirname(sys.argv[1])) if lock.startswith("x.lock")]
"""


def test_steps_of_a_backend_may_overlap_in_any_way(hub: str, lock_path: Path) -> None:
    program = f"""{SLOW}
import random
chance = random.Random(1)
def work(number):
    for turn in range(15):
        lock = Slow(sys.argv[1] + str((number + turn) % 3), poll_interval=0.001)
        lock.acquire()
        sleep(chance.random() * 0.001)
        lock.seconds = chance.random() * 0.004
        lock.release()
wait_for([spawn(work, number) for number in range(12)])
notes["left"] = left()
"""
    assert run(hub, lock_path, program, before=BUSY)["left"] == []


def test_backends_that_are_dropped_at_once_are_all_released(hub: str, lock_path: Path) -> None:
    program = f"""{SLOW}
for lock in locks:
    wait_for([spawn(lock.acquire)])
boxes = [[lock] for lock in locks]
notes["held"] = len(left())
del lock, locks
wait_for([spawn(box.clear) for box in boxes])
notes["left"] = left()
"""
    report = run(hub, lock_path, program, before="import backends")
    assert (report["held"], report["left"]) == (4, [])


def test_greenlets_that_are_let_in_together_are_found_out(hub: str, lock_path: Path) -> None:
    with pytest.raises(AssertionError, match="together"):
        check_exclusion(run(hub, lock_path, TWO_TAKE_TURNS, lock="peers.NoLock"))


def test_greenlets_with_lock_objects_of_their_own_take_turns(hub: str, lock_path: Path) -> None:
    program = """
def stay_with_a_lock_of_its_own():
    global inside, most
    for _ in range(10):
        with type(lock)(path):
            inside += 1
            most = max(most, inside)
            sleep(0.002)
            inside -= 1

wait_for([spawn(stay_with_a_lock_of_its_own) for _ in range(3)])
"""
    check_exclusion(run(hub, lock_path, program))
    assert is_free(lock_path)


def test_a_greenlet_nests_in_its_own_hold_only(hub: str, lock_path: Path) -> None:
    program = """
states = notes["states"] = []

def look():
    states.append((lock.is_locked, lock.lock_counter))

with lock, lock:
    look()
    wait_for([spawn(look), spawn(lock.release), spawn(lock.release, force=True), spawn(stay, 1, timeout=0)])
    look()
look()
"""
    report = run(hub, lock_path, program)
    assert report["states"] == [[True, 2], [False, 0], [True, 2], [False, 0]]
    assert report["most"] == 0
    assert report["timeouts"] + len(report["refusals"]) == 1


def test_a_wait_for_another_process_lets_the_other_greenlets_run(hub: str, lock_path: Path) -> None:
    program = """
ticker = spawn(tick)
wait_for([spawn(stay, 1, timeout=0.3)])
kill(ticker)
"""
    with FileLock(lock_path):
        report = run(hub, lock_path, program)
    assert report["refusals"] or (report["ticks"] >= 10 and report["timeouts"] == 1)
    assert report["most"] == 0


def test_a_greenlet_is_woken_when_another_one_releases(hub: str, lock_path: Path) -> None:
    program = """
order = notes["order"] = []

def hold():
    with lock:
        order.append("hold")
        sleep(0.05)
        order.append("release")

def wait():
    lock.acquire()
    order.append("next")
    lock.release()

first = spawn(hold)
sleep(0.01)
wait_for([first, spawn(wait)])
"""
    report = run(hub, lock_path, program)
    assert report["order"] == ["hold", "release", "next"]


def test_what_ends_a_greenlet_ends_its_wait(hub: str, lock_path: Path) -> None:
    program = """
def give_up():
    try:
        with limited(0.05):
            lock.acquire()
    except Expired:
        notes["expired"] = not lock.is_locked

def wait():
    try:
        lock.acquire()
    finally:
        notes["killed"] = not lock.is_locked

waiter = spawn(wait)
sleep(0.02)
kill(waiter)
wait_for([spawn(give_up)])
"""
    with FileLock(lock_path):
        report = run(hub, lock_path, program)
    assert report == {**report, "expired": True, "killed": True}
    assert is_free(lock_path)
