"""What holds for subclasses and copies of a FileLock holds for those of a SoftFileLock: the same tests."""

from __future__ import annotations

import pytest

import soft_peers
import test_logging
import test_pickling
import test_subclassing

pytestmark = pytest.mark.usefixtures("soft_instead")

OF_CLASSES_MADE_EARLIER = {
    # The subclass is made with its module, from FileLock itself.
    "test_a_counting_subclass_drives_the_base_at_its_outermost_only",
    "test_a_held_lock_in_a_reference_cycle_is_released_when_collected",
    "test_a_subclass_without_options_takes_a_path",
    "test_every_way_in_and_out_goes_through_the_overridden_methods",
    "test_the_finalizer_goes_through_the_overridden_release",
}

globals().update(soft_peers.laws(test_logging, test_pickling, test_subclassing, without=OF_CLASSES_MADE_EARLIER))
