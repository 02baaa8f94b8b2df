"""The losses against loops over their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featherglue.errors import ConfigError
from featherglue.models.keypoints import sample_descriptors
from featherglue.train.losses.hinge import HingeConfig, corresponding_cells, hinge_loss
from featherglue.train.losses.superpoint_loss import SuperPointLoss
from featherglue.train.losses.terms import (
    detector_loss,
    dual_softmax_loss,
    nearest_share,
    real_points,
    similarity,
)


def log_softmax(values: np.ndarray) -> np.ndarray:
    values = values - values.max()
    return values - np.log(np.exp(values).sum())


def test_the_detector_loss_is_the_cross_entropy_of_cells_inside() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 65, 3, 4)).astype(np.float32) * 3
    labels = rng.integers(0, 65, (2, 3, 4))
    inside = rng.random((2, 3, 4)) < 0.6
    terms = [
        -log_softmax(logits[b, :, y, x].astype(float))[labels[b, y, x]]
        for b in range(2)
        for y in range(3)
        for x in range(4)
        if inside[b, y, x]
    ]
    assert 5 < len(terms) < 24
    loss = detector_loss(
        torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(inside)
    )
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)


def test_no_cell_inside_is_no_loss() -> None:
    logits = torch.randn(1, 65, 2, 2, requires_grad=True)
    labels, inside = torch.zeros(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.bool)
    loss = detector_loss(logits, labels, inside)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def padded_descriptors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of 3 pairs with 5, 2 and 0 correspondences, padded to 6."""
    torch.manual_seed(0)
    first = torch.nn.functional.normalize(torch.randn(3, 6, 8), dim=2)
    noisy = first + 0.3 * torch.randn(3, 6, 8)
    return first, torch.nn.functional.normalize(noisy, dim=2), torch.tensor([5, 2, 0])


def compared(
    first: torch.Tensor, second: torch.Tensor, count: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    real = real_points(count, first.shape[1])
    return similarity(first, second, real), real


def test_similarity_is_cosine_where_both_are_real() -> None:
    first, second, count = padded_descriptors()
    cosine, real = compared(first, second, count)
    assert real.sum(1).tolist() == [5, 2, 0]
    for b, n in enumerate(count.tolist()):
        torch.testing.assert_close(cosine[b, :n, :n], first[b, :n] @ second[b, :n].T)
        assert (cosine[b, n:] == -1e4).all()
        assert (cosine[b, :, n:] == -1e4).all()


def test_the_dual_softmax_loss_by_definition() -> None:
    first, second, count = padded_descriptors()
    cosine, real = compared(first, second, count)
    for temperature in (0.05, 0.5):
        terms = []
        for b, n in enumerate(count.tolist()):
            scaled = (first[b, :n] @ second[b, :n].T).double().numpy() / temperature
            for i in range(n):
                both = log_softmax(scaled[i])[i] + log_softmax(scaled[:, i])[i]
                terms.append(-both / 2)
        loss = dual_softmax_loss(cosine, real, temperature)[0]
        np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-4)


def test_padding_has_no_gradient_and_nothing_is_no_loss() -> None:
    first, second, count = padded_descriptors()
    first.requires_grad_(True)
    cosine, real = compared(first, second, count)
    dual_softmax_loss(cosine, real, 0.05)[0].backward()
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()
    assert first.grad[0, :5].abs().max() > 0
    assert (first.grad[0, 5:] == 0).all()
    assert (first.grad[2] == 0).all()
    empty = torch.zeros(3, dtype=torch.long)
    assert dual_softmax_loss(*compared(first, second, empty), 0.05)[0].item() == 0


def test_better_descriptors_have_a_lower_loss() -> None:
    first, second, count = padded_descriptors()
    losses = [
        dual_softmax_loss(*compared(first, other, count), 0.1)[0].item()
        for other in (first, second, first.flip(1))
    ]
    assert losses[0] < losses[1] < losses[2]


def test_the_share_of_nearest_partners() -> None:
    cosine = torch.tensor([[[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.2, 0.3]]])
    real = torch.tensor([[True, True, True]])
    assert nearest_share(cosine, real).item() == torch.tensor(2 / 3).item()
    assert nearest_share(cosine, torch.tensor([[True, True, False]])).item() == 0.5
    assert nearest_share(cosine, torch.tensor([[False] * 3])).item() == 0


# --- the published loss ---------------------------------------------------------------------


def hinge_by_definition(
    first: np.ndarray, second: np.ndarray, homography: np.ndarray, inside: list[np.ndarray]
) -> float:
    """Equations 4 to 6 of DeTone 2018 for one pair, cell by cell."""
    terms = []
    depth, height, width = first.shape
    cells = [(y, x) for y in range(height) for x in range(width)]
    for y, x in cells:
        for v, u in cells:
            if not (inside[0][y, x] and inside[1][v, u]):
                continue
            p = homography @ (8 * x + 3.5, 8 * y + 3.5, 1)
            near = np.hypot(p[0] / p[2] - (8 * u + 3.5), p[1] / p[2] - (8 * v + 3.5)) <= 8
            d, e = first[:, y, x], second[:, v, u]
            cosine = d @ e / np.linalg.norm(d) / np.linalg.norm(e)
            terms.append(250 * max(0, 1 - cosine) if near else max(0, cosine - 0.2))
    assert depth > 1
    return float(np.mean(terms))


def test_the_hinge_loss_by_definition() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((2, 1, 5, 3, 4)).astype(np.float32)
    insides = rng.random((2, 1, 3, 4)) < 0.8
    turn = np.array([[0.9, -0.2, 6], [0.2, 1.1, -5], [0.002, -0.001, 1]], np.float32)
    for homography in (np.eye(3, dtype=np.float32), turn):
        expected = hinge_by_definition(
            first[0].astype(float), second[0].astype(float), homography, list(insides[:, 0])
        )
        found = hinge_loss(
            torch.from_numpy(first),
            torch.from_numpy(second),
            torch.from_numpy(homography)[None],
            *torch.from_numpy(insides),
            HingeConfig(),
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_corresponding_cells_of_a_shift() -> None:
    shift = torch.tensor([[[1.0, 0, 8], [0, 1, 0], [0, 0, 1]]])  # by one cell to the right
    alike = corresponding_cells(shift, 2, 3, 7.9)[0]
    expected = torch.zeros(6, 6, dtype=torch.bool)
    for cell in (0, 1, 3, 4):
        expected[cell, cell + 1] = True
    assert torch.equal(alike, expected)
    behind = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, -1]]])
    assert not corresponding_cells(behind, 2, 3, 7.9).any()


@pytest.fixture
def judged() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and descriptors of two pairs of 16×16 pixels, and their batch."""
    torch.manual_seed(0)
    batch = {
        "points0": torch.rand(2, 3, 2) * 15,
        "points1": torch.rand(2, 3, 2) * 15,
        "count": torch.tensor([3, 2]),
        "labels0": torch.randint(0, 65, (2, 2, 2)),
        "labels1": torch.randint(0, 65, (2, 2, 2)),
        "inside0": torch.ones(2, 2, 2, dtype=torch.bool),
        "inside1": torch.tensor([True, False]).expand(2, 2, 2),
        "H_0to1": torch.eye(3).expand(2, 3, 3),
    }
    return torch.randn(4, 65, 2, 2), torch.randn(4, 6, 2, 2), batch


def test_the_published_loss_is_of_both_detectors_and_the_hinge(
    judged: tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]],
) -> None:
    logits, dense, batch = judged
    loss, row = SuperPointLoss(descriptor="hinge").judge(logits, dense, batch)
    insides = batch["inside0"], batch["inside1"]
    hinge = hinge_loss(*dense.chunk(2), batch["H_0to1"], *insides, HingeConfig())
    both = sum(
        detector_loss(part, batch[f"labels{i}"], batch[f"inside{i}"])
        for i, part in enumerate(logits.chunk(2))
    )
    torch.testing.assert_close(loss, 1e-4 * hinge + both)
    assert row["descriptor"] == pytest.approx(1e-4 * float(hinge))
    del batch["H_0to1"]
    with pytest.raises(ConfigError, match="spatial = 0"):
        SuperPointLoss(descriptor="hinge").judge(logits, dense, batch)


def test_negatives_of_the_whole_batch(
    judged: tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]],
) -> None:
    logits, dense, batch = judged
    loss, row = SuperPointLoss(negatives="batch").judge(logits, dense, batch)
    points = torch.cat((batch["points0"], batch["points1"]))
    both = sample_descriptors(dense, points, "exact").chunk(2)
    counts = batch["count"].tolist()
    first, second = (
        torch.cat([view[b, :n] for b, n in enumerate(counts)]).double() for view in both
    )
    scaled = (first @ second.T / 0.05).detach().numpy()
    terms = [log_softmax(scaled[i])[i] + log_softmax(scaled[:, i])[i] for i in range(len(scaled))]
    assert row["descriptor"] == pytest.approx(-np.mean(terms) / 2, rel=1e-4)
    assert row["descriptor"] > SuperPointLoss().judge(logits, dense, batch)[1]["descriptor"]
    assert torch.isfinite(loss)


def test_a_loss_that_makes_no_sense_is_refused() -> None:
    for values, said in (
        ({"descriptor": "triplet"}, "dual_softmax"),
        ({"descriptor": "hinge", "reliability": 0.5}, "reliability"),
        ({"descriptor": "hinge", "negatives": "batch"}, "negatives"),
        ({"negatives": "all"}, "negatives"),
        ({"temperature": 0.0}, "temperature"),
    ):
        with pytest.raises(ConfigError, match=said):
            SuperPointLoss(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="near"):
        HingeConfig(near=0.0)
