"""What holds for ReadWriteLock holds for SoftReadWriteLock: the same tests, with the other class."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

import ferrolock
import peers
import soft_peers
import test_read_write
import test_read_write_processes

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def soft_read_write_instead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let ReadWriteLock mean SoftReadWriteLock: in the tests, in their peers, and in the programs that they run."""
    original = peers.run_program

    def run_program(source: str, *arguments: object, **more: Any) -> str:
        prelude = "import ferrolock; ferrolock.ReadWriteLock = ferrolock.SoftReadWriteLock\n"
        return original(prelude + dedent(source), *arguments, **more)

    instead = {
        "ReadWriteLock": ferrolock.SoftReadWriteLock,
        "OURS": "ferrolock.SoftReadWriteLock",
        "run_program": run_program,
    }
    for module in (test_read_write, test_read_write_processes):
        for name, value in instead.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    yield
    # What a test has left held stays alive, for whoever dropped it by mistake; the next test is somebody else.
    ferrolock._native.remove_markers_at_exit()


OTHERWISE = {
    # It has other files, makes folders, and has more options.
    "test_a_file_that_is_there_keeps_its_content",
    "test_a_file_that_was_replaced_between_holds_is_locked_where_it_is_now",
    "test_folders_are_not_made",
    "test_only_a_regular_file_is_taken",
    "test_the_file_is_made_private_and_stays_empty",
    "test_the_signatures_are_filelocks",
    # filelock's says this with other words.
    "test_what_another_thread_holds_otherwise_is_refused",
    # A held one stays alive.
    "test_a_lock_that_nobody_has_any_more_is_released",
    # Nobody is woken by the kernel.
    "test_a_program_that_has_taken_the_signal_still_waits",
    "test_the_signal_may_be_taken_in_the_middle_of_a_wait",
    "test_waiters_come_in_in_turn",
}

globals().update(soft_peers.laws(test_read_write, test_read_write_processes, without=OTHERWISE))
