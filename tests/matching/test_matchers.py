"""The matcher's warning of many keypoints."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from featherglue.errors import KeypointsWarning
from featherglue.matching.matchers import NetworkMatcher
from featherglue.matching.stopwatch import Stopwatch
from featherglue.options import ProcessingConfig
from featherglue.types import Features


class OneMatch:
    """A runtime whose matcher compares the first ten keypoints of each image."""

    name, threads = "fake", 1

    def extract(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def match(self, *arrays: np.ndarray) -> np.ndarray:
        return np.eye(10, dtype=np.float32) * 10


def features(count: int) -> Features:
    zeros = np.zeros(count, np.float32)
    return Features(
        keypoints=np.stack((zeros, zeros), 1),
        scores=zeros,
        descriptors=np.zeros((count, 4), np.float32),
        image_size=(10, 10),
    )


@pytest.mark.parametrize(
    ("runtime", "gigabytes", "silent"), [("onnxruntime", "1.7", 4096), ("native", "0.8", 6144)]
)
def test_many_keypoints_cause_a_warning(runtime: str, gigabytes: str, silent: int) -> None:
    running = OneMatch()
    running.name = runtime
    matcher = NetworkMatcher(running, ProcessingConfig(), 1.0, 4)
    message = f"matching 8,000 keypoints takes about {gigabytes} GB"
    with pytest.warns(KeypointsWarning, match=message):
        matcher(features(10), features(8000), Stopwatch())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(matcher(features(silent), features(10), Stopwatch())[0]) == 10
