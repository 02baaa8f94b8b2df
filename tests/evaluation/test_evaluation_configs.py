"""Bounds of settings: all configurations raise the same error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from featherglue.benchmarking import BenchmarkConfig
from featherglue.collection.colmap import CameraOptions
from featherglue.errors import ConfigError
from featherglue.evaluation import (
    HomographyConfig,
    PoseConfig,
)
from featherglue.sensitivity.scoring import ScoringConfig


@pytest.mark.parametrize(
    "make",
    [
        lambda: HomographyConfig(threshold=0),
        lambda: HomographyConfig(seed=-1),
        lambda: HomographyConfig(iterations=0),
        lambda: HomographyConfig(confidence=1.0),
        lambda: PoseConfig(threshold=-1),
        lambda: PoseConfig(seed=-1),
        lambda: BenchmarkConfig(repetitions=0),
        lambda: ScoringConfig(num_pairs=0),
        lambda: ScoringConfig(max_keypoints=0),
        lambda: CameraOptions(mode="each"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError):
        make()
