"""The training loop: AdamW with warm-up and cosine, EMA, clipping, bf16, exact resume."""

from __future__ import annotations

import copy
import csv
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from featherglue.errors import ConfigError, TrainingError

Batch = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)
_REPORT_SECONDS = 5.0
LossFunction = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, float]]]


class Samples(Protocol):
    """Endless training data: item `i` depends on a seed and `i` alone."""

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how to train.

    Attributes:
        steps: optimizer steps; the cosine ends there.
        batch_size: samples a step. warmup: steps of linear warm-up.
        ema: decay of the averaged weights that are kept in the end.
        clip: largest norm of the gradient. workers: processes that make data.
        bf16: autocast the forward pass to bfloat16.
        save_seconds: time between checkpoints.
    """

    steps: int
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    workers: int = 1
    bf16: bool = True
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.clip > 0:
            raise ConfigError(f"clip must be positive, not {self.clip}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must lie in [0, 1), not {self.ema}")
        for name in ("learning_rate", "weight_decay", "warmup", "workers"):
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
    samples: Samples,
    config: LoopConfig,
    folder: str | os.PathLike[str],
    *,
    minutes: float = math.inf,
    report: Callable[[int, dict[str, float]], None] = lambda step, row: None,
) -> Network:
    """Train `network` in place and return its averaged (EMA) copy.

    State is kept in `folder/last.pt`, written whole or not at all; a run that finds one goes on
    from there, on the very data and learning rate that would have come next.

    Args:
        samples: item `step · batch_size + k` is sample k of a step.
        minutes: stop (resumable) after this time.
        report: called about every 5 seconds with the step and running means.

    Raises:
        TrainingError: the loss is not finite (the last checkpoint stays), or the checkpoint in
            `folder` is of another network.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    step, before = _resume(folder / "last.pt", network, average, optimizer)
    network.train()
    start = saved = reported = time.monotonic()
    rows: list[dict[str, float]] = []
    with _deferred_interrupt() as interrupted:
        for batch in _batches(samples, config, step):
            rate = learning_rate(step, config)
            loss, row = _step(network, loss_function, batch, optimizer, rate, config)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss or its gradient became {loss} at step {step}; the state of the "
                    f"last checkpoint is in {folder}/last.pt"
                )
            _average(average, network, min(config.ema, (1 + step) / (10 + step)))
            step += 1
            rows.append({"loss": loss, **row})
            now = time.monotonic()
            seconds = before + now - start
            stop = step == config.steps or now - start > minutes * 60 or interrupted()
            if now - reported > _REPORT_SECONDS or stop:
                means = {key: sum(r[key] for r in rows) / len(rows) for key in rows[0]}
                _log(folder / "log.csv", {"step": step, "seconds": seconds, **means})
                report(step, means)
                rows, reported = [], now
            if now - saved > config.save_seconds or stop:
                _save(folder / "last.pt", network, average, optimizer, step, seconds)
                saved = now
            if stop:
                break
        if interrupted():
            raise KeyboardInterrupt
    return average


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


def _step(
    network: nn.Module,
    loss_function: LossFunction,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    rate: float,
    config: LoopConfig,
) -> tuple[float, dict[str, float]]:
    for group in optimizer.param_groups:
        group["lr"] = rate
    device = next(network.parameters()).device
    batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16):
        loss, row = loss_function(network, batch)
    optimizer.zero_grad(set_to_none=True)
    if not torch.isfinite(loss):
        return float(loss.detach()), row
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    if not torch.isfinite(norm):
        return float(norm), row
    optimizer.step()
    return float(loss.detach()), row


def _batches(samples: Samples, config: LoopConfig, step: int) -> DataLoader[Any]:
    return DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=config.batch_size,
        sampler=range(step * config.batch_size, config.steps * config.batch_size),
        num_workers=config.workers,
        generator=torch.Generator(),  # the global one would move with every resumption
        worker_init_fn=_prepare_worker,
        prefetch_factor=4 if config.workers else None,
    )


def _prepare_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for old, now in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(now)


def _save(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """The step to go on with and the seconds spent so far."""
    if not path.exists():
        return 0, 0.0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # the reader has its own types, without a common base
        raise TrainingError(f"{path}: damaged, remove it to start anew ({error})") from None
    try:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = int(state["step"]), float(state["seconds"])
    except (RuntimeError, KeyError, ValueError):
        raise TrainingError(
            f"{path}: a checkpoint of another network; choose another folder or remove it"
        ) from None
    torch.set_rng_state(state["rng"])
    return step, seconds


def _log(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" for key, value in row.items()})


def spent_seconds(folder: str | os.PathLike[str]) -> float:
    """Seconds of training that a run's folder holds, over all its resumptions."""
    path = Path(folder) / "log.csv"
    if not path.exists():
        return 0.0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return float(rows[-1]["seconds"]) if rows else 0.0
