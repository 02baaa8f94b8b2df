"""What a run keeps in its folder: its state, written whole or not at all, and its log."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featherglue.errors import TrainingError

LAST, BEST = "last.pt", "best.pt"
LOG, VALIDATION_LOG = "log.csv", "validation.csv"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: the next one. seconds: spent so far, over all resumptions.
        best: the highest validation score so far.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("-inf")


def save_state(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write everything that a run needs to go on."""
    state = {
        "step": progress.step,
        "seconds": progress.seconds,
        "best": progress.best,
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    _write(path, state)


def save_best(path: Path, average: nn.Module, progress: Progress) -> None:
    """Write the averaged weights that did best."""
    _write(path, {"step": progress.step, "best": progress.best, "average": average.state_dict()})


def load_best(path: Path, average: nn.Module) -> int | None:
    """Read them back, and say after how many steps it was; None where there are none."""
    if not path.exists():
        return None
    state = _read(path)
    average.load_state_dict(state["average"])
    return int(state["step"])


def load_state(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Go on from a state, or from nothing where there is none.

    Raises:
        TrainingError: the file is damaged or of another network.
    """
    if not path.exists():
        return Progress()
    state = _read(path)
    try:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(int(state["step"]), float(state["seconds"]), float(state["best"]))
    except (RuntimeError, KeyError, ValueError):
        raise TrainingError(
            f"{path}: a checkpoint of another network; choose another folder or remove it"
        ) from None
    torch.set_rng_state(state["rng"])
    return progress


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # the reader has its own types, without a common base
        raise TrainingError(f"{path}: damaged, remove it to start anew ({error})") from None
    return state


def _write(path: Path, state: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(dict(state), partial)
    partial.replace(path)


def log(path: Path, row: Mapping[str, float]) -> None:
    """Append a row to a CSV file."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" for key, value in row.items()})


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def spent_seconds(folder: str | os.PathLike[str]) -> float:
    """Seconds of training that a run's folder holds, over all its resumptions."""
    rows = read_log(Path(folder) / LOG)
    return rows[-1]["seconds"] if rows else 0.0
