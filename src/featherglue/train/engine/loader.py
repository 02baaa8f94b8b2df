"""Training data of the loop: samples from worker processes, or batches made on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from featherglue.errors import FeatherglueError, ResourceError
from featherglue.processes import check_num_workers, prepare_worker
from featherglue.train.engine.distributed import ProcessGroup

Batch = dict[str, Tensor]


class Samples(Protocol):
    """Endless training data. Item `i` depends on a seed and on `i` only."""

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


@runtime_checkable
class Batches(Protocol):
    """Endless training data that is made in whole batches on the device of the network."""

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first`, …, `first + count − 1`, stacked, on the device of the network.

        They depend on a seed, `first` and `count` only.
        """
        ...


class CombinedSamples:
    """Samples of several sources at once; the key `k` of the source `s` becomes `s.k`."""

    def __init__(self, sources: Mapping[str, Samples]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            f"{name}.{key}": value
            for name, source in self.sources.items()
            for key, value in source[index].items()
        }


class CombinedBatches:
    """Batches of several sources at once, with the keys of `CombinedSamples`."""

    def __init__(self, sources: Mapping[str, Batches]) -> None:
        self.sources = dict(sources)

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first`, …, `first + count − 1` of every source."""
        return {
            f"{name}.{key}": value
            for name, source in self.sources.items()
            for key, value in source.batch(first, count).items()
        }


def batch_of(source: str, batch: Batch) -> Batch:
    """The part of a combined batch that belongs to `source`, with its own keys."""
    prefix = f"{source}."
    return {key.removeprefix(prefix): batch[key] for key in batch if key.startswith(prefix)}


def make_loader(
    samples: Samples | Batches,
    *,
    first_step: int,
    steps: int,
    batch_size: int,
    micro_batch_size: int,
    workers: int,
    group: ProcessGroup,
) -> Iterable[Batch]:
    """The micro batches of one process, in order.

    Args:
        first_step: step at which the run starts or resumes.
        steps: number of steps of the whole run.
        batch_size: number of samples of a step, over all processes.
        micro_batch_size: number of samples in one forward pass of a process.
        workers: number of processes that make samples; unused for `Batches`.
        group: the processes of the run.

    Raises:
        UsageError: more workers than this machine can run.
        ResourceError: while iterating; a worker died.
    """
    check_num_workers("workers", workers, minimum=0)
    if isinstance(samples, Batches):
        starts = list(group.sample_indices(first_step, first_step + 1, batch_size))
        offsets = range(0, (steps - first_step) * batch_size, batch_size)
        return (
            samples.batch(start + offset, micro_batch_size)
            for offset in offsets
            for start in starts[::micro_batch_size]
        )
    loader: DataLoader[Batch] = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=micro_batch_size,
        sampler=_StepSampler(group, first_step, steps, batch_size),
        num_workers=workers,
        generator=torch.Generator(),  # keeps the global generator independent of resumptions
        worker_init_fn=_prepare_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return _load(loader)


def _load(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a loader, with the errors of its processes as errors of featherglue."""
    try:
        yield from loader
    except FeatherglueError as error:
        if not str(error).startswith("Caught "):
            raise
        # PyTorch puts the traceback of the process into the message; its last line is the error.
        last = str(error).rstrip().splitlines()[-1]
        raise type(error)(last.partition(": ")[2] or last) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ResourceError(
            "a process that makes training data died, possibly out of memory: lower `workers`, or "
            "make /dev/shm larger; the run can be resumed"
        ) from None


@dataclass(frozen=True)
class _StepSampler(Sampler[int]):
    """Sample indices of one process from a step on."""

    group: ProcessGroup
    first_step: int
    steps: int
    batch_size: int

    def __iter__(self) -> Iterator[int]:
        return self.group.sample_indices(self.first_step, self.steps, self.batch_size)


def _prepare_worker(worker: int) -> None:
    prepare_worker()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
