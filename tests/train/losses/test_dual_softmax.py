"""The dual-softmax loss against its definition."""

from __future__ import annotations

import numpy as np
import torch

from featherglue.train.losses.dual_softmax import (
    cosine_similarity,
    dual_softmax_loss,
    labeled_softmax_loss,
    nearest_neighbor_accuracy,
    same_places,
    valid_points,
)


def log_softmax(values: np.ndarray) -> np.ndarray:
    values = values - values.max()
    return values - np.log(np.exp(values).sum())


def padded_descriptors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Descriptors of 3 pairs with 5, 2 and 0 correspondences, padded to 6, and these numbers."""
    torch.manual_seed(0)
    first = torch.nn.functional.normalize(torch.randn(3, 6, 8), dim=2)
    noisy = first + 0.3 * torch.randn(3, 6, 8)
    return first, torch.nn.functional.normalize(noisy, dim=2), torch.tensor([5, 2, 0])


def compared(
    first: torch.Tensor, second: torch.Tensor, count: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine similarities and the mask of valid points."""
    real = valid_points(count, first.shape[1])
    return cosine_similarity(first, second, real), real


def test_similarity_is_the_cosine_of_valid_points() -> None:
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


def test_padding_has_no_gradient_and_the_loss_without_points_is_0() -> None:
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


def test_nearest_neighbor_accuracy() -> None:
    cosine = torch.tensor([[[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.2, 0.3]]])
    real = torch.tensor([[True, True, True]])
    assert nearest_neighbor_accuracy(cosine, real).item() == torch.tensor(2 / 3).item()
    assert nearest_neighbor_accuracy(cosine, torch.tensor([[True, True, False]])).item() == 0.5
    assert nearest_neighbor_accuracy(cosine, torch.tensor([[False] * 3])).item() == 0


def test_same_places_are_those_within_their_uncertainty() -> None:
    positions = torch.tensor([[[0.0], [1.0], [9.0]], [[0.2], [torch.nan], [0.0]]])
    positions = torch.cat((positions, torch.zeros(2, 3, 2)), 2)
    uncertainties = torch.tensor([[0.3, 0.1, 0.1], [0.1, torch.nan, 0.1]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    # Points a, b, c of the first sample and d, e of the second; e may be anywhere.
    same = same_places(torch.tensor([2, 2]), positions, uncertainties, valid)
    pairs = {(i, j) for i, j in same.nonzero().tolist()}
    assert pairs == {(0, 3), (3, 0), (0, 4), (4, 0), (1, 4), (4, 1), (2, 4), (4, 2)}
    for scenes in ([2, 3], [-1, -1]):
        assert not same_places(torch.tensor(scenes), positions, uncertainties, valid).any()


def test_the_loss_of_labeled_matches() -> None:
    first, second, count = padded_descriptors()
    cosine, real = compared(first, second, count)
    expected, _ = dual_softmax_loss(cosine, real, 0.1)
    diagonal = torch.eye(6, dtype=torch.bool) & real[:, None]
    found = labeled_softmax_loss(first, second, real, real, diagonal, 0.1)
    torch.testing.assert_close(found, expected)
    # The order of the keypoints does not matter; those without a match are negatives only.
    order = torch.randperm(6)
    permuted = labeled_softmax_loss(
        first, second[:, order], real, real[:, order], diagonal[:, :, order], 0.1
    )
    torch.testing.assert_close(permuted, expected)
    one = diagonal.clone()
    one[:, 1:] = False
    log = [log_softmax(v.numpy() / 0.1)[0] for c in (cosine, cosine.mT) for v in (c[0, 0, :5],)]
    log += [log_softmax(v.numpy() / 0.1)[0] for c in (cosine, cosine.mT) for v in (c[1, 0, :2],)]
    torch.testing.assert_close(
        float(labeled_softmax_loss(first, second, real, real, one, 0.1)),
        -float(np.sum(log)) / 4,
        rtol=1e-5,
        atol=1e-6,
    )
    none = torch.zeros_like(diagonal)
    assert float(labeled_softmax_loss(first, second, real, real, none, 0.1)) == 0
