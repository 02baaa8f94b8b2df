"""Configurations and helpers of the tests of training stages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from featherglue.models.model import Model
from featherglue.train.engine.loader import Batch
from featherglue.train.engine.loop import LossFunction, train
from featherglue.train.engine.loop_config import LoopConfig

T = TypeVar("T")
LOOP = """
[loop]
steps = 3
batch_size = 2
warmup = 1
workers = 0
bf16 = false
"""
POINT = f"""
seed = 4
data = "three photographs"
{LOOP}
[architecture]
channels = [4, 4, 8, 8, 8, 8, 16, 16]
detector_channels = 16
descriptor_channels = 16
descriptor_dim = 16
batch_norm = true
[views]
size = [64, 64]
max_points = 32
[validation]
fraction = 0
"""
GLUE = """
extractor = "{extractor}"
min_keypoints = 20
max_keypoints = 30
{loop}
[architecture]
descriptor_dim = 16
width = 16
keypoint_encoder = [8]
layers = [
  {{kind = "self", heads = 1, head_dim = 8, hidden = 16}},
  {{kind = "cross", heads = 2, head_dim = 8, hidden = 16}},
]
[scenes]
size = [96, 64]
[validation]
fraction = 0
[processing]
max_keypoints = 77
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def with_loop(stage: T, **settings: Any) -> T:
    """The stage with other settings of its loop."""
    loop = dataclasses.replace(stage.loop, **settings)  # type: ignore[attr-defined]
    return dataclasses.replace(stage, loop=loop)  # type: ignore[type-var]


def assert_same_weights(found: Model, expected: Model) -> None:
    ours, theirs = found.to_artifact().arrays, expected.to_artifact().arrays
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def batch(samples: Any, count: int) -> Batch:
    items = [samples[i] for i in range(count)]
    return {key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in items[0]}


def losses_of_training(
    network: nn.Module, loss: LossFunction, samples: Repeated, folder: Path, learning_rate: float
) -> list[tuple[torch.Tensor, dict[str, float]]]:
    """The loss of a network and its metrics, before and after 12 steps on two samples."""
    data = batch(samples, 2)

    def measure() -> tuple[torch.Tensor, dict[str, float]]:
        with torch.no_grad():
            return loss(network.train(), data)

    before = measure()
    loop = LoopConfig(
        steps=12, batch_size=2, warmup=2, workers=0, bf16=False, learning_rate=learning_rate
    )
    train(network, loss, samples, loop, folder)
    return [before, measure()]


class Repeated:
    """A few samples, repeated endlessly."""

    def __init__(self, samples: Any, count: int) -> None:
        self.items = [samples[i] for i in range(count)]

    def __getitem__(self, index: int) -> Any:
        return self.items[index % len(self.items)]
