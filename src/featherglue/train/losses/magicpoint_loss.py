"""The loss of MagicPoint, a detector of the corners of synthetic shapes.

DeTone, Malisiewicz, Rabinovich: SuperPoint (2018), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featherglue.models.keypoints import find_keypoints
from featherglue.models.superpoint import score_map
from featherglue.train.engine.loader import Batch
from featherglue.train.losses.detector import detector_loss


@dataclass(frozen=True, kw_only=True)
class ShapesLoss:
    """Cell cross-entropy on the corners of shapes; the descriptors are not trained.

    Attributes:
        threshold: minimum score of a detection in the reported metrics.
        nms_radius: radius of non-maximum suppression in pixels, for the reported metrics.
        near: maximum distance in pixels of a true detection from a corner.
        judged: number of images of a batch that the reported metrics are computed on.
    """

    threshold: float = 0.015
    nms_radius: int = 4
    near: float = 2.0
    judged: int = 4

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of `SyntheticShapes`, with precision and recall."""
        for name, layer in network.named_modules():
            if name == "bnDa":
                layer.eval()  # its statistics belong to the descriptor head
        images = batch["image0"].float() / 255
        images = images.contiguous(memory_format=torch.channels_last)
        logits, _ = network.forward_raw(images)  # type: ignore[operator]
        loss = detector_loss(logits, batch["labels0"], batch["inside0"])
        few = slice(0, self.judged)
        scores = score_map(logits[few].detach().float())
        points, count = batch["points0"][few], batch["count"][few]
        precision, recall = self.precision_recall(scores, points, count)
        return loss, {"precision": precision, "recall": recall}

    @torch.no_grad()
    def precision_recall(
        self, scores: Tensor, points: Tensor, count: Tensor
    ) -> tuple[float, float]:
        """Precision (detections near a corner) and recall (corners near a detection).

        Args:
            scores: (B, H, W) in [0, 1].
            points: (B, P, 2) xy of the corners in pixels, padded.
            count: (B,) int64, number of corners.

        Returns:
            Both in [0, 1]; 0 without detections or corners.
        """
        found, _, valid = find_keypoints(
            scores, points.shape[1], self.nms_radius, 0, self.threshold
        )
        real = torch.arange(points.shape[1], device=count.device)[None] < count[:, None]
        near = torch.cdist(found, points.float()) <= self.near
        near &= valid[:, :, None] & real[:, None]
        hits, hit = near.any(2).sum(), near.any(1).sum()
        return float(hits / valid.sum().clamp_min(1)), float(hit / real.sum().clamp_min(1))
