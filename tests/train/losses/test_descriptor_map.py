"""The map of descriptors: identity, learned, or Procrustes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.losses.descriptor_map import DescriptorMap, procrustes
from featherglue.train.losses.divergences import descriptor_distance


def rotation(width: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return nn.init.orthogonal_(torch.empty(width, width))


def units(count: int, width: int, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return F.normalize(torch.randn(count, width), dim=1)


def test_procrustes_recovers_a_rotation() -> None:
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


def test_gradients_and_updates_of_each_kind_of_map() -> None:
    embed, student = rotation(9)[:4], units(40, 4)
    teacher = student @ embed
    identity = DescriptorMap(4, 4)
    assert list(identity.parameters()) == list(identity.buffers()) == []
    assert identity(student) is student
    fitted = DescriptorMap(4, 9, "procrustes")
    fitted.update(student, teacher, ProcessGroup())
    assert descriptor_distance(fitted(student), teacher, "l2") < 1e-9
    turned = rotation(9, seed=5)
    for _ in range(300):
        fitted.update(student, teacher @ turned, ProcessGroup())
    assert descriptor_distance(fitted(student), teacher @ turned, "l2") < 1e-3
    learned = DescriptorMap(4, 9, "learned")
    torch.testing.assert_close(learned.weight @ learned.weight.T, torch.eye(4), atol=1e-5, rtol=0)
    optimizer = torch.optim.SGD(learned.parameters(), 1.0)
    for _ in range(100):
        optimizer.zero_grad()
        descriptor_distance(learned(student), teacher, "l2").backward()
        optimizer.step()
    assert descriptor_distance(learned(student), teacher, "l2") < 0.01
