"""Several processes that train one network, as `torchrun` starts them."""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from featherglue.errors import ConfigError


@dataclass(frozen=True)
class World:
    """The processes of a run; one, number 0, unless `torchrun` started more."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, batch_size: int, accumulate: int) -> int:
        """Samples of a step that a process takes at once.

        Raises:
            ConfigError: they cannot be shared out evenly.
        """
        parts = self.size * accumulate
        if batch_size % parts:
            raise ConfigError(
                f"batch_size {batch_size} cannot be shared out evenly among {self.size} "
                f"processes that take it in {accumulate} parts"
            )
        return batch_size // parts

    def order(self, first: int, last: int, batch_size: int) -> Iterator[int]:
        """The samples of this process in the steps from `first` to before `last`."""
        own = batch_size // self.size
        for step in range(first, last):
            start = step * batch_size + self.rank * own
            yield from range(start, start + own)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Set every gradient to its mean over the processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for gradient in gradients:
            end = start + gradient.numel()
            gradient.copy_(flat[start:end].view_as(gradient))
            start = end

    def mean(self, value: float, device: torch.device) -> float:
        """The mean of a number over the processes; not finite if it is so in one of them."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def any(self, value: bool, device: torch.device) -> bool:
        """Whether it holds in one of the processes."""
        return self.mean(float(value), device) > 0


def join_world(device: str) -> tuple[World, str]:
    """Join the other processes, if `torchrun` started several.

    Returns:
        the world, and the device of this process.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(), device
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # A thread of gloo that lets go of a tensor when the interpreter goes down aborts the
        # process, and torchrun then calls a finished training failed. The threads end with the
        # last reference to the group, and torch.distributed.nn keeps one as a default argument
        # where it is imported later, as optimizers do.
        importlib.import_module("torch.distributed.nn")
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        atexit.register(_leave_world)
    return World(dist.get_rank(), dist.get_world_size()), device


def _leave_world() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
