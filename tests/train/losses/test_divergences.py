"""The divergences of distillation against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from featherglue.models.sinkhorn import log_optimal_transport
from featherglue.train.losses.divergences import (
    assignment_divergence,
    descriptor_distance,
    score_map_divergence,
)


def units(count: int, width: int, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return F.normalize(torch.randn(count, width), dim=1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_of_score_maps_by_definition(temperature: float) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.standard_normal((2, 2, 65, 3, 4)) * 3
    inside = rng.random((2, 3, 4)) < 0.6
    terms = []
    for b, y, x in np.argwhere(inside):
        p, q = (np.exp(z[b, :, y, x] / temperature) for z in (theirs, ours))
        p, q = p / p.sum(), q / q.sum()
        terms.append(temperature**2 * (p * np.log(p / q)).sum())
    found = score_map_divergence(
        torch.tensor(ours), torch.tensor(theirs), torch.tensor(inside), temperature
    )
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-5)
    equal = score_map_divergence(
        torch.tensor(ours), torch.tensor(ours), torch.tensor(inside), temperature
    )
    assert abs(float(equal)) < 1e-6


def test_descriptor_distances() -> None:
    first, second = units(7, 5), units(7, 5, seed=2)
    cosine = descriptor_distance(first * 3, second, "cosine")
    torch.testing.assert_close(cosine, (1 - (first * second).sum(1)).mean())
    torch.testing.assert_close(descriptor_distance(first, second, "l2"), 2 * cosine)
    assert descriptor_distance(first[:0], second[:0], "cosine") == 0


def test_the_divergence_of_assignments_by_definition() -> None:
    torch.manual_seed(0)
    mask0 = torch.arange(5)[None] < torch.tensor([[5], [3]])
    mask1 = torch.arange(4)[None] < torch.tensor([[4], [2]])
    student, teacher = (
        log_optimal_transport(torch.randn(2, 5, 4) * 3, torch.tensor(1.0), 100, mask0, mask1)
        for _ in range(2)
    )
    terms = []
    for b, (rows, columns) in enumerate(((5, 4), (3, 2))):
        p, q = teacher[b].exp().numpy(), student[b].exp().numpy()
        kept0, kept1 = [*range(rows), 5], [*range(columns), 4]
        gap = p * np.log(np.maximum(p, 1e-30) / np.maximum(q, 1e-30))
        terms += [gap[i, kept1].sum() for i in range(rows)]
        terms += [gap[kept0, j].sum() for j in range(columns)]
    found = assignment_divergence(student, teacher, mask0, mask1)
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-4)
    assert found > 0.1
    assert assignment_divergence(teacher, teacher, mask0, mask1) == 0
    none = torch.zeros_like(mask0), torch.zeros_like(mask1)
    assert assignment_divergence(student, teacher, *none) == 0
