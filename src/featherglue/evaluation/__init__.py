"""Evaluation of matching on suites of image pairs with a known relation.

    import featherglue as fg
    from featherglue.evaluation import HomographySuite

    suite = HomographySuite(folder="val", pair_file="val/homographies.txt")
    result = fg.evaluate("fast", suite)
    result.summary["auc"]["5"]
    print(result.to_markdown())

`evaluate` also takes a `Session`, a `SessionOpener` and any object with `extract` and `match` (see
`Pipeline`). A suite of your own has the methods of `Suite`. The metrics are plain functions in
`featherglue.geometry.metrics`.
"""

from __future__ import annotations

from featherglue.evaluation.examples import draw_worst
from featherglue.evaluation.homography_suite import HomographyConfig, HomographySuite
from featherglue.evaluation.hpatches_suite import HPatchesSuite
from featherglue.evaluation.openers import Opener, SessionOpener
from featherglue.evaluation.pose_suite import PoseConfig, PoseSuite
from featherglue.evaluation.result import Evaluation, Example, markdown_table
from featherglue.evaluation.runner import evaluate
from featherglue.evaluation.suites import PairResult, Pipeline, Suite

__all__ = [
    "Evaluation",
    "Example",
    "HPatchesSuite",
    "HomographyConfig",
    "HomographySuite",
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
