"""Model folders: damaged config.json, damaged weights, and weights whose hash was made to fit."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from featherglue.artifact.encodings import LinearTensor, Quantization
from featherglue.artifact.format import Artifact, load_artifact, save_artifact
from featherglue.artifact.layers import tensor_shapes
from featherglue.config import (
    ArchitectureConfig,
    AttentionConfig,
    SuperGlueConfig,
    SuperPointConfig,
)
from featherglue.options import ProcessingConfig
from mutators.byte_edits import Damaged, damaged
from mutators.mutator import Mutator
from mutators.values import Change, changes

_POINT = SuperPointConfig(
    channels=(4, 4, 4, 4, 4, 4, 4, 4), detector_channels=4, descriptor_channels=4, descriptor_dim=4
)
_GLUE = SuperGlueConfig(
    descriptor_dim=4,
    width=4,
    keypoint_encoder=(4,),
    layers=(AttentionConfig(kind="self", heads=1, head_dim=4, hidden=8),),
    batch_norm=False,
)
NAMES = ("float32", "float16", "quantized")


@cache
def files(name: str) -> tuple[bytes, bytes]:
    """config.json and model.safetensors of a tiny model."""
    architecture = ArchitectureConfig(extractor=_POINT, matcher=_GLUE)
    rng = np.random.default_rng(0)
    arrays = {
        key: rng.standard_normal(shape).astype(np.float32)
        for key, shape in tensor_shapes(architecture).items()
    }
    quantization = Quantization()
    if name == "quantized":
        coded = {key: _quantized(array) for key, array in arrays.items() if array.ndim > 1}
        arrays |= {key: code.decode() for key, code in coded.items()}
        quantization = Quantization(tensors=coded)
    artifact = Artifact(
        architecture=architecture,
        processing=ProcessingConfig(),
        arrays=arrays,
        quantization=quantization,
    )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        save_artifact(target, artifact, "float16" if name == "float16" else "float32")
        return (target / "config.json").read_bytes(), (target / "model.safetensors").read_bytes()


def _quantized(array: np.ndarray) -> LinearTensor:
    scale = np.array([np.abs(array).max() / 7], np.float32)
    codes = np.rint(array / scale).astype(np.int8)
    return LinearTensor(codes=codes, scale=scale, zero=np.zeros(1, np.int16), bits=4)


@dataclass(frozen=True)
class Folder:
    """Both files of a model folder.

    Attributes:
        config: change of the values of config.json, or damage of its bytes, or None.
        weights: damage of the weights, or None.
        fits: the hash in config.json is that of the damaged weights.
    """

    seed: str
    config: Change | Damaged | None
    weights: Damaged | None
    fits: bool


def _load(case: Folder, folder: Path) -> None:
    """Load the model; what loads has finite weights, and can be saved and loaded again."""
    config, weights = files(case.seed)
    if case.weights is not None:
        weights = case.weights.data()
    header: Any = json.loads(config)
    if case.fits:
        header["hash"] = hashlib.sha256(weights).hexdigest()
    config = json.dumps(header).encode()
    if isinstance(case.config, Change):
        config = json.dumps(case.config.apply(header)).encode()
    elif case.config is not None:
        config = case.config.data()
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(weights)
    artifact = load_artifact(folder)
    assert all(np.isfinite(array).all() for array in artifact.arrays.values())
    save_artifact(folder / "again", artifact)


def _sources(index: int) -> dict[str, Callable[[], bytes]]:
    return {name: lambda name=name: files(name)[index] for name in NAMES}  # type: ignore[misc]


ARTIFACTS = Mutator(
    name="artifacts",
    cases=st.builds(
        Folder,
        seed=st.sampled_from(NAMES),
        config=st.none() | changes() | damaged(_sources(0)),
        weights=st.none() | damaged(_sources(1)),
        fits=st.booleans(),
    ),
    use=_load,
    num_tested=50,
    goal=3000,
)
