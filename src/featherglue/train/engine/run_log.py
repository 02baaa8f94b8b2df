"""The record of a running training: metrics, validation results, curves and checkpoints."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from featherglue.errors import MissingExtraError
from featherglue.train.engine.checkpoint import Progress, save_best, save_state
from featherglue.train.engine.curves import draw_curves
from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.log_files import (
    BEST,
    LAST,
    LOG,
    VALIDATION_LOG,
    append_row,
    read_rows,
)

_REPORT_SECONDS = 1.0
_LOG_SECONDS = 5.0
Report = Callable[[int, dict[str, float]], None]
Validate = Callable[[nn.Module], dict[str, float]]


class RunLog:
    """Writes the files of a run and calls `report`. Only the main process does either.

    Args:
        folder: folder of the run.
        progress: progress of the run; `seconds` and `best` are updated here.
        report: called about every second with the step and the mean metrics.
        save_seconds: time between two checkpoints.
        group: the processes of the run.
        clock: returns seconds from any origin.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        report: Report,
        save_seconds: float,
        group: ProcessGroup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.progress, self.report = folder, progress, report
        self._save_seconds, self._is_main, self._clock = save_seconds, group.is_main, clock
        self._started = self._saved = self._reported = self._logged = clock()
        self._earlier_seconds = progress.seconds
        self._unreported: list[dict[str, float]] = []
        self._unlogged: list[dict[str, float]] = []
        self._can_draw = True

    def elapsed(self) -> float:
        """Seconds since the run was started or resumed."""
        return self._clock() - self._started

    def add_step(self, metrics: dict[str, float], *, last: bool) -> None:
        """Record the metrics of a step.

        Rows of the log and reports hold the means since the previous one. They are written when
        due, and after the last step.
        """
        self.progress.seconds = self._earlier_seconds + self.elapsed()
        if not self._is_main:
            return
        self._unlogged.append(metrics)
        self._unreported.append(metrics)
        step, now = self.progress.step, self._clock()
        if last or now - self._logged > _LOG_SECONDS:
            row = {"step": step, "seconds": self.progress.seconds, **mean_metrics(self._unlogged)}
            append_row(self.folder / LOG, row)
            self._unlogged, self._logged = [], now
        if last or now - self._reported > _REPORT_SECONDS:
            self.report(step, mean_metrics(self._unreported))
            self._unreported, self._reported = [], now

    def validate(self, validate: Validate, average: nn.Module) -> None:
        """Measure the averaged network, and save its weights if the score is the best so far.

        Args:
            validate: returns the results of the network, with a "score". Higher is better.
            average: the averaged network.
        """
        if not self._is_main:
            return
        row = validate(average)
        append_row(self.folder / VALIDATION_LOG, {"step": self.progress.step, **row})
        self.report(self.progress.step, {f"validation {key}": row[key] for key in row})
        if row["score"] > self.progress.best:
            self.progress.best = row["score"]
            save_best(self.folder / BEST, average, self.progress)

    def has_validated(self) -> bool:
        """Whether the validation log has a row of the current step."""
        rows = read_rows(self.folder / VALIDATION_LOG)
        return bool(rows) and rows[-1].get("step") == self.progress.step

    def draw_curves(self) -> None:
        """Draw the curves of the run. Without matplotlib it warns once."""
        if not self._is_main or not self._can_draw:
            return
        try:
            draw_curves(self.folder)
        except MissingExtraError as error:
            self._can_draw = False
            warnings.warn(str(error), stacklevel=3)

    def checkpoint_is_due(self) -> bool:
        """Whether the last checkpoint is older than `save_seconds`."""
        return self._clock() - self._saved > self._save_seconds

    def save_checkpoint(
        self, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Write a checkpoint."""
        if self._is_main:
            save_state(self.folder / LAST, network, average, optimizer, self.progress)
        self._saved = self._clock()


def mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over rows with the same keys."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
