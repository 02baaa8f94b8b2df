"""What a run keeps in its folder: its state, written whole or not at all, and its log."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featherglue.errors import OutputError, TrainingError
from featherglue.io.files import atomic_write

LAST, BEST = "last.pt", "best.pt"
LOG, VALIDATION_LOG, CURVES = "log.csv", "validation.csv", "curves.png"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: the next one. seconds: spent so far, over all resumptions.
        best: the highest validation score so far.
        steps: of the whole run, where they were chosen to fill a time; else 0.
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
    """Write everything that a run needs to go on.

    Raises:
        OutputError: it cannot be written, as on a full disk; what the file held stays.
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


def rewind(folder: Path, step: int) -> None:
    """Take back what a run wrote after the step that it goes on from: the rows of its logs, and
    where it begins anew also its best weights.

    Raises:
        OutputError: a log cannot be written.
    """
    if step == 0:
        (folder / BEST).unlink(missing_ok=True)
    for path in (folder / LOG, folder / VALIDATION_LOG):
        try:
            _keep_until(path, step)
        except OSError as error:
            raise _unwritable(path, error) from None


def _keep_until(path: Path, step: int) -> None:
    rows = read_log(path)
    kept = [row for row in rows if row.get("step", 0) <= step]
    if not kept:
        path.unlink(missing_ok=True)
    elif len(kept) < len(rows):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, kept[0])
        writer.writeheader()
        writer.writerows({key: f"{row[key]:.6g}" for key in row} for row in kept)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error}); free some space, "
        "then resume the run"
    )


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


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # the reader has its own types, without a common base
        raise TrainingError(f"{path}: damaged, remove it to start anew ({error})") from None
    return state


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Whole or not at all; through memory, for PyTorch hides why a file cannot be written."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    try:
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())
    except OutputError as error:
        kept = "the previous checkpoint is intact" if path.exists() else "no checkpoint exists yet"
        raise OutputError(f"{error}; {kept}; free some space, then resume the run") from None


def log(path: Path, row: Mapping[str, float]) -> None:
    """Append a row to a CSV file.

    Raises:
        OutputError: it cannot be written.
    """
    new = not path.exists()
    try:
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
    except OSError as error:
        raise _unwritable(path, error) from None


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, none where there is no file; one that was cut off is left out."""
    if not path.exists():
        return []
    rows: list[dict[str, float]] = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            with suppress(TypeError, ValueError):
                rows.append({key: float(value) for key, value in row.items()})
    return rows


def last_step(folder: str | os.PathLike[str]) -> int:
    """The step after which a run in a folder goes on; 0 where there is none."""
    path = Path(folder) / LAST
    return int(_read(path)["step"]) if path.exists() else 0


def spent_seconds(folder: str | os.PathLike[str]) -> float:
    """Seconds of training that a run's folder holds, over all its resumptions."""
    rows = read_log(Path(folder) / LOG)
    return rows[-1]["seconds"] if rows else 0.0
