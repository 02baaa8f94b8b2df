"""The optimal matching layer: marginals, padding, gradients, and the log-domain reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from featherglue.models.sinkhorn import log_optimal_transport


def log_domain(scores: Tensor, bin_score: Tensor, iterations: int) -> Tensor:
    """Sinkhorn in the log domain for one pair (N0, N1) without padding, as published."""
    rows, columns = scores.shape
    couplings = torch.cat((scores, bin_score.expand(rows, 1)), 1)
    couplings = torch.cat((couplings, bin_score.expand(1, columns + 1)))
    norm = -torch.tensor(float(rows + columns)).log()
    log_mu = torch.cat((norm.expand(rows), (torch.tensor(float(columns)).log() + norm)[None]))
    log_nu = torch.cat((norm.expand(columns), (torch.tensor(float(rows)).log() + norm)[None]))
    u, v = torch.zeros(rows + 1), torch.zeros(columns + 1)
    for _ in range(iterations):
        u = log_mu - torch.logsumexp(couplings + v, 1)
        v = log_nu - torch.logsumexp(couplings + u[:, None], 0)
    return couplings + u[:, None] + v - norm


@pytest.mark.parametrize("spread", [1.0, 10.0, 40.0])
@pytest.mark.parametrize("padding", [0, 7])
def test_values_and_gradients_equal_those_of_the_log_domain(spread: float, padding: int) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = (spread * torch.randn(2, 30, 24, generator=generator)).requires_grad_()
    bin_score = torch.tensor(0.3 * spread, requires_grad=True)
    counts = [(30, 24 - padding), (30 - padding, 24)]
    mask0 = torch.stack([torch.arange(30) < n for n, _ in counts])
    mask1 = torch.stack([torch.arange(24) < m for _, m in counts])
    batched = log_optimal_transport(scores, bin_score, 20, mask0, mask1)
    real0 = torch.cat((mask0, torch.ones(2, 1, dtype=torch.bool)), 1)
    real1 = torch.cat((mask1, torch.ones(2, 1, dtype=torch.bool)), 1)
    found = [batched[i][real0[i]][:, real1[i]] for i in range(2)]
    expected = [log_domain(scores[i, :n, :m], bin_score, 20) for i, (n, m) in enumerate(counts)]
    gradients = []
    for results in (found, expected):
        total = scores.new_zeros(())
        for result in results:
            weights = torch.linspace(0, 1, result.numel()).reshape(result.shape)
            total = total + (result.clamp(-30, 0) * weights).sum() / 100
        gradients.append(torch.autograd.grad(total, (scores, bin_score)))
    for given, wanted in zip([*found, *gradients[0]], [*expected, *gradients[1]], strict=True):
        assert torch.isfinite(given).all()
        torch.testing.assert_close(given, wanted, atol=2e-3, rtol=1e-3)


def test_a_point_that_resembles_all_others_has_a_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 40 * torch.rand(29, 29, generator=generator)
    scores[:, 0] += 90
    scores.requires_grad_()
    bin_score = torch.tensor(14.0)
    losses = (
        -log_optimal_transport(scores[None], bin_score, 20)[0].diagonal().mean(),
        -log_domain(scores, bin_score, 20).diagonal().mean(),
    )
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in losses]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_autocast_does_not_change_the_result() -> None:
    scores = 10 * torch.randn(1, 20, 20, generator=torch.Generator().manual_seed(0))
    expected = log_optimal_transport(scores, torch.tensor(3.0), 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = log_optimal_transport(scores, torch.tensor(3.0), 20)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(12, 12), (1, 9), (9, 1), (20, 6)])
def test_the_marginals_of_optimal_transport(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    scores = torch.randn(2, *shape) * 3
    result = log_optimal_transport(scores, torch.tensor(0.4), 300).exp()
    assert result.shape == (2, shape[0] + 1, shape[1] + 1)
    rows, columns = torch.ones(2, shape[0] + 1), torch.ones(2, shape[1] + 1)
    rows[:, -1], columns[:, -1] = shape[1], shape[0]
    torch.testing.assert_close(result.sum(2), rows, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(result.sum(1), columns, atol=1e-3, rtol=1e-3)
    # It is a scaling of exp(scores), rows and columns, and nothing else.
    ratio = result.log()[:, :-1, :-1] - scores
    torch.testing.assert_close(
        ratio - ratio[:, :1] - ratio[:, :, :1] + ratio[:, :1, :1],
        torch.zeros_like(ratio),
        atol=1e-4,
        rtol=0,
    )


def test_the_marginals_of_padded_pairs() -> None:
    torch.manual_seed(2)
    masks = [torch.arange(9) < torch.tensor(c)[:, None] for c in ([9, 4, 1], [6, 9, 9])]
    scores = torch.randn(3, 9, 9)
    result = log_optimal_transport(scores, torch.tensor(0.4), 300, *masks).exp()
    for i in range(3):
        n, m = int(masks[0][i].sum()), int(masks[1][i].sum())
        torch.testing.assert_close(result[i, :n].sum(1), torch.ones(n), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(result[i, :, :m].sum(0), torch.ones(m), atol=1e-3, rtol=1e-3)
        assert result[i, -1].sum().item() == pytest.approx(m, rel=1e-3)
        assert result[i, :, -1].sum().item() == pytest.approx(n, rel=1e-3)
        assert (result[i, n:-1] == 0).all()
        assert (result[i, :, m:-1] == 0).all()


def test_padding_leaves_the_gradient_finite() -> None:
    scores = torch.randn(2, 5, 5, requires_grad=True)
    bin_score = torch.tensor(1.0, requires_grad=True)
    masks = [torch.arange(5) < torch.tensor([[5], [2]]), torch.arange(5) < torch.tensor([[1], [5]])]
    result = log_optimal_transport(scores, bin_score, 20, *masks)
    result[:, 0, 0].sum().backward()
    assert scores.grad is not None
    assert bin_score.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert torch.isfinite(bin_score.grad)
    assert (scores.grad[1, 2:] == 0).all()
    assert scores.grad[1, 0].abs().max() > 0
