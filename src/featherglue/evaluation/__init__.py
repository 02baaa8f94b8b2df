"""Evaluation of matching: suites of image pairs with a known relation.

    from featherglue.evaluation import HomographySuite, SessionOpener, evaluate

    suite = HomographySuite(folder="val", pair_file="val/homographies.txt")
    result = evaluate(SessionOpener("fast", max_keypoints=1024), suite, jobs=2)
    result.summary["auc"]["5"]
    print(result.to_markdown())

`evaluate` takes a session, or any object with `extract(image)` and `match(features0, features1)`
(see `Pipeline`); what it is called in tables says its attribute `description`, such as
`{"name": "mine"}`. The suites are `HomographySuite`, `HPatchesSuite` and `PoseSuite`; an own one
has the methods of `Suite`. The measures are plain functions in `featherglue.geometry.metrics`.
"""

from __future__ import annotations

from featherglue.evaluation.examples import draw_worst
from featherglue.evaluation.homography_suite import HomographyConfig, HomographySuite
from featherglue.evaluation.hpatches_suite import HPatchesSuite
from featherglue.evaluation.openers import Opener, SessionOpener
from featherglue.evaluation.pose_suite import PoseConfig, PoseSuite
from featherglue.evaluation.result import Evaluation, markdown_table
from featherglue.evaluation.runner import evaluate
from featherglue.evaluation.suites import PairResult, Pipeline, Suite
from featherglue.types import MatchResult

__all__ = [
    "Evaluation",
    "HPatchesSuite",
    "HomographyConfig",
    "HomographySuite",
    "MatchResult",
    "Opener",
    "PairResult",
    "Pipeline",
    "PoseConfig",
    "PoseSuite",
    "SessionOpener",
    "Suite",
    "draw_worst",
    "evaluate",
    "markdown_table",
]
