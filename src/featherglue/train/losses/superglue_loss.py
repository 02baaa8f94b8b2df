"""The loss of SuperGlue on the keypoints of a frozen SuperPoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featherglue.data.scenes import NO_PLANE
from featherglue.errors import ConfigError
from featherglue.models.sinkhorn import log_optimal_transport
from featherglue.models.superglue import SuperGlue, mutual_matches, normalize_keypoints
from featherglue.models.superpoint import SuperPoint
from featherglue.train.engine.loader import Batch
from featherglue.train.losses.keypoint_pairs import Extracted, KeypointPairs, extract_keypoints
from featherglue.train.losses.true_assignment import (
    assignment_loss,
    plane_at,
    precision_recall,
    true_assignment,
)
from featherglue.train.losses.verified_assignment import (
    REAL_ENTRIES,
    verified_assignment,
    verified_loss,
    verified_metrics,
)


def check_depths(depths: Sequence[int], layers: int) -> None:
    """Raise ConfigError unless `depths` are strictly increasing, from 1 to `layers` − 1."""
    if list(depths) != sorted({d for d in depths if 0 < d < layers}):
        raise ConfigError(f"depths must be increasing numbers of layers below {layers}")


@dataclass(frozen=True)
class SuperGlueLoss:
    """The assignment loss of a batch of `data.scenes.Scenes` or `ExtractedScenes`.

    Attributes:
        extractor: frozen extractor in evaluation mode.
        min_keypoints, max_keypoints: range of the number of keypoints per image. A number is drawn
            for each batch.
        iterations: number of Sinkhorn iterations.
        threshold: minimum confidence of a match in the reported metrics.
        depths: numbers of layers after which the loss is also computed, so that the matcher can
            be used with fewer layers. The loss after the last layer is always computed.
        bf16: run the extractor in bfloat16 if the device supports it.
        epipolar_weight: weight of the assignments that the epipolar geometry of real pairs
            excludes.
    """

    extractor: SuperPoint
    min_keypoints: int = 128
    max_keypoints: int = 320
    iterations: int = 20
    threshold: float = 0.2
    depths: tuple[int, ...] = ()
    bf16: bool = False
    epipolar_weight: float = 1.0

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss and the metrics to report."""
        assert isinstance(network, SuperGlue)
        pairs = self.find_keypoints(batch)
        return self.from_assignments(self.assign(network, pairs), pairs)

    def find_keypoints(self, batch: Batch) -> KeypointPairs:
        """A random number of keypoints in both views of each scene, with their ground truth."""
        count = int(torch.randint(self.min_keypoints, self.max_keypoints + 1, ()))
        (keypoints, scores, descriptors, valid), size = self._features(batch, count)
        real = batch.get("real")
        if real is not None:
            # Real views have no keypoints on the edge of the photograph.
            planes = torch.cat((batch["planes0"], batch["planes1"]))
            valid = valid & (~real.repeat(2)[:, None] | (plane_at(planes, keypoints) != NO_PLANE))
        keypoints0, keypoints1 = keypoints.chunk(2)
        valid0, valid1 = valid.chunk(2)
        planes0, planes1 = batch["planes0"], batch["planes1"]
        truth = true_assignment(
            keypoints0, keypoints1, planes0, planes1, batch["maps"], valid0, valid1
        )
        normalized = normalize_keypoints(keypoints, size.expand(len(keypoints), 2))
        if real is None:
            return KeypointPairs(keypoints, normalized, scores, descriptors, valid, truth)
        rows = {name: batch[name][real] for name in REAL_ENTRIES if name in batch}
        verified = verified_assignment(
            keypoints0[real], keypoints1[real], valid0[real], valid1[real], rows
        )
        truth = truth.where(~real)
        return KeypointPairs(
            keypoints, normalized, scores, descriptors, valid, truth, real, verified
        )

    def assign(self, network: SuperGlue, pairs: KeypointPairs) -> list[Tensor]:
        """Log assignments (B, N+1, N+1) after each of `depths` and after the last layer."""
        mask0, mask1 = pairs.valid.chunk(2)
        features0, features1 = pairs.encode(network)
        assignments: list[Tensor] = []
        start = 0
        for depth in (*self.depths, len(network.config.layers)):
            features0, features1 = network.attend(
                features0, features1, mask0, mask1, start=start, stop=depth
            )
            with torch.autocast(mask0.device.type, enabled=False):  # bfloat16 is too coarse
                matrix = network.similarity(features0.float(), features1.float())
            assignments.append(
                log_optimal_transport(matrix, network.bin_score, self.iterations, mask0, mask1)
            )
            start = depth
        return assignments

    def from_assignments(
        self, assignments: list[Tensor], pairs: KeypointPairs
    ) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of the log assignments, and the metrics of the last one.

        Args:
            assignments: from `assign`.
            pairs: the keypoints, with their ground truth.

        Returns:
            Scalar loss in nats; `precision` and `recall`, the ratio `true` of keypoints of view 0
            that have a true match, all three without real pairs, and the loss at each of `depths`;
            with real pairs, the metrics of `verified_metrics`. The loss of real pairs is weighted
            by their fraction of the batch.
        """
        losses = [self._loss(assignment, pairs) for assignment in assignments]
        matches = mutual_matches(assignments[-1].detach(), self.threshold)[0]
        precision, recall = precision_recall(matches, pairs.truth)
        complete = pairs.valid.chunk(2)[0]
        if pairs.real is not None:
            complete = complete & ~pairs.real[:, None]
        count = complete.sum().clamp_min(1)
        true_fraction = float(pairs.truth.matches.sum() / count)
        metrics = {"precision": precision, "recall": recall, "true": true_fraction}
        metrics |= {
            f"loss{d}": float(loss.detach()) for d, loss in zip(self.depths, losses, strict=False)
        }
        if pairs.real is not None and pairs.verified is not None:
            last = assignments[-1].detach()[pairs.real]
            metrics |= verified_metrics(last, pairs.verified, self.threshold)
        return torch.stack(losses).mean(), metrics

    def _loss(self, assignment: Tensor, pairs: KeypointPairs) -> Tensor:
        """The loss of a log assignment (B, N+1, N+1)."""
        loss = assignment_loss(assignment, pairs.truth)
        if pairs.real is None or pairs.verified is None:
            return loss
        share = float(pairs.real.float().mean())
        real = verified_loss(assignment[pairs.real], pairs.verified, self.epipolar_weight)
        return (1 - share) * loss + share * real

    def _features(self, batch: Batch, count: int) -> tuple[Extracted, Tensor]:
        """The `count` strongest keypoints of all views, and the (width, height) of a view, (1, 2).

        The first views come first. `ExtractedScenes` already hold keypoints.
        """
        height, width = batch["planes0"].shape[1:]
        size = batch["maps"].new_tensor([[width, height]])
        if "keypoints0" in batch:
            names = ("keypoints", "scores", "descriptors", "valid")
            both = [torch.cat((batch[f"{n}0"], batch[f"{n}1"]))[:, :count] for n in names]
            return (both[0], both[1], both[2], both[3]), size
        images = torch.cat((batch["image0"], batch["image1"]))
        return extract_keypoints(self.extractor, images, count, self.bf16), size
