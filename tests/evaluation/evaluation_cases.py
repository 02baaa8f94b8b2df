"""Suites, pipelines and cameras for the tests of evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scenes import Array

from featherglue.evaluation import Evaluation, HomographySuite, SessionOpener

SIZE = (160, 120)
SIFT = SessionOpener(features="sift", matcher="nn", max_keypoints=200)
K = np.array([[300.0, 0, 158.0], [0, 310.0, 121.0], [0, 0, 1]])
WriteList = Callable[[Array], Path]


def homographies(photos: Path, path: Path | None, **options: Any) -> HomographySuite:
    return HomographySuite(folder=photos, pair_file=path, size=SIZE, **options)


def plain(found: Evaluation) -> str:
    return json.dumps(found.to_dict(), allow_nan=False)


def pose(t: tuple[float, float, float]) -> Array:
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.array([0.1, -0.25, 0.05]))[0]
    T[:3, 3] = t
    return T
