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

    Args:
        seed: seed of the training data.
        index: index of the batch, or of its first sample.
        device: device of the tensors.
    """

    def __init__(self, seed: int, index: int, device: torch.device) -> None:
        first, second = np.random.SeedSequence((seed, index)).generate_state(2, np.uint64)
        self.device = device
        self._device_generator = torch.Generator(device).manual_seed(int(first >> np.uint64(1)))
        self._cpu_generator = torch.Generator().manual_seed(int(second >> np.uint64(1)))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers in [low, high), float32 of this shape."""
        values = torch.rand(shape, generator=self._device_generator, device=self.device)
        return low + (high - low) * values

    def factor(self, maximum: float, *shape: int) -> Tensor:
        """Log-uniform numbers in [1/maximum, maximum], float32 of this shape."""
        return (self.uniform(-1, 1, *shape) * math.log(maximum)).exp()

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Booleans of this shape, true with this probability."""
        return self.uniform(0, 1, *shape) < probability

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform integers in [low, high), int64 of this shape."""
        return torch.randint(low, high, shape, generator=self._device_generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Numbers of the standard normal distribution, float32 of this shape."""
        return torch.randn(shape, generator=self._device_generator, device=self.device)

    def random_indices(self, probability: float, count: int) -> Tensor:
        """Indices (K,) int64 in [0, count), each with this probability, in ascending order."""
        taken = torch.rand(count, generator=self._cpu_generator) < probability
        return taken.nonzero()[:, 0].to(self.device, non_blocking=True)

    def uniform_on_cpu(self, low: float, high: float, count: int) -> list[float]:
        """`count` numbers in [low, high), drawn on the CPU."""
        return (low + (high - low) * torch.rand(count, generator=self._cpu_generator)).tolist()
