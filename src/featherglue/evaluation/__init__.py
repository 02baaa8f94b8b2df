"""Evaluation of matching: suites of image pairs with a known relation.

    from featherglue.evaluation import HomographySuite, SessionOpener, evaluate

    suite = HomographySuite(folder="val", list_file="val/homographies.txt")
    result = evaluate(SessionOpener("fast", max_keypoints=1024), suite, jobs=2)
    result.summary["auc"]["5"]
    print(result.to_markdown())

`evaluate` takes a session, or any object with `extract(image)` and `match(features0, features1)`
(see `Matching`); what it is called in tables says its attribute `description`, such as
`{"name": "mine"}`. The suites are `HomographySuite`, `HPatchesSuite` and `PoseSuite`; an own one
has the methods of `Suite`. The measures are plain functions in `featherglue.geometry.metrics`.
"""

from __future__ import annotations

from featherglue.evaluation.homography_suite import HomographyConfig, HomographySuite
from featherglue.evaluation.hpatches_suite import HPatchesSuite
from featherglue.evaluation.methods import Opener, SessionOpener
from featherglue.evaluation.pose_suite import PoseConfig, PoseSuite
from featherglue.evaluation.result import Evaluation, markdown_table
from featherglue.evaluation.runner import evaluate
from featherglue.evaluation.suites import Matching, PairResult, Suite
from featherglue.evaluation.worst_pairs import draw_worst
from featherglue.types import MatchResult

__all__ = [
    "Evaluation",
    "HPatchesSuite",
    "HomographyConfig",
    "HomographySuite",
    "MatchResult",
    "Matching",
    "Opener",
    "PairResult",
    "PoseConfig",
    "PoseSuite",
    "SessionOpener",
    "Suite",
    "draw_worst",
    "evaluate",
    "markdown_table",
]
