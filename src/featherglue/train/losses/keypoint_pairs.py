"""Keypoints of both views of a batch of scenes, as a matcher reads them in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from featherglue.errors import ConfigError
from featherglue.models.keypoints import find_keypoints, sample_descriptors, subpixel_offsets
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint, score_map
from featherglue.train.engine.precision import autocast
from featherglue.train.losses.true_assignment import Assignment
from featherglue.train.losses.verified_assignment import VerifiedAssignment

# Lower than the default of a session, so that the matcher also learns on weak keypoints.
KEYPOINT_THRESHOLD = 0.001

# Keypoints (B, N, 2), scores (B, N), descriptors (B, N, D), valid (B, N).
Extracted = tuple[Tensor, Tensor, Tensor, Tensor]


def check_keypoint_range(min_keypoints: int, max_keypoints: int) -> None:
    """Raise ConfigError unless 1 ≤ `min_keypoints` ≤ `max_keypoints`."""
    if not 1 <= min_keypoints <= max_keypoints:
        raise ConfigError(
            f"min_keypoints must be between 1 and max_keypoints = {max_keypoints}, "
            f"not {min_keypoints}"
        )


@dataclass(frozen=True)
class KeypointPairs:
    """Keypoints of both views of B scenes, view 0 of all scenes first.

    Attributes:
        keypoints: (2B, N, 2) float32, xy in pixels.
        normalized: (2B, N, 2) float32, from `normalize_keypoints`.
        scores: (2B, N) float32 in [0, 1].
        descriptors: (2B, N, D) float32, L2-normalized.
        valid: (2B, N) bool, False for padding.
        truth: ground truth of the assignment.
        real: (B,) bool, pairs of real photographs, for which `truth` is empty; None if the batch
            cannot have any.
        verified: incomplete ground truth of the real pairs, in their order; None as `real`.
    """

    keypoints: Tensor
    normalized: Tensor
    scores: Tensor
    descriptors: Tensor
    valid: Tensor
    truth: Assignment
    real: Tensor | None = None
    verified: VerifiedAssignment | None = None

    def encode(self, network: SuperGlue) -> tuple[Tensor, Tensor]:
        """The features of a matcher before any attention, (B, N, C) for each view."""
        parts = (self.normalized, self.scores, self.descriptors, self.valid)
        view0, view1 = zip(*(part.chunk(2) for part in parts), strict=True)
        return network.encode(*view0), network.encode(*view1)


@torch.no_grad()
def extract_keypoints(
    extractor: SuperPoint, images: Tensor, count: int, bf16: bool = False
) -> Extracted:
    """The strongest keypoints of images, as a session finds them: sub-pixel, exact descriptors.

    Args:
        images: (B, 1, H, W) uint8.
        count: number of keypoints per image, including padding.
        bf16: run the extractor in bfloat16 if the device supports it.

    Returns:
        Keypoints (B, count, 2) float32 xy in pixels; scores (B, count) in [0, 1]; descriptors
        (B, count, D), L2-normalized; (B, count) bool, False for padding.
    """
    prepared = (images.float() / 255).contiguous(memory_format=torch.channels_last)
    with autocast(images.device, bf16):
        logits, dense = extractor.forward_raw(prepared)
    heat = score_map(logits.float())
    keypoints, scores, valid = find_keypoints(
        heat, count, radius=4, border=4, threshold=KEYPOINT_THRESHOLD
    )
    keypoints = keypoints + subpixel_offsets(heat, keypoints)
    dense = F.normalize(dense.float(), dim=1)
    return keypoints, scores, sample_descriptors(dense, keypoints, "exact"), valid
