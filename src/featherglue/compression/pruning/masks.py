"""Pruning masks: which weights are zero, and how they stay zero during training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from featherglue.artifact.layers import layers
from featherglue.compression.quantization.qat import CodebookWeight, stored_parameter
from featherglue.errors import ConfigError
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """Pruning masks of some layers.

    Attributes:
        kept: layer name → bool array (out, in, …), False where the weight is zero.
    """

    kept: Mapping[str, Mask]
    _on_device: dict[tuple[str, torch.device], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @staticmethod
    def from_zeros(model: Model) -> Masks:
        """Return the masks of all layers of a model that contain zero weights."""
        arrays = model.to_artifact().arrays
        kept = {
            layer.name: arrays[f"{layer.name}.weight"] != 0 for layer in layers(model.architecture)
        }
        return Masks(kept={name: mask for name, mask in kept.items() if not mask.all()})

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among the weights of the masked layers, in [0, 1]."""
        total = sum(mask.size for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / max(1, total)

    def apply(self, model: Model) -> Model:
        """Return a copy of a model with the masked weights set to zero.

        Raises:
            ConfigError: the model lacks a layer, or the layer has another shape.
        """
        artifact = model.to_artifact()
        for name, mask in self.kept.items():
            weight = artifact.arrays.get(f"{name}.weight")
            if weight is None:
                raise ConfigError(f"there is a mask for {name}, but the model has no such layer")
            if weight.shape != mask.shape:
                raise ConfigError(
                    f"the mask of {name} has shape {mask.shape}, the weight {weight.shape}"
                )
            artifact.arrays[f"{name}.weight"] = np.where(mask, weight, np.float32(0))
        return Model.from_artifact(artifact)

    @torch.no_grad()
    def apply_to(self, network: nn.Module) -> None:
        """Set the masked weights of a network to zero, in place.

        This is the `constraint` of a training loop. The network is an extractor, a matcher, or a
        module that contains both, possibly prepared by `qat.prepare_qat`: linearly quantized
        weights are masked before rounding, and codebooks preserve their zeros themselves.
        """
        for name, weight in weight_parameters(network):
            if name in self.kept:
                key = name, weight.device
                if key not in self._on_device:
                    self._on_device[key] = torch.from_numpy(self.kept[name]).to(weight.device)
                weight.mul_(self._on_device[key])


def weight_parameters(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the layer name and the trained weight of every layer that has no codebook."""
    for part in network.modules():
        if not isinstance(part, (SuperPoint, SuperGlue)):
            continue
        prefix = "extractor" if isinstance(part, SuperPoint) else "matcher"
        for path, layer in part.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and not _has_codebook(layer):
                yield f"{prefix}.{path}", stored_parameter(layer)


def _has_codebook(layer: nn.Module) -> bool:
    return parametrize.is_parametrized(layer, "weight") and isinstance(
        layer.get_submodule("parametrizations.weight.0"), CodebookWeight
    )
