"""What a training loop learns from: samples of worker processes, or batches made on the device."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from featherglue.train.engine.distributed import World

Batch = dict[str, Tensor]


class Samples(Protocol):
    """Endless training data: item `i` depends on a seed and `i` alone."""

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


@runtime_checkable
class Batches(Protocol):
    """Endless training data, made a batch at a time where the network is."""

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first`, …, `first + count − 1`, stacked, on the device of the network.

        What they are depends on a seed, `first` and `count` alone.
        """
        ...


def feed(
    samples: Samples | Batches,
    first: int,
    steps: int,
    batch_size: int,
    workers: int,
    world: World,
    at_once: int,
) -> Iterable[Batch]:
    """What a process learns from, in its order.

    Args:
        first, steps: the step to begin with, and how many the run has. batch_size: of a step.
        workers: processes that make samples. at_once: samples that are taken together.
    """
    if isinstance(samples, Batches):
        order = list(world.order(first, first + 1, batch_size))
        further = range(0, (steps - first) * batch_size, batch_size)
        return (
            samples.batch(start + more, at_once) for more in further for start in order[::at_once]
        )
    return DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=at_once,
        sampler=_Order(world, first, steps, batch_size),
        num_workers=workers,
        generator=torch.Generator(),  # the global one would move with every resumption
        worker_init_fn=_prepare_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


@dataclass(frozen=True)
class _Order(Sampler[int]):
    """The samples of a process, from a step on."""

    world: World
    first: int
    steps: int
    batch_size: int

    def __iter__(self) -> Iterator[int]:
        return self.world.order(self.first, self.steps, self.batch_size)


def _prepare_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
