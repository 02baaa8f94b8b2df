"""Pictures of matched pairs of a suite: correct matches green, wrong ones red."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.drawing import draw_matches
from featherglue.errors import ENVIRONMENT_FAULTS, FeatherglueError
from featherglue.evaluation.openers import Evaluable, make_opener, open_pipeline
from featherglue.evaluation.pair_evaluation import PairEvaluator
from featherglue.evaluation.result import Evaluation, Example
from featherglue.evaluation.suites import PairResult, Pipeline, Suite
from featherglue.io.files import write_image
from featherglue.machine import exhausted_resource
from featherglue.types import MatchResult

# Positions on the color scale of confidence: green for a correct match, red for twice the
# threshold and more.
_GREEN, _RED = 0.5, 0.95
_EXAMPLE_WIDTH, _JPEG_QUALITY = 960, 80


def draw_worst(
    pipeline: Evaluable,
    suite: Suite[Any, Any],
    evaluation: Evaluation,
    count: int,
    folder: str | os.PathLike[str],
    cache: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Draw the pairs with the largest errors and write the pictures.

    Args:
        pipeline: as in `evaluate`.
        suite: the suite of `evaluation`.
        evaluation: result of `pipeline` on `suite`.
        count: number of pairs. Pairs that cannot be read or matched are skipped.
        folder: folder of the pictures.
        cache: cache folder of the evaluation.

    Returns:
        The paths of the pictures, worst pair first: `01_<name>.png`, ….

    Raises:
        OutputError: a picture cannot be written.
    """
    opened = open_pipeline(make_opener(pipeline, jobs=1))
    ranked = evaluation.worst(len(evaluation.results))
    paths: list[Path] = []
    for result, picture in _draw(opened, suite, ranked, count, cache, max_side=1600):
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", result.name)
        path = Path(folder) / f"{len(paths) + 1:02d}_{name}.png"
        write_image(path, picture)
        paths.append(path)
    return paths


def draw_examples(
    pipeline: Pipeline,
    suite: Suite[Any, Any],
    evaluation: Evaluation,
    count: int,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[Example, ...]:
    """Draw the best and the worst pairs of an evaluation for its report.

    Args:
        pipeline: the evaluated pipeline.
        suite: the suite of `evaluation`.
        evaluation: result of `pipeline` on `suite`.
        count: number of best and of worst pairs. No pair is drawn twice.
        cache: cache folder of the evaluation.
    """
    examples: list[Example] = []
    drawn: set[int] = set()
    total = len(evaluation.results)
    ranked: dict[Literal["best", "worst"], list[PairResult]] = {
        "best": evaluation.best(total),
        "worst": evaluation.worst(total),
    }
    for kind, results in ranked.items():
        candidates = [result for result in results if result.index not in drawn]
        pictures = _draw(
            pipeline, suite, candidates, count, cache, max_side=_EXAMPLE_WIDTH, text=False
        )
        for result, picture in pictures:
            drawn.add(result.index)
            examples.append(
                Example(kind=kind, name=result.name, caption=_caption(result), jpeg=_jpeg(picture))
            )
    return tuple(examples)


def _draw(
    pipeline: Pipeline,
    suite: Suite[Any, Any],
    ranked: Sequence[PairResult],
    count: int,
    cache: str | os.PathLike[str] | None,
    *,
    max_side: int,
    text: bool = True,
) -> Iterator[tuple[PairResult, NDArray[np.uint8]]]:
    """The first `count` pairs that can be matched, and their pictures (H, W, 3) RGB.

    With `text`, a picture shows the name and the metrics of its pair.
    """
    if count == 0:
        return
    pairs = {pair.index: pair for pair in suite.pairs()}
    evaluator = PairEvaluator(pipeline, suite, None if cache is None else Path(cache))
    for result in ranked:
        try:
            views, matched = evaluator.match(pairs[result.index])
        except ENVIRONMENT_FAULTS:
            raise
        except (FeatherglueError, cv2.error) as error:
            if exhausted_resource(error):
                raise
            continue
        excess = np.clip(suite.normalized_errors(views, matched) - 1, 0, 1)
        shades = np.asarray(_GREEN + (_RED - _GREEN) * excess, np.float32)
        shaded = MatchResult(
            features0=matched.features0,
            features1=matched.features1,
            matches=dataclasses.replace(matched.matches, scores=shades),
            milliseconds={},
        )
        name = result.name.encode("ascii", "replace").decode()  # the font of OpenCV is ASCII
        lines = [name, _caption(result)] if text else []
        yield (
            result,
            draw_matches(shaded, views.image0, views.image1, lines=lines, max_width=max_side),
        )
        count -= 1
        if count == 0:
            return


def _caption(result: PairResult) -> str:
    metrics = result.metrics
    unit = "deg" if "rotation_error" in metrics else "px"
    error = f"error {metrics['error']:.1f} {unit}" if np.isfinite(metrics["error"]) else "failed"
    precision = 100 * metrics["precision"]
    return f"{error}, {metrics['matches']:.0f} matches, {precision:.0f} % correct"


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return np.asarray(encoded).tobytes()
