"""The training loop: AdamW with warm-up and cosine, EMA, clipping, bf16, exact resume."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from featherglue.errors import OutputError, TrainingError
from featherglue.train.engine.checkpoint import load_state, remove_best
from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.interrupt import deferred_interrupt
from featherglue.train.engine.loader import Batch, Batches, Samples, make_loader
from featherglue.train.engine.log_files import LAST, truncate_logs
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.precision import autocast
from featherglue.train.engine.run_log import Report, RunLog, Validate, mean_metrics
from featherglue.train.engine.schedule import (
    UNKNOWN_STEPS,
    PaceMeter,
    learning_rate,
    warn_time_too_short,
    with_planned_steps,
)

Network = TypeVar("Network", bound=nn.Module)
LossFunction = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, float]]]


def train(
    network: Network,
    loss_function: LossFunction,
    samples: Samples | Batches,
    config: LoopConfig,
    folder: str | os.PathLike[str],
    *,
    minutes: float = math.inf,
    report: Report = lambda step, row: None,
    validate: Validate | None = None,
    constraint: Callable[[nn.Module], None] = lambda network: None,
    group: ProcessGroup | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Network:
    """Train `network` in place and return its averaged (EMA) copy.

    The state is saved atomically to `folder/last.pt`. A run that finds this file resumes exactly:
    with the same data and learning rates as an uninterrupted run. The averaged weights with the
    best validation score are saved to `folder/best.pt`. Metrics are logged to `folder/log.csv`
    about every 5 seconds and validations to `folder/validation.csv`. Both are drawn to
    `folder/curves.png` at each validation and at the end if matplotlib is installed.

    Args:
        network: the network, on the device to train on.
        loss_function: returns the loss of a batch and the metrics to report.
        samples: item `step · batch_size + k` is sample k of a step. Worker processes make the
            items unless `samples` implements `Batches`.
        config: settings of the loop.
        folder: folder of the run; it is created.
        minutes: time limit; the run can be resumed.
        report: called about every second with the step and the mean metrics since the last call.
        validate: measures the averaged network every `validate_steps`. A higher "score" is better.
        constraint: called with the network and with the average after each step, for example to
            apply pruning masks.
        group: the processes of the run.
        clock: returns seconds from any origin.

    Raises:
        TrainingError: the loss is not finite (the last checkpoint is kept), or the checkpoint in
            `folder` belongs to another network.
        OutputError: a file cannot be written; the last checkpoint is kept.
        ConfigError: the batch cannot be divided among the processes.
    """
    folder, group = Path(folder), group or ProcessGroup()
    _make_folder(folder)
    group.micro_batch_size(config.batch_size, config.accumulate)  # raises before anything is read
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    progress = load_state(folder / LAST, network, average, optimizer)
    config = with_planned_steps(config, progress, minutes)
    if group.is_main:
        if progress.step == 0:
            remove_best(folder)
        truncate_logs(folder, progress.step)
    network.train()
    run_log = RunLog(folder, progress, report, config.save_seconds, group, clock)
    loop = _Loop(
        network=network,
        average=average,
        optimizer=optimizer,
        loss_function=loss_function,
        validate=validate,
        constraint=constraint,
        config=config,
        group=group,
        run_log=run_log,
        pace=PaceMeter(progress.step, config, clock),
        seconds=minutes * 60,
    )
    loop.run(samples)
    return average


@dataclass(kw_only=True)
class _Loop:
    """A run of `train`."""

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    loss_function: LossFunction
    validate: Validate | None
    constraint: Callable[[nn.Module], None]
    config: LoopConfig
    group: ProcessGroup
    run_log: RunLog
    pace: PaceMeter
    seconds: float
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.network.parameters()).device

    def run(self, samples: Samples | Batches) -> None:
        """Train until the last step, the time limit or Ctrl-C."""
        config, progress = self.config, self.run_log.progress
        if progress.step == config.steps and not self.run_log.has_validated():
            self._validate()  # an earlier attempt failed
        with deferred_interrupt() as interrupted:
            batches = iter(
                make_loader(
                    samples,
                    first_step=progress.step,
                    steps=config.steps,
                    batch_size=config.batch_size,
                    micro_batch_size=self.group.micro_batch_size(
                        config.batch_size, config.accumulate
                    ),
                    workers=config.workers,
                    group=self.group,
                )
            )
            while progress.step < self.config.steps:
                loss, metrics = self._update(batches)
                if self._record({"loss": loss, **metrics}, interrupted):
                    break
            if interrupted():
                raise KeyboardInterrupt

    def _update(self, batches: Iterator[Batch]) -> tuple[float, dict[str, float]]:
        """Take one step: update the weights and their average."""
        config, progress = self.config, self.run_log.progress
        rate = learning_rate(progress.step, config)
        loss, metrics = self._optimize(batches, rate)
        _require_finite(loss, progress.step, self.run_log.folder)
        self.constraint(self.network)
        decay = min(config.ema, (1 + progress.step) / (10 + progress.step))
        _update_average(self.average, self.network, decay)
        self.constraint(self.average)
        progress.step += 1
        return loss, metrics

    def _record(self, metrics: dict[str, float], interrupted: Callable[[], bool]) -> bool:
        """Validate, log and save as due after a step; return whether the run stops here."""
        config, progress, run_log = self.config, self.run_log.progress, self.run_log
        left = self.seconds - run_log.elapsed()
        last = progress.step == config.steps
        stop = self.group.any(last or left < 0 or interrupted(), self.device)
        if config.steps == UNKNOWN_STEPS and self.pace.is_known(progress.step) and not stop:
            progress.steps = progress.step + self.pace.steps_in(left, self.group, self.device)
            config = self.config = replace(config, steps=progress.steps)
        validated = self.validate is not None and (
            progress.step % config.validate_steps == 0 or progress.step == config.steps
        )
        if validated:
            with self._saving_on_error():
                self._validate()
        run_log.add_step(metrics, last=stop)
        if stop or run_log.checkpoint_is_due():
            self._save()
        if stop or validated:
            run_log.draw_curves()
        if stop and config.steps == UNKNOWN_STEPS and not interrupted():
            warn_time_too_short(progress.step)
        return stop

    def _optimize(self, batches: Iterator[Batch], rate: float) -> tuple[float, dict[str, float]]:
        """Take an optimizer step; return the loss (or gradient norm if not finite) and metrics."""
        config, network = self.config, self.network
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        rows: list[dict[str, float]] = []
        for _ in range(config.accumulate):
            batch = {
                key: value.to(self.device, non_blocking=True)
                for key, value in next(batches).items()
            }
            with autocast(self.device, config.bf16):
                loss, row = self.loss_function(network, batch)
            total += float(loss.detach()) / config.accumulate
            rows.append(row)
            if math.isfinite(total):
                (loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
        total = self.group.mean(total, self.device)
        metrics = mean_metrics(rows)
        if not math.isfinite(total):
            return total, metrics
        self.group.average_gradients(network.parameters())
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        if not torch.isfinite(norm):
            return float(norm), metrics
        self.optimizer.step()
        return total, metrics

    def _validate(self) -> None:
        if self.validate is not None:
            self.run_log.validate(self.validate, self.average)

    def _save(self) -> None:
        self.run_log.save_checkpoint(self.network, self.average, self.optimizer)

    @contextmanager
    def _saving_on_error(self) -> Iterator[None]:
        """Save a checkpoint if the body raises, so that no training is lost."""
        try:
            yield
        except Exception:
            self._save()
            raise


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror or error})") from None


def _require_finite(loss: float, step: int, folder: Path) -> None:
    if math.isfinite(loss):
        return
    kept = (
        f"the state of the last checkpoint is in {folder / LAST}"
        if (folder / LAST).exists()
        else "there was no checkpoint yet; lower learning_rate"
    )
    raise TrainingError(f"the loss or its gradient became {loss} at step {step}; {kept}")


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    # One call for all parameters: on a GPU a launch per parameter would take longer than the work.
    get_ema_multi_avg_fn(decay)(  # type: ignore[no-untyped-call]
        list(average.parameters()), list(network.parameters()), 0
    )
    for old, new in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(new)
