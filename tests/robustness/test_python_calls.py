"""Calls with wrong arguments are refused; see `mutators/python_calls.py`."""

from __future__ import annotations

from mutators.mutator import property_test
from mutators.python_calls import ESTIMATION, FEATURES, LOADING

test_geometry_calls = property_test(ESTIMATION)
test_features = property_test(FEATURES)
test_session_options = property_test(LOADING)
