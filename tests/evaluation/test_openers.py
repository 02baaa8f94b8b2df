"""Descriptions of pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from featherglue.evaluation.openers import describe
from featherglue.session import load


def test_descriptions_contain_everything_that_affects_results(matching: Path) -> None:
    kinds: list[dict[str, Any]] = [
        {"features": "sift", "matcher": "nn"},
        {"features": "orb", "matcher": "nn"},
        {"features": "sift", "matcher": "nn", "max_keypoints": 7},
        {"features": "sift", "matcher": "nn", "refine": False},
        {"model": matching},
        {"model": matching, "matcher": "nn"},
        {"model": matching, "keypoint_threshold": 0.5},
        {"model": matching, "sinkhorn_iterations": 3},
    ]
    described = [describe(load(**kind)) for kind in kinds]
    assert len({json.dumps(description) for description in described}) == len(kinds)
    assert described[0]["name"] == "sift+nn"
    assert described[4]["name"] == "model" and described[5]["name"] == "model (superpoint+nn)"
    assert described[0]["extractor"] == described[3]["extractor"]
    assert described[4]["extractor"] == described[7]["extractor"] != described[6]["extractor"]
