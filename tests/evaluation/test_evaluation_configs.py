"""Bounds of the settings of suites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from featherglue.errors import UsageError
from featherglue.evaluation import (
    HomographyConfig,
    PoseConfig,
)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HomographyConfig(threshold=0),
        lambda: HomographyConfig(seed=-1),
        lambda: HomographyConfig(iterations=0),
        lambda: HomographyConfig(confidence=1.0),
        lambda: PoseConfig(threshold=-1),
        lambda: PoseConfig(seed=-1),
    ],
)
def test_settings_out_of_range(make: Callable[[], Any]) -> None:
    with pytest.raises(UsageError):
        make()
