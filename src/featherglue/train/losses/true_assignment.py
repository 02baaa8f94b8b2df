"""True assignments between keypoints of two views of a scene, and the loss on them.

Shape legend: B scenes, N0/N1 keypoints, P planes, H×W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featherglue.data.scenes import NO_PLANE


@dataclass(frozen=True)
class Assignment:
    """What is known of the keypoints of both views.

    Attributes:
        matches: (B, N0, N1) bool, true pairs.
        unmatched0, unmatched1: (B, N0), (B, N1) bool, keypoints without a partner for certain.
    """

    matches: Tensor
    unmatched0: Tensor
    unmatched1: Tensor


def true_assignment(
    keypoints0: Tensor,
    keypoints1: Tensor,
    planes0: Tensor,
    planes1: Tensor,
    maps: Tensor,
    valid0: Tensor,
    valid1: Tensor,
    near: float = 3.0,
    far: float = 5.0,
) -> Assignment:
    """Mutually nearest projections within `near` px match; without any within `far` px, alone.

    What lies between is ambiguous and in neither set. A keypoint whose projection is outside or
    hidden in the other view has no partner; one that shows no plane is left out.

    Args:
        keypoints0: (B, N0, 2) xy. planes0: (B, H, W) plane of each pixel. maps: (B, P, 3, 3)
            H_0to1 of each plane. valid0: (B, N0) bool. The same of view 1.
    """
    back = torch.linalg.inv(maps.double()).float()
    to1, seen1, known0 = _project(keypoints0, planes0, planes1, maps)
    to0, seen0, known1 = _project(keypoints1, planes1, planes0, back)
    infinite = maps.new_tensor(float("inf"))
    in1 = torch.cdist(to1, keypoints1, compute_mode="donot_use_mm_for_euclid_dist")
    in0 = torch.cdist(keypoints0, to0, compute_mode="donot_use_mm_for_euclid_dist")
    distance = torch.maximum(in1, in0)
    usable = (seen1 & valid0)[:, :, None] & (seen0 & valid1)[:, None]
    distance = torch.where(usable, distance, infinite)
    best1, best0 = distance.argmin(2, keepdim=True), distance.argmin(1, keepdim=True)
    mutual = torch.zeros_like(usable).scatter_(2, best1, True)
    mutual &= torch.zeros_like(usable).scatter_(1, best0, True)
    matches = mutual & (distance < near)
    # Alone: the projection is not visible, or no keypoint (matched or not) lies around it.
    around1 = torch.where(valid1[:, None], in1, infinite).amin(2)
    around0 = torch.where(valid0[:, :, None], in0, infinite).amin(1)
    unmatched0 = valid0 & known0 & (~seen1 | (around1 > far))
    unmatched1 = valid1 & known1 & (~seen0 | (around0 > far))
    return Assignment(matches, unmatched0, unmatched1)


def _project(
    keypoints: Tensor, planes: Tensor, other: Tensor, maps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoints in the other view (B, N, 2); whether they are visible there, and known at all."""
    height, width = planes.shape[1:]
    plane = _look_up(planes, keypoints)
    known = plane != NO_PLANE
    chosen = maps.gather(
        1, plane.where(known, 0)[..., None, None].expand(-1, -1, 3, 3)
    )  # (B, N, 3, 3)
    # No matrix product: under autocast that would round pixels to bfloat16.
    mapped = (chosen[..., :2] * keypoints[..., None, :]).sum(-1) + chosen[..., 2]
    w = mapped[..., 2:]
    projected = mapped[..., :2] / torch.where(w.abs() < 1e-6, 1e-6, w)
    limit = projected.new_tensor([width - 1, height - 1])
    within = ((projected >= 0) & (projected <= limit)).all(-1) & (w[..., 0] > 0)
    seen = known & within & (_look_up(other, projected) == plane)
    return projected.clamp(-1e4, 1e4), seen, known


def _look_up(planes: Tensor, points: Tensor) -> Tensor:
    height, width = planes.shape[1:]
    x, y = points.nan_to_num(-1.0).round().unbind(-1)
    x, y = x.clamp(0, width - 1).long(), y.clamp(0, height - 1).long()
    return planes.flatten(1).long().gather(1, y * width + x)


def assignment_loss(log_assignment: Tensor, truth: Assignment) -> Tensor:
    """Negative log-likelihood of the true assignment, matches and lonely keypoints balanced.

    Equation 2 of the study, that of SuperGlue, with each of its two sums as a mean.

    Args:
        log_assignment: (B, N0+1, N1+1).
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
    """Share of the matches (B, N0; −1 for none) that are true, and of the true that are found.

    Matches between keypoints of which nothing is known are not judged.
    """
    predicted = torch.zeros_like(truth.matches)
    predicted.scatter_(2, matches0.clamp_min(0)[..., None], (matches0 >= 0)[..., None])
    judged = predicted & (
        truth.matches.any(2, keepdim=True)
        | truth.matches.any(1, keepdim=True)
        | truth.unmatched0[:, :, None]
        | truth.unmatched1[:, None]
    )
    hits = (predicted & truth.matches).sum()
    return float(hits / judged.sum().clamp_min(1)), float(hits / truth.matches.sum().clamp_min(1))
