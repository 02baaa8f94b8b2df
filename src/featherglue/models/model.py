"""A model: extractor and matcher in PyTorch, with their settings and provenance."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from featherglue.artifact.encodings import Quantization
from featherglue.artifact.format import Artifact, load_artifact, save_artifact
from featherglue.artifact.registry import find_model
from featherglue.config import ArchitectureConfig, Provenance
from featherglue.models.hooks import FakeQuantize, with_hooks
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint
from featherglue.options import ProcessingConfig


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Model:
    """An extractor, a matcher, or both.

    Attributes:
        extractor: the SuperPoint network, or None.
        matcher: the SuperGlue network, or None.
        processing: default settings of extraction and matching.
        provenance: recipe, training data and license.
        quantization: codes of the quantized weights, which the networks hold dequantized, and the
            quantized activations, which the networks round in their forward pass.
    """

    extractor: SuperPoint | None
    matcher: SuperGlue | None
    processing: ProcessingConfig = field(default_factory=ProcessingConfig)
    provenance: Provenance = field(default_factory=Provenance)
    quantization: Quantization = field(default_factory=Quantization)

    def __repr__(self) -> str:
        parts = [
            f"{name} of {sum(p.numel() for p in network.parameters()):,} parameters"
            for name, network in self.networks().items()
        ]
        return f"Model({', '.join(parts)})"

    @property
    def architecture(self) -> ArchitectureConfig:
        """Sizes of the networks."""
        return ArchitectureConfig(
            extractor=self.extractor.config if self.extractor is not None else None,
            matcher=self.matcher.config if self.matcher is not None else None,
        )

    @staticmethod
    def build(architecture: ArchitectureConfig) -> Model:
        """A model with random weights, drawn from PyTorch's global generator."""
        return Model(
            extractor=SuperPoint(architecture.extractor) if architecture.extractor else None,
            matcher=SuperGlue(architecture.matcher) if architecture.matcher else None,
        )

    @staticmethod
    def from_artifact(artifact: Artifact) -> Model:
        """The model of an artifact, in evaluation mode."""
        built = Model.build(artifact.architecture)
        for prefix, network in built.networks().items():
            state = {
                name.removeprefix(f"{prefix}."): torch.from_numpy(array.copy())
                for name, array in artifact.arrays.items()
                if name.startswith(f"{prefix}.")
            }
            counters = [k for k in network.state_dict() if k.endswith("num_batches_tracked")]
            state |= {name: torch.tensor(0) for name in counters}
            network.load_state_dict(state)
            network.eval()
        activations = artifact.quantization.activations
        hook, extractor, matcher = FakeQuantize(activations), built.extractor, built.matcher
        return Model(
            extractor=extractor and with_hooks(extractor, hook, activations),
            matcher=matcher and with_hooks(matcher, hook, activations),
            processing=artifact.processing,
            provenance=artifact.provenance,
            quantization=artifact.quantization,
        )

    @staticmethod
    def load(model: str | os.PathLike[str]) -> Model:
        """Load a model, in evaluation mode.

        Args:
            model: name of a shipped model ("fast", "balanced"), or the path of an artifact folder.

        Raises:
            ArtifactError: there is no such model, or it is damaged or of a newer version.
        """
        return Model.from_artifact(load_artifact(find_model(model)))

    def networks(self) -> dict[str, nn.Module]:
        """The networks of the model by name, "extractor" and "matcher"."""
        both: dict[str, nn.Module | None] = {"extractor": self.extractor, "matcher": self.matcher}
        return {name: network for name, network in both.items() if network is not None}

    def to_artifact(self) -> Artifact:
        """The model as NumPy arrays, copied."""
        arrays = {
            f"{prefix}.{name}": tensor.detach().cpu().float().numpy().copy()
            for prefix, network in self.networks().items()
            for name, tensor in network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        return Artifact(
            architecture=self.architecture,
            processing=self.processing,
            arrays=arrays,
            quantization=self.quantization,
            provenance=self.provenance,
        )

    def save(
        self, folder: str | os.PathLike[str], dtype: Literal["float32", "float16"] = "float32"
    ) -> Artifact:
        """Write the model as an artifact. See `artifact.format.save_artifact`."""
        return save_artifact(folder, self.to_artifact(), dtype)
