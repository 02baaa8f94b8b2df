"""How long a run trains, and the learning rate of each step."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from featherglue.errors import ConfigError, counted
from featherglue.train.engine.checkpoint import Progress
from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.log_files import LAST
from featherglue.train.engine.loop_config import LoopConfig

UNKNOWN_STEPS = 2**40  # placeholder until the pace is measured
_TIME_FRACTION = 0.95  # fraction of the remaining time for steps; validation needs the rest
_NO_DURATION = "loop.steps = 0 trains for a time: set `minutes`, or set loop.steps"


def learning_rate(step: int, config: LoopConfig) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to 1 % of the peak.

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, without
    restarts.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def check_duration(config: LoopConfig, minutes: float, folder: str | os.PathLike[str]) -> None:
    """Check that a run has a number of steps or a time limit.

    Args:
        config: settings of the loop.
        minutes: time limit; infinite for none.
        folder: folder of the run. A checkpoint there may hold the number of steps.

    Raises:
        ConfigError: it has neither.
    """
    if not config.steps and math.isinf(minutes) and not (Path(folder) / LAST).exists():
        raise ConfigError(_NO_DURATION)


def with_planned_steps(config: LoopConfig, progress: Progress, minutes: float) -> LoopConfig:
    """The configuration with the number of steps of the run; `UNKNOWN_STEPS` if still unknown.

    Raises:
        ConfigError: there is neither a number of steps nor a time limit.
    """
    if config.steps:
        return config
    if not progress.steps and math.isinf(minutes):
        raise ConfigError(_NO_DURATION)
    return replace(config, steps=progress.steps or UNKNOWN_STEPS)


class PaceMeter:
    """Measures the time of a step over the later half of the warm-up, at least ten steps."""

    def __init__(
        self, step: int, config: LoopConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._last = max(config.warmup, step + 20)
        self._first = (self._last + step) // 2
        self._clock = clock
        self._start = 0.0

    def is_known(self, step: int) -> bool:
        """Whether the measurement ends with this step. To be called after each step."""
        if step == self._first:
            self._start = self._clock()
        return step == self._last

    def steps_in(self, seconds: float, group: ProcessGroup, device: torch.device) -> int:
        """Number of steps, at least 1, that fit into a time; the same in all processes."""
        step_seconds = (self._clock() - self._start) / (self._last - self._first)
        return max(1, int(group.mean(_TIME_FRACTION * seconds / step_seconds, device)))


def warn_time_too_short(step: int) -> None:
    """Warn that the time limit ended a run before its pace was measured."""
    warnings.warn(
        f"the time limit ended the run after {counted(step, 'step')}, within the warm-up: lower "
        "warmup or increase minutes",
        stacklevel=4,
    )
