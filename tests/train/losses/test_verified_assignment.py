"""Incomplete ground truth of real pairs, and the loss on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from featherglue.geometry.epipolar import homogeneous
from featherglue.train.losses.true_assignment import assignment_loss
from featherglue.train.losses.verified_assignment import (
    VerifiedAssignment,
    _project_exactly,
    epipolar_distance,
    exclusion_loss,
    project_locally,
    verified_assignment,
    verified_loss,
    verified_metrics,
)

# Epipolar lines of a camera that moves along x: y1 = y0.
SIDEWAYS = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
AFFINE = torch.tensor([[1.1, 0.2], [-0.1, 0.9]])
OFFSET = torch.tensor([30.0, -12.0])


def log_probabilities(*rows: list[float]) -> Tensor:
    """A log assignment (1, N0+1, N1+1) of probabilities, with a gradient."""
    return torch.tensor([rows]).clamp_min(1e-12).log().requires_grad_()


def test_the_loss_of_exclusion_is_that_of_the_definition() -> None:
    scores = log_probabilities([0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.4, 0.1, 0.0])
    excluded = torch.tensor([[[True, False], [False, False]]])
    # Row 0: 1 − 0.5. Column 0: 1 − 0.5.
    loss = exclusion_loss(scores, excluded)
    assert loss.item() == pytest.approx(-math.log(0.5), abs=1e-6)
    every = exclusion_loss(scores, torch.ones(1, 2, 2, dtype=torch.bool))
    expected = -np.log([0.2, 0.3, 0.4, 0.1]).mean()
    assert every.item() == pytest.approx(expected, abs=1e-6)


def test_only_keypoints_with_exclusions_get_a_gradient() -> None:
    scores = log_probabilities([0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.4, 0.1, 0.0])
    exclusion_loss(scores, torch.tensor([[[True, False], [False, False]]])).backward()
    assert scores.grad is not None
    gradient = scores.grad[0]
    assert gradient[0, 0] > 0  # the excluded assignment becomes less likely
    assert (gradient[0, 1:] < 0).all() and (gradient[1:, 0] < 0).all()
    assert (gradient[1:, 1:] == 0).all()


def test_nothing_known_gives_no_gradient() -> None:
    scores = log_probabilities([0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.4, 0.1, 0.0])
    nothing = VerifiedAssignment(
        *(torch.zeros(1, *shape, dtype=torch.bool) for shape in ((2, 2), (2,), (2,), (2, 2)))
    )
    loss = verified_loss(scores, nothing, 1.0)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None and not scores.grad.any()


def test_a_certain_wrong_match_has_a_finite_loss() -> None:
    scores = torch.full((1, 3, 3), -1e9)
    scores[0, 0, 0] = scores[0, 1, 1] = 0.0
    scores[0, :2, 2] = scores[0, 2, :2] = -700.0
    loss = exclusion_loss(scores.requires_grad_(), torch.eye(2, dtype=torch.bool)[None])
    loss.backward()
    assert loss.item() == pytest.approx(700)
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_the_loss_adds_the_known_and_the_excluded_keypoints() -> None:
    scores = log_probabilities([0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.4, 0.1, 0.0])
    truth = VerifiedAssignment(
        torch.tensor([[[False, False], [False, True]]]),
        torch.tensor([[True, False]]),
        torch.tensor([[False, False]]),
        torch.tensor([[[True, True], [False, False]]]),
    )
    expected = assignment_loss(scores, truth) + 0.5 * exclusion_loss(scores, truth.excluded)
    torch.testing.assert_close(verified_loss(scores, truth, 0.5), expected)
    found = verified_metrics(scores, truth, 0.2)
    # Both keypoints of view 0 have a match; that of keypoint 0 is excluded.
    assert found == {"real_possible": 0.5, "real_recall": 1.0}


def test_epipolar_distances_by_definition() -> None:
    rng = np.random.default_rng(0)
    points0, points1 = rng.random((2, 7, 2)) * 300, rng.random((2, 5, 2)) * 300
    fits = rng.normal(size=(2, 3, 3, 3))
    found = epipolar_distance(*(torch.from_numpy(a) for a in (points0, points1, fits)))
    for b in range(2):
        each = []
        for F in fits[b]:
            lines1, lines0 = homogeneous(points0[b]) @ F.T, homogeneous(points1[b]) @ F
            product = np.abs(lines1 @ homogeneous(points1[b]).T)
            in1 = product / np.linalg.norm(lines1[:, :2], axis=1)[:, None]
            in0 = product / np.linalg.norm(lines0[:, :2], axis=1)
            each.append(np.maximum(in1, in0))
        np.testing.assert_allclose(found[b].numpy(), np.min(each, 0), rtol=1e-9)


def mapped(points: Tensor) -> Tensor:
    return points @ AFFINE.T + OFFSET


def test_projection_is_exact_under_an_affine_map() -> None:
    torch.manual_seed(0)
    points = torch.rand(2, 60, 2) * 100
    keypoints = torch.rand(2, 40, 2) * 100
    count = torch.tensor([60, 50])
    partners = mapped(points)
    partners[1, 50:] = 0  # padding
    projected, known, close = project_locally(keypoints, points, partners, count)
    distance = torch.stack(
        [torch.cdist(k, p[:n]).amin(1) for k, p, n in zip(keypoints, points, count, strict=True)]
    )
    torch.testing.assert_close(known, distance <= 16)
    torch.testing.assert_close(close, distance <= 3)
    torch.testing.assert_close(projected[known], mapped(keypoints)[known], atol=0.02, rtol=0)


def test_matches_on_a_line_do_not_turn_the_projection() -> None:
    points = torch.stack((torch.arange(8.0) * 10, torch.full((8,), 50.0)), 1)[None]
    keypoint = torch.tensor([[[35.0, 58.0]]])
    projected, known, _ = project_locally(keypoint, points, points + 20, torch.tensor([8]))
    assert known.all()
    torch.testing.assert_close(projected, keypoint + 20, atol=0.01, rtol=0)


def test_projection_across_a_depth_edge_is_unknown() -> None:
    torch.manual_seed(0)
    points = torch.rand(1, 80, 2) * 60
    partners = points + 10
    partners[..., 0] += 15 * (points[..., 0] > 30)
    keypoints = torch.tensor([[[10.0, 30.0], [30.0, 30.0], [50.0, 30.0]]])
    at_match = points[:, :1] + 0.5
    projected, known, close = project_locally(
        torch.cat((keypoints, at_match), 1), points, partners, torch.tensor([80])
    )
    assert known[0, [0, 2, 3]].all() and close[0, 3]
    assert not known[0, 1] or close[0, 1]
    torch.testing.assert_close(projected[0, 2], torch.tensor([75.0, 40.0]), atol=0.5, rtol=0)


def test_without_matches_nothing_is_projected() -> None:
    zeros = torch.zeros(1, 5, 2)
    projected, known, close = project_locally(zeros, zeros, zeros, torch.tensor([0]))
    assert projected.isfinite().all()
    assert not known.any() and not close.any()


def truth_of(keypoints0: list[list[int]], keypoints1: list[list[int]]) -> VerifiedAssignment:
    """The ground truth with one verified match (100, 100) – (120, 100)."""
    points0, points1 = torch.zeros(1, 8, 2), torch.zeros(1, 8, 2)
    points0[0, 0], points1[0, 0] = torch.tensor([100.0, 100]), torch.tensor([120.0, 100])
    batch = {
        "points0": points0,
        "points1": points1,
        "num_points": torch.tensor([1]),
        "fundamentals": SIDEWAYS.expand(1, 3, 3, 3),
    }
    first, second = torch.tensor([keypoints0]).float(), torch.tensor([keypoints1]).float()
    valid0, valid1 = (torch.ones(k.shape[:2], dtype=torch.bool) for k in (first, second))
    return verified_assignment(first, second, valid0, valid1, batch)


def test_keypoints_at_a_verified_match_match() -> None:
    truth = truth_of([[101, 101], [200, 100]], [[121, 100], [10, 100]])
    assert truth.matches.tolist() == [[[True, False], [False, False]]]
    assert not truth.unmatched0.any() and not truth.unmatched1.any()
    assert not truth.excluded.any()


def test_a_keypoint_without_a_partner_at_the_match_is_unmatched() -> None:
    truth = truth_of([[101, 101]], [[130, 100]])
    assert not truth.matches.any()
    assert truth.unmatched0.tolist() == [[True]]
    assert truth.unmatched1.tolist() == [[False]]  # nothing is known about it


def test_a_match_that_leaves_the_other_view_shows_an_unmatched_keypoint() -> None:
    # 64 px wide views; the verified match ends at x = 120.
    truth = truth_of([[101, 101]], [[30, 100], [60, 101]])
    assert truth.unmatched0.tolist() == [[True]]
    assert not truth.unmatched1.any()


def test_keypoints_off_their_epipolar_lines_are_excluded() -> None:
    truth = truth_of([[10, 50], [10, 95]], [[10, 59], [10, 61], [300, 104]])
    assert truth.excluded.tolist() == [[[False, True, True], [True, True, False]]]
    assert truth.unmatched0.tolist() == [[False, False]]
    assert truth.unmatched1.tolist() == [[False, True, False]]


def test_padding_is_neither_excluded_nor_unmatched() -> None:
    zeros, fits = torch.zeros(1, 4, 2), SIDEWAYS.expand(1, 3, 3, 3)
    batch = {
        "points0": zeros,
        "points1": zeros,
        "num_points": torch.tensor([0]),
        "fundamentals": fits,
    }
    keypoints = torch.tensor([[[10.0, 50], [10, 90]]])
    truth = verified_assignment(
        keypoints, keypoints, torch.tensor([[True, False]]), torch.tensor([[False, True]]), batch
    )
    assert truth.excluded.tolist() == [[[False, True], [False, False]]]
    assert truth.unmatched0.tolist() == [[True, False]]
    assert truth.unmatched1.tolist() == [[False, True]]


def test_targets_of_pixels_replace_projections() -> None:
    zeros, fits = torch.zeros(1, 4, 2), SIDEWAYS.expand(1, 3, 3, 3)
    targets0, targets1 = torch.full((2, 1, 200, 400, 2), float("nan"))
    targets0[0, 100, 50] = torch.tensor([80.0, 101])  # two keypoints with their partners
    targets1[0, 100, 80] = torch.tensor([51.0, 100])
    targets0[0, 100, 90] = torch.tensor([300.0, 100])  # no keypoint is there
    targets0[0, 100, 130] = float("inf")  # not visible
    batch = {
        "points0": zeros,
        "points1": zeros,
        "num_points": torch.tensor([0]),
        "fundamentals": fits,
        "targets0": targets0,
        "targets1": targets1,
    }
    keypoints0 = torch.tensor([[[50.0, 100], [90, 100], [130, 100], [170, 100]]])
    keypoints1 = torch.tensor([[[80.0, 100], [200, 100]]])
    valid0, valid1 = (torch.ones(k.shape[:2], dtype=torch.bool) for k in (keypoints0, keypoints1))
    truth = verified_assignment(keypoints0, keypoints1, valid0, valid1, batch)
    assert truth.matches.nonzero().tolist() == [[0, 0, 0]]
    assert truth.unmatched0.tolist() == [[False, True, True, False]]
    assert truth.unmatched1.tolist() == [[False, False]]


def test_keypoints_between_pixels_have_targets_between_theirs() -> None:
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    targets = mapped(torch.stack((x, y), 2))[None]
    keypoints = torch.tensor([[[3.3, 7.8], [12.5, 4.25]]])
    found, exact, hidden = _project_exactly(keypoints, targets, torch.zeros(1, 2, 2))
    assert exact.all() and not hidden.any()
    torch.testing.assert_close(found, mapped(keypoints))
    # At an edge of depth the nearest pixel counts.
    targets[0, :, 13:] += 50
    found, _, _ = _project_exactly(keypoints[:, 1:] - 0.2, targets, torch.zeros(1, 1, 2))
    torch.testing.assert_close(found, mapped(torch.tensor([[[12.0, 4.0]]])))
    targets[0, 4, 12] = float("inf")
    _, exact, hidden = _project_exactly(keypoints[:, 1:] - 0.2, targets, torch.zeros(1, 1, 2))
    assert hidden.all() and not exact.any()
