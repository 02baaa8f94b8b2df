"""Configurations: JSON round trips, bounds, and strict parsing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from featherglue.config import (
    ArchitectureConfig,
    AttentionConfig,
    LayerStorage,
    Provenance,
    StorageConfig,
    SuperGlueConfig,
    SuperPointConfig,
    from_dict,
    to_dict,
)
from featherglue.errors import ConfigError
from featherglue.options import ProcessingConfig

CONFIGS = [
    SuperPointConfig(),
    SuperPointConfig(channels=(1, 2, 3, 4, 5, 6, 7, 8), descriptor_dim=9, batch_norm=True),
    SuperGlueConfig(),
    SuperGlueConfig(width=8, layers=(AttentionConfig(kind="cross", heads=3, head_dim=5),)),
    SuperGlueConfig(layers=(), keypoint_encoder=()),
    ArchitectureConfig(extractor=SuperPointConfig()),
    ArchitectureConfig(extractor=SuperPointConfig(), matcher=SuperGlueConfig(width=32)),
    ProcessingConfig(),
    ProcessingConfig(resize=(640, 480), max_keypoints=-1, match_threshold=0.5, refine=False),
    StorageConfig(tensors={"a.weight": LayerStorage(dtype="float16", sparsity=0.25)}),
    Provenance(recipe=({"step": "train", "seed": 1, "nested": {"a": [1, None]}},), data="x"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_json_round_trip(config: Any) -> None:
    text = json.dumps(to_dict(config))
    assert from_dict(type(config), json.loads(text)) == config


def test_the_published_defaults() -> None:
    assert SuperPointConfig().channels == (64, 64, 64, 64, 128, 128, 128, 128)
    glue = SuperGlueConfig()
    assert [layer.kind for layer in glue.layers] == ["self", "cross"] * 9
    assert {(layer.heads, layer.head_dim, layer.hidden) for layer in glue.layers} == {(4, 64, 512)}
    processing = ProcessingConfig()
    assert (processing.keypoint_threshold, processing.nms_radius) == (0.005, 4)
    assert (processing.sinkhorn_iterations, processing.match_threshold) == (20, 0.2)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_frozen_and_keyword_only(config: Any) -> None:
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, None)
    with pytest.raises(TypeError):
        type(config)(getattr(config, name))


@pytest.mark.parametrize(
    "values",
    [
        {"resize": (7,)},
        {"resize": (640, 0)},
        {"resize": (1, 2, 3)},
        {"resize": (-1, -1)},
        {"resize": (-2,)},
        {"max_keypoints": 0},
        {"max_keypoints": -2},
        {"keypoint_threshold": -0.01},
        {"high_keypoint_threshold": 1.01},
        {"high_threshold_after": -1},
        {"high_threshold_after": 1.5},
        {"keypoint_threshold": 1.01},
        {"keypoint_threshold": float("nan")},
        {"match_threshold": 2.0},
        {"nms_radius": -1},
        {"nms_radius": 65},
        {"remove_borders": -4},
        {"sinkhorn_iterations": 0},
        {"sinkhorn_iterations": 1001},
        {"descriptor_sampling": "nearest"},
    ],
)
def test_processing_out_of_range_raises(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        ProcessingConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"resize": (8,)},
        {"resize": (-1,)},
        {"max_keypoints": -1},
        {"max_keypoints": 1},
        {"keypoint_threshold": 0.0},
        {"match_threshold": 1.0},
        {"nms_radius": 0},
        {"remove_borders": 0},
        {"sinkhorn_iterations": 1},
    ],
)
def test_processing_at_the_limits(values: dict[str, Any]) -> None:
    (name, value) = next(iter(values.items()))
    assert getattr(ProcessingConfig(**values), name) == value


def test_invalid_architectures_raise() -> None:
    with pytest.raises(ConfigError, match="8 widths"):
        SuperPointConfig(channels=(8,) * 7)
    with pytest.raises(ConfigError, match="at least 1"):
        SuperPointConfig(descriptor_dim=0)
    with pytest.raises(ConfigError, match="at least 1"):
        SuperGlueConfig(keypoint_encoder=(8, 0))
    with pytest.raises(ConfigError, match="at least 1"):
        AttentionConfig(kind="self", heads=0)
    with pytest.raises(ConfigError, match="'self' or 'cross'"):
        AttentionConfig(kind="sideways")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="an extractor, a matcher"):
        ArchitectureConfig()
    with pytest.raises(ConfigError, match=r"descriptor_dim .* 128 and 256"):
        ArchitectureConfig(
            extractor=SuperPointConfig(descriptor_dim=128), matcher=SuperGlueConfig()
        )


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (ProcessingConfig, {"max_keypoint": 5}, "unknown key 'max_keypoint'"),
        (ProcessingConfig, {"max_keypoints": "512"}, "max_keypoints: expected int, found '512'"),
        (ProcessingConfig, {"max_keypoints": 512.0}, "max_keypoints: expected int"),
        (ProcessingConfig, {"max_keypoints": True}, "max_keypoints: expected int"),
        (ProcessingConfig, {"refine": 1}, "refine: expected bool"),
        (ProcessingConfig, {"match_threshold": "0.2"}, "match_threshold: expected float"),
        (ProcessingConfig, {"match_threshold": True}, "match_threshold: expected float"),
        (ProcessingConfig, {"match_threshold": 7}, "match_threshold must be"),
        (ProcessingConfig, {"resize": 640}, "resize: expected a list"),
        (ProcessingConfig, {"resize": [640, "480"]}, r"resize\[1\]: expected int"),
        (ProcessingConfig, {"descriptor_sampling": ["exact"]}, "expected one of"),
        (ProcessingConfig, [], "expected a table, found list"),
        (AttentionConfig, {"heads": 4}, "kind"),
        (SuperGlueConfig, {"layers": [{"kind": "self"}, {"kind": "both"}]}, r"layers\[1\]\.kind"),
        (SuperGlueConfig, {"layers": [{"kind": "self", "dim": 1}]}, r"layers\[0\]: unknown"),
        (ArchitectureConfig, {"extractor": {"widths": []}}, r"extractor: unknown key 'widths'"),
        (StorageConfig, {"tensors": {"a": {"dtype": "int4"}}}, r"tensors\.a\.dtype"),
        (StorageConfig, {"tensors": []}, "expected a table"),
    ],
)
def test_from_dict_is_strict_and_names_the_path(cls: type, data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(cls, data)


def test_from_dict_accepts_integers_for_floats_and_optional_none() -> None:
    config = from_dict(ProcessingConfig, {"match_threshold": 1})
    assert isinstance(config.match_threshold, float)
    architecture = from_dict(ArchitectureConfig, {"extractor": {}, "matcher": None})
    assert architecture.matcher is None
