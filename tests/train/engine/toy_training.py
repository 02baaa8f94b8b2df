"""A tiny training: a small network learns a linear function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherglue.train.engine.loop import train
from featherglue.train.engine.loop_config import LoopConfig

CONFIG = LoopConfig(
    steps=8, batch_size=3, warmup=2, workers=0, bf16=False, save_seconds=0.0, learning_rate=0.05
)


class Numbers:
    """Item i is a noisy point of a linear function. The requested indices are recorded."""

    def __init__(self) -> None:
        self.requested: list[int] = []

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        self.requested.append(index)
        rng = np.random.default_rng(index)
        x = rng.standard_normal(4).astype(np.float32)
        return {"x": x, "y": np.float32(x.sum() + 0.1 * rng.standard_normal())}


class NumbersAtOnce:
    """`Numbers` in batches, as a GPU makes them."""

    def batch(self, first: int, count: int) -> dict[str, Tensor]:
        items = [Numbers()[i] for i in range(first, first + count)]
        return {key: torch.as_tensor(np.stack([i[key] for i in items])) for key in items[0]}


def network(width: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))


def loss_of(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """A loss that draws random numbers, as that of the matcher does."""
    chance = torch.rand(())
    error = (model(batch["x"])[:, 0] - batch["y"]).square().mean() * (0.5 + chance)
    return error, {"chance": float(chance)}


class FailsAt:
    """`loss_of`, but the loss or gradient of one step is not finite."""

    def __init__(self, step: int, how: str) -> None:
        self.step, self.how, self.count = step, how, 0

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, float]]:
        loss, row = loss_of(model, batch)
        if self.count == self.step:
            if self.how == "gradient":  # the loss is finite
                first = next(model.parameters())
                loss = loss + (first * 0).sum().sqrt()
            else:
                loss = loss * float(self.how)
        self.count += 1
        return loss, row


class StopsAfter:
    """`loss_of`, which raises KeyboardInterrupt after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, float]]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return loss_of(model, batch)


def equal(first: nn.Module, second: nn.Module) -> bool:
    """Whether all parameters and buffers are equal."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def run(folder: Path, steps_at_once: list[int] | None = None) -> tuple[nn.Module, nn.Module]:
    """Train without interruption, or interrupted after each of `steps_at_once`."""
    model = network()
    if steps_at_once is None:
        torch.manual_seed(1)
        return model, train(model, loss_of, Numbers(), CONFIG, folder)
    average: nn.Module = model
    for i, steps in enumerate(steps_at_once):
        model = network(seed=i)  # a new process builds a new network
        torch.manual_seed(1 if i == 0 else 100 + i)
        stop = StopsAfter(steps)
        try:
            average = train(model, stop, Numbers(), CONFIG, folder)
        except KeyboardInterrupt:
            assert stop.left == 0
    return model, average
