"""Settings of a session: defined once, checked, and applied over those of a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from featherglue.errors import ConfigError, UsageError
from featherglue.options import (
    MODEL,
    ProcessingConfig,
    SessionOptions,
    make_options,
    settings,
    with_overrides,
)

STORED = [field.name for field in dataclasses.fields(ProcessingConfig)]


def test_every_field_has_one_definition() -> None:
    options = [field.name for field in dataclasses.fields(SessionOptions)]
    assert set(settings()) == set(options)
    assert set(STORED) < set(options)
    for name, setting in settings().items():
        assert setting.help.endswith("."), name
        assert (setting.kind == "choice") == bool(setting.choices), name


def test_overrides_default_to_the_model() -> None:
    options = SessionOptions()
    assert all(getattr(options, name) is MODEL for name in STORED)
    assert options.overrides() == {}
    stored = ProcessingConfig(max_keypoints=7, consensus=0.5)
    assert options.apply(stored) == stored
    assert SessionOptions(consensus=None).apply(stored).consensus is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.int64(320), (320,)),
        (320, (320,)),
        ([640, 480], (640, 480)),
        ((np.int32(640), 480), (640, 480)),
        (-1, (-1,)),
        ((), ()),
    ],
)
def test_resize_takes_integers_of_every_kind(given: Any, expected: tuple[int, ...]) -> None:
    size = SessionOptions(resize=given).resize
    assert size == expected
    assert isinstance(size, tuple)
    assert all(type(side) is int for side in size)


def test_numbers_become_plain_python() -> None:
    options = SessionOptions(max_keypoints=np.int16(9), keypoint_threshold=np.float32(0.5))
    assert type(options.max_keypoints) is int
    assert type(options.keypoint_threshold) is float
    assert SessionOptions(match_threshold=1).match_threshold == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize": "320"},
        {"resize": 1.5},
        {"resize": (640, 480, 3)},
        {"resize": (True,)},
        {"resize": (8193, 8)},
        {"resize": None},
        {"max_keypoints": 0},
        {"max_keypoints": 1.0},
        {"max_keypoints": True},
        {"keypoint_threshold": "0.1"},
        {"keypoint_threshold": float("nan")},
        {"match_threshold": 1.01},
        {"consensus": -0.1},
        {"refine": 1},
        {"subpixel": None},
        {"descriptor_sampling": "bicubic"},
        {"features": "surf"},
        {"threads": 0},
        {"threads": 2.0},
        {"nms_radius": 65},
    ],
)
def test_wrong_values_are_rejected_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} "):
        SessionOptions(**wrong)


@pytest.mark.parametrize(
    ("methods", "setting"),
    [
        ({"features": "sift"}, {"nms_radius": 3}),
        ({"features": "orb"}, {"descriptor_sampling": "exact"}),
        ({"matcher": "nn"}, {"match_threshold": 0.3}),
    ],
)
def test_a_setting_without_effect_is_rejected(
    methods: dict[str, Any], setting: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(setting))}` has no effect with"):
        SessionOptions(**methods, **setting)
    SessionOptions(**methods, max_keypoints=5, resize=640, refine=False)


@pytest.mark.parametrize("other", [{"refine": False}, {"matcher": "nn"}])
def test_guided_matching_without_effect_is_rejected(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="`guided_matching` has no effect with"):
        SessionOptions(**other, guided_matching=True)
    SessionOptions(**other, guided_matching=False)
    SessionOptions(guided_matching=True)
    SessionOptions(matcher="nn", search="auto", guided_matching=True)


def test_all_settings_without_effect_are_named() -> None:
    expected = "`sinkhorn_iterations` and `match_threshold` have no effect .*: remove them"
    with pytest.raises(ConfigError, match=expected):
        SessionOptions(matcher="nn", sinkhorn_iterations=5, match_threshold=0.3)


def test_a_keypoint_threshold_applies_to_all_keypoints() -> None:
    stored = ProcessingConfig(high_keypoint_threshold=0.5, high_threshold_after=10)
    assert with_overrides(stored, {"keypoint_threshold": 0.1}).high_keypoint_threshold == 0.0
    both = {"keypoint_threshold": 0.1, "high_keypoint_threshold": 0.3}
    assert with_overrides(stored, both).high_keypoint_threshold == 0.3
    assert with_overrides(stored, {"nms_radius": 1}).high_keypoint_threshold == 0.5


def test_unknown_names_are_rejected() -> None:
    with pytest.raises(
        ConfigError, match=r"'keypoints' \(did you mean 'max_keypoints'\?\); known: resize"
    ):
        with_overrides(ProcessingConfig(), {"keypoints": 3})
    with pytest.raises(UsageError, match="unknown option 'max_keypoint'"):
        make_options(max_keypoint=3)


def test_overrides_replace_options() -> None:
    options = make_options(SessionOptions(max_keypoints=5, nms_radius=2), max_keypoints=9)
    assert options.overrides() == {"max_keypoints": 9, "nms_radius": 2}


def test_num_kept() -> None:
    scores = np.array([0.9, 0.5, 0.2, 0.1], np.float32)
    processing = ProcessingConfig(high_keypoint_threshold=0.4, high_threshold_after=1)
    assert processing.num_kept(scores) == 2
    assert dataclasses.replace(processing, high_threshold_after=3).num_kept(scores) == 3
    assert dataclasses.replace(processing, max_keypoints=1).num_kept(scores) == 1
    assert ProcessingConfig(max_keypoints=-1).num_kept(scores) == 4
