"""Damaged configurations are read or refused; see `mutators/configurations.py`."""

from __future__ import annotations

from mutators.configurations import SETTINGS, TOML
from mutators.mutator import property_test

test_damaged_toml = property_test(TOML)
test_changed_settings = property_test(SETTINGS)
