"""Incomplete ground truth of the assignment in real photographs, and the loss on it.

Verified matches show where the keypoints near them are in the other view. Epipolar geometry
excludes most of the other assignments, without telling which one is true.

Shape legend: B pairs, N0/N1 keypoints, P verified matches (padded), R fundamental matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featherglue.models.superglue import mutual_matches
from featherglue.train.engine.loader import Batch
from featherglue.train.losses.dual_softmax import valid_points
from featherglue.train.losses.true_assignment import (
    FAR,
    NEAR,
    Assignment,
    assignment_loss,
    nearest_mutual,
    precision_recall,
)

# Pixels of a view.
_REACH = 16.0  # maximum distance of a keypoint from a verified match whose neighbors agree with it
_CLOSE = 3.0  # the same if they do not agree; also the maximum distance for "unmatched"
_MAX_RESIDUAL = 1.5  # root mean square of the matches around a keypoint from their affine map
_EXCLUDED = 10.0  # minimum distance of an excluded keypoint from the epipolar line
_ON_LINE = 2.0  # maximum distance of a projection from the epipolar line
_NEIGHBORS = 6
_MIN_SPREAD, _MAX_SPREAD = 6.0, 24.0  # limits of the standard deviation of the weights
_MAX_SPREAD_OF_TARGETS = 6.0  # of adjacent pixels that show one surface
_STIFFNESS = 3.0  # spread of matches below which the affine map of the whole view prevails

REAL_ENTRIES = ("points0", "points1", "num_points", "fundamentals", "targets0", "targets1")
"""Entries of a batch that `verified_assignment` reads; the last two may be absent."""


@dataclass(frozen=True)
class VerifiedAssignment(Assignment):
    """Incomplete ground truth of the keypoints of both views.

    Attributes:
        excluded: (B, N0, N1) bool, pairs of keypoints that the epipolar geometry excludes.
    """

    excluded: Tensor


def verified_assignment(
    keypoints0: Tensor, keypoints1: Tensor, valid0: Tensor, valid1: Tensor, batch: Batch
) -> VerifiedAssignment:
    """Ground truth of keypoints from verified matches of other points, and from epipolar geometry.

    Keypoints near verified matches are projected into the other view (`project_locally`). Mutually
    nearest keypoints within 3 px match. A keypoint within 3 px of a verified match and without any
    other within 5 px of its projection is unmatched; so is a keypoint whose possible partners are
    all excluded. A pair of keypoints is excluded if each fundamental matrix has one of the two more
    than 10 px from its epipolar line.

    Where both photographs have a depth, the projection is that of depth and poses instead, and a
    keypoint that the other photograph does not show is unmatched.

    Args:
        keypoints0, keypoints1: (B, N0, 2) and (B, N1, 2) xy in pixels.
        valid0, valid1: (B, N0) and (B, N1) bool, False for padding.
        batch: `points0`, `points1` (B, P, 2), `num_points` (B,), `fundamentals` (B, R, 3, 3) and,
            with depth maps, `targets0`, `targets1` (B, H, W, 2) of `data.real_scenes.RealScenes`.
    """
    points0, points1, count = batch["points0"], batch["points1"], batch["num_points"]
    distance = epipolar_distance(keypoints0, keypoints1, batch["fundamentals"])
    both = valid0[:, :, None] & valid1[:, None]
    excluded = both & (distance > _EXCLUDED)
    to1, known0, close0 = project_locally(keypoints0, points0, points1, count)
    to0, known1, close1 = project_locally(keypoints1, points1, points0, count)
    hidden0, hidden1 = torch.zeros_like(known0), torch.zeros_like(known1)
    if "targets0" in batch:
        to1, exact0, hidden0 = _project_exactly(keypoints0, batch["targets0"], to1)
        to0, exact1, hidden1 = _project_exactly(keypoints1, batch["targets1"], to0)
        known0, close0 = (known0 | exact0) & ~hidden0, close0 | exact0
        known1, close1 = (known1 | exact1) & ~hidden1, close1 | exact1
    # A projection off its epipolar line comes from a depth edge.
    known0 = known0 & _on_line(keypoints0, to1, batch["fundamentals"])
    known1 = known1 & _on_line(keypoints1, to0, batch["fundamentals"].transpose(2, 3))
    usable = (known0 & valid0)[:, :, None] & (known1 & valid1)[:, None]
    matches, nearest1, nearest0 = nearest_mutual(
        keypoints0, keypoints1, to1, to0, valid0, valid1, usable, NEAR
    )
    matches = matches & ~excluded
    missed0 = known0 & close0 & (nearest1 > FAR)
    missed1 = known1 & close1 & (nearest0 > FAR)
    possible = both & ~excluded
    return VerifiedAssignment(
        matches=matches,
        unmatched0=valid0 & (missed0 | hidden0 | ~possible.any(2)),
        unmatched1=valid1 & (missed1 | hidden1 | ~possible.any(1)),
        excluded=excluded,
    )


def project_locally(
    keypoints: Tensor, points: Tensor, partners: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Project keypoints by the verified matches around each.

    The offset from the nearest match is mapped by a least-squares fit to the six nearest matches,
    weighted by their distance. Where these have too little spread, the affine map of all matches
    prevails.

    Args:
        keypoints: (B, N, 2) xy in pixels.
        points, partners: (B, P, 2) xy of matches, in the keypoints' view and in the other one.
        count: (B,) int, number of matches; the rest is padding.

    Returns:
        Projections (B, N, 2) xy in pixels; (B, N) bool, whether they are known; (B, N) bool,
        whether a match is within 3 px. A projection is known if a match is within 3 px, or one
        within 16 px and the six nearest ones fit their affine map to 1.5 px.
    """
    valid = valid_points(count, points.shape[1])
    shares = valid.to(points)[:, None]
    whole = _affine(points[:, None], partners[:, None], shares, None)[0]  # (B, 1, 2, 2)
    distance = torch.cdist(keypoints, points, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(~valid[:, None], float("inf"))
    gaps, chosen = distance.topk(min(_NEIGHBORS, points.shape[1]), largest=False)  # (B, N, K)
    near, there = (
        part[:, None]
        .expand(-1, keypoints.shape[1], -1, -1)
        .gather(2, chosen[..., None].expand(-1, -1, -1, 2))
        for part in (points, partners)
    )
    spread = gaps[..., min(2, gaps.shape[2] - 1), None].clamp(_MIN_SPREAD, _MAX_SPREAD)
    weights = torch.exp(-((gaps / spread) ** 2) / 2)
    linear, middle, middle_there = _affine(near, there, weights, whole)
    projected = there[:, :, 0] + _apply(linear, keypoints[:, :, None] - near[:, :, :1])[:, :, 0]
    residual = _apply(linear, near - middle) + middle_there - there
    total = weights.sum(2).clamp_min(1e-12)
    error = ((residual**2).sum(3) * weights).sum(2).div(total).sqrt()
    agree = (error <= _MAX_RESIDUAL) & (weights > 0.1).sum(2).ge(3)
    close = gaps[..., 0] <= _CLOSE
    return projected, close | (agree & (gaps[..., 0] <= _REACH)), close


def _project_exactly(
    keypoints: Tensor, targets: Tensor, otherwise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Project keypoints by the targets of the four pixels around, or of the nearest one.

    The nearest one counts at edges of depth, and where a target is unknown.

    Args:
        keypoints: (B, N, 2) xy in pixels.
        targets: (B, H, W, 2) xy in the other view; NaN if unknown, infinite if not visible.
        otherwise: (B, N, 2) xy, projections of keypoints whose target is unknown.

    Returns:
        Projections (B, N, 2) xy; (B, N) bool, whether they are from `targets`; (B, N) bool, whether
        the other photograph does not show the keypoint.
    """
    height, width = targets.shape[1:3]
    flat = targets.flatten(1, 2)

    def look_up(x: Tensor, y: Tensor) -> Tensor:
        at = y.long().clamp(0, height - 1) * width + x.long().clamp(0, width - 1)
        return flat.gather(1, at[..., None].expand(-1, -1, 2))

    x, y = keypoints.unbind(2)
    left, top = x.floor(), y.floor()
    corners = torch.stack(
        [look_up(left + right, top + below) for below in (0, 1) for right in (0, 1)], 2
    )  # (B, N, 4, 2)
    fx, fy = x - left, y - top
    weights = torch.stack(((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy), 2)
    spread = (corners.amax(2) - corners.amin(2)).amax(2)
    smooth = corners.isfinite().all(3).all(2) & (spread <= _MAX_SPREAD_OF_TARGETS)
    nearest = look_up(x.round(), y.round())
    found = torch.where(smooth[..., None], (corners * weights[..., None]).sum(2), nearest)
    exact = found.isfinite().all(2)
    return torch.where(exact[..., None], found, otherwise), exact, nearest.isinf().any(2) & ~exact


def epipolar_distance(points0: Tensor, points1: Tensor, fundamentals: Tensor) -> Tensor:
    """Distance of all pairs of points from the epipolar lines of each other.

    Args:
        points0, points1: (B, N0, 2) and (B, N1, 2) xy in pixels.
        fundamentals: (B, R, 3, 3) F_0to1.

    Returns:
        (B, N0, N1): the larger distance of the two views in pixels, minimum over R.
    """
    first, second = _homogeneous(points0), _homogeneous(points1)
    distances = []
    for F in fundamentals.unbind(1):
        lines1, lines0 = first @ F.transpose(1, 2), second @ F
        product = (lines1 @ second.transpose(1, 2)).abs()
        length1 = lines1[..., :2].norm(dim=2)[:, :, None]
        length0 = lines0[..., :2].norm(dim=2)[:, None]
        distances.append(product / torch.minimum(length1, length0).clamp_min(1e-12))
    return torch.stack(distances).amin(0)


def exclusion_loss(log_assignment: Tensor, excluded: Tensor) -> Tensor:
    """Negative log-likelihood that no keypoint is assigned to an excluded one.

    −log(1 − Σ P[i, j]) over the excluded j, averaged over all keypoints of both views that have an
    excluded one. The probabilities of a keypoint are scaled to the sum 1.

    Args:
        log_assignment: (B, N0+1, N1+1); the last row and column are the dustbins.
        excluded: (B, N0, N1) bool.

    Returns:
        Scalar in nats; 0 with a gradient of 0 if nothing is excluded.
    """
    rows, columns = log_assignment[:, :-1], log_assignment[:, :, :-1].transpose(1, 2)
    terms = [_exclusion(rows, excluded), _exclusion(columns, excluded.transpose(1, 2))]
    every = torch.cat(terms)
    return every.mean() if len(every) else log_assignment.sum() * 0


def _exclusion(scores: Tensor, excluded: Tensor) -> Tensor:
    """The terms of all rows (B, N, M+1) of log probabilities with an excluded one (B, N, M)."""
    concerned = excluded.any(2)
    chosen = scores[concerned]
    dustbin = excluded.new_zeros(len(chosen), 1)
    allowed = chosen.masked_fill(torch.cat((excluded[concerned], dustbin), 1), -float("inf"))
    return chosen.logsumexp(1) - allowed.logsumexp(1)


def verified_loss(
    log_assignment: Tensor, truth: VerifiedAssignment, epipolar_weight: float
) -> Tensor:
    """`assignment_loss` of the known keypoints, plus the weighted `exclusion_loss` of all.

    Args:
        log_assignment: (B, N0+1, N1+1); the last row and column are the dustbins.
        truth: ground truth of the same keypoints.
        epipolar_weight: factor of `exclusion_loss`.

    Returns:
        Scalar in nats.
    """
    known = assignment_loss(log_assignment, truth)
    return known + epipolar_weight * exclusion_loss(log_assignment, truth.excluded)


@torch.no_grad()
def verified_metrics(
    log_assignment: Tensor, truth: VerifiedAssignment, threshold: float
) -> dict[str, float]:
    """Metrics of real pairs for the run log.

    Args:
        log_assignment: (B, N0+1, N1+1); the last row and column are the dustbins.
        truth: ground truth of the same keypoints.
        threshold: minimum confidence of a match.

    Returns:
        `real_possible`, the ratio of the found matches that are not excluded, and `real_recall`,
        the ratio of the known matches that are found; both in [0, 1].
    """
    matches = mutual_matches(log_assignment, threshold)[0]
    found = matches >= 0
    excluded = truth.excluded.gather(2, matches.clamp_min(0)[..., None])[..., 0]
    possible = (found & ~excluded).sum() / found.sum().clamp_min(1)
    recall = precision_recall(matches, truth)[1]
    return {"real_possible": float(possible), "real_recall": recall}


def _affine(
    points: Tensor, partners: Tensor, weights: Tensor, prior: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted affine maps (..., 2, 2) of matches (..., K, 2), and both weighted means (..., 1, 2).

    Args:
        weights: (..., K).
        prior: (..., 2, 2), maps for directions without spread; None for the identity.
    """
    share = (weights / weights.sum(-1, keepdim=True).clamp_min(1e-12))[..., None]
    middle = (points * share).sum(-2, keepdim=True)
    middle_there = (partners * share).sum(-2, keepdim=True)
    centered = points - middle
    stiff = _STIFFNESS**2 * torch.eye(2, dtype=points.dtype, device=points.device)
    spread = centered.transpose(-1, -2) @ (centered * share) + stiff
    if prior is None:
        prior = torch.eye(2, dtype=points.dtype, device=points.device)
    mixed = (partners - middle_there).transpose(-1, -2) @ (centered * share) + prior @ stiff
    return mixed @ torch.linalg.inv(spread), middle, middle_there


def _apply(linear: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (..., K, 2) mapped by (..., 2, 2)."""
    mapped: Tensor = vectors @ linear.transpose(-1, -2)
    return mapped


def _on_line(points: Tensor, projected: Tensor, fundamentals: Tensor) -> Tensor:
    """Whether projections (B, N, 2) of points (B, N, 2) lie on an epipolar line: (B, N) bool."""
    lines = _homogeneous(points)[:, None] @ fundamentals.transpose(2, 3)  # (B, R, N, 3)
    product = (lines * _homogeneous(projected)[:, None]).sum(3).abs()
    distance: Tensor = product / lines[..., :2].norm(dim=3).clamp_min(1e-12)
    return (distance <= _ON_LINE).any(1)


def _homogeneous(points: Tensor) -> Tensor:
    """Points (..., 2) with a third coordinate 1."""
    return torch.cat((points, torch.ones_like(points[..., :1])), -1)
