"""Masks: which weights are 0 for good, and how they stay 0 while a network is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from featherglue.artifact.layers import layers
from featherglue.compression.quantization.qat import CodebookWeight, trained_weight
from featherglue.errors import ConfigError
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """The weights that stay.

    Attributes:
        kept: by layer name, (out, in, …) bool, False where a weight is 0.
    """

    kept: Mapping[str, Mask]
    _moved: dict[tuple[str, torch.device], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @staticmethod
    def of(model: Model) -> Masks:
        """The masks of a pruned model: its layers with zeros, and where they have none."""
        arrays = model.to_artifact().arrays
        kept = {
            layer.name: arrays[f"{layer.name}.weight"] != 0 for layer in layers(model.architecture)
        }
        return Masks(kept={name: mask for name, mask in kept.items() if not mask.all()})

    @property
    def sparsity(self) -> float:
        """Share of zeros among the weights of the masked layers, in [0, 1]."""
        total = sum(mask.size for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / max(1, total)

    def apply(self, model: Model) -> Model:
        """A copy of a model with these weights set to 0.

        Raises:
            ConfigError: a layer that the model does not have, or has in another shape.
        """
        artifact = model.to_artifact()
        for name, mask in self.kept.items():
            weight = artifact.arrays.get(f"{name}.weight")
            if weight is None or weight.shape != mask.shape:
                found = "has no such layer" if weight is None else f"has it as {weight.shape}"
                raise ConfigError(f"the mask of {name} is {mask.shape}; the model {found}")
            artifact.arrays[f"{name}.weight"] = np.where(mask, weight, np.float32(0))
        return Model.from_artifact(artifact)

    @torch.no_grad()
    def hold(self, network: nn.Module) -> None:
        """Set the masked weights of a network to 0, in place: the `constraint` of a training loop.

        Works on an extractor, a matcher, or a module that holds both, and on networks of
        `trainable.make_trainable`: linearly quantized weights are masked before they are rounded;
        codebooks keep their zeros themselves.
        """
        for name, weight in trained_weights(network):
            if name in self.kept:
                place = name, weight.device
                if place not in self._moved:
                    self._moved[place] = torch.from_numpy(self.kept[name]).to(weight.device)
                weight.mul_(self._moved[place])


def trained_weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters behind the weights of every layer, codebooks left out, by layer name."""
    for part in network.modules():
        if not isinstance(part, (SuperPoint, SuperGlue)):
            continue
        prefix = "extractor" if isinstance(part, SuperPoint) else "matcher"
        for path, layer in part.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and not _is_codebook(layer):
                yield f"{prefix}.{path}", trained_weight(layer)


def _is_codebook(layer: nn.Module) -> bool:
    return parametrize.is_parametrized(layer, "weight") and isinstance(
        layer.get_submodule("parametrizations.weight.0"), CodebookWeight
    )
