"""What a student is compared by, against the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.models.sinkhorn import log_optimal_transport
from featherglue.train.engine.distributed import World
from featherglue.train.losses.distillation import (
    DescriptorMap,
    assignment_gap,
    descriptor_gap,
    procrustes,
    score_map_gap,
)


def rotation(width: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return nn.init.orthogonal_(torch.empty(width, width))


def units(count: int, width: int, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return F.normalize(torch.randn(count, width), dim=1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_score_maps_divergence_by_definition(temperature: float) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.standard_normal((2, 2, 65, 3, 4)) * 3
    inside = rng.random((2, 3, 4)) < 0.6
    terms = []
    for b, y, x in np.argwhere(inside):
        p, q = (np.exp(z[b, :, y, x] / temperature) for z in (theirs, ours))
        p, q = p / p.sum(), q / q.sum()
        terms.append(temperature**2 * (p * np.log(p / q)).sum())
    found = score_map_gap(
        torch.tensor(ours), torch.tensor(theirs), torch.tensor(inside), temperature
    )
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-5)
    same = score_map_gap(torch.tensor(ours), torch.tensor(ours), torch.tensor(inside), temperature)
    assert abs(float(same)) < 1e-6


def test_descriptors_apart_by_angle_or_by_length() -> None:
    first, second = units(7, 5), units(7, 5, seed=2)
    cosine = descriptor_gap(first * 3, second, "cosine")
    torch.testing.assert_close(cosine, (1 - (first * second).sum(1)).mean())
    torch.testing.assert_close(descriptor_gap(first, second, "l2"), 2 * cosine)
    assert descriptor_gap(first[:0], second[:0], "cosine") == 0


def test_the_assignments_divergence_by_definition() -> None:
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
    found = assignment_gap(student, teacher, mask0, mask1)
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-4)
    assert found > 0.1
    assert assignment_gap(teacher, teacher, mask0, mask1) == 0
    none = torch.zeros_like(mask0), torch.zeros_like(mask1)
    assert assignment_gap(student, teacher, *none) == 0


def test_a_known_rotation_is_found_again() -> None:
    turn, student = rotation(6), units(50, 6)
    torch.testing.assert_close(procrustes(student.T @ (student @ turn)), turn, atol=1e-5, rtol=0)
    noisy = student @ turn + 0.01 * units(50, 6, seed=3)
    torch.testing.assert_close(procrustes(student.T @ noisy), turn, atol=0.02, rtol=0)


def test_descriptors_of_another_width_are_embedded() -> None:
    embed = rotation(9)[:4]  # (4, 9), orthonormal rows
    student = units(40, 4)
    torch.testing.assert_close(procrustes(student.T @ (student @ embed)), embed, atol=1e-5, rtol=0)
    back = units(40, 9)
    found = procrustes(back.T @ (back @ embed.T))
    torch.testing.assert_close(found.T @ found, torch.eye(4), atol=1e-5, rtol=0)


def test_a_map_learns_follows_or_does_nothing() -> None:
    embed, student = rotation(9)[:4], units(40, 4)
    teacher = student @ embed
    same = DescriptorMap(4, 4)
    assert list(same.parameters()) == list(same.buffers()) == []
    assert same(student) is student
    fitted = DescriptorMap(4, 9, "procrustes")
    fitted.observe(student, teacher, World())
    assert descriptor_gap(fitted(student), teacher, "l2") < 1e-9
    turned = rotation(9, seed=5)
    for _ in range(300):
        fitted.observe(student, teacher @ turned, World())
    assert descriptor_gap(fitted(student), teacher @ turned, "l2") < 1e-3
    learned = DescriptorMap(4, 9, "learned")
    torch.testing.assert_close(learned.weight @ learned.weight.T, torch.eye(4), atol=1e-5, rtol=0)
    optimizer = torch.optim.SGD(learned.parameters(), 1.0)
    for _ in range(100):
        optimizer.zero_grad()
        descriptor_gap(learned(student), teacher, "l2").backward()
        optimizer.step()
    assert descriptor_gap(learned(student), teacher, "l2") < 0.01
