"""A model: the pair of networks with processing and provenance, and its way to an artifact."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from featherglue.artifact.encodings import Quantization
from featherglue.artifact.format import Artifact, load_artifact, save_artifact
from featherglue.config import ArchitectureConfig, Provenance
from featherglue.models.hooks import FakeQuantize, with_hooks
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint
from featherglue.options import ProcessingConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """An extractor, a matcher, or both, in PyTorch.

    Attributes:
        quantization: the codes of quantized weights, which the networks hold as floats, and how
            activations are quantized, which the networks do as they run.
    """

    extractor: SuperPoint | None
    matcher: SuperGlue | None
    processing: ProcessingConfig = field(default_factory=ProcessingConfig)
    provenance: Provenance = field(default_factory=Provenance)
    quantization: Quantization = field(default_factory=Quantization)

    @property
    def architecture(self) -> ArchitectureConfig:
        """The sizes of both networks."""
        return ArchitectureConfig(
            extractor=self.extractor.config if self.extractor is not None else None,
            matcher=self.matcher.config if self.matcher is not None else None,
        )

    @staticmethod
    def build(architecture: ArchitectureConfig) -> Model:
        """Networks with random weights, from PyTorch's global generator."""
        return Model(
            extractor=SuperPoint(architecture.extractor) if architecture.extractor else None,
            matcher=SuperGlue(architecture.matcher) if architecture.matcher else None,
        )

    @staticmethod
    def from_artifact(artifact: Artifact) -> Model:
        """Networks in evaluation mode with the artifact's weights."""
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
    def load(folder: str | os.PathLike[str]) -> Model:
        """The model in an artifact folder. See `artifact.load_artifact` for the errors.

        A shipped one is at `featherglue.session.find_model("fast")`.
        """
        return Model.from_artifact(load_artifact(folder))

    def networks(self) -> dict[str, nn.Module]:
        """The networks that there are, by the name that prefixes their tensors."""
        both: dict[str, nn.Module | None] = {"extractor": self.extractor, "matcher": self.matcher}
        return {name: network for name, network in both.items() if network is not None}

    def to_artifact(self) -> Artifact:
        """The weights as NumPy arrays, copied."""
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
        """Write the model as an artifact. See `artifact.save_artifact`."""
        return save_artifact(folder, self.to_artifact(), dtype)
