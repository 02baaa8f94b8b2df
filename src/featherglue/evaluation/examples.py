"""Pictures of the pairs that went worst."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from featherglue.drawing import draw_matches
from featherglue.evaluation.openers import Evaluable, open_pipeline
from featherglue.evaluation.result import Evaluation
from featherglue.evaluation.result_cache import FeatureStore
from featherglue.evaluation.runner import match_views
from featherglue.evaluation.suites import PairResult, Suite
from featherglue.io.files import write_image
from featherglue.types import MatchResult

# Places on the colour scale: green for what is correct, from there to red as errors double.
_GREEN, _RED = 0.5, 0.95


def draw_worst(
    session: Evaluable,
    suite: Suite[Any, Any],
    evaluation: Evaluation,
    count: int,
    folder: str | Path,
    cache: str | Path | None = None,
) -> list[Path]:
    """Draw the pairs with the largest errors, correct matches green and wrong ones red.

    Args:
        evaluation: of this session on this suite. cache: the folder that it was run with.
        count: how many of those whose images can be read.

    Returns:
        the pictures, the worst first: `01_<name>.png`, ….

    Raises:
        OutputError: a picture cannot be written.
    """
    tasks = {task.index: task for task in suite.pairs()}
    readable = [result for result in evaluation.worst(len(tasks)) if not result.unreadable]
    matching = open_pipeline(session)
    store = FeatureStore(matching, None if cache is None else Path(cache))
    paths = []
    for rank, result in enumerate(readable[:count], 1):
        views, matched = match_views(store, matching, suite, tasks[result.index])
        excess = np.clip(suite.normalized_errors(views, matched) - 1, 0, 1)
        shades = np.asarray(_GREEN + (_RED - _GREEN) * excess, np.float32)
        shown = MatchResult(
            features0=matched.features0,
            features1=matched.features1,
            matches=dataclasses.replace(matched.matches, scores=shades),
            milliseconds={},
        )
        picture = draw_matches(shown, views.image0, views.image1, lines=_caption(result))
        path = Path(folder) / f"{rank:02d}_{re.sub(r'[^A-Za-z0-9.-]+', '-', result.name)}.png"
        write_image(path, picture)
        paths.append(path)
    return paths


def _caption(result: PairResult) -> list[str]:
    """OpenCV's letters are ASCII."""
    numbers = result.metrics
    unit = "deg" if "rotation_error" in numbers else "px"
    error = f"error {numbers['error']:.1f} {unit}" if np.isfinite(numbers["error"]) else "failed"
    return [
        result.name.encode("ascii", "replace").decode(),
        f"{error}, {numbers['matches']:.0f} matches, {100 * numbers['precision']:.0f} % correct",
    ]
