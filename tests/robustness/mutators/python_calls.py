"""Calls of the Python interface with arguments of wrong types, shapes and values."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import featherglue as fg
from featherglue.session import Session
from mutators.mutator import Mutator

SIZE = (640, 480)
H = np.array([[0.9, -0.1, 30.0], [0.05, 1.1, -10.0], [1e-4, 0, 1]])
K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
ODD_NUMBERS = [0, -1, 1, 2, 0.5, 3.0, 1e-300, 1e300, 10**12, 10**400, -(10**30)]
ODD = [*ODD_NUMBERS, float("nan"), float("inf"), None, True, "3", b"3", [], {}, (1, 2), np.eye(2)]
odd = st.sampled_from(range(len(ODD)))
ESTIMATORS = ("homography", "fundamental", "pose")
POINTS = (
    "true",
    "random",
    "one",
    "line",
    "empty",
    "few",
    "nan",
    "inf",
    "far",
    "list",
    "text",
    "3d",
)
INTRINSICS = ("right", "zero", "wide", "vector", "nan", "singular", "list", "none")


def points(kind: str, seed: int) -> tuple[Any, Any]:
    """Matched points of a kind."""
    random = np.random.default_rng(seed)
    count = {"empty": 0, "few": int(random.integers(1, 9))}.get(kind, int(random.integers(9, 60)))
    first = random.random((count, 2)) * SIZE
    mapped = np.c_[first, np.ones(count)] @ H.T
    second = mapped[:, :2] / mapped[:, 2:]
    if kind == "random":
        second = random.random((count, 2)) * SIZE
    elif kind == "one":
        first, second = np.full_like(first, 50), np.full_like(second, 60)
    elif kind == "line":
        first[:, 1] = second[:, 1] = 5
    elif kind in ("nan", "inf", "far"):
        second[0] = {"nan": np.nan, "inf": np.inf, "far": 10.0 ** random.integers(4, 30)}[kind]
    elif kind == "list":
        return first.tolist(), second.tolist()
    elif kind == "text":
        return [["a", "b"]] * count, second
    elif kind == "3d":
        first = first[None]
    return first, second


def intrinsics(kind: str) -> Any:
    """An intrinsic matrix of a kind."""
    return {
        "right": K,
        "zero": np.diag([0.0, 500, 1]),
        "wide": np.diag([1e-5, 1e9, 1]),
        "vector": K[0],
        "nan": K * np.nan,
        "singular": np.ones((3, 3)),
        "list": K.tolist(),
        "none": None,
    }[kind]


def estimate(case: tuple[str, str, int, str, dict[str, int]], folder: Path) -> None:
    """Estimate a geometry; a returned one is finite and has a mask of the matches."""
    name, kind, seed, camera, given = case
    first, second = points(kind, seed)
    arguments = {key: ODD[value] for key, value in given.items()}
    if name == "pose":
        arguments.pop("iterations", None)
        found: Any = fg.estimate_relative_pose(
            first, second, intrinsics(camera), intrinsics("right"), **arguments
        )
    elif name == "homography":
        found = fg.estimate_homography(first, second, **arguments)
    else:
        found = fg.estimate_fundamental(first, second, **arguments)
    assert np.isfinite(found.model).all()
    assert found.inliers.shape == (len(second),)
    assert found.inliers.dtype == np.bool_


ESTIMATION = Mutator(
    name="geometry-calls",
    cases=st.tuples(
        st.sampled_from(ESTIMATORS),
        st.sampled_from(POINTS),
        st.integers(0, 10**6),
        st.sampled_from(("right", "right", *INTRINSICS)),
        st.dictionaries(
            st.sampled_from(
                ("threshold", "iterations", "confidence", "seed", "size1", "max_false_alarms")
            ),
            odd,
            max_size=1,
        ),
    ),
    use=estimate,
    num_tested=120,
    goal=3000,
)


@cache
def session() -> Session:
    """A session of the shipped model on one thread."""
    return fg.load("fast", threads=1, max_keypoints=64)


def features(seed: int, **changes: Any) -> Any:
    """A small set of features, with some of its fields replaced."""
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 40))
    descriptors = random.standard_normal((count, 64)).astype(np.float32)
    fields: dict[str, Any] = {
        "keypoints": (random.random((count, 2)) * SIZE).astype(np.float32),
        "scores": random.random(count).astype(np.float32),
        "descriptors": descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
        "image_size": SIZE,
    }
    return fg.Features(**(fields | changes))


def use_features(case: tuple[int, str, int, float, float], folder: Path) -> None:
    """Match and draw features with an odd field, a far keypoint or an odd index."""
    seed, field, value, x, y = case
    odd_field = {field: ODD[value]} if field in ("keypoints", "scores", "image_size") else {}
    first = features(seed, **odd_field)
    second = features(seed + 1)
    if len(second) and field == "far":
        with np.errstate(over="ignore"):
            second.keypoints[0] = x, y
        second = fg.Features(**vars(second))
    result = session().match(first, second)
    if field == "indices":
        arrays = dict(vars(result.matches))
        arrays["indices"] = arrays["indices"] + int(np.clip(np.nan_to_num(x), -1e9, 1e9))
        matches = fg.Matches(**arrays)
        result = fg.MatchResult(features0=first, features1=second, matches=matches)
    picture = fg.draw_matches(result, max_width=300)
    assert picture.dtype == np.uint8


FEATURES = Mutator(
    name="features",
    cases=st.tuples(
        st.integers(0, 10**6),
        st.sampled_from(("keypoints", "scores", "image_size", "far", "indices")),
        odd,
        st.floats(width=32),
        st.floats(width=32),
    ),
    use=use_features,
    num_tested=60,
)

OPTIONS = (
    "model",
    "options",
    "runtime",
    "threads",
    "features",
    "matcher",
    "search",
    "resize",
    "working_size",
    "tile",
    "spread",
    "max_keypoints",
    "keypoint_threshold",
    "nms_radius",
    "match_threshold",
    "consensus",
    "refine",
    "unknown",
)
MODELS = ("", "x" * 5000, "a\0b", "\udcff", "/", "fast/../fast", "weights\n")


def load(case: tuple[dict[str, int], int | None], folder: Path) -> None:
    """Load a model with odd options, or one of an odd name."""
    given, name = case
    arguments = {key: ODD[value] for key, value in given.items()}
    if name is not None:
        arguments["model"] = MODELS[name]
    loaded = fg.load(**arguments)
    assert isinstance(loaded, Session)


LOADING = Mutator(
    name="session-options",
    cases=st.tuples(
        st.dictionaries(st.sampled_from(OPTIONS), odd, min_size=1, max_size=2),
        st.none() | st.sampled_from(range(len(MODELS))),
    ),
    use=load,
    num_tested=60,
)
