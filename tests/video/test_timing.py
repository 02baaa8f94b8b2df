"""Medians and rates."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.video.timing import CountMedian, RunningMedian, StageTimes


def test_a_running_median_is_within_one_percent() -> None:
    median = RunningMedian()
    assert median.value() == 0
    values = np.random.default_rng(0).lognormal(3, 1, 1001)
    for value in values:
        median.add(float(value))
    assert median.value() == pytest.approx(np.median(values), rel=0.011)
    zeros = RunningMedian()
    for value in (0, 0, 5):
        zeros.add(value)
    assert zeros.value() == 0


def test_the_median_of_integers_is_exact() -> None:
    median = CountMedian()
    assert median.value() == 0
    for value in (512, 345, 0, 512, 371):
        median.add(value)
    assert median.value() == 371


def test_times_by_stage_and_rates() -> None:
    times = StageTimes(window=3)
    assert (times.rate(), times.overall_rate(), times.recent()) == (0.0, 0.0, {})
    for i, milliseconds in enumerate([100.0, 10.0, 10.0, 20.0, 30.0]):
        times.add({"match": milliseconds}, now=[0, 8, 9, 9.5, 10][i])
    assert times.recent() == {"match": 20.0}
    assert times.overall()["match"] == pytest.approx(20, rel=0.01)
    assert times.rate() == pytest.approx(3 / 2)
    assert times.overall_rate() == pytest.approx(4 / 10)
