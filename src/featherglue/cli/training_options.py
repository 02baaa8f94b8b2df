"""Options of the commands that train."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from featherglue.errors import UsageError


class DeviceName(str, Enum):
    """A device to train on; "auto" is CUDA where it is available."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Minutes = Annotated[
    float, typer.Option("--minutes", min=0, help="Stop after this time; --resume continues.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")]
Device = Annotated[DeviceName, typer.Option("--device", help="Device to train on.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Maximum number of threads of the networks; use 1 on a shared machine.",
    ),
]


def choose_device(device: str, threads: int | None) -> str:
    """Set the number of PyTorch threads and return the device to train on, "cpu" or "cuda".

    Raises:
        UsageError: The device is not available.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    if device == DeviceName.CUDA and not cuda:
        raise UsageError("PyTorch finds no CUDA device; set device=cpu")
    if device == DeviceName.AUTO:
        return "cuda" if cuda else "cpu"
    return DeviceName(device).value
