"""Choice of the device to train on."""

from __future__ import annotations

import torch

from featherglue.errors import UsageError
from featherglue.options import checked


def choose_device(device: str, threads: int | None = None) -> str:
    """Set the number of PyTorch threads and return the device to train on.

    Args:
        device: "cpu", "cuda", or "auto" for CUDA where it is available.
        threads: maximum number of threads of an operation; None leaves it unchanged.

    Returns:
        "cpu" or "cuda".

    Raises:
        UsageError: the name is unknown, or the device is not available.
        ConfigError: `threads` is less than 1, or more than this machine can run.
    """
    if threads is not None:
        torch.set_num_threads(checked("threads", threads))
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device must be 'auto', 'cpu' or 'cuda', not {device!r}")
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise UsageError("PyTorch finds no CUDA device; set device=cpu")
    return "cuda" if device != "cpu" and has_cuda else "cpu"
