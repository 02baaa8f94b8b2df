"""The learning rate, and the number of steps within a time limit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_training import CONFIG, Numbers, StopsAfter, loss_of, network

from featherglue.errors import ConfigError
from featherglue.train.engine import loop
from featherglue.train.engine.loop import train
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.schedule import learning_rate


def test_the_learning_rate_rises_and_falls() -> None:
    config = LoopConfig(steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates[10] == 1
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[55] == pytest.approx(0.01 + 0.99 / 2)
    assert rates[100] == pytest.approx(0.01)
    assert learning_rate(500, config) == pytest.approx(0.01)


def test_the_optimizer_uses_the_learning_rate(tmp_path: Path) -> None:
    still = dataclasses.replace(CONFIG, learning_rate=0.0)
    model = network()
    before = [p.clone() for p in model.parameters()]
    train(model, loss_of, Numbers(), still, tmp_path)
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-20, rtol=0)


def ticking_clock() -> Callable[[], float]:
    """A clock that advances by 10 ms whenever it is read."""
    ticks = itertools.count()
    return lambda: next(ticks) / 100


def test_the_number_of_steps_is_estimated_from_the_time_limit(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=0, warmup=20)
    rates: list[float] = []

    def rate(step: int, chosen: LoopConfig) -> float:
        rates.append(learning_rate(step, chosen))
        return rates[-1]

    whole = network()
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "learning_rate", rate)
        train(
            whole,
            loss_of,
            Numbers(),
            config,
            tmp_path / "whole",
            minutes=0.1,
            clock=ticking_clock(),
        )
    state = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)
    assert state["step"] == state["steps"] == len(rates) > 60
    assert rates[19] == max(rates) and rates[-1] < 0.02 * max(rates)
    assert 0.8 * 6 < state["seconds"] <= 6
    # A run that is interrupted after the estimate resumes with the same number.
    part = network()
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        train(
            part,
            StopsAfter(40),
            Numbers(),
            config,
            tmp_path / "part",
            minutes=0.1,
            clock=ticking_clock(),
        )
    part = network(seed=7)
    train(part, loss_of, Numbers(), config, tmp_path / "part", clock=ticking_clock())
    again = torch.load(tmp_path / "part" / "last.pt", weights_only=True)
    assert again["step"] == again["steps"] == pytest.approx(state["steps"], abs=2)


def test_a_time_limit_within_the_warm_up_warns(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=0, warmup=500)
    with pytest.warns(UserWarning, match="within the warm-up: lower warmup"):
        train(network(), loss_of, Numbers(), config, tmp_path, minutes=0.02, clock=ticking_clock())


def test_neither_steps_nor_a_time_limit_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set `minutes`"):
        train(network(), loss_of, Numbers(), dataclasses.replace(CONFIG, steps=0), tmp_path)
