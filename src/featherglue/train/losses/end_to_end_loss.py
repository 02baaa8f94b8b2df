"""The loss of a matcher that is trained together with the descriptors that it reads.

Gradients pass through the matcher into the descriptors, as in Sarlin et al.: SuperGlue (CVPR 2020).
Encoder and detector stay as they are, so keypoints do not move in training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.models.keypoints import sample_descriptors
from featherglue.models.superpoint import SuperPoint
from featherglue.train.engine.loader import Batch
from featherglue.train.engine.precision import autocast
from featherglue.train.losses.dual_softmax import labeled_softmax_loss
from featherglue.train.losses.keypoint_pairs import KeypointPairs
from featherglue.train.losses.student_teacher import Student
from featherglue.train.losses.superglue_loss import SuperGlueLoss
from featherglue.train.losses.superpoint_loss import both_views


@dataclass(frozen=True)
class EndToEndLoss:
    """The assignment loss of a `Student` with an extractor and a matcher.

    Attributes:
        superglue: the loss of the matcher. Its frozen extractor finds the keypoints and encodes the
            images.
        weight: weight of the dual softmax between the descriptors of matching keypoints, which
            trains them for nearest neighbors.
        temperature: temperature of this softmax.
    """

    superglue: SuperGlueLoss
    weight: float = 0.5
    temperature: float = 0.05

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss, and the metrics of `SuperGlueLoss` with the part `descriptors`."""
        assert isinstance(network, Student)
        assert network.extractor is not None and network.matcher is not None
        pairs = self.superglue.find_keypoints(batch)
        pairs = replace(pairs, descriptors=self._describe(network.extractor, batch, pairs))
        assignments = self.superglue.assign(network.matcher, pairs)
        loss, row = self.superglue.from_assignments(assignments, pairs)
        descriptors = self._contrast(pairs)
        row["descriptors"] = float(descriptors.detach())
        return loss + self.weight * descriptors, row

    def _describe(self, extractor: SuperPoint, batch: Batch, pairs: KeypointPairs) -> Tensor:
        """Descriptors (2B, N, D) of the keypoints by the extractor that is trained."""
        images = both_views(batch)
        with torch.no_grad(), autocast(images.device, self.superglue.bf16):
            encoded = self.superglue.extractor.encode(images)
        dense = F.normalize(extractor.describe(encoded.float()).float(), dim=1)
        return sample_descriptors(dense, pairs.keypoints, "exact")

    def _contrast(self, pairs: KeypointPairs) -> Tensor:
        """The dual softmax of all known matches, among the keypoints of their two views."""
        matches = pairs.truth.matches
        if pairs.real is not None and pairs.verified is not None:
            matches = matches.clone()
            matches[pairs.real] |= pairs.verified.matches
        descriptors0, descriptors1 = pairs.descriptors.chunk(2)
        valid0, valid1 = pairs.valid.chunk(2)
        return labeled_softmax_loss(
            descriptors0, descriptors1, valid0, valid1, matches, self.temperature
        )
