"""Nobody judges the claim of a strict lock: what is left of one when its program has come to its end."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from ferrolock import StrictSoftFileLock, Timeout
from peers import LONG
from soft_peers import names

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
import os, sys, threading, time
from ferrolock import StrictSoftFileLock, Timeout
path = sys.argv[1]
lock, ready = StrictSoftFileLock(path, poll_interval=0.001), threading.Event()
"""
IN_THE_BACKGROUND = """
threading.Thread(target=work, daemon=True).start()
ready.wait()
"""


def claims_left(source: str, path: Path, more: str = IN_THE_BACKGROUND) -> list[str]:
    """Run a program to its end, and say what it leaves."""
    program = PRELUDE + textwrap.dedent(source) + more
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=3 * LONG)
    assert (done.returncode, done.stderr) == (0, "")
    return [name.partition("-")[0] for name in names(path.with_name(f"{path.name}.filelock") / "claims")]


GIVEN_BACK = {
    "taken and released again and again": """
        def work():
            while True:
                with lock:
                    ready.set()
    """,
    "asked for by several": """
        def work():
            own = StrictSoftFileLock(path, poll_interval=0.001)
            while True:
                with own:
                    ready.set()

        threading.Thread(target=work, daemon=True).start()
        threading.Thread(target=work, daemon=True).start()
    """,
    "released a moment later": """
        def work():
            with lock:
                ready.set()
                time.sleep(0.02)
            threading.Event().wait()
    """,
    "released in vain": """
        def work():
            lock.acquire()
            folder = path + ".filelock/claims/"
            _, intent = sorted(os.listdir(folder))
            os.rename(folder + intent, path + ".kept")
            os.mkdir(folder + intent)
            try:
                lock.release()
            except OSError:
                os.rmdir(folder + intent)
                os.rename(path + ".kept", folder + intent)
                ready.set()
            threading.Event().wait()
    """,
}


@pytest.mark.parametrize("situation", GIVEN_BACK)
def test_a_thread_that_is_not_at_work_with_the_lock_leaves_no_claim(lock_path: Path, situation: str) -> None:
    for _ in range(5):
        assert claims_left(GIVEN_BACK[situation], lock_path) == []


def test_the_claim_of_a_thread_that_is_at_work_stays_and_says_so(lock_path: Path) -> None:
    """It may be in the middle of a system call when the process ends, and before that nobody else may have the lock."""
    source = """
        def work():
            with lock:
                ready.set()
                threading.Event().wait()
    """
    assert claims_left(source, lock_path) == ["held", "intent"]
    lock = StrictSoftFileLock(lock_path)
    with pytest.raises(Timeout, match="which has ended"):
        lock.acquire(timeout=0)
    for claim in lock.claims:
        lock.force_break(claim.name)
    with lock:
        pass


def test_the_thread_that_ends_the_program_can_still_take_the_lock(lock_path: Path) -> None:
    source = """
        from ferrolock import _native

        def late():
            _native.end_holds_at_exit()
            with lock:
                assert len(os.listdir(path + ".filelock/claims")) == 2
            answers = []
            def ask():
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    answers.append("refused")
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            assert answers == ["refused"], answers
    """
    assert claims_left(source, lock_path, "late()") == []
