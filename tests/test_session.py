"""Sessions: extraction, matching, options and errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import featherglue
from featherglue.artifact.registry import shipped_models
from featherglue.config import ArchitectureConfig, SuperGlueConfig
from featherglue.errors import (
    ArtifactError,
    ConfigError,
    FeatherglueError,
    ImageError,
    ResourceError,
    UsageError,
)
from featherglue.geometry.projection import corner_error
from featherglue.models.model import Model
from featherglue.session import Session, load
from featherglue.types import Features, Matches

SHIFT = np.array([[1.0, 0, -24], [0, 1, -16], [0, 0, 1]])
STAGES = ["read", "resize", "extractor", "decode", "matcher", "sinkhorn", "refine"]


def views(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two crops of one photograph, under SHIFT."""
    return gray[:224, :288], gray[16:240, 24:312]


def check_features(features: Features, image: np.ndarray, width: int = 16) -> None:
    """Check the invariants of features: shapes, ranges, order and norms."""
    height, columns = image.shape[:2]
    count = len(features)
    assert features.image_size == (columns, height)
    assert features.keypoints.shape == (count, 2)
    assert features.descriptors.shape == (count, width)
    assert (features.keypoints >= -0.5).all()
    assert (features.keypoints <= (columns - 0.5, height - 0.5)).all()
    assert (np.diff(features.scores) <= 0).all()
    assert ((features.scores >= 0) & (features.scores <= 1)).all()
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-4)


def some(features: Features, count: int) -> Features:
    """The `count` strongest features."""
    return dataclasses.replace(
        features,
        keypoints=features.keypoints[:count],
        scores=features.scores[:count],
        descriptors=features.descriptors[:count],
    )


def precision(matches: Matches, H: np.ndarray, within: float = 1.5) -> float:
    mapped = np.c_[matches.points0, np.ones(len(matches))] @ H.T
    error = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - matches.points1, axis=1)
    return float((error < within).mean())


# --- matching -------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime", "torch"])
def test_two_views_of_one_scene(runtime: Any, matching: Path, gray: np.ndarray) -> None:
    session = load(matching, runtime=runtime, threads=1, search="off", guided_matching=False)
    result = session(*views(gray))
    matches = result.matches
    assert len(matches) > 150
    assert precision(matches, SHIFT) > 0.9
    assert list(result.milliseconds) == STAGES
    assert all(value >= 0 for value in result.milliseconds.values())
    homography = result.homography()
    assert corner_error(homography.model, SHIFT, (288, 224)) < 0.5
    assert homography.inliers.shape == (len(matches),)
    np.testing.assert_array_equal(result.homography().model, homography.model)
    indices = matches.indices
    assert len(np.unique(indices[:, 0])) == len(np.unique(indices[:, 1])) == len(matches)
    np.testing.assert_array_equal(matches.points0, result.features0.keypoints[indices[:, 0]])
    kept = ~matches.refined
    np.testing.assert_array_equal(
        matches.points1[kept], result.features1.keypoints[indices[kept, 1]]
    )
    assert (matches.scores > 0.2).all()
    assert (matches.scores <= 1 + 1e-5).all()


def test_the_runtimes_agree(matching: Path, gray: np.ndarray) -> None:
    first, second = (
        load(matching, runtime=runtime, search="off")(*views(gray)).matches
        for runtime in ("onnxruntime", "torch")
    )
    pairs = [set(map(tuple, m.points0.round(2).tolist())) for m in (first, second)]
    assert len(pairs[0] & pairs[1]) > 0.97 * max(map(len, pairs))


def test_single_steps_equal_the_whole_session(session: Session, gray: np.ndarray) -> None:
    image0, image1 = views(gray)
    whole = session(image0, image1)
    features0, features1 = session.extract(image0), session.extract(image1)
    decoded = [session.decode(session.run_extractor(image)) for image in (image0, image1)]
    for pair in ((features0, features1), decoded):
        matches = session.match(*pair).matches
        for name in ("indices", "scores", "points0", "points1", "refined"):
            np.testing.assert_array_equal(getattr(matches, name), getattr(whole.matches, name))


def test_paths_and_arrays_have_equal_matches(
    session: Session, gray: np.ndarray, shifted: tuple[Path, Path]
) -> None:
    arrays = session(*views(gray)).matches
    for paths in (shifted, tuple(map(str, shifted))):
        matches = session(*paths).matches
        np.testing.assert_array_equal(matches.points0, arrays.points0)
        np.testing.assert_array_equal(matches.points1, arrays.points1)


def test_color_and_other_dtypes_equal_gray(session: Session, color: np.ndarray) -> None:
    luminance = cv2.cvtColor(color, cv2.COLOR_RGB2GRAY)
    expected = session.extract(luminance)
    for image in (
        color,
        np.dstack((color, np.full(color.shape[:2], 9, np.uint8))),
        luminance[..., None],
        luminance.astype(np.uint16) * 257,
        luminance / 255,
        color[::-1][::-1],
    ):
        features = session.extract(image)
        np.testing.assert_array_equal(features.keypoints, expected.keypoints)
        np.testing.assert_array_equal(features.descriptors, expected.descriptors)
    assert features.image is not None
    np.testing.assert_array_equal(features.image, luminance)


def test_refinement_needs_the_images(session: Session, gray: np.ndarray) -> None:
    features0, features1 = (session.extract(view) for view in views(gray))
    with_images = session.match(features0, features1).matches
    assert with_images.refined.any()
    for missing in ((True, False), (False, True), (True, True)):
        pair = [
            dataclasses.replace(f, image=None) if gone else f
            for f, gone in zip((features0, features1), missing, strict=True)
        ]
        matches = session.match(*pair).matches
        assert not matches.refined.any()
        np.testing.assert_array_equal(matches.indices, with_images.indices)
        np.testing.assert_array_equal(matches.points1, features1.keypoints[matches.indices[:, 1]])


def test_refinement_can_be_disabled(matching: Path, gray: np.ndarray) -> None:
    result = load(matching, refine=False, search="off")(*views(gray))
    assert not result.matches.refined.any()
    assert "refine" not in result.milliseconds


# --- images of all kinds --------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        (224, 288),
        (223, 287),
        (101, 57),
        (33, 250),
        (9, 9),
        (8, 8),
        (7, 40),
        (3, 3),
        (1, 1),
        (1, 300),
    ],
)
def test_any_size(shape: tuple[int, int], session: Session, gray: np.ndarray) -> None:
    image = gray[: shape[0], : shape[1]]
    features = session.extract(image)
    check_features(features, image)
    if min(shape) > 30:
        assert len(features) > 10
        assert len(session(image, image).matches) > 10
    result = session(image, gray[:100, :100])
    assert len(result.matches) <= len(features)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_a_blank_image_has_no_features(value: int, matching: Path, gray: np.ndarray) -> None:
    # The random network gives a constant pattern on a blank image; the threshold is above it.
    session = load(matching, keypoint_threshold=0.9)
    blank = np.full((60, 80), value, np.uint8)
    features = session.extract(blank)
    assert len(features) == 0
    check_features(features, blank)
    other = load(matching).extract(gray)
    for pair in ((features, other), (other, features), (features, features)):
        matches = session.match(*pair).matches
        assert len(matches) == 0
        assert matches.indices.shape == matches.points0.shape == matches.points1.shape == (0, 2)
        assert matches.indices.dtype == np.int64
    result = session(blank, blank)
    assert len(result.matches) == 0
    with pytest.raises(featherglue.FeatherglueError, match="at least"):
        result.homography()


@pytest.mark.parametrize("kind", ["sift", "orb"])
def test_a_blank_image_has_no_classical_features(kind: Any) -> None:
    session = load(features=kind, matcher="nn")
    result = session(np.full((60, 80), 9, np.uint8), np.full((50, 50), 200, np.uint8))
    assert len(result.features0) == len(result.matches) == 0


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_few_keypoints(
    runtime: Any, counts: tuple[int, int], matching: Path, gray: np.ndarray
) -> None:
    session = load(matching, runtime=runtime, search="off")
    features = session.extract(gray)
    matches = session.match(some(features, counts[0]), some(features, counts[1])).matches
    assert len(matches) <= min(counts)
    if counts == (1, 1):
        assert matches.indices.tolist() == [[0, 0]]  # the very same keypoint


def test_unreadable_images(session: Session, tmp_path: Path, gray: np.ndarray) -> None:
    for image in (tmp_path / "missing.png", tmp_path, np.zeros((0, 5), np.uint8), gray[0]):
        with pytest.raises(ImageError):
            session.extract(image)
        with pytest.raises(ImageError):
            session(gray, image)


def test_input_images_are_not_modified(session: Session, gray: np.ndarray) -> None:
    image = gray.copy()
    session(image, image)
    np.testing.assert_array_equal(image, gray)


# --- sizes ----------------------------------------------------------------------------------


def test_too_large_images_are_rejected(matching: Path) -> None:
    huge = np.broadcast_to(np.zeros(1, np.uint8), (8193, 8192))
    with pytest.raises(ImageError, match=r"8192×8193 pixels .*resize"):
        load(matching, resize=-1).extract(huge)
    with pytest.raises(ConfigError, match="8192"):
        load("fast", resize=(8193, 8))


def test_out_of_memory_is_a_featherglue_error(
    matching: Path, gray: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def run(self, *_: object) -> None:
            raise RuntimeError("bad allocation")

    session = load(matching, runtime="onnxruntime")
    runtime = session.extractor.runtime  # type: ignore[attr-defined]
    monkeypatch.setitem(runtime._sessions, "extractor", Failing())
    with pytest.raises(ResourceError, match=r"extractor runs on 1×1×.*resize"):
        session.extract(gray)


@pytest.mark.parametrize("resize", [(160, 128), (200,), (97, 151), (640,)])
def test_keypoints_of_resized_images_are_in_original_pixels(
    resize: tuple[int, ...], matching: Path, gray: np.ndarray
) -> None:
    session = load(matching, resize=resize)
    features = session.extract(gray)
    check_features(features, gray)
    assert features.image is not None
    assert features.image.shape == gray.shape
    width, height = {1: (resize[0], resize[0] * 256 // 320)}.get(len(resize), resize)
    scale = np.array([width / 320, height / 256])
    small = cv2.resize(
        gray,
        (width, height),
        interpolation=cv2.INTER_AREA if scale.prod() < 1 else cv2.INTER_LINEAR,
    )
    direct = load(matching).extract(small)
    expected = (direct.keypoints + 0.5) / scale - 0.5
    np.testing.assert_allclose(features.keypoints, expected, atol=1e-3)
    np.testing.assert_array_equal(features.descriptors, direct.descriptors)


def test_resize_minus_one_keeps_the_size(matching: Path, gray: np.ndarray) -> None:
    expected = load(matching).extract(gray).keypoints
    for resize in ((), (-1,), [-1], (320, 256)):
        np.testing.assert_array_equal(
            load(matching, resize=resize).extract(gray).keypoints, expected
        )


def test_matches_of_resized_images_are_in_original_pixels(matching: Path, gray: np.ndarray) -> None:
    session = load(matching, resize=(144, 112))  # half of each crop, moved by whole cells
    result = session(gray[:224, :288], gray[16:240, 32:320])
    H = result.homography().model
    assert len(result.matches) > 30
    truth = np.array([[1.0, 0, -32], [0, 1, -16], [0, 0, 1]])
    assert corner_error(H, truth, (288, 224)) < 1


# --- options --------------------------------------------------------------------------------


def test_overrides(matching: Path, session: Session, gray: np.ndarray) -> None:
    plain = session.extract(gray)
    few = load(matching, max_keypoints=20).extract(gray)
    np.testing.assert_array_equal(few.keypoints, plain.keypoints[:20])
    everything = load(matching, max_keypoints=-1).extract(gray)
    assert len(everything) > 512 == len(plain)
    picky = load(matching, max_keypoints=-1, keypoint_threshold=0.3).extract(gray)
    assert 0 < len(picky) < len(everything)
    assert picky.scores.min() > 0.3
    wide = load(matching, nms_radius=12).extract(gray)
    assert 0 < len(wide) < len(everything) / 2
    whole = load(matching, subpixel=False).extract(gray)
    np.testing.assert_array_equal(whole.keypoints, whole.keypoints.round())
    assert np.abs(plain.keypoints - plain.keypoints.round()).max() > 0.2
    strict = load(matching, match_threshold=0.6, search="off")(*views(gray)).matches
    assert strict.scores.min() > 0.6
    assert 0 < len(strict) < len(session(*views(gray)).matches)
    once = load(matching, sinkhorn_iterations=1, search="off")(*views(gray)).matches
    assert not np.array_equal(once.scores, session(*views(gray)).matches.scores)


def test_overrides_do_not_change_the_artifact(matching: Path) -> None:
    session = load(matching, max_keypoints=7, resize=[64, 48], refine=False)
    processing = session.processing
    assert (processing.max_keypoints, processing.resize, processing.refine) == (7, (64, 48), False)
    assert session.artifact is not None
    assert session.artifact.processing.max_keypoints == 512


def test_number_of_threads_does_not_change_matches(matching: Path, gray: np.ndarray) -> None:
    session = load(matching, threads=2, match_threshold=0.05)
    other = session.with_threads(1)
    assert (session.threads, other.threads, other.processing) == (2, 1, session.processing)
    assert session.runtime == other.runtime
    one, two = (s(gray, gray[8:, 8:]).matches for s in (other, session))
    assert len(one) > 0
    np.testing.assert_array_equal(one.points1, two.points1)
    np.testing.assert_array_equal(one.scores, two.scores)
    with pytest.raises(UsageError, match=r"threads must be in \[1, "):
        session.with_threads(0)


@pytest.mark.parametrize("kind", [{"features": "sift", "matcher": "nn"}, {"matcher": "nn"}])
def test_number_of_threads_of_other_methods(kind: dict[str, Any], gray: np.ndarray) -> None:
    session = load(**kind)
    other = session.with_threads(1)
    np.testing.assert_array_equal(other.extract(gray).keypoints, session.extract(gray).keypoints)
    assert type(other.matcher) is type(session.matcher)
    assert (other.threads, other.runtime) == (1, session.runtime)
    with pytest.raises(UsageError, match=r"threads must be in \[1, "):
        session.with_threads(0)


def test_keypoint_threshold_applies_to_all_keypoints(
    matching: Path, tmp_path: Path, gray: np.ndarray
) -> None:
    model = Model.load(matching)
    few = dataclasses.replace(
        model.processing, max_keypoints=-1, high_threshold_after=5, high_keypoint_threshold=1.0
    )
    dataclasses.replace(model, processing=few).save(tmp_path / "few")
    session = load(tmp_path / "few")
    assert len(session.extract(gray)) == 5
    chosen = load(tmp_path / "few", keypoint_threshold=0.001)
    again = session.with_settings(keypoint_threshold=0.001)
    assert len(chosen.extract(gray)) == len(again.extract(gray)) > 50
    both = session.with_settings(keypoint_threshold=0.001, high_keypoint_threshold=1.0)
    assert len(both.extract(gray)) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"features": "surf"},
        {"matcher": "lightglue"},
        {"runtime": "cuda"},
        {"threads": 0},
        {"max_keypoints": 0},
        {"resize": (3, 3)},
        {"keypoint_threshold": 7.0},
        {"match_threshold": -1.0},
        {"nms_radius": -2},
        {"sinkhorn_iterations": 0},
    ],
)
def test_unknown_options_and_values_are_rejected(options: dict[str, Any], matching: Path) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        load(matching, **options)


def test_unknown_runtime_is_rejected_without_networks() -> None:
    with pytest.raises(UsageError, match="cuda"):
        load(features="sift", matcher="nn", runtime="cuda")  # type: ignore[arg-type]


def test_missing_models(tmp_path: Path) -> None:
    for model in ("no-such-model", tmp_path / "nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(ArtifactError, match="expected a folder"):
            load(model)
    with pytest.raises(ArtifactError, match="not a featherglue model"):
        load(tmp_path)
    for model in ("x" * 5000, "a\0b"):
        with pytest.raises(ArtifactError, match=r"no model '.{3,220}: expected a folder"):
            load(model)
    for wrong in (None, "", b"fast", 3):
        with pytest.raises(UsageError, match="model must be a name or a path, not"):
            load(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="options must be SessionOptions, not dict"):
        load("fast", {"resize": 640})  # type: ignore[arg-type]


def test_images_in_place_of_features(photographs: dict[str, np.ndarray]) -> None:
    session = load("fast", threads=1)
    features = session.extract(photographs["camera"])
    for given, message in (
        ((features, photographs["camera"]), "features1 must be Features, not ndarray"),
        (("a.jpg", features), "features0 must be Features, not str: extract the image first"),
        (("a.jpg", "b.jpg"), "features0 .* call the session itself with both images"),
    ):
        with pytest.raises(UsageError, match=message):
            session.match(*given)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"must be a path or an array .*, not Features"):
        session(features, features)  # type: ignore[arg-type]


def test_models_without_extractor_or_matcher(models: dict[str, Model], tmp_path: Path) -> None:
    whole = models["one-head"]
    dataclasses.replace(whole, matcher=None).save(tmp_path / "extractor")
    dataclasses.replace(whole, extractor=None).save(tmp_path / "matcher")
    with pytest.raises(UsageError, match="no matcher; use `matcher="):
        load(tmp_path / "extractor")
    with pytest.raises(UsageError, match="no extractor; use `features="):
        load(tmp_path / "matcher")
    load(tmp_path / "extractor", matcher="nn")
    with pytest.raises(UsageError, match=r"has 128-d descriptors, but .* takes 16-d ones"):
        load(tmp_path / "matcher", features="sift")


def test_superglue_on_sift_features(tmp_path: Path, gray: np.ndarray) -> None:
    config = SuperGlueConfig(descriptor_dim=128, width=8, keypoint_encoder=(8,), layers=())
    Model.build(ArchitectureConfig(matcher=config)).save(tmp_path / "model")
    session = load(tmp_path / "model", features="sift", match_threshold=0.0)
    result = session(*views(gray))
    assert result.features0.descriptors.shape[1] == 128
    assert "sinkhorn" in result.milliseconds


# --- classical and mixed --------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "width"), [("sift", 128), ("orb", 256)])
def test_classical_features_with_nearest_neighbors(kind: Any, width: int, gray: np.ndarray) -> None:
    session = load(features=kind, matcher="nn", max_keypoints=300)
    assert session.artifact is None
    result = session(*views(gray))
    check_features(result.features0, views(gray)[0], width)
    assert 50 < len(result.features0) <= 300
    assert len(result.matches) > 50
    assert precision(result.matches, SHIFT) > 0.8
    assert corner_error(result.homography().model, SHIFT, (288, 224)) < 0.5


def test_superpoint_with_nearest_neighbors(matching: Path, gray: np.ndarray) -> None:
    result = load(matching, matcher="nn")(*views(gray))
    assert precision(result.matches, SHIFT) > 0.7
    assert len(result.matches) > 150


def test_descriptors_of_different_widths_are_rejected(session: Session, gray: np.ndarray) -> None:
    sift = load(features="sift", matcher="nn").extract(gray)
    superpoint = session.extract(gray)
    with pytest.raises(UsageError, match="128 and 16"):
        session.match(sift, superpoint)
    with pytest.raises(FeatherglueError):  # equal widths, but not that of this matcher
        session.match(sift, sift)


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ({"features": "sift"}, {"keypoint_threshold": 0.1}),
        ({"features": "orb"}, {"nms_radius": 3}),
        ({"features": "sift"}, {"subpixel": False}),
        ({"features": "superpoint"}, {"match_threshold": 0.3}),
        ({"features": "sift"}, {"sinkhorn_iterations": 5}),
    ],
)
def test_settings_without_effect_are_rejected(
    kind: dict[str, Any], setting: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(setting))}` has no effect .*: remove it"):
        load(**kind, matcher="nn", **setting)


@pytest.mark.parametrize(
    "unused", [{"model": "dense"}, {"runtime": "torch"}, {"model": "dense", "runtime": "torch"}]
)
def test_model_and_runtime_of_classical_features_are_rejected(unused: dict[str, Any]) -> None:
    names = " and ".join(f"`{name}`" for name in unused)
    with pytest.raises(UsageError, match=f"no model and no runtime: remove {names}$"):
        load(**unused, features="sift", matcher="nn")


def test_unfit_features_are_explained_at_once(matching: Path) -> None:
    expected = "`features='sift'` .*: use `matcher='nn'` and remove `match_threshold`$"
    with pytest.raises(UsageError, match=expected):
        load(matching, features="sift", match_threshold=0.3)


def test_public_names() -> None:
    assert dir(featherglue) == featherglue.__all__ == sorted(featherglue.__all__)
    for name in featherglue.__all__:
        assert getattr(featherglue, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = featherglue.nonsense


def test_shipped_models_are_loadable() -> None:
    for name in shipped_models():
        assert load(name).artifact is not None
    assert sorted(shipped_models()) == shipped_models()
