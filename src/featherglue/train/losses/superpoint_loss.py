"""Training SuperPoint: detector and descriptor together, on pairs of views."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from featherglue.errors import ConfigError
from featherglue.models.keypoints import sample_descriptors
from featherglue.train.engine.loader import Batch
from featherglue.train.losses.hinge import HingeConfig, hinge_loss
from featherglue.train.losses.terms import (
    detector_loss,
    dual_softmax_loss,
    label_weights,
    nearest_share,
    real_points,
    similarity,
)


@dataclass(frozen=True, kw_only=True)
class SuperPointLoss:
    """Cell cross-entropy on corner labels, and a loss on descriptors.

    Attributes:
        descriptor: "dual_softmax" at exact correspondences, or the published "hinge" over all
            pairs of cells, of views of one photograph alone.
        negatives: what a point must be told apart from: the points of its "pair", or of the whole
            "batch", as many as an image of ordinary size has. Not for hinge.
        temperature: of the softmax over cosine similarities.
        hinge: weights and margins of the other.
        detector: weight of the detector's loss: the mean over both views, with the hinge the sum
            of both views' means, as published.
        reliability: how far a corner's label follows the probability that its descriptor is told
            apart: 0 teaches all corners alike, 1 those alone that can be matched. Not for hinge.
    """

    descriptor: Literal["dual_softmax", "hinge"] = "dual_softmax"
    negatives: Literal["pair", "batch"] = "pair"
    temperature: float = 0.05
    hinge: HingeConfig = field(default_factory=HingeConfig)
    detector: float = 1.0
    reliability: float = 0.0

    def __post_init__(self) -> None:
        if self.descriptor not in ("dual_softmax", "hinge"):
            raise ConfigError(f"descriptor is 'dual_softmax' or 'hinge', not {self.descriptor!r}")
        if self.negatives not in ("pair", "batch"):
            raise ConfigError(f"negatives is 'pair' or 'batch', not {self.negatives!r}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be positive, not {self.temperature}")
        if self.descriptor == "hinge" and self.negatives == "batch":
            raise ConfigError("the hinge compares cells of a pair; set negatives to 'pair'")
        if self.descriptor == "hinge" and self.reliability:
            raise ConfigError("reliability is known from the dual softmax; with hinge set it to 0")

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of `data.view_pairs.ViewPairs`, and what to report of it."""
        logits, dense = network.forward_raw(both_views(batch))  # type: ignore[operator]
        return self.judge(logits, dense, batch)

    def judge(self, logits: Tensor, dense: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The same of what a network gave.

        Args:
            logits: (2B, 65, Hc, Wc), view 0 of all pairs first. dense: (2B, D, Hc, Wc),
                unnormalised descriptors.

        Raises:
            ConfigError: the hinge is wanted, and the batch has no homographies.
        """
        points = torch.cat((batch["points0"], batch["points1"]))
        sampled = sample_descriptors(dense.float(), points, "exact")
        sampled0, sampled1 = sampled.chunk(2)
        real = real_points(batch["count"], points.shape[1])
        cosine = similarity(sampled0, sampled1, real)
        if self.descriptor == "hinge":
            descriptor = self.hinge.weight * self._hinge(dense, batch)
            detector = _detector(logits, batch, "0") + _detector(logits, batch, "1")
        else:
            compared, counted = cosine, real
            if self.negatives == "batch":  # all pairs as if they were one
                counted = real.reshape(1, -1)
                every0, every1 = (s.reshape(1, -1, s.shape[2]) for s in (sampled0, sampled1))
                compared = similarity(every0, every1, counted)
            descriptor, told_apart = dual_softmax_loss(compared, counted, self.temperature)
            told_apart = told_apart.reshape(real.shape)
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

    def _hinge(self, dense: Tensor, batch: Batch) -> Tensor:
        if "H_0to1" not in batch:
            raise ConfigError(
                "the hinge loss pairs cells by a homography, which views of 3D scenes do not have: "
                "set spatial = 0, or descriptor = 'dual_softmax'"
            )
        dense0, dense1 = dense.chunk(2)
        inside0, inside1 = batch["inside0"], batch["inside1"]
        return hinge_loss(dense0, dense1, batch["H_0to1"], inside0, inside1, self.hinge)


def both_views(batch: Batch) -> Tensor:
    """The images of a batch, (2B, 1, H, W) float in [0, 1], view 0 of all pairs first."""
    images = torch.cat((batch["image0"], batch["image1"])).float() / 255
    return images.contiguous(memory_format=torch.channels_last)


def _detector(logits: Tensor, batch: Batch, view: Literal["0", "1"]) -> Tensor:
    own = logits.chunk(2)[int(view)]
    return detector_loss(own, batch[f"labels{view}"], batch[f"inside{view}"])
