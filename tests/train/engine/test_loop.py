"""The training loop: exact resume, averaging, clipping and failures."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_training import (
    CONFIG,
    FailsAt,
    Numbers,
    NumbersAtOnce,
    StopsAfter,
    equal,
    loss_of,
    network,
    run,
)

from featherglue.errors import ConfigError, TrainingError
from featherglue.train.engine.log_files import read_rows
from featherglue.train.engine.loop import train


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    _, average = run(tmp_path)
    samples = Numbers()
    again = train(network(seed=5), loss_of, samples, CONFIG, tmp_path)
    assert samples.requested == []
    assert equal(again, average)


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    how: str, tmp_path: Path
) -> None:
    model = network()
    # An invalid gradient may appear one step later, but is never saved.
    with pytest.raises(TrainingError, match=r"step [34].*last\.pt"):
        train(model, FailsAt(3, how), Numbers(), CONFIG, tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["step"] == 3
    tensors = [*state["network"].values(), *state["average"].values()]
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    model = network(seed=9)
    train(model, loss_of, Numbers(), CONFIG, tmp_path)  # the run can resume
    assert torch.isfinite(model(torch.randn(5, 4))).all()


def test_gradients_are_clipped(tmp_path: Path) -> None:
    norms: list[float] = []
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    config = dataclasses.replace(CONFIG, clip=0.01, steps=3)

    def large(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return (net(batch["x"]) * 1e4).square().mean(), {}

    def record(net: nn.Module) -> None:  # called after each step with the network and the average
        norms.extend(float(p.grad.norm()) for p in net.parameters() if p.grad is not None)

    train(model, large, Numbers(), config, tmp_path, constraint=record)
    assert len(norms) == 3 * 2
    assert 0 < max(norms) <= 0.01 + 1e-6


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, whole_average = run(tmp_path / "whole")
    for name, parts in (("halves", [4, 99]), ("pieces", [1, 2, 3, 99])):
        model, average = run(tmp_path / name, parts)
        assert equal(model, whole)
        assert equal(average, whole_average)
    assert not equal(whole, whole_average)
    last = [
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "halves")
    ]
    assert last[0]["step"] == last[1]["step"] == 8
    assert torch.equal(last[0]["rng"], last[1]["rng"])


def test_batches_train_like_samples_and_resume(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, batch_size=4, accumulate=2)
    expected, found = network(), network()
    torch.manual_seed(1)
    train(expected, loss_of, Numbers(), config, tmp_path / "samples")
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        train(found, StopsAfter(6), NumbersAtOnce(), config, tmp_path / "batches")
    found = network(seed=5)
    train(found, loss_of, NumbersAtOnce(), config, tmp_path / "batches")
    assert equal(expected, found)


def test_a_failed_validation_loses_no_training_and_is_repeated(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, save_seconds=1e6, validate_steps=8)
    whole = network()
    train(whole, loss_of, Numbers(), config, tmp_path / "whole")

    def fail(average: nn.Module) -> dict[str, float]:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        train(network(), loss_of, Numbers(), config, tmp_path / "run", validate=fail)
    kept = network(seed=1)

    def validate(average: nn.Module) -> dict[str, float]:
        return {"score": 1.0}

    for _ in range(2):  # the failed validation is repeated once
        train(kept, loss_of, Numbers(), config, tmp_path / "run", validate=validate)
        assert equal(kept, whole)
        assert [row["step"] for row in read_rows(tmp_path / "run" / "validation.csv")] == [8]
        assert (tmp_path / "run" / "best.pt").exists()


def test_a_run_stopped_by_the_time_limit_resumes(tmp_path: Path) -> None:
    whole, whole_average = run(tmp_path / "whole")
    for i in range(8):
        model = network()
        torch.manual_seed(1 + i)
        average = train(model, loss_of, Numbers(), CONFIG, tmp_path / "run", minutes=0)
    assert equal(model, whole)
    assert equal(average, whole_average)


def test_ctrl_c_finishes_the_step_and_saves_it(tmp_path: Path) -> None:
    whole, whole_average = run(tmp_path / "whole")
    rarely = dataclasses.replace(CONFIG, save_seconds=1e6)
    steps = 0

    def pressed(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        nonlocal steps
        steps += 1
        if steps == 3:
            signal.raise_signal(signal.SIGINT)
        return loss_of(model, batch)

    handler = signal.getsignal(signal.SIGINT)
    model = network()
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        train(model, pressed, Numbers(), rarely, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == steps == 3
    model = network(seed=7)
    average = train(model, loss_of, Numbers(), rarely, tmp_path / "run")
    assert equal(model, whole)
    assert equal(average, whole_average)


@pytest.mark.parametrize(
    "values",
    [
        {"steps": -1},
        {"batch_size": 0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"clip": -1.0},
        {"ema": 1.0},
        {"workers": -1},
        {"warmup": -1},
    ],
)
def test_invalid_settings_are_rejected(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        dataclasses.replace(CONFIG, **values)


def test_training_reduces_the_error(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=150, batch_size=8, ema=0.9)
    model = network()
    average = train(model, loss_of, Numbers(), config, tmp_path)
    x = torch.randn(200, 4)
    for trained in (model.eval(), average):
        error = (trained(x)[:, 0] - x.sum(1)).square().mean()
        assert error < 0.5 < (network().eval()(x)[:, 0] - x.sum(1)).square().mean()
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())


def test_the_average_is_an_exponential_moving_average(tmp_path: Path) -> None:
    seen: list[list[Tensor]] = []

    def watched(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        seen.append([p.detach().clone() for p in model.parameters()])
        return loss_of(model, batch)

    model = network()
    start = [p.detach().clone() for p in model.parameters()]
    average = train(model, watched, Numbers(), dataclasses.replace(CONFIG, ema=0.3), tmp_path)
    states = [*seen[1:], [p.detach() for p in model.parameters()]]
    expected = start
    for step, state in enumerate(states):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * s for e, s in zip(expected, state, strict=True)]
    for ours, theirs in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    buffers = zip(average.buffers(), model.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)
