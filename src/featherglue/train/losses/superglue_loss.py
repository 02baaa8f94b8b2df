"""Training SuperGlue on the keypoints of a frozen SuperPoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.errors import ConfigError
from featherglue.models.keypoints import find_keypoints, sample_descriptors, subpixel_offsets
from featherglue.models.sinkhorn import log_optimal_transport
from featherglue.models.superglue import (
    SuperGlue,
    mutual_matches,
    normalize_keypoints,
)
from featherglue.models.superpoint import SuperPoint, score_map
from featherglue.train.engine.loader import Batch
from featherglue.train.engine.precision import autocast
from featherglue.train.losses.true_assignment import (
    Assignment,
    assignment_loss,
    precision_recall,
    true_assignment,
)
from featherglue.train.stages.extracted_scenes import LOWEST_SCORE

# Keypoints, scores, descriptors, valid.
Extracted = tuple[Tensor, Tensor, Tensor, Tensor]


def check_keypoints(fewest: int, most: int) -> None:
    """Raise ConfigError unless so many keypoints can be drawn."""
    if not 1 <= fewest <= most:
        raise ConfigError(f"keypoints from fewest = {fewest} to most = {most} are none")


def check_depths(depths: Sequence[int], layers: int) -> None:
    """Raise ConfigError unless these are rising numbers of layers, fewer than all."""
    if list(depths) != sorted({d for d in depths if 0 < d < layers}):
        raise ConfigError(f"depths are rising numbers of layers below {layers}")


@dataclass(frozen=True)
class KeypointPairs:
    """Keypoints of both views of B scenes, view 0 of all scenes first, as a matcher takes them.

    Attributes:
        keypoints: (2B, N, 2) xy pixels. normalized: (2B, N, 2) by `normalize_keypoints`.
        scores: (2B, N) in [0, 1]. descriptors: (2B, N, D), L2-normalised.
        valid: (2B, N) bool. truth: what is known of them.
    """

    keypoints: Tensor
    normalized: Tensor
    scores: Tensor
    descriptors: Tensor
    valid: Tensor
    truth: Assignment

    def encode(self, network: SuperGlue) -> tuple[Tensor, Tensor]:
        """A matcher's features (B, N, C) of both views, before any attention."""
        parts = (self.normalized, self.scores, self.descriptors, self.valid)
        view0, view1 = zip(*(part.chunk(2) for part in parts), strict=True)
        return network.encode(*view0), network.encode(*view1)


@dataclass(frozen=True)
class SuperGlueLoss:
    """The assignment loss of a batch of `data.scenes.Scenes`, or of `ExtractedScenes`.

    Attributes:
        extractor: frozen, in evaluation mode.
        fewest, most: keypoints an image, drawn for each batch.
        iterations: of Sinkhorn. threshold: of the reported matches.
        depths: numbers of layers after which there is a loss as well as after the last, so that
            fewer layers can be used.
        bf16: run the extractor in bfloat16 where the device has it.
    """

    extractor: SuperPoint
    fewest: int = 128
    most: int = 320
    iterations: int = 20
    threshold: float = 0.2
    depths: tuple[int, ...] = ()
    bf16: bool = False

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss and what to report of it."""
        assert isinstance(network, SuperGlue)
        pairs = self.find(batch)
        return self.judge(self.assign(network, pairs), pairs)

    def find(self, batch: Batch) -> KeypointPairs:
        """A random number of keypoints in both views of each scene, and what is true of them."""
        count = int(torch.randint(self.fewest, self.most + 1, ()))
        (keypoints, scores, descriptors, valid), size = self._features(batch, count)
        keypoints0, keypoints1 = keypoints.chunk(2)
        valid0, valid1 = valid.chunk(2)
        planes0, planes1 = batch["planes0"], batch["planes1"]
        truth = true_assignment(
            keypoints0, keypoints1, planes0, planes1, batch["maps"], valid0, valid1
        )
        normalized = normalize_keypoints(keypoints, size.expand(len(keypoints), 2))
        return KeypointPairs(keypoints, normalized, scores, descriptors, valid, truth)

    def assign(self, network: SuperGlue, pairs: KeypointPairs) -> list[Tensor]:
        """Log assignments (B, N+1, N+1) after each of `depths`, and after the last layer."""
        mask0, mask1 = pairs.valid.chunk(2)
        features0, features1 = pairs.encode(network)
        found: list[Tensor] = []
        start = 0
        for depth in (*self.depths, len(network.config.layers)):
            features0, features1 = network.attend(
                features0, features1, mask0, mask1, start=start, stop=depth
            )
            with torch.autocast(mask0.device.type, enabled=False):  # scores are large numbers
                matrix = network.similarity(features0.float(), features1.float())
            assignment = log_optimal_transport(
                matrix, network.bin_score, self.iterations, mask0, mask1
            )
            found.append(assignment)
            start = depth
        return found

    def judge(
        self, assignments: list[Tensor], pairs: KeypointPairs
    ) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of the log assignments of `assign`, and what to report of the last one."""
        losses = [assignment_loss(assignment, pairs.truth) for assignment in assignments]
        matches = mutual_matches(assignments[-1].detach(), self.threshold)[0]
        precision, recall = precision_recall(matches, pairs.truth)
        count = pairs.valid.chunk(2)[0].sum().clamp_min(1)
        matched = float(pairs.truth.matches.sum() / count)
        row = {"precision": precision, "recall": recall, "true": matched}
        row |= {f"loss{d}": float(x.detach()) for d, x in zip(self.depths, losses, strict=False)}
        return torch.stack(losses).mean(), row

    def _features(self, batch: Batch, count: int) -> tuple[Extracted, Tensor]:
        """The `count` strongest keypoints of all first and then of all second views, and the
        views' (width, height), (1, 2)."""
        height, width = batch["planes0"].shape[1:]
        size = batch["maps"].new_tensor([[width, height]])
        if "keypoints0" in batch:
            names = ("keypoints", "scores", "descriptors", "valid")
            both = [torch.cat((batch[f"{n}0"], batch[f"{n}1"]))[:, :count] for n in names]
            return (both[0], both[1], both[2], both[3]), size
        images = torch.cat((batch["image0"], batch["image1"]))
        return extract_keypoints(self.extractor, images, count, self.bf16), size


@torch.no_grad()
def extract_keypoints(
    extractor: SuperPoint, images: Tensor, count: int, bf16: bool = False
) -> Extracted:
    """Keypoints as in use: strongest, sub-pixel, with exact descriptors.

    Args:
        images: (B, 1, H, W) uint8. bf16: in bfloat16 where the device has it.
    """
    prepared = (images.float() / 255).contiguous(memory_format=torch.channels_last)
    with autocast(images.device, bf16):
        logits, dense = extractor.forward_raw(prepared)
    heat = score_map(logits.float())
    keypoints, scores, valid = find_keypoints(
        heat, count, radius=4, border=4, threshold=LOWEST_SCORE
    )
    keypoints = keypoints + subpixel_offsets(heat, keypoints)
    dense = F.normalize(dense.float(), dim=1)
    return keypoints, scores, sample_descriptors(dense, keypoints, "exact"), valid
