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
    nearest_share,
    similarity,
)


@dataclass(frozen=True, kw_only=True)
class SuperPointLoss:
    """Cell cross-entropy on corner labels + dual softmax at exact correspondences.

    Attributes:
        temperature: of the softmax over cosine similarities.
        detector: weight of the detector's loss.
    """

    temperature: float = 0.05
    detector: float = 1.0

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of `data.views.ViewPairs`, and what to report of it."""
        images = torch.cat((batch["image0"], batch["image1"])).float() / 255
        images = images.contiguous(memory_format=torch.channels_last)
        logits, dense = network.forward_raw(images)  # type: ignore[operator]
        detector = detector_loss(
            logits,
            torch.cat((batch["labels0"], batch["labels1"])),
            torch.cat((batch["inside0"], batch["inside1"])),
        )
        points = torch.cat((batch["points0"], batch["points1"]))
        sampled = sample_descriptors(dense.float(), points, "exact")
        sampled0, sampled1 = sampled.chunk(2)
        cosine, real = similarity(sampled0, sampled1, batch["count"])
        descriptor = dual_softmax_loss(cosine, real, self.temperature)
        row = {
            "detector": float(detector.detach()),
            "descriptor": float(descriptor.detach()),
            "matched": float(nearest_share(cosine, real)),
        }
        return descriptor + self.detector * detector, row
