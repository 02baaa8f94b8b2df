"""Damaged results and caches count as absent; see `mutators/stored_files.py`."""

from __future__ import annotations

from mutators.mutator import property_test
from mutators.stored_files import REPORTS, STORED

test_damaged_stored_files = property_test(STORED)
test_changed_results = property_test(REPORTS)
