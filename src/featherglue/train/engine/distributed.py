"""Data-parallel training in several processes, started by `torchrun`."""

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
class ProcessGroup:
    """The processes that train one network; a single one unless `torchrun` started more.

    Attributes:
        rank: index of this process.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def micro_batch_size(self, batch_size: int, accumulate: int) -> int:
        """Number of samples in one forward pass of one process.

        Args:
            batch_size: number of samples of an optimizer step, over all processes.
            accumulate: number of forward passes per step in each process.

        Raises:
            ConfigError: the batch cannot be divided evenly.
        """
        parts = self.size * accumulate
        if batch_size % parts:
            raise ConfigError(
                f"batch_size {batch_size} must be divisible by the number of processes times "
                f"accumulate, {self.size} × {accumulate}"
            )
        return batch_size // parts

    def sample_indices(self, first: int, last: int, batch_size: int) -> Iterator[int]:
        """Indices of the samples of this process in the steps `first`, …, `last − 1`."""
        own = batch_size // self.size
        for step in range(first, last):
            start = step * batch_size + self.rank * own
            yield from range(start, start + own)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in place."""
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
        """The mean of a number over the processes; not finite if it is not finite in one."""
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
        """Whether `value` is true in at least one process."""
        return self.mean(float(value), device) > 0


def join_process_group(device: str) -> tuple[ProcessGroup, str]:
    """Join the process group if `torchrun` started several processes.

    Args:
        device: "cpu" or "cuda"; "cuda" becomes the GPU of this process.

    Returns:
        The process group, and the device of this process.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ProcessGroup(), device
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # A gloo thread that releases a tensor during interpreter shutdown aborts the process, and
        # torchrun then reports a failure. The threads end with the last reference to the group.
        # torch.distributed.nn holds one as a default argument if it is imported after
        # initialization, as optimizers do; therefore it is imported first.
        importlib.import_module("torch.distributed.nn")
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        atexit.register(_leave_process_group)
    return ProcessGroup(dist.get_rank(), dist.get_world_size()), device


def _leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
