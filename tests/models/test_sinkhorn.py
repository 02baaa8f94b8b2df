"""The optimal matching layer of training against the published one."""

from __future__ import annotations

import pytest
import torch

from featherglue.models.sinkhorn import transport
from featherglue.models.superglue import log_optimal_transport


@pytest.mark.parametrize("spread", [1.0, 10.0, 40.0])
@pytest.mark.parametrize("padding", [0, 7])
def test_it_is_the_published_layer_with_its_gradient(spread: float, padding: int) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = (spread * torch.randn(2, 30, 24, generator=generator)).requires_grad_()
    dustbin = torch.tensor(0.3 * spread, requires_grad=True)
    mask0, mask1 = torch.ones(2, 30, dtype=torch.bool), torch.ones(2, 24, dtype=torch.bool)
    if padding:
        mask0[1, -padding:], mask1[0, -padding:] = False, False
    results = []
    for layer in (log_optimal_transport, transport):
        found = layer(scores, dustbin, 20, mask0, mask1)
        shown = found > -1e8
        weights = torch.linspace(0, 1, found.numel()).reshape(found.shape)
        total = (found.clamp(-30, 0) * weights)[shown].sum() / 100
        gradients = torch.autograd.grad(total, (scores, dustbin))
        assert all(torch.isfinite(g).all() for g in gradients)
        results.append((found.detach(), *gradients))
    for expected, given in zip(*results, strict=True):
        torch.testing.assert_close(given, expected, atol=2e-3, rtol=1e-3)


def test_one_point_that_everything_resembles_has_a_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 40 * torch.rand(1, 29, 29, generator=generator)
    scores[:, :, 0] += 90
    scores.requires_grad_()
    mask = torch.ones(1, 29, dtype=torch.bool)
    gradients = []
    for layer in (log_optimal_transport, transport):
        loss = -layer(scores, torch.tensor(14.0), 20, mask, mask).diagonal(dim1=1, dim2=2).mean()
        gradients += torch.autograd.grad(loss, scores)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_it_is_exact_within_autocast() -> None:
    scores = 10 * torch.randn(1, 20, 20, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 20, dtype=torch.bool)
    expected = transport(scores, torch.tensor(3.0), 20, mask, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = transport(scores, torch.tensor(3.0), 20, mask, mask)
    torch.testing.assert_close(found, expected)
