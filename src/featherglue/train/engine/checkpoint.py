"""Checkpoints: the state from which a run resumes, and its best weights.

`engine/loop.py` restores a run with `load_state`; `engine/run_settings.py` checks that the settings
are unchanged.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featherglue.errors import OutputError, TrainingError, short_reason
from featherglue.io.files import atomic_write
from featherglue.train.engine.log_files import BEST, LAST


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        step: number of finished steps.
        seconds: training time so far, over all resumptions.
        best: highest validation score so far.
        steps: number of steps of the whole run if it was derived from the time limit, else 0.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    steps: int = 0


def save_state(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write everything that a run needs to resume.

    Raises:
        OutputError: the file cannot be written. The previous checkpoint stays intact.
    """
    state = {
        "step": progress.step,
        "seconds": progress.seconds,
        "best": progress.best,
        "steps": progress.steps,
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    _write(path, state)


def load_state(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Restore the state of a run in place. Without a checkpoint nothing changes.

    Returns:
        The progress of the run; step 0 without a checkpoint.

    Raises:
        TrainingError: the checkpoint is damaged or belongs to another network.
    """
    if not path.exists():
        return Progress()
    state = _read(path)
    try:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(
            int(state["step"]),
            float(state["seconds"]),
            float(state["best"]),
            int(state.get("steps", 0)),
        )
    except (RuntimeError, KeyError, ValueError):
        raise TrainingError(
            f"{path}: a checkpoint of another network; choose another folder or remove it"
        ) from None
    torch.set_rng_state(state["rng"])
    return progress


def save_best(path: Path, average: nn.Module, progress: Progress) -> None:
    """Write the averaged weights with the best validation score. Raises OutputError."""
    _write(path, {"step": progress.step, "best": progress.best, "average": average.state_dict()})


def load_best(path: Path, average: nn.Module) -> int | None:
    """Load the best weights into `average`.

    Returns:
        The step that they belong to; None without a file.

    Raises:
        TrainingError: the file is damaged.
    """
    if not path.exists():
        return None
    state = _read(path)
    average.load_state_dict(state["average"])
    return int(state["step"])


def remove_best(folder: Path) -> None:
    """Remove the best weights of an earlier run."""
    (folder / BEST).unlink(missing_ok=True)


def last_step(folder: str | os.PathLike[str]) -> int:
    """The step at which the run in `folder` resumes; 0 without a checkpoint.

    Raises:
        TrainingError: the checkpoint is damaged.
    """
    path = Path(folder) / LAST
    return int(_read(path)["step"]) if path.exists() else 0


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not verify the checksums
            if archive.testzip() is not None:
                raise ValueError("a checksum is wrong")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(state, dict):
            raise ValueError("not a table")
    except Exception as error:  # torch.load raises types without a common base
        raise TrainingError(
            f"{path}: damaged; remove it to start over ({short_reason(error)})"
        ) from None
    return state


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a file atomically, through memory because torch.save hides the reason of a failure."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    try:
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())
    except OutputError as error:
        kept = "the previous checkpoint is intact" if path.exists() else "no checkpoint exists yet"
        raise OutputError(f"{error}; {kept}; free some space, then resume the run") from None
