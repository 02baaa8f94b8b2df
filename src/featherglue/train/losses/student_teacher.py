"""The networks of distillation: the student that is trained and its frozen teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.models.keypoints import sample_descriptors
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint, score_map
from featherglue.train.engine.loader import Batch
from featherglue.train.engine.precision import autocast
from featherglue.train.losses.descriptor_map import DescriptorMap
from featherglue.train.losses.keypoint_pairs import KeypointPairs
from featherglue.train.losses.superglue_loss import SuperGlueLoss
from featherglue.train.losses.superpoint_loss import both_views


class Student(nn.Module):
    """The networks that are trained, and the map of their descriptors to the teacher's.

    Args:
        extractor, matcher: None if the network is not trained.
        descriptor_map: used to train an extractor; it is not part of the model.
    """

    def __init__(
        self,
        extractor: SuperPoint | None,
        matcher: SuperGlue | None,
        descriptor_map: DescriptorMap | None,
    ) -> None:
        super().__init__()
        self.extractor, self.matcher = extractor, matcher
        self.descriptor_map = descriptor_map


@dataclass(frozen=True, eq=False)
class Teacher:
    """Frozen networks in evaluation mode.

    Attributes:
        extractor: None lets the matcher read the student's descriptors and scores.
        matcher: None if no matcher is trained.
    """

    extractor: SuperPoint | None
    matcher: SuperGlue | None

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Cell logits and descriptors of images, without a gradient.

        Args:
            images: (B, 1, H, W) float32 in [0, 1].

        Returns:
            (B, 65, Hc, Wc) logits; (B, E, Hc, Wc) unnormalized descriptors.
        """
        assert self.extractor is not None
        with torch.no_grad():
            return self.extractor.forward_raw(images)

    @torch.no_grad()
    def assign(self, pairs: KeypointPairs, batch: Batch, loss: SuperGlueLoss) -> Tensor:
        """The log assignment (B, N+1, N+1) of the keypoints of the student's extractor.

        The teacher describes them with its own descriptors. The score of a keypoint is the highest
        one of the teacher's score map within a pixel.

        Args:
            pairs: keypoints of the batch.
            batch: its images are used if the teacher has an extractor.
            loss: gives the number of Sinkhorn iterations and `bf16`.
        """
        assert self.matcher is not None
        if self.extractor is not None:
            images = both_views(batch)
            with autocast(images.device, loss.bf16):
                logits, dense = self.extract(images)
            dense = F.normalize(dense.float(), dim=1)
            pairs = replace(
                pairs,
                scores=_highest_scores(score_map(logits.float()), pairs.keypoints),
                descriptors=sample_descriptors(dense, pairs.keypoints, "exact"),
            )
        return replace(loss, depths=()).assign(self.matcher, pairs)[-1]


def _highest_scores(heat: Tensor, keypoints: Tensor) -> Tensor:
    """The highest score (B, N) of a map (B, H, W) within a pixel of each keypoint (B, N, 2)."""
    height, width = heat.shape[1:]
    dilated = F.max_pool2d(heat[:, None], 3, 1, 1).flatten(1)
    x = keypoints[..., 0].round().long().clamp(0, width - 1)
    y = keypoints[..., 1].round().long().clamp(0, height - 1)
    return dilated.gather(1, y * width + x)
