"""Ground truth of the assignment of keypoints between two views of a scene, and the loss on it.

Shape legend: B scenes, N0/N1 keypoints, P planes, H×W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featherglue.data.scenes import NO_PLANE

NEAR, FAR = 3.0, 5.0
"""Maximum distance of a match, and minimum distance of an unmatched keypoint, in pixels."""


@dataclass(frozen=True)
class Assignment:
    """Ground truth of the keypoints of both views. Ambiguous keypoints are in no set.

    Attributes:
        matches: (B, N0, N1) bool, true matches.
        unmatched0, unmatched1: (B, N0) and (B, N1) bool, keypoints that have no match.
    """

    matches: Tensor
    unmatched0: Tensor
    unmatched1: Tensor

    def where(self, known: Tensor) -> Assignment:
        """The ground truth of the pairs `known` (B,) bool, and none of the others."""
        return Assignment(
            self.matches & known[:, None, None],
            self.unmatched0 & known[:, None],
            self.unmatched1 & known[:, None],
        )


def true_assignment(
    keypoints0: Tensor,
    keypoints1: Tensor,
    planes0: Tensor,
    planes1: Tensor,
    maps: Tensor,
    valid0: Tensor,
    valid1: Tensor,
    near: float = NEAR,
    far: float = FAR,
) -> Assignment:
    """Ground truth from the projections of the keypoints into the other view.

    Mutually nearest keypoints within `near` px match. A keypoint without any other within `far` px
    of its projection is unmatched; so is a keypoint that is outside or occluded in the other view.
    Distances in between are ambiguous. A keypoint on no plane is ignored.

    Args:
        keypoints0, keypoints1: (B, N0, 2) and (B, N1, 2) xy in pixels.
        planes0, planes1: (B, H, W) uint8, plane of each pixel; `NO_PLANE` for none.
        maps: (B, P, 3, 3) H_0to1 of each plane, in pixels.
        valid0, valid1: (B, N0) and (B, N1) bool, False for padding.
        near: maximum distance of a match in pixels.
        far: distance in pixels beyond which a keypoint is unmatched.
    """
    back = torch.linalg.inv(maps.double()).float()
    to1, seen1, known0 = _project(keypoints0, planes0, planes1, maps)
    to0, seen0, known1 = _project(keypoints1, planes1, planes0, back)
    usable = (seen1 & valid0)[:, :, None] & (seen0 & valid1)[:, None]
    matches, nearest1, nearest0 = nearest_mutual(
        keypoints0, keypoints1, to1, to0, valid0, valid1, usable, near
    )
    # Unmatched: the projection is not visible, or no keypoint is near it.
    unmatched0 = valid0 & known0 & (~seen1 | (nearest1 > far))
    unmatched1 = valid1 & known1 & (~seen0 | (nearest0 > far))
    return Assignment(matches, unmatched0, unmatched1)


def nearest_mutual(
    keypoints0: Tensor,
    keypoints1: Tensor,
    to1: Tensor,
    to0: Tensor,
    valid0: Tensor,
    valid1: Tensor,
    usable: Tensor,
    near: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mutually nearest keypoints, by their projections into the other view.

    Args:
        keypoints0, keypoints1: (B, N0, 2) and (B, N1, 2) xy in pixels.
        to1, to0: their projections into the other view, of the same shapes.
        valid0, valid1: (B, N0) and (B, N1) bool, False for padding.
        usable: (B, N0, N1) bool, pairs of keypoints whose projections are known.
        near: maximum distance of a match in pixels, in the worse of the two views.

    Returns:
        Matches (B, N0, N1) bool; the distance from the projection of each keypoint to the nearest
        keypoint there, (B, N0) and (B, N1).
    """
    infinite = to1.new_tensor(float("inf"))
    in1 = torch.cdist(to1, keypoints1, compute_mode="donot_use_mm_for_euclid_dist")
    in0 = torch.cdist(keypoints0, to0, compute_mode="donot_use_mm_for_euclid_dist")
    distance = torch.where(usable, torch.maximum(in1, in0), infinite)
    best1, best0 = distance.argmin(2, keepdim=True), distance.argmin(1, keepdim=True)
    mutual = torch.zeros_like(usable).scatter_(2, best1, True)
    mutual &= torch.zeros_like(usable).scatter_(1, best0, True)
    nearest1 = torch.where(valid1[:, None], in1, infinite).amin(2)
    nearest0 = torch.where(valid0[:, :, None], in0, infinite).amin(1)
    return mutual & (distance < near), nearest1, nearest0


def _project(
    keypoints: Tensor, planes: Tensor, other: Tensor, maps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoints in the other view (B, N, 2); whether they are visible there; whether on a plane."""
    height, width = planes.shape[1:]
    plane = plane_at(planes, keypoints)
    known = plane != NO_PLANE
    chosen = maps.gather(
        1, plane.where(known, 0)[..., None, None].expand(-1, -1, 3, 3)
    )  # (B, N, 3, 3)
    # Not a matrix product, which autocast would round to bfloat16.
    mapped = (chosen[..., :2] * keypoints[..., None, :]).sum(-1) + chosen[..., 2]
    w = mapped[..., 2:]
    projected = mapped[..., :2] / torch.where(w.abs() < 1e-6, 1e-6, w)
    limit = projected.new_tensor([width - 1, height - 1])
    within = ((projected >= 0) & (projected <= limit)).all(-1) & (w[..., 0] > 0)
    seen = known & within & (plane_at(other, projected) == plane)
    return projected.clamp(-1e4, 1e4), seen, known


def plane_at(planes: Tensor, points: Tensor) -> Tensor:
    """The planes (B, N) int64 of the pixels nearest to points (B, N, 2)."""
    height, width = planes.shape[1:]
    x, y = points.nan_to_num(-1.0).round().unbind(-1)
    x, y = x.clamp(0, width - 1).long(), y.clamp(0, height - 1).long()
    return planes.flatten(1).long().gather(1, y * width + x)


def assignment_loss(log_assignment: Tensor, truth: Assignment) -> Tensor:
    """Negative log-likelihood of the true assignment (Sarlin 2020, equation 10).

    The terms of matches and of unmatched keypoints are averaged separately, so that both count
    equally.

    Args:
        log_assignment: (B, N0+1, N1+1); the last row and column are the dustbins.
        truth: ground truth of the same keypoints.

    Returns:
        Scalar in nats; 0 with a gradient of 0 if the ground truth is empty.
    """
    inner = -log_assignment[:, :-1, :-1][truth.matches]
    outer = torch.cat(
        (
            -log_assignment[:, :-1, -1][truth.unmatched0],
            -log_assignment[:, -1, :-1][truth.unmatched1],
        )
    )
    terms = [part.mean() for part in (inner, outer) if len(part)]
    if not terms:
        return log_assignment.sum() * 0
    return torch.stack(terms).mean()


@torch.no_grad()
def precision_recall(matches0: Tensor, truth: Assignment) -> tuple[float, float]:
    """Precision and recall of matches, in [0, 1]. Matches of ambiguous keypoints do not count.

    Args:
        matches0: (B, N0) int64, index of the match of each keypoint of view 0; −1 for none.
        truth: ground truth of the same keypoints.
    """
    predicted = torch.zeros_like(truth.matches)
    predicted.scatter_(2, matches0.clamp_min(0)[..., None], (matches0 >= 0)[..., None])
    known = predicted & (
        truth.matches.any(2, keepdim=True)
        | truth.matches.any(1, keepdim=True)
        | truth.unmatched0[:, :, None]
        | truth.unmatched1[:, None]
    )
    hits = (predicted & truth.matches).sum()
    return float(hits / known.sum().clamp_min(1)), float(hits / truth.matches.sum().clamp_min(1))
