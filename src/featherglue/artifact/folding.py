"""Folding of batch normalization into the preceding layer."""

from __future__ import annotations

import dataclasses

import numpy as np

from featherglue.artifact.format import Arrays, Artifact
from featherglue.artifact.layers import layers
from featherglue.config import ArchitectureConfig

_EPSILON = 1e-5  # the default of torch.nn.BatchNorm


def fold_batch_norm(artifact: Artifact) -> Artifact:
    """A copy of the artifact with all batch normalization folded.

    The networks compute the same function, up to float rounding. A quantized layer whose weights
    change is no longer quantized.
    """
    old = artifact.architecture
    new = ArchitectureConfig(
        extractor=old.extractor and dataclasses.replace(old.extractor, batch_norm=False),
        matcher=old.matcher and dataclasses.replace(old.matcher, batch_norm=False),
    )
    arrays: Arrays = {}
    for source, target in zip(layers(old), layers(new), strict=True):
        weight = artifact.arrays[f"{source.name}.weight"].astype(np.float64)
        bias = artifact.arrays[f"{source.name}.bias"].astype(np.float64)
        if source.norm:
            gain, offset, mean, variance = (
                artifact.arrays[f"{source.norm}.{part}"].astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gain / np.sqrt(variance + _EPSILON)
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
            bias = (bias - mean) * scale + offset
        arrays[f"{target.name}.weight"] = weight.astype(np.float32)
        arrays[f"{target.name}.bias"] = bias.astype(np.float32)
    if "matcher.bin_score" in artifact.arrays:
        arrays["matcher.bin_score"] = artifact.arrays["matcher.bin_score"]
    kept = {
        name: encoding
        for name, encoding in artifact.quantization.tensors.items()
        if np.array_equal(artifact.arrays[name], arrays[name])
    }
    return dataclasses.replace(
        artifact,
        architecture=new,
        arrays=arrays,
        quantization=dataclasses.replace(artifact.quantization, tensors=kept),
        hash="",
        folder=None,
    )
