"""The random numbers of a batch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class Draws:
    """Random numbers on a device, determined by seed, index, device and PyTorch release.

    Numbers that decide which kernels run are drawn on the CPU, so that it never waits for the
    device.
    """

    def __init__(self, seed: int, index: int, device: torch.device) -> None:
        first, second = np.random.SeedSequence((seed, index)).generate_state(2, np.uint64)
        self.device = device
        self._there = torch.Generator(device).manual_seed(int(first >> np.uint64(1)))
        self._here = torch.Generator().manual_seed(int(second >> np.uint64(1)))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers in [low, high)."""
        values = torch.rand(shape, generator=self._there, device=self.device)
        return low + (high - low) * values

    def factor(self, maximum: float, *shape: int) -> Tensor:
        """Log-uniform numbers in [1/maximum, maximum]."""
        return (self.uniform(-1, 1, *shape) * math.log(maximum)).exp()

    def chance(self, probability: float, *shape: int) -> Tensor:
        """True with this probability."""
        return self.uniform(0, 1, *shape) < probability

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers in [low, high)."""
        return torch.randint(low, high, shape, generator=self._there, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Normally distributed numbers."""
        return torch.randn(shape, generator=self._there, device=self.device)

    def some(self, probability: float, count: int) -> Tensor:
        """Indices below `count`, each taken with this probability."""
        taken = torch.rand(count, generator=self._here) < probability
        return taken.nonzero()[:, 0].to(self.device, non_blocking=True)

    def here(self, low: float, high: float, count: int) -> list[float]:
        """Numbers in [low, high), on the CPU."""
        return (low + (high - low) * torch.rand(count, generator=self._here)).tolist()
