"""What a training loop writes down as it goes: state, logs, curves; and what it reports."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from featherglue.errors import MissingExtraError
from featherglue.train.engine.checkpoint import (
    BEST,
    LAST,
    LOG,
    VALIDATION_LOG,
    Progress,
    log,
    read_log,
    save_best,
    save_state,
)
from featherglue.train.engine.curves import draw_curves
from featherglue.train.engine.distributed import World

_REPORT_SECONDS = 1.0
_LOG_SECONDS = 5.0
Report = Callable[[int, dict[str, float]], None]
Validate = Callable[[nn.Module], dict[str, float]]


class Keeper:
    """Writes a run's state and logs, and reports; in the leading process alone."""

    def __init__(
        self, folder: Path, progress: Progress, report: Report, save_seconds: float, world: World
    ) -> None:
        self.folder, self.progress, self.report = folder, progress, report
        self.save_seconds = save_seconds
        self.leads = world.leads
        self.start = self.saved = self.reported = self.logged = time.monotonic()
        self.before = progress.seconds
        self.fresh: list[dict[str, float]] = []  # since the last report
        self.rows: list[dict[str, float]] = []  # since the last row of the log
        self.drawn = True

    def spent(self) -> float:
        """Seconds since the run was started or resumed."""
        return time.monotonic() - self.start

    def note(self, row: dict[str, float], last: bool) -> None:
        """Count a step's row; log and report where it is time, or it was the last."""
        self.progress.seconds = self.before + self.spent()
        if not self.leads:
            return
        self.rows.append(row)
        self.fresh.append(row)
        step, now = self.progress.step, time.monotonic()
        if last or now - self.logged > _LOG_SECONDS:
            row = {"step": step, "seconds": self.progress.seconds, **means(self.rows)}
            log(self.folder / LOG, row)
            self.rows, self.logged = [], now
        if last or now - self.reported > _REPORT_SECONDS:
            self.report(step, means(self.fresh))
            self.fresh, self.reported = [], now

    def validate(self, validate: Validate, average: nn.Module) -> None:
        """Measure the averaged network, and keep its weights if they are the best so far."""
        if not self.leads:
            return
        row = validate(average)
        log(self.folder / VALIDATION_LOG, {"step": self.progress.step, **row})
        self.report(self.progress.step, {f"validation {key}": row[key] for key in row})
        if row["score"] > self.progress.best:
            self.progress.best = row["score"]
            save_best(self.folder / BEST, average, self.progress)

    def has_validated(self) -> bool:
        """Whether there is a validation of the step where the run is."""
        rows = read_log(self.folder / VALIDATION_LOG)
        return bool(rows) and rows[-1].get("step") == self.progress.step

    def draw(self) -> None:
        """Draw the curves; where matplotlib is missing, say so once."""
        if not self.leads or not self.drawn:
            return
        try:
            draw_curves(self.folder)
        except MissingExtraError as error:
            self.drawn = False
            warnings.warn(str(error), stacklevel=3)

    def is_time_to_save(self) -> bool:
        """Whether the last checkpoint is old."""
        return time.monotonic() - self.saved > self.save_seconds

    def save(
        self, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Write a checkpoint."""
        if self.leads:
            save_state(self.folder / LAST, network, average, optimizer, self.progress)
        self.saved = time.monotonic()


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each key of rows that have the same."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
