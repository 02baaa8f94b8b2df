"""Running a suite: pair by pair, in one process or several, resumable."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from featherglue.errors import FeatherglueError, ImageError, UsageError
from featherglue.evaluation.openers import Evaluable, Opener, describe, open_pipeline
from featherglue.evaluation.result import Evaluation
from featherglue.evaluation.result_cache import FeatureStore, ResultLog
from featherglue.evaluation.suites import ImagePair, PairResult, Pipeline, Suite
from featherglue.machine import cores
from featherglue.types import MatchResult

Progress = Callable[[int, int], None]


def evaluate(
    session: Evaluable,
    suite: Suite[Any, Any],
    *,
    jobs: int = 1,
    limit: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a session, or anything like it, on a suite.

    A pair of which an image cannot be read, or for which no model can be estimated, fails: it
    counts with an infinite error and shares of 0. The same arguments give the same numbers,
    whatever `jobs` is.

    Args:
        session: has `extract` and `match` (see `Pipeline`), or `open`, which gives such a thing
            (see `SessionOpener`) and which several jobs need.
        jobs: processes. They are spawned: a script needs `if __name__ == "__main__"`.
        limit: evaluate the first pairs only.
        cache: folder where features and results are kept; the same call goes on where an earlier
            one was stopped.
        progress: called with the number of pairs done and of all.

    Raises:
        PairListError: the suite's list is malformed.
        ImageError: the suite's folder is missing or has nothing of the kind in it.
        UsageError: a number out of range; several jobs, or a cache, with an object that cannot
            have them.
        OutputError: the cache cannot be written.
    """
    if jobs < 1 or (limit is not None and limit < 1):
        raise UsageError("jobs and limit must be at least 1")
    tasks = suite.pairs()[:limit]
    matching = open_pipeline(session)
    folder = None if cache is None else Path(cache)
    log = None if folder is None else ResultLog(folder, matching, suite)
    known = {} if log is None else {task.index: log.get(task) for task in tasks}
    results = [result for result in known.values() if result is not None]
    left = [task for task in tasks if known.get(task.index) is None]
    report = progress or (lambda done, total: None)
    report(len(results), len(tasks))
    for task, result in _run(session, matching, suite, left, jobs, folder):
        if log is not None:
            log.add(task, result)
        results.append(result)
        report(len(results), len(tasks))
    results.sort(key=lambda result: result.index)
    return Evaluation(
        suite=suite.name,
        settings=suite.settings(),
        source=suite.source(),
        model=describe(matching),
        summary=suite.summarize(results),
        results=tuple(results),
    )


def match_views(
    store: FeatureStore, matching: Pipeline, suite: Suite[Any, Any], task: ImagePair
) -> tuple[Any, MatchResult]:
    """The views of a task, and what is found in them.

    Raises:
        ImageError: an image cannot be read.
    """
    views = suite.views(task)
    features0, features1 = store.extract(views.image0), store.extract(views.image1)
    return views, matching.match(features0, features1)


class _Worker:
    """Turns tasks into results."""

    def __init__(self, matching: Pipeline, suite: Suite[Any, Any], folder: Path | None) -> None:
        self._matching, self._suite = matching, suite
        self._store = FeatureStore(matching, folder)

    def __call__(self, task: ImagePair) -> PairResult:
        try:
            views, matched = match_views(self._store, self._matching, self._suite, task)
            numbers, failure = self._suite.measure(views, matched)
            unreadable = False
        except ImageError as error:
            numbers, failure, unreadable = self._suite.unreadable(), str(error), True
        except (FeatherglueError, cv2.error, np.linalg.LinAlgError) as error:
            reason = f"{type(error).__name__}: {error}"
            numbers, failure, unreadable = self._suite.unreadable(), reason, False
        return PairResult(
            index=task.index,
            name=task.name,
            group=task.group,
            metrics=numbers,
            failure=failure,
            unreadable=unreadable,
        )


def _run(
    session: Evaluable,
    matching: Pipeline,
    suite: Suite[Any, Any],
    tasks: list[ImagePair],
    jobs: int,
    folder: Path | None,
) -> Iterator[tuple[ImagePair, PairResult]]:
    """Results in the order in which they are ready."""
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        worker = _Worker(matching, suite, folder)
        for task in tasks:
            yield task, worker(task)
        return
    if session is matching:
        raise UsageError(
            "several jobs open a session each: pass SessionOpener(...), or something with open()"
        )
    executor = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(cast("Opener", session), suite, folder, jobs),
    )
    try:
        futures = {executor.submit(_work, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise FeatherglueError(
            "a worker process died, possibly out of memory; use a smaller `jobs` "
            "(with `cache`, the next run continues where this one stopped)"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


_of_this_process: list[_Worker] = []


def _start(opener: Opener, suite: Suite[Any, Any], folder: Path | None, jobs: int) -> None:
    """Prepare a spawned process; an interruption is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(max(1, cores() // jobs))
    _of_this_process.append(_Worker(open_pipeline(opener), suite, folder))


def _work(task: ImagePair) -> PairResult:
    return _of_this_process[0](task)
