"""True assignments against loops over the definition, and the loss on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featherglue.data.scenes import NO_PLANE
from featherglue.train.losses.true_assignment import (
    Assignment,
    assignment_loss,
    precision_recall,
    true_assignment,
)

HEIGHT, WIDTH = 48, 64
NEAR, FAR = 3.0, 5.0


def project(
    point: np.ndarray, planes: np.ndarray, other: np.ndarray, maps: np.ndarray
) -> tuple[np.ndarray | None, bool]:
    """Pixel of a keypoint in the other view, None if invisible; whether it lies on a plane."""

    def plane_at(where: np.ndarray, at: np.ndarray) -> int:
        x = int(np.clip(np.round(at[0]), 0, WIDTH - 1))
        y = int(np.clip(np.round(at[1]), 0, HEIGHT - 1))
        return int(where[y, x])

    plane = plane_at(planes, point)
    if plane == NO_PLANE:
        return None, False
    x, y, w = maps[plane] @ (*point, 1)
    mapped = np.array([x, y]) / w
    within = (mapped >= 0).all() and (mapped <= (WIDTH - 1, HEIGHT - 1)).all() and w > 0
    if not within or plane_at(other, mapped) != plane:
        return None, True
    return mapped, True


def by_definition(
    points0: np.ndarray,
    points1: np.ndarray,
    planes0: np.ndarray,
    planes1: np.ndarray,
    maps: np.ndarray,
    valid0: np.ndarray,
    valid1: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    back = np.linalg.inv(maps)
    to1 = [project(p, planes0, planes1, maps) for p in points0]
    to0 = [project(p, planes1, planes0, back) for p in points1]
    distance = np.full((len(points0), len(points1)), np.inf)
    for i, (a, _) in enumerate(to1):
        for j, (b, _) in enumerate(to0):
            if a is not None and b is not None and valid0[i] and valid1[j]:
                there, here = np.linalg.norm(a - points1[j]), np.linalg.norm(points0[i] - b)
                distance[i, j] = max(there, here)
    matches = np.zeros(distance.shape, bool)
    for i, j in np.ndindex(*distance.shape):
        best = distance[i, j] == distance[i].min() == distance[:, j].min()
        matches[i, j] = best and distance[i, j] < NEAR

    def unmatched(projected: list, own_valid: np.ndarray, others: np.ndarray) -> np.ndarray:
        result = np.zeros(len(projected), bool)
        for i, (at, known) in enumerate(projected):
            if own_valid[i] and known:
                gaps = [np.inf] if at is None else [np.inf, *np.linalg.norm(others - at, axis=1)]
                result[i] = min(gaps) > FAR
        return result

    return (
        matches,
        unmatched(to1, valid0, points1[valid1]),
        unmatched(to0, valid1, points0[valid0]),
    )


def random_scene(seed: int, count: int = 40) -> list[np.ndarray]:
    """Two planes and an edge without a plane in two views; the keypoints partly repeat."""
    rng = np.random.default_rng(seed)
    maps = np.stack(
        [
            np.array([[1.02, 0.05, 4.0], [-0.04, 0.97, -3], [5e-4, -3e-4, 1]]),
            np.array([[0.9, 0.0, -9.0], [0.1, 1.05, 6], [0, 0, 1]]),
            np.eye(3),
        ]
    )
    planes0 = np.zeros((HEIGHT, WIDTH), np.uint8)
    planes0[10:35, 22:50] = 1
    planes0[:, :6] = NO_PLANE
    planes1 = np.zeros((HEIGHT, WIDTH), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    source = np.linalg.inv(maps[1]) @ np.stack((x, y, np.ones_like(x))).reshape(3, -1)
    source = np.rint(source[:2] / source[2]).astype(int).reshape(2, HEIGHT, WIDTH)
    within = (source[0] >= 22) & (source[0] < 50) & (source[1] >= 10) & (source[1] < 35)
    planes1[within] = 1
    planes1[:5] = NO_PLANE
    points0 = rng.random((count, 2)) * (WIDTH - 1, HEIGHT - 1)
    plane = planes0[np.rint(points0[:, 1]).astype(int), np.rint(points0[:, 0]).astype(int)]
    mapped = np.einsum(
        "nij,nj->ni", maps[np.where(plane == NO_PLANE, 0, plane)], np.c_[points0, np.ones(count)]
    )
    points1 = mapped[:, :2] / mapped[:, 2:] + rng.normal(0, 2.0, (count, 2))
    points1 = np.clip(points1, 0, (WIDTH - 1, HEIGHT - 1))[rng.permutation(count)][: count - 8]
    valid0, valid1 = rng.random(count) < 0.85, rng.random(count - 8) < 0.85
    return [points0, points1, planes0, planes1, maps, valid0, valid1]


def as_tensors(scenes: list[list[np.ndarray]]) -> list[torch.Tensor]:
    stacked = [np.stack(parts) for parts in zip(*scenes, strict=True)]
    return [
        torch.from_numpy(array).float() if array.dtype == np.float64 else torch.from_numpy(array)
        for array in stacked
    ]


def test_a_batch_of_scenes_by_definition() -> None:
    scenes = [random_scene(seed) for seed in range(6)]
    # float32, as the network sees it
    for scene in scenes:
        for i in (0, 1, 4):
            scene[i] = scene[i].astype(np.float32).astype(np.float64)
    truth = true_assignment(*as_tensors(scenes), near=NEAR, far=FAR)
    totals = np.zeros(4, int)
    for b, scene in enumerate(scenes):
        matches, unmatched0, unmatched1 = by_definition(*scene)
        np.testing.assert_array_equal(truth.matches[b].numpy(), matches)
        np.testing.assert_array_equal(truth.unmatched0[b].numpy(), unmatched0)
        np.testing.assert_array_equal(truth.unmatched1[b].numpy(), unmatched1)
        ambiguous = scene[5] & ~unmatched0 & ~matches.any(1)
        totals += [matches.sum(), unmatched0.sum(), unmatched1.sum(), ambiguous.sum()]
    assert (totals > 15).all()  # the scenes hold every case


def test_no_keypoint_is_both_matched_and_unmatched() -> None:
    truth = true_assignment(*as_tensors([random_scene(seed) for seed in range(6)]))
    assert not (truth.matches.any(2) & truth.unmatched0).any()
    assert not (truth.matches.any(1) & truth.unmatched1).any()
    assert truth.matches.sum(2).max() == 1
    assert truth.matches.sum(1).max() == 1


def single(
    point0: tuple[float, float], point1: tuple[float, float], **changes: np.ndarray
) -> Assignment:
    """One keypoint in each view of a plane that does not move, unless changed."""
    scene: dict[str, np.ndarray] = {
        "points0": np.array([point0], float),
        "points1": np.array([point1], float),
        "planes0": np.zeros((HEIGHT, WIDTH), np.uint8),
        "planes1": np.zeros((HEIGHT, WIDTH), np.uint8),
        "maps": np.eye(3)[None],
        "valid0": np.array([True]),
        "valid1": np.array([True]),
    }
    return true_assignment(*as_tensors([list((scene | changes).values())]))


@pytest.mark.parametrize(
    ("gap", "matched", "unmatched"),
    [
        (0, True, False),
        (2.9, True, False),
        (3.1, False, False),
        (4.9, False, False),
        (5.1, False, True),
    ],
)
def test_near_is_matched_far_is_unmatched_between_is_ambiguous(
    gap: float, matched: bool, unmatched: bool
) -> None:
    truth = single((20, 20), (20 + gap, 20))
    assert truth.matches.item() == matched
    assert truth.unmatched0.item() == truth.unmatched1.item() == unmatched


def test_padding_does_not_affect_other_keypoints() -> None:
    truth = single((20, 20), (20, 20), valid1=np.array([False]))
    assert not truth.matches.any()
    assert truth.unmatched0.item()
    assert not truth.unmatched1.item()


def test_keypoints_on_no_plane_are_ignored() -> None:
    nothing = np.full((HEIGHT, WIDTH), NO_PLANE, np.uint8)
    truth = single((20, 20), (40, 40), planes0=nothing)
    assert not truth.matches.any()
    assert not truth.unmatched0.item()


def test_hidden_and_outside_keypoints_are_unmatched() -> None:
    hidden = np.ones((HEIGHT, WIDTH), np.uint8)
    both = np.stack((np.eye(3), np.eye(3)))
    truth = single((20, 20), (20, 20), planes1=hidden, maps=both)
    assert not truth.matches.any()
    assert truth.unmatched0.item()
    away = np.eye(3)[None] + np.array([[[0, 0, 50.0], [0, 0, 0], [0, 0, 0]]])
    truth = single((20, 20), (60, 20), maps=away)
    assert not truth.matches.any()
    assert truth.unmatched0.item()


# --- loss and reported metrics --------------------------------------------------------------


def example() -> tuple[torch.Tensor, Assignment]:
    torch.manual_seed(0)
    log_assignment = torch.randn(2, 4, 5).log_softmax(2)
    matches = torch.zeros(2, 3, 4, dtype=torch.bool)
    matches[0, 0, 1] = matches[0, 2, 0] = matches[1, 1, 3] = True
    unmatched0 = torch.tensor([[False, True, False], [True, False, False]])
    unmatched1 = torch.tensor([[False, False, True, False], [False] * 4])
    return log_assignment, Assignment(matches, unmatched0, unmatched1)


def test_the_assignment_loss_by_definition() -> None:
    p, truth = example()
    inner = [-p[0, 0, 1], -p[0, 2, 0], -p[1, 1, 3]]
    outer = [-p[0, 1, -1], -p[1, 0, -1], -p[0, -1, 2]]
    expected = (sum(inner) / 3 + sum(outer) / 3) / 2
    torch.testing.assert_close(assignment_loss(p, truth), expected)
    no_unmatched = Assignment(truth.matches, truth.unmatched0 & False, truth.unmatched1 & False)
    torch.testing.assert_close(assignment_loss(p, no_unmatched), sum(inner) / 3)


def test_loss_without_ground_truth_is_0_with_a_gradient() -> None:
    p, truth = example()
    p.requires_grad_(True)
    none = Assignment(truth.matches & False, truth.unmatched0 & False, truth.unmatched1 & False)
    loss = assignment_loss(p, none)
    loss.backward()
    assert loss.item() == 0
    assert p.grad is not None
    assert (p.grad == 0).all()


def test_precision_and_recall() -> None:
    _, truth = example()
    # View 0 of the first scene: correct; wrong, because the keypoint is unmatched; missed. Of the
    # second: wrong, because it is matched to the match of another keypoint; missed; ambiguous.
    matches0 = torch.tensor([[1, 2, -1], [3, -1, 1]])
    precision, recall = precision_recall(matches0, truth)
    assert precision == pytest.approx(1 / 3)
    assert recall == pytest.approx(1 / 3)
    perfect = torch.tensor([[1, -1, 0], [-1, 3, -1]])
    assert precision_recall(perfect, truth) == (1, 1)
    assert precision_recall(torch.full((2, 3), -1), truth) == (0, 0)
