"""What holds for FileLock's waits and threads holds for SoftFileLock's: the same tests, with the other class."""

from __future__ import annotations

import pytest

import soft_peers
import test_reentry
import test_threads
import test_timeouts

pytestmark = pytest.mark.usefixtures("soft_instead")

KERNEL_LOCKS_ONLY = {
    # The holder there has locked the file by hand.
    "test_a_pickled_timeout_takes_its_message_along",
    "test_a_timeout_names_the_process_that_may_hold_the_lock",
    "test_a_timeouts_message_is_about_the_time_it_was_first_read",
    # A marker comes and goes in a folder, which a file system may take its time for.
    "test_a_cycle_without_a_wait_lets_no_other_thread_run",
}

globals().update(soft_peers.laws(test_reentry, test_threads, test_timeouts, without=KERNEL_LOCKS_ONLY))
