"""What holds for FileLock among processes holds for SoftFileLock: the same tests, with the other class."""

from __future__ import annotations

import os

import pytest

import soft_peers
import test_exclusion
import test_exit
import test_fork
import test_processes
import test_signals
import test_tutorial
import test_waiting

pytestmark = [
    pytest.mark.usefixtures("soft_instead"),
    pytest.mark.skipif(os.name != "posix", reason="most of it forks, stops and signals"),
]

KERNEL_LOCKS_ONLY = {
    # The file is the lock: it is not there while nobody holds it, and what is there is somebody's.
    "test_a_child_closes_no_file_of_its_own_by_mistake",
    "test_a_collected_lock_leaves_no_descriptor",
    "test_a_lock_file_that_its_holders_remove_still_excludes",
    "test_a_newcomer_locks_the_file_at_the_path",
    "test_a_wait_gets_along_with_whatever_the_program_does_with_signals",
    "test_a_waiter_follows_the_path_to_a_new_file",
    "test_a_waiter_goes_on_with_whatever_file_is_at_the_path",
    "test_all_get_a_lock_whose_file_changes_while_they_wait_one_at_a_time",
    "test_content_of_the_lock_file_and_its_times_are_not_touched",
    "test_forks_while_threads_acquire_release_and_wait",
    "test_the_file_stays_after_a_release",
    "test_the_tutorials_code_runs_as_it_stands",
    # A marker is no lock of the kernel's: a copy of its descriptor keeps nothing.
    "test_a_copy_of_the_descriptor_keeps_the_lock_of_a_process_that_just_dies",
    "test_an_inherited_descriptor_would_be_seen_and_would_keep_the_lock",
    # There is no line for markers.
    "test_only_a_lock_of_the_turnstile_counts_as_a_line",
    "test_who_knows_of_no_line_excludes_and_is_excluded",
    # Controls with locks that are none.
    "test_a_waiter_that_trusts_its_old_file_is_found_out",
    "test_each_detector_of_overlaps_works_alone",
    "test_what_does_not_lock_is_found_out",
    # Long, and about the one wait loop that all locks have.
    "test_a_fork_after_a_contended_wait_finds_no_other_thread",
    "test_a_program_that_ends_while_daemons_wait_has_nothing_to_say",
    "test_a_wait_that_is_given_up_leaves_nothing_behind",
    "test_a_wait_goes_on_after_a_handler_that_returns",
    "test_many_waits_that_time_out_leave_nothing_behind_and_none_is_early",
    "test_the_others_keep_taking_turns_while_the_head_of_the_line_is_stopped",
    "test_threads_and_processes_exclude_each_other",
    "test_waiting_costs_next_to_nothing",
}

globals().update(
    soft_peers.laws(
        test_exclusion,
        test_exit,
        test_fork,
        test_processes,
        test_signals,
        test_tutorial,
        test_waiting,
        without=KERNEL_LOCKS_ONLY,
    ),
)
