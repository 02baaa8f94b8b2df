"""`evaluate`: accepted pipelines, several processes, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_cases import SIFT, homographies, plain
from scenes import Array, Oracle

import featherglue as fg
from featherglue.errors import ArtifactError, OutputError, UsageError
from featherglue.evaluation import SessionOpener, evaluate, result_cache


def test_names_folders_sessions_and_openers_have_equal_results(
    matching: Path, photos: Path
) -> None:
    suite = homographies(photos, None)
    expected = plain(evaluate(SessionOpener(matching), suite, num_pairs=1))
    for pipeline in (str(matching), matching, fg.load(matching)):
        assert plain(fg.evaluate(pipeline, suite, num_pairs=1)) == expected
    with pytest.raises(ArtifactError, match="nothing"):
        evaluate("nothing", suite)


def test_unsuitable_arguments_are_rejected(
    photos: Path, shift_and_turn: Array, tmp_path: Path
) -> None:
    suite = homographies(photos, None)
    for options in ({"jobs": 0}, {"num_pairs": 0}, {"num_examples": -1}):
        with pytest.raises(UsageError, match=f"`{next(iter(options))}` must be"):
            evaluate(SIFT, suite, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="object cannot be evaluated"):
        evaluate(object(), suite)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="SessionOpener"):
        evaluate(Oracle(shift_and_turn), suite, jobs=2)
    nameless = Oracle(shift_and_turn)
    del nameless.description
    assert evaluate(nameless, suite, num_pairs=1).model == {"name": "Oracle"}
    with pytest.raises(UsageError, match="description"):
        evaluate(nameless, suite, cache=tmp_path / "cache")


@pytest.mark.slow
def test_jobs_do_not_change_the_result(photos: Path) -> None:
    suite = homographies(photos, None)
    first = plain(evaluate(SIFT, suite))
    assert plain(evaluate(SIFT, suite)) == first
    steps: list[tuple[int, int]] = []
    assert plain(evaluate(SIFT, suite, jobs=2, progress=lambda *at: steps.append(at))) == first
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_num_pairs_takes_the_first_pairs(photos: Path) -> None:
    suite = homographies(photos, None)
    everything, two = evaluate(SIFT, suite), evaluate(SIFT, suite, num_pairs=2)
    assert [result.metrics for result in two.results] == [
        result.metrics for result in everything.results[:2]
    ]


@pytest.mark.slow
def test_a_network_in_several_processes(matching: Path, photos: Path) -> None:
    suite = homographies(photos, None)
    options = SessionOpener(model=str(matching), max_keypoints=64, threads=1)
    first = evaluate(options, suite)
    assert first.summary["matches"] > 0
    assert plain(evaluate(options, suite, jobs=2)) == plain(first)


def test_a_full_disk_ends_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, arrays: object) -> None:
        raise OutputError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(result_cache, "write_npz", fail)
    with pytest.raises(OutputError, match="No space left"):
        evaluate(SIFT, homographies(photos, None), cache=tmp_path / "cache")


WITH_WORKER = """
import os, sys, time
from pathlib import Path
from featherglue.evaluation import HomographySuite, evaluate

class Waiting:
    def open(self):
        return self
    def extract(self, image):
        print(os.getpid(), flush=True)
        while True:
            time.sleep(60)
    def match(self, features0, features1):
        raise AssertionError

class Opener:
    def open(self):
        return Waiting()

if __name__ == "__main__":
    evaluate(Opener(), HomographySuite(folder=sys.argv[1]), jobs=2)
"""


@pytest.mark.slow
def test_workers_end_with_their_parent(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WITH_WORKER)
    command = [sys.executable, str(script), str(photos)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert worker != parent.pid
        os.kill(parent.pid, signal.SIGKILL)
        # The pipe closes once every worker has ended.
        parent.communicate(timeout=60)
