"""The training loop: AdamW with warm-up and cosine, EMA, clipping, bf16, exact resume."""

from __future__ import annotations

import copy
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from featherglue.errors import ConfigError, OutputError, TrainingError
from featherglue.train.engine.checkpoint import (
    LAST,
    Progress,
    load_state,
    rewind,
)
from featherglue.train.engine.distributed import World
from featherglue.train.engine.loader import Batch, Batches, Samples, feed
from featherglue.train.engine.precision import autocast
from featherglue.train.engine.run_log import Keeper, Report, Validate, means

Network = TypeVar("Network", bound=nn.Module)
_NO_TIME = "loop.steps = 0 trains for a time: set `minutes`, or set loop.steps"
_UNKNOWN = 2**40  # steps, more than there will be
_SHARE = 0.95  # of the time left that the steps may take; validation takes some
LossFunction = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how to train.

    Attributes:
        steps: optimizer steps; the cosine ends there. 0 takes as many as fit into the time of the
            run, by that of the steps of the warm-up.
        batch_size: samples a step. warmup: steps of linear warm-up.
        ema: decay of the averaged weights that are kept in the end.
        clip: largest norm of the gradient. workers: processes that make data.
        accumulate: parts in which a process takes its share of a step, where memory is short.
        bf16: run the forward pass in bfloat16 where the device has it.
        validate_steps: between two validations. save_seconds: time between checkpoints.
    """

    steps: int
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    workers: int = 1
    accumulate: int = 1
    bf16: bool = True
    validate_steps: int = 1000
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "validate_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.clip > 0:
            raise ConfigError(f"clip must be positive, not {self.clip}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must lie in [0, 1), not {self.ema}")
        for name in ("steps", "learning_rate", "weight_decay", "warmup", "workers"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} cannot be negative, as {getattr(self, name)} is")


def learning_rate(step: int, config: LoopConfig) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


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
    world: World | None = None,
) -> Network:
    """Train `network` in place and return its averaged (EMA) copy.

    State is kept in `folder/last.pt`, written whole or not at all; a run that finds one goes on
    from there, on the very data and learning rate that would have come next. The averaged
    weights that did best in validation are kept in `folder/best.pt`. What was reported is logged in
    `folder/log.csv` about every 5 seconds, validations in `folder/validation.csv`, and both are
    drawn as `folder/curves.png` at each validation and at the end, where matplotlib is installed.

    Args:
        samples: item `step · batch_size + k` is sample k of a step. Those that are no `Batches` are
            made by worker processes.
        minutes: stop (resumable) after this time.
        report: called about every second with the step and means since the last time.
        validate: measures the averaged network every `validate_steps`; its "score" is what
            counts as better when it is higher.
        constraint: called with the network after each step, and with the average, to hold what
            must hold, such as masks.
        world: the processes that share the work.

    Raises:
        TrainingError: the loss is not finite (the last checkpoint stays), or the checkpoint in
            `folder` is of another network.
        OutputError: nothing can be written any more, as on a full disk; the last checkpoint stays.
        ConfigError: the batch cannot be shared out.
    """
    folder, world = Path(folder), world or World()
    _make(folder)
    at_once = world.share(config.batch_size, config.accumulate)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    progress = load_state(folder / LAST, network, average, optimizer)
    config = _with_steps(config, progress, minutes)
    if world.leads:
        rewind(folder, progress.step)
    network.train()
    keeper = Keeper(folder, progress, report, config.save_seconds, world)
    device = next(network.parameters()).device
    pace = _Pace(progress.step, config)
    _make_up_for_validation(keeper, config, validate, average)
    with _deferred_interrupt() as interrupted:
        batches = iter(
            feed(
                samples,
                progress.step,
                config.steps,
                config.batch_size,
                config.workers,
                world,
                at_once,
            )
        )
        while progress.step < config.steps:
            rate = learning_rate(progress.step, config)
            loss, row = _step(network, loss_function, batches, optimizer, rate, config, world)
            _refuse_not_finite(loss, progress.step, folder)
            constraint(network)
            _average(average, network, min(config.ema, (1 + progress.step) / (10 + progress.step)))
            constraint(average)
            progress.step += 1
            left = minutes * 60 - keeper.spent()
            stop = world.any(progress.step == config.steps or left < 0 or interrupted(), device)
            if config.steps == _UNKNOWN and pace.is_known(progress.step) and not stop:
                progress.steps = progress.step + pace.steps_in(left, world, device)
                config = replace(config, steps=progress.steps)
            measured = validate is not None and (
                progress.step % config.validate_steps == 0 or progress.step == config.steps
            )
            if validate is not None and measured:
                with _saving_if_it_fails(keeper, network, average, optimizer):
                    keeper.validate(validate, average)
            keeper.note({"loss": loss, **row}, stop)
            if stop or keeper.is_time_to_save():
                keeper.save(network, average, optimizer)
            if stop or measured:
                keeper.draw()
            if stop:
                if config.steps == _UNKNOWN and not interrupted():
                    _warn_of_time(progress.step)
                break
        if interrupted():
            raise KeyboardInterrupt
    return average


def _refuse_not_finite(loss: float, step: int, folder: Path) -> None:
    if math.isfinite(loss):
        return
    kept = (
        f"the state of the last checkpoint is in {folder / LAST}"
        if (folder / LAST).exists()
        else "there was no checkpoint yet; lower learning_rate"
    )
    raise TrainingError(f"the loss or its gradient became {loss} at step {step}; {kept}")


def _warn_of_time(step: int) -> None:
    warnings.warn(
        f"the time was over after {step} steps, within the warm-up: lower warmup or give more "
        "minutes",
        stacklevel=3,
    )


def check_time(config: LoopConfig, minutes: float, folder: str | os.PathLike[str]) -> None:
    """Raise ConfigError where it is neither said how many steps to train nor how long.

    Args:
        folder: of the run; one that goes on may know.
    """
    if not config.steps and math.isinf(minutes) and not (Path(folder) / LAST).exists():
        raise ConfigError(_NO_TIME)


def _with_steps(config: LoopConfig, progress: Progress, minutes: float) -> LoopConfig:
    if config.steps:
        return config
    if not progress.steps and math.isinf(minutes):
        raise ConfigError(_NO_TIME)
    return replace(config, steps=progress.steps or _UNKNOWN)


class _Pace:
    """How long a step takes, by the later half of those of the warm-up, at least ten."""

    def __init__(self, step: int, config: LoopConfig) -> None:
        self.until = max(config.warmup, step + 20)
        self.since = (self.until + step) // 2
        self.start = 0.0

    def is_known(self, step: int) -> bool:
        """Whether enough steps have been seen; called after each."""
        if step == self.since:
            self.start = time.monotonic()
        return step == self.until

    def steps_in(self, seconds: float, world: World, device: torch.device) -> int:
        """Steps that fit into a time, the same in all processes."""
        each = (time.monotonic() - self.start) / (self.until - self.since)
        return max(1, int(world.mean(_SHARE * seconds / each, device)))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error})") from None


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C is only noted, so that a step is never left half done; a second one counts.

    Elsewhere than in the main thread, where signals cannot be handled, nothing changes.
    """
    noted = False

    def note(number: int, frame: object) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    usual = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, usual)


def _make_up_for_validation(
    keeper: Keeper, config: LoopConfig, validate: Validate | None, average: nn.Module
) -> None:
    """Validate a run that is at its end, if it could not be when it came there."""
    ended = keeper.progress.step == config.steps
    if validate is not None and ended and not keeper.has_validated():
        keeper.validate(validate, average)


@contextmanager
def _saving_if_it_fails(
    keeper: Keeper, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Within, what raises does not lose the training since the last checkpoint."""
    try:
        yield
    except Exception:
        keeper.save(network, average, optimizer)
        raise


def _step(
    network: nn.Module,
    loss_function: LossFunction,
    batches: Iterator[Batch],
    optimizer: torch.optim.Optimizer,
    rate: float,
    config: LoopConfig,
    world: World,
) -> tuple[float, dict[str, float]]:
    """One step of the optimizer; its loss, or what is not finite, and the means of its rows."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    device = next(network.parameters()).device
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    rows: list[dict[str, float]] = []
    for _ in range(config.accumulate):
        batch = {key: value.to(device, non_blocking=True) for key, value in next(batches).items()}
        with autocast(device, config.bf16):
            loss, row = loss_function(network, batch)
        total += float(loss.detach()) / config.accumulate
        rows.append(row)
        if math.isfinite(total):
            (loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
    total = world.mean(total, device)
    row = means(rows)
    if not math.isfinite(total):
        return total, row
    world.average_gradients(network.parameters())
    norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    if not torch.isfinite(norm):
        return float(norm), row
    optimizer.step()
    return total, row


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    # All at once: on a GPU as many launches as parameters would take longer than the work.
    get_ema_multi_avg_fn(decay)(  # type: ignore[no-untyped-call]
        list(average.parameters()), list(network.parameters()), 0
    )
    for old, now in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(now)
