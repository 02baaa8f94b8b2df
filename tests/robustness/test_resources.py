"""A full disk, little memory and few open files: errors of the machine are no results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, run
from typing import Any

import cv2
import numpy as np
import pytest
from kills import make_photographs

from featherglue.errors import ImageError, OutputError, ResourceError
from featherglue.evaluation.homography_suite import HomographySuite
from featherglue.evaluation.pair_evaluation import PairEvaluator
from featherglue.evaluation.runner import evaluate
from featherglue.io.image import read_gray
from featherglue.session import Session

resource = pytest.importorskip("resource")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return make_photographs(tmp_path / "photographs")


def limited(number: int, limit: int) -> Callable[[], None]:
    """A function for a new process that sets one of its limits."""

    def limit_process() -> None:
        resource.setrlimit(number, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return limit_process


def start(*arguments: object, **options: Any) -> CompletedProcess[str]:
    command = [sys.executable, "-m", "featherglue", *(str(argument) for argument in arguments)]
    return run(command, check=False, text=True, capture_output=True, **options)


@pytest.mark.slow
def test_a_full_disk_ends_an_evaluation_and_leaves_no_result(
    photographs: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    arguments = ("evaluate", "homography", "--images", photographs, "--cache", cache)
    arguments = (*arguments, "--num-pairs", 2, "--jobs", 2, "--json", "-")
    full = start(*arguments, preexec_fn=limited(resource.RLIMIT_FSIZE, 20_000))
    assert full.returncode == 1
    assert full.stderr.count("\n") == 1
    assert "cannot be written (File too large)" in full.stderr
    assert not [path for path in cache.rglob("*") if path.is_file()]
    roomy = start(*arguments)
    assert (roomy.returncode, roomy.stderr) == (0, "")
    assert json.loads(roomy.stdout)["failures"] == 0


@pytest.mark.slow
def test_a_full_disk_ends_the_matching_of_a_folder(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    full = start("match", photographs, "-o", out, preexec_fn=limited(resource.RLIMIT_FSIZE, 20_000))
    assert full.returncode == 1
    assert full.stderr.count("\n") == 1
    assert "(File too large)" in full.stderr
    assert [path for path in out.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_little_memory_is_an_error_not_a_failed_pair(photographs: Path, tmp_path: Path) -> None:
    done = start(
        *("evaluate", "homography", "--images", photographs, "--num-pairs", 1),
        *("--resize", 6000, "--json", tmp_path / "result.json", "--threads", 1),
        preexec_fn=limited(resource.RLIMIT_AS, 800_000_000),
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "not enough memory" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "result.json").exists()


class _Failing:
    """A session that fails with an error at every match."""

    description = {"name": "failing"}  # noqa: RUF012

    def __init__(self, session: Session, error: Exception) -> None:
        self._error, self.extract = error, session.extract

    def match(self, *_: object) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError("Unable to allocate 1 GiB"), ResourceError),
        (cv2.error("(-4:Insufficient memory) Failed to allocate 800 bytes"), ResourceError),
        (OSError(24, "Too many open files"), ResourceError),
        (OutputError("cache: cannot be written"), OutputError),
        (ResourceError("not enough memory"), ResourceError),
    ],
)
def test_errors_of_the_machine_end_an_evaluation(
    error: Exception, raised: type[Exception], session: Session, photographs: Path, tmp_path: Path
) -> None:
    suite = HomographySuite(folder=photographs)
    with pytest.raises(raised):
        evaluate(_Failing(session, error), suite, num_pairs=1, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.jsonl"))


@pytest.mark.parametrize("error", [cv2.error("singular"), np.linalg.LinAlgError("singular")])
def test_errors_of_a_pair_are_its_failure(
    error: Exception, session: Session, photographs: Path
) -> None:
    suite = HomographySuite(folder=photographs)
    result = PairEvaluator(_Failing(session, error), suite)(suite.pairs()[0])
    assert result.failure.endswith("singular")
    assert not result.unreadable


def test_too_many_open_files_are_no_unreadable_image(photographs: Path) -> None:
    path = next(photographs.iterdir())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 64
    held = [path.open("rb") for _ in range(8)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(used, 3), before[1]))
        with pytest.raises(ResourceError, match="too many open files"):
            read_gray(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for file in held:
            file.close()
    assert read_gray(path).shape == (240, 320)
    with pytest.raises(ImageError):
        read_gray(photographs / "no.png")
