"""The detector loss against its definition."""

from __future__ import annotations

import numpy as np
import torch

from featherglue.train.losses.detector import detector_loss, label_weights


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


def test_loss_without_cells_is_0() -> None:
    logits = torch.randn(1, 65, 2, 2, requires_grad=True)
    labels, inside = torch.zeros(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.bool)
    loss = detector_loss(logits, labels, inside)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_a_label_has_the_confidence_of_its_point() -> None:
    labels = torch.full((1, 2, 3), 64)
    labels[0, 0, 1] = 2 * 8 + 5  # pixel (13, 2)
    labels[0, 1, 2] = 0  # pixel (16, 8)
    # The second point is in the cell of the first one, but is not its label; the third is padding.
    points = torch.tensor([[[13.2, 1.9], [12.0, 2.0], [16.0, 8.0]]])
    confidence = torch.tensor([[0.25, 0.9, 0.5]])
    weights = label_weights(labels, points, confidence, torch.tensor([[True, True, False]]))
    assert weights.tolist() == [[[1, 0.25, 1], [1, 1, 1]]]
    logits = torch.randn(1, 65, 2, 3, generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(1, 2, 3, dtype=torch.bool)
    inside[0, 0, 1] = True
    logs = log_softmax(logits[0, :, 0, 1].double().numpy())
    loss = detector_loss(logits, labels, inside, weights)
    np.testing.assert_allclose(loss, -0.25 * logs[21] - 0.75 * logs[64], rtol=1e-5)
