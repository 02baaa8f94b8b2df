"""The loss of SuperPoint: detector and descriptors together, on pairs of views."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from featherglue.errors import ConfigError
from featherglue.models.keypoints import sample_descriptors
from featherglue.models.superpoint import SuperPoint
from featherglue.train.engine.loader import Batch
from featherglue.train.losses.detector import detector_loss, label_weights
from featherglue.train.losses.dual_softmax import (
    cosine_similarity,
    dual_softmax_loss,
    nearest_neighbor_accuracy,
    valid_points,
)
from featherglue.train.losses.hinge import HingeConfig, hinge_loss


@dataclass(frozen=True, kw_only=True)
class SuperPointLoss:
    """Cell cross-entropy on keypoint labels plus a loss on descriptors.

    Attributes:
        descriptor: loss on descriptors: "dual_softmax" at exact correspondences, or the published
            "hinge" over all pairs of cells. The hinge requires views of one photograph.
        negatives: points that a descriptor is compared with: those of its "pair", or of the whole
            "batch". Only for the dual softmax.
        temperature: temperature of the softmax over cosine similarities.
        hinge: settings of the hinge.
        detector: weight of the detector loss. It is the mean over both views with the dual softmax
            and, as published, the sum over both views with the hinge.
        reliability: influence of the match probability of a point on its keypoint label, in
            [0, 1]. 0 learns all labels equally; 1 learns only points that can be matched. Only
            for the dual softmax.

    Raises:
        ConfigError: an unknown kind, a value out of range, or settings that exclude each other.
    """

    descriptor: Literal["dual_softmax", "hinge"] = "dual_softmax"
    negatives: Literal["pair", "batch"] = "pair"
    temperature: float = 0.05
    hinge: HingeConfig = field(default_factory=HingeConfig)
    detector: float = 1.0
    reliability: float = 0.0

    def __post_init__(self) -> None:
        if self.descriptor not in ("dual_softmax", "hinge"):
            raise ConfigError(
                f"descriptor must be 'dual_softmax' or 'hinge', not {self.descriptor!r}"
            )
        if self.negatives not in ("pair", "batch"):
            raise ConfigError(f"negatives must be 'pair' or 'batch', not {self.negatives!r}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be positive, not {self.temperature}")
        if self.descriptor == "hinge" and self.negatives == "batch":
            raise ConfigError("the hinge loss compares cells of a pair: set negatives = 'pair'")
        if self.descriptor == "hinge" and self.reliability:
            raise ConfigError("reliability requires the dual softmax: set reliability = 0")

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of `data.view_pairs.ViewPairs`, and the metrics to report."""
        logits, dense = network.forward_raw(both_views(batch))  # type: ignore[operator]
        return self.from_outputs(logits, dense, batch)

    def from_outputs(
        self, logits: Tensor, dense: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss and the metrics of the outputs of a network.

        Args:
            logits: (2B, 65, Hc, Wc), view 0 of all pairs first.
            dense: (2B, D, Hc, Wc), unnormalized descriptors.
            batch: of `data.view_pairs.ViewPairs` or `data.scene_view_pairs.SceneViewPairs`.

        Returns:
            Scalar loss; the `detector` and `descriptor` losses, and the ratio `matched` of points
            whose nearest descriptor is the corresponding one.

        Raises:
            ConfigError: the hinge is used, and the batch has no homographies.
        """
        points = torch.cat((batch["points0"], batch["points1"]))
        sampled = sample_descriptors(dense.float(), points, "exact")
        sampled0, sampled1 = sampled.chunk(2)
        valid = valid_points(batch["count"], points.shape[1])
        cosine = cosine_similarity(sampled0, sampled1, valid)
        if self.descriptor == "hinge":
            descriptor = self.hinge.weight * self._hinge(dense, batch)
            detector = _detector(logits, batch, "0") + _detector(logits, batch, "1")
        else:
            compared, counted = cosine, valid
            if self.negatives == "batch":  # treat all pairs as one
                counted = valid.reshape(1, -1)
                all0, all1 = (s.reshape(1, -1, s.shape[2]) for s in (sampled0, sampled1))
                compared = cosine_similarity(all0, all1, counted)
            descriptor, probability = dual_softmax_loss(compared, counted, self.temperature)
            probability = probability.reshape(valid.shape)
            labels = torch.cat((batch["labels0"], batch["labels1"]))
            confidence = 1 - self.reliability * (1 - torch.cat((probability, probability)))
            detector = detector_loss(
                logits,
                labels,
                torch.cat((batch["inside0"], batch["inside1"])),
                label_weights(labels, points, confidence, torch.cat((valid, valid))),
            )
        metrics = {
            "detector": float(detector.detach()),
            "descriptor": float(descriptor.detach()),
            "matched": float(nearest_neighbor_accuracy(cosine, valid)),
        }
        return descriptor + self.detector * detector, metrics

    def _hinge(self, dense: Tensor, batch: Batch) -> Tensor:
        if "H_0to1" not in batch:
            raise ConfigError(HINGE_NEEDS_HOMOGRAPHIES)
        dense0, dense1 = dense.chunk(2)
        inside0, inside1 = batch["inside0"], batch["inside1"]
        return hinge_loss(dense0, dense1, batch["H_0to1"], inside0, inside1, self.hinge)


class DetectorLoss:
    """`SuperPointLoss` of a network of which only the detector is trained.

    Encoder and descriptors are those of a frozen copy, whose batch normalization has fixed
    statistics. The loss on descriptors is constant.

    Args:
        original: the copy, of the weights that training starts from.
        loss: losses and their weights.
    """

    def __init__(self, original: SuperPoint, loss: SuperPointLoss) -> None:
        self.original, self.loss = original.eval().requires_grad_(False), loss

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of `data.view_pairs.ViewPairs`, and the metrics to report."""
        assert isinstance(network, SuperPoint)
        with torch.no_grad():
            encoded = self.original.encode(both_views(batch))
            dense = self.original.describe(encoded)
        return self.loss.from_outputs(network.detect(encoded), dense, batch)


HINGE_NEEDS_HOMOGRAPHIES = (
    "the hinge loss pairs cells by a homography, which views of 3D scenes do not have: "
    "set spatial = 0, or descriptor = 'dual_softmax'"
)


def both_views(batch: Batch) -> Tensor:
    """The images of a batch, (2B, 1, H, W) float32 in [0, 1], view 0 of all pairs first."""
    images = torch.cat((batch["image0"], batch["image1"])).float() / 255
    return images.contiguous(memory_format=torch.channels_last)


def _detector(logits: Tensor, batch: Batch, view: Literal["0", "1"]) -> Tensor:
    own = logits.chunk(2)[int(view)]
    return detector_loss(own, batch[f"labels{view}"], batch[f"inside{view}"])
