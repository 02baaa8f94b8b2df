"""The hinge loss against its definition."""

from __future__ import annotations

import numpy as np
import torch

from featherglue.train.losses.hinge import HingeConfig, corresponding_cells, hinge_loss


def hinge_by_definition(
    first: np.ndarray, second: np.ndarray, homography: np.ndarray, inside: list[np.ndarray]
) -> float:
    """Equations 4 to 6 of DeTone 2018 for one pair, cell by cell."""
    terms = []
    height, width = first.shape[1:]
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
    pairs = corresponding_cells(shift, 2, 3, 7.9)[0]
    expected = torch.zeros(6, 6, dtype=torch.bool)
    for cell in (0, 1, 3, 4):
        expected[cell, cell + 1] = True
    assert torch.equal(pairs, expected)
    behind = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, -1]]])
    assert not corresponding_cells(behind, 2, 3, 7.9).any()
