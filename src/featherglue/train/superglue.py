"""Training SuperGlue on the keypoints of a frozen SuperPoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.models.detection import sample_descriptors, strongest, subpixel_offsets
from featherglue.models.superglue import (
    SuperGlue,
    log_optimal_transport,
    mutual_matches,
    normalize_keypoints,
)
from featherglue.models.superpoint import SuperPoint, score_map
from featherglue.train.assignment import assignment_loss, precision_recall, true_assignment
from featherglue.train.loop import Batch
from featherglue.train.precision import autocast

# Keypoints, scores, descriptors, valid.
Extracted = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class SuperGlueLoss:
    """The assignment loss of a batch of `data.scenes.Scenes`.

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
        count = int(torch.randint(self.fewest, self.most + 1, ()))
        images = torch.cat((batch["image0"], batch["image1"]))
        keypoints, scores, descriptors, valid = extract_keypoints(
            self.extractor, images, count, self.bf16
        )
        height, width = images.shape[2:]
        size = keypoints.new_tensor([[width, height]]).expand(len(images), 2)
        normalized = normalize_keypoints(keypoints, size)
        mask0, mask1 = valid.chunk(2)
        keypoints0, keypoints1 = keypoints.chunk(2)
        parts = [part.chunk(2) for part in (normalized, scores, descriptors)]
        (normal0, normal1), (scores0, scores1), (descriptors0, descriptors1) = parts
        planes0, planes1 = batch["planes0"], batch["planes1"]
        truth = true_assignment(
            keypoints0, keypoints1, planes0, planes1, batch["maps"], mask0, mask1
        )
        features0 = network.encode(normal0, scores0, descriptors0, mask0)
        features1 = network.encode(normal1, scores1, descriptors1, mask1)
        losses: list[Tensor] = []
        start = 0
        for depth in (*self.depths, len(network.config.layers)):
            features0, features1 = network.attend(
                features0, features1, mask0, mask1, first=start, depth=depth
            )
            matrix = network.similarity(features0, features1)
            log_assignment = log_optimal_transport(
                matrix.float(), network.bin_score, self.iterations, mask0, mask1
            )
            losses.append(assignment_loss(log_assignment, truth))
            start = depth
        precision, recall = precision_recall(
            mutual_matches(log_assignment.detach(), self.threshold)[0], truth
        )
        matched = float(truth.matches.sum() / mask0.sum().clamp_min(1))
        row = {"precision": precision, "recall": recall, "true": matched}
        row |= {f"loss{d}": float(x.detach()) for d, x in zip(self.depths, losses, strict=False)}
        return torch.stack(losses).mean(), row


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
    keypoints, scores, valid = strongest(heat, count, radius=4, border=4, threshold=0.001)
    keypoints = keypoints + subpixel_offsets(heat, keypoints)
    dense = F.normalize(dense.float(), dim=1)
    return keypoints, scores, sample_descriptors(dense, keypoints, "exact"), valid
