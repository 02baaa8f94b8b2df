"""Damaged model folders are loaded or refused; see `mutators/artifact_files.py`."""

from __future__ import annotations

from mutators.artifact_files import ARTIFACTS
from mutators.mutator import property_test

test_damaged_model_folders = property_test(ARTIFACTS)
