"""What holds for one FileLock object holds for a SoftFileLock: the same tests, with the other class."""

from __future__ import annotations

import pytest

import soft_peers
import test_api
import test_paths
import test_permissions
import test_reentrancy
import test_singleton

pytestmark = pytest.mark.usefixtures("soft_instead")

KERNEL_LOCKS_ONLY = {
    # A lifetime means something to a soft lock.
    "test_a_lifetime_is_compared_after_it_was_dropped",
    "test_a_native_lock_warns_about_a_lifetime_and_drops_it",
    "test_setting_a_lifetime_warns_at_the_caller_and_drops_it",
    # A file that is there is a held lock, and its mode and its names are its holder's.
    "test_a_hard_link_is_the_same_lock",
    "test_a_lock_file_that_exists_needs_no_right_to_create_it",
    "test_a_mode_that_is_asked_for_is_exact",
    "test_an_existing_file_keeps_its_mode",
    "test_another_users_file_in_a_sticky_folder_is_refused",
    "test_no_permission_is_refused",
    "test_the_umask_applies_where_no_mode_is_asked_for",
}

globals().update(
    soft_peers.laws(test_api, test_paths, test_permissions, test_reentrancy, test_singleton, without=KERNEL_LOCKS_ONLY),
)
