"""Pruned copies of models, without PyTorch and without a recipe."""

from __future__ import annotations

import dataclasses

import numpy as np

from featherglue.artifact.format import Artifact
from featherglue.artifact.layers import layers

RATIOS = {"extractor": 0.88, "matcher": 0.6}  # enough for the sparse runtime


def with_zeros(artifact: Artifact, *networks: str) -> Artifact:
    """A copy of an artifact with zero weights at random places.

    Layers alternate between single weights and blocks of four outputs where they can.

    Args:
        artifact: the model.
        networks: names of the networks; all by default.
    """
    rng = np.random.default_rng(0)
    arrays = dict(artifact.arrays)
    for i, layer in enumerate(layers(artifact.architecture)):
        network = layer.name.split(".")[0]
        if networks and network not in networks:
            continue
        ratio = RATIOS[network]
        weight = arrays[f"{layer.name}.weight"]
        outputs = len(weight)
        block = 4 if i % 2 and outputs % 4 == 0 else 1
        units = rng.permutation(outputs // block * weight[0].size) >= ratio * weight.size / block
        kept = np.repeat(units.reshape(outputs // block, *weight.shape[1:]), block, axis=0)
        factor = np.float32((1 - ratio) ** -0.5)  # keeps the size of the outputs
        arrays[f"{layer.name}.weight"] = weight * kept * factor
    return dataclasses.replace(artifact, arrays=arrays, hash="", folder=None)
