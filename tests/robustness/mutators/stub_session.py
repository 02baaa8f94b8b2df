"""A session without networks, for input that is damaged before a network would see it."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherglue.io.image import Image, load_gray
from featherglue.session import Session
from featherglue.types import Features, Matches, MatchResult


class StubSession(Session):
    """Finds the same four keypoints in every image and matches them in order."""

    def __init__(self) -> None:
        pass

    def extract(self, image: Image) -> Features:
        gray = load_gray(image)
        return Features(
            keypoints=np.array([[1, 1], [2, 1], [1, 2], [2, 2]], np.float32),
            scores=np.ones(4, np.float32),
            descriptors=np.ones((4, 2), np.float32),
            image_size=(gray.shape[1], gray.shape[0]),
        )

    def match(self, features0: Features, features1: Features) -> MatchResult:
        matches = Matches(
            indices=np.arange(4)[:, None].repeat(2, 1),
            scores=np.ones(4, np.float32),
            points0=features0.keypoints,
            points1=features1.keypoints,
            refined=np.zeros(4, np.bool_),
        )
        return MatchResult(features0=features0, features1=features1, matches=matches)

    def describe(self) -> dict[str, Any]:
        return {"name": "stub"}

    def fingerprint(self) -> str:
        return "0" * 16
