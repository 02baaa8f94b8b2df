"""Training SuperPoint: detector and descriptor together, on pairs of views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featherglue.models.detection import sample_descriptors
from featherglue.train.loop import Batch
from featherglue.train.losses import (
    detector_loss,
    dual_softmax_loss,
    label_weights,
    nearest_share,
    similarity,
)


@dataclass(frozen=True, kw_only=True)
class SuperPointLoss:
    """Cell cross-entropy on corner labels + dual softmax at exact correspondences.

    Attributes:
        temperature: of the softmax over cosine similarities.
        detector: weight of the detector's loss.
        reliability: how far a corner's label follows the probability that its descriptor is told
            apart: 0 teaches all corners alike, 1 those alone that can be matched.
    """

    temperature: float = 0.05
    detector: float = 1.0
    reliability: float = 0.0

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of `data.views.ViewPairs`, and what to report of it."""
        images = torch.cat((batch["image0"], batch["image1"])).float() / 255
        images = images.contiguous(memory_format=torch.channels_last)
        logits, dense = network.forward_raw(images)  # type: ignore[operator]
        points = torch.cat((batch["points0"], batch["points1"]))
        sampled = sample_descriptors(dense.float(), points, "exact")
        sampled0, sampled1 = sampled.chunk(2)
        cosine, real = similarity(sampled0, sampled1, batch["count"])
        descriptor, told_apart = dual_softmax_loss(cosine, real, self.temperature)
        labels = torch.cat((batch["labels0"], batch["labels1"]))
        trust = 1 - self.reliability * (1 - torch.cat((told_apart, told_apart)))
        detector = detector_loss(
            logits,
            labels,
            torch.cat((batch["inside0"], batch["inside1"])),
            label_weights(labels, points, trust, torch.cat((real, real))),
        )
        row = {
            "detector": float(detector.detach()),
            "descriptor": float(descriptor.detach()),
            "matched": float(nearest_share(cosine, real)),
        }
        return descriptor + self.detector * detector, row
