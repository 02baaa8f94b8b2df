"""`evaluate`: runs a suite pair by pair, in one process or several, resumable."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import cv2

from featherglue.errors import UsageError
from featherglue.evaluation.examples import draw_examples
from featherglue.evaluation.openers import (
    Evaluable,
    Opener,
    describe,
    is_pipeline,
    make_opener,
    open_pipeline,
)
from featherglue.evaluation.pair_evaluation import PairEvaluator
from featherglue.evaluation.result import Evaluation
from featherglue.evaluation.result_cache import ResultLog
from featherglue.evaluation.suites import ImagePair, PairResult, Pipeline, Suite
from featherglue.machine import num_cores
from featherglue.processes import check_num_workers, worker_pool

Progress = Callable[[int, int], None]


def evaluate(
    pipeline: Evaluable,
    suite: Suite[Any, Any],
    *,
    jobs: int = 1,
    num_pairs: int | None = None,
    num_examples: int = 0,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model, a session or another pipeline on a suite.

    A pair fails if an image cannot be read or no model can be estimated. It counts with an
    infinite error and with ratios of 0. The metrics do not depend on `jobs`.

    Args:
        pipeline: name of a shipped model, folder of an artifact, `Session`, `SessionOpener`, or
            any object with `extract` and `match` (see `Pipeline`). Several processes need a name,
            a folder or an opener.
        suite: `HomographySuite`, `HPatchesSuite`, `PoseSuite`, or your own (see `Suite`).
        jobs: number of processes. They are spawned: a script needs `if __name__ == "__main__"`.
        num_pairs: evaluate this number of pairs from the start of the suite; None takes all.
        num_examples: number of best and of worst pairs whose matches are drawn into the result.
        cache: folder where features and results are stored. The same call resumes an interrupted
            one; results of changed images, settings, weights or code are not reused.
        progress: called with the number of finished pairs and of all pairs.

    Raises:
        PairListError: the suite's list is malformed.
        ImageError: the suite's folder is missing or holds no images.
        ArtifactError: no such model.
        UsageError: a number out of range; a pipeline that cannot be evaluated, cannot be opened in
            several processes, or cannot be identified by `cache`.
        OutputError: the cache cannot be written.
        ResourceError: the machine lacks memory or another resource; no pair counts as failed for
            that.
    """
    check_num_workers("jobs", jobs)
    if num_pairs is not None and num_pairs < 1:
        raise UsageError(f"`num_pairs` must be at least 1, not {num_pairs}")
    if num_examples < 0:
        raise UsageError(f"`num_examples` must be at least 0, not {num_examples}")
    pairs = suite.pairs()[:num_pairs]
    opener = make_opener(pipeline, jobs)
    opened = open_pipeline(opener)
    folder = None if cache is None else Path(cache)
    log = None if folder is None else ResultLog(folder, opened, suite)
    stored = {} if log is None else {pair.index: log.get(pair) for pair in pairs}
    results = [result for result in stored.values() if result is not None]
    missing = [pair for pair in pairs if stored.get(pair.index) is None]
    report = progress or (lambda done, total: None)
    report(len(results), len(pairs))
    for pair, result in _run(opener, opened, suite, missing, jobs, folder):
        if log is not None:
            log.add(pair, result)
        results.append(result)
        report(len(results), len(pairs))
    results.sort(key=lambda result: result.index)
    evaluation = Evaluation(
        suite=suite.name,
        settings=suite.settings(),
        source=suite.source(),
        model=describe(opened),
        summary=suite.summarize(results),
        results=tuple(results),
    )
    examples = draw_examples(opened, suite, evaluation, num_examples, cache=folder)
    return dataclasses.replace(evaluation, examples=examples)


def _run(
    opener: Pipeline | Opener,
    opened: Pipeline,
    suite: Suite[Any, Any],
    pairs: list[ImagePair],
    jobs: int,
    folder: Path | None,
) -> Iterator[tuple[ImagePair, PairResult]]:
    """Pairs and their results in the order in which they are finished."""
    jobs = min(jobs, len(pairs))
    if jobs <= 1:
        evaluator = PairEvaluator(opened, suite, folder)
        for pair in pairs:
            yield pair, evaluator(pair)
        return
    if is_pipeline(opener):
        raise UsageError(
            "with several `jobs` each process opens its own session: pass the name of a model, a "
            "SessionOpener, or an object with open()"
        )
    with worker_pool("jobs", jobs, _open_worker, opener, suite, folder, jobs) as pool:
        futures = {pool.submit(_evaluate_in_worker, pair): pair for pair in pairs}
        for future in as_completed(futures):
            yield futures[future], future.result()


_worker: list[PairEvaluator] = []  # of this process


def _open_worker(opener: Opener, suite: Suite[Any, Any], folder: Path | None, jobs: int) -> None:
    cv2.setNumThreads(max(1, num_cores() // jobs))
    _worker.append(PairEvaluator(open_pipeline(opener), suite, folder))


def _evaluate_in_worker(pair: ImagePair) -> PairResult:
    return _worker[0](pair)
