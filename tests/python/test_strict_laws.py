"""What holds for FileLock among threads, processes and forks holds for StrictSoftFileLock: the same tests."""

from __future__ import annotations

import os

import pytest

import soft_peers
import test_exclusion
import test_fork

pytestmark = [
    pytest.mark.usefixtures("strict_instead"),
    pytest.mark.skipif(os.name != "posix", reason="most of it forks"),
]

NOT_OF_CLAIMS = {
    # The file at the path is the sentinel, and what is there otherwise is somebody's.
    "test_a_child_closes_no_file_of_its_own_by_mistake",
    "test_a_lock_file_that_its_holders_remove_still_excludes",
    "test_a_newcomer_locks_the_file_at_the_path",
    "test_a_waiter_follows_the_path_to_a_new_file",
    "test_a_waiter_goes_on_with_whatever_file_is_at_the_path",
    "test_content_of_the_lock_file_and_its_times_are_not_touched",
    "test_the_file_stays_after_a_release",
    # Somebody dies with the lock: its claim stays.
    "test_a_child_does_not_keep_the_lock_of_a_parent_it_outlives",
    "test_a_child_that_kept_a_descriptor_would_keep_the_lock",
    "test_a_child_waits_for_its_parents_release",
    # Controls with locks that are none.
    "test_a_waiter_that_trusts_its_old_file_is_found_out",
    "test_each_detector_of_overlaps_works_alone",
    "test_what_does_not_lock_is_found_out",
    # About what all locks have: the table of descriptors, and what is counted for whom.
    "test_a_child_has_no_descriptor_of_the_lock_file",
    "test_a_childs_garbage_collection_does_not_end_the_parents_hold",
    "test_a_fork_by_a_thread_while_another_one_holds",
    "test_a_grandchild_owns_nothing_either",
    "test_a_thread_that_holds_may_fork",
    # Long, and about the one wait loop and the one table of descriptors that all locks have.
    "test_forks_while_threads_acquire_release_and_wait",
    "test_threads_and_processes_exclude_each_other",
    "test_workers_of_a_pool_take_turns_with_the_lock_of_their_module",
}

globals().update(
    soft_peers.laws(test_exclusion, test_fork, without=NOT_OF_CLAIMS),
)
