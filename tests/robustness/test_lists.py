"""Damaged lists are read or refused, and hostile names fail alone; see `mutators/list_files.py`."""

from __future__ import annotations

from mutators.list_files import LISTS, NAMED
from mutators.mutator import property_test

test_damaged_lists = property_test(LISTS)
test_hostile_names = property_test(NAMED)
