"""Damaged files of collections are refused, or what is whole is read; see the mutator."""

from __future__ import annotations

from mutators.collection_files import COLLECTIONS
from mutators.mutator import property_test

test_damaged_collection_files = property_test(COLLECTIONS)
