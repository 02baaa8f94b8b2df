"""The loss of descriptors that are trained by true correspondences and by a teacher's features.

Shape legend: B pairs, P points (padded), D and E widths of the student's and of the teacher's
descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from featherglue.errors import ConfigError
from featherglue.models.keypoints import sample_descriptors
from featherglue.models.superpoint import SuperPoint
from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.loader import Batch
from featherglue.train.losses.divergences import descriptor_distance, score_map_divergence
from featherglue.train.losses.dual_softmax import (
    cosine_similarity,
    dual_softmax_loss,
    nearest_neighbor_accuracy,
    same_places,
    valid_points,
)
from featherglue.train.losses.student_teacher import Student
from featherglue.train.losses.superpoint_loss import both_views

Part = Literal["extractor", "descriptors"]


@dataclass(frozen=True, kw_only=True)
class FeatureDistillationConfig:
    """Weights of the parts of the loss, and their temperatures.

    Attributes:
        truth: weight of the dual softmax between the student's descriptors of both views.
        descriptors: weight of the cosine distance from the teacher's descriptors.
        contrast: weight of the dual softmax between the student's and the teacher's descriptors.
        detector: weight of the divergence from the score map of the network that training starts
            from, which preserves the detector; not used if only descriptors are trained.
        temperature: temperature of the softmax of `truth`.
        contrast_temperature: temperature of the softmax of `contrast`.

    Raises:
        ConfigError: a value is out of range, or no loss trains the descriptors.
    """

    truth: float = 1.0
    descriptors: float = 1.0
    contrast: float = 0.5
    detector: float = 3.0
    temperature: float = 0.05
    contrast_temperature: float = 0.1

    def __post_init__(self) -> None:
        for name in ("truth", "descriptors", "contrast", "detector"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("temperature", "contrast_temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        if self.truth + self.descriptors + self.contrast == 0:
            raise ConfigError("truth, descriptors and contrast cannot all be 0")


@dataclass(frozen=True)
class FeatureDistillationLoss:
    """The loss of a `Student` with an extractor on a batch of `data.teacher_view_pairs`.

    All points of the batch are negatives of each other.

    Attributes:
        original: frozen copy of the extractor that training starts from.
        config: weights and temperatures.
        part: "descriptors" trains only the layers after the encoder that the detector does not use.
        group: the processes of the run.
    """

    original: SuperPoint
    config: FeatureDistillationConfig
    part: Part = "extractor"
    group: ProcessGroup = field(default_factory=ProcessGroup)

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss; its parts and the ratio of matched points, for the run log."""
        assert isinstance(network, Student)
        assert network.extractor is not None and network.descriptor_map is not None
        config = self.config
        dense, detector = self._extract(network.extractor, both_views(batch))
        points = torch.cat((batch["points0"], batch["points1"]))
        valid = valid_points(batch["count"], points.shape[1])
        own0, own1 = sample_descriptors(dense.float(), points, "exact").chunk(2)
        same = same_places(batch["scene"], batch["positions"], batch["uncertainties"], valid)
        truth = self._contrast(own0, own1, valid, same, config.temperature)
        distances, contrasts = [], []
        for own, view in ((own0, 0), (own1, 1)):
            target = batch[f"teacher{view}"].float()
            if network.training:
                network.descriptor_map.update(own[valid], target[valid], self.group)
            mapped = network.descriptor_map(own)
            distances.append(descriptor_distance(mapped[valid], target[valid], "cosine"))
            contrasts.append(
                self._contrast(mapped, target, valid, same, config.contrast_temperature)
            )
        parts = {
            "truth": truth,
            "descriptors": torch.stack(distances).mean(),
            "contrast": torch.stack(contrasts).mean(),
        }
        if detector is not None:
            parts["detector"] = detector
        weighted = [getattr(config, name) * value for name, value in parts.items()]
        row = {name: float(value.detach()) for name, value in parts.items()}
        row["matched"] = float(
            nearest_neighbor_accuracy(cosine_similarity(own0, own1, valid), valid)
        )
        return torch.stack(weighted).sum(), row

    def _extract(self, extractor: SuperPoint, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Descriptors (2B, D, Hc, Wc) of both views, and the divergence from the first detector.

        The divergence is None if the detector is not trained.
        """
        with torch.no_grad():
            encoded = self.original.encode(images)
        if self.part == "descriptors":
            return extractor.describe(encoded), None
        with torch.no_grad():
            target_logits = self.original.detect(encoded)
        logits, dense = extractor.forward_raw(images)
        everywhere = torch.ones_like(logits[:, 0], dtype=torch.bool)
        return dense, score_map_divergence(logits, target_logits, everywhere, 1.0)

    @staticmethod
    def _contrast(
        first: Tensor, second: Tensor, valid: Tensor, same: Tensor, temperature: float
    ) -> Tensor:
        """Dual softmax over the points of all pairs: (B, P, E) twice, valid (B, P).

        Points that may be the same one (N, N) are no negatives of each other.
        """
        # Dropping the padding keeps the matrix small; the loss does not depend on it.
        every = valid.new_ones(1, int(valid.sum()))
        first, second = first[valid][None], second[valid][None]
        cosine = cosine_similarity(first, second, every).masked_fill(same, -1e4)
        return dual_softmax_loss(cosine, every, temperature)[0]
