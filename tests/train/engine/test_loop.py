"""The training loop: resumed exactly, never saved broken."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featherglue.errors import ConfigError, OutputError, TrainingError
from featherglue.train.engine import loop
from featherglue.train.engine.checkpoint import read_log
from featherglue.train.engine.distributed import World
from featherglue.train.engine.loader import feed
from featherglue.train.engine.loop import LoopConfig, learning_rate, train

CONFIG = LoopConfig(
    steps=8, batch_size=3, warmup=2, workers=0, bf16=False, save_seconds=0.0, learning_rate=0.05
)


class Numbers:
    """Item i is a point of a line with noise that depends on i alone. Remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        self.asked.append(index)
        rng = np.random.default_rng(index)
        x = rng.standard_normal(4).astype(np.float32)
        return {"x": x, "y": np.float32(x.sum() + 0.1 * rng.standard_normal())}


def network(width: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))


def loss_of(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """A loss with chance in it, as that of the matcher."""
    chance = torch.rand(())
    error = (model(batch["x"])[:, 0] - batch["y"]).square().mean() * (0.5 + chance)
    return error, {"chance": float(chance)}


class FailsAt:
    """`loss_of`, but the loss of one step is spoilt."""

    def __init__(self, step: int, how: str) -> None:
        self.step, self.how, self.count = step, how, 0

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, float]]:
        loss, row = loss_of(model, batch)
        if self.count == self.step:
            if self.how == "gradient":  # finite itself
                first = next(model.parameters())
                loss = loss + (first * 0).sum().sqrt()
            else:
                loss = loss * float(self.how)
        self.count += 1
        return loss, row


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def run(folder: Path, steps_at_once: list[int] | None = None) -> tuple[nn.Module, nn.Module]:
    """Train; if wanted, interrupted after so many steps each time, by a new process each."""
    model = network()
    if steps_at_once is None:
        torch.manual_seed(1)
        return model, train(model, loss_of, Numbers(), CONFIG, folder)
    average: nn.Module = model
    for i, steps in enumerate(steps_at_once):
        model = network(seed=i)  # a fresh process builds it anew
        torch.manual_seed(1 if i == 0 else 100 + i)
        stop = _Stop(steps)
        try:
            average = train(model, stop, Numbers(), CONFIG, folder)
        except KeyboardInterrupt:
            assert stop.left == 0
    return model, average


class _Stop:
    """`loss_of`, interrupted after some steps, as by Ctrl-C."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, float]]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return loss_of(model, batch)


def test_two_half_runs_are_one_run(tmp_path: Path) -> None:
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


class NumbersAtOnce:
    """`Numbers` as a batch, as a GPU makes them."""

    def batch(self, first: int, count: int) -> dict[str, Tensor]:
        items = [Numbers()[i] for i in range(first, first + count)]
        return {key: torch.as_tensor(np.stack([i[key] for i in items])) for key in items[0]}


def test_batches_train_as_their_samples_do_and_go_on(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, batch_size=4, accumulate=2)
    expected, found = network(), network()
    torch.manual_seed(1)
    train(expected, loss_of, Numbers(), config, tmp_path / "samples")
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        train(found, _Stop(6), NumbersAtOnce(), config, tmp_path / "batches")
    found = network(seed=5)
    train(found, loss_of, NumbersAtOnce(), config, tmp_path / "batches")
    assert equal(expected, found)


def test_a_validation_that_fails_loses_no_training(tmp_path: Path) -> None:
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

    for _ in range(2):  # what failed is made up for, once
        train(kept, loss_of, Numbers(), config, tmp_path / "run", validate=validate)
        assert equal(kept, whole)
        assert [row["step"] for row in read_log(tmp_path / "run" / "validation.csv")] == [8]
        assert (tmp_path / "run" / "best.pt").exists()


def test_a_stop_by_the_clock_goes_on(tmp_path: Path) -> None:
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
def test_a_loop_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        dataclasses.replace(CONFIG, **values)


def test_samples_come_in_order_and_none_twice(tmp_path: Path) -> None:
    for steps, expected in ((5, range(15)), (8, range(15, 24))):
        samples = Numbers()
        config = dataclasses.replace(CONFIG, steps=steps)
        train(network(), loss_of, samples, config, tmp_path)
        assert samples.asked == list(expected)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    _, average = run(tmp_path)
    samples = Numbers()
    again = train(network(seed=5), loss_of, samples, CONFIG, tmp_path)
    assert samples.asked == []
    assert equal(again, average)


def test_training_helps(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=150, batch_size=8, ema=0.9)
    model = network()
    average = train(model, loss_of, Numbers(), config, tmp_path)
    x = torch.randn(200, 4)
    for trained in (model.eval(), average):
        error = (trained(x)[:, 0] - x.sum(1)).square().mean()
        assert error < 0.5 < (network().eval()(x)[:, 0] - x.sum(1)).square().mean()
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    how: str, tmp_path: Path
) -> None:
    model = network()
    # A spoilt gradient may show one step later, but must never be saved.
    with pytest.raises(TrainingError, match=r"step [34].*last\.pt"):
        train(model, FailsAt(3, how), Numbers(), CONFIG, tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["step"] == 3
    tensors = [*state["network"].values(), *state["average"].values()]
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    model = network(seed=9)
    train(model, loss_of, Numbers(), CONFIG, tmp_path)  # and it can go on
    assert torch.isfinite(model(torch.randn(5, 4))).all()


def test_another_networks_checkpoint_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(TrainingError, match="another network"):
        train(network(width=5), loss_of, Numbers(), CONFIG, tmp_path)
    with pytest.raises(TrainingError, match="another network"):
        train(nn.Sequential(*list(network())[:2]), loss_of, Numbers(), CONFIG, tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_checkpoint_is_an_error_that_says_so(share: float, tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "last.pt"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(TrainingError, match=r"last\.pt"):
        train(network(), loss_of, Numbers(), CONFIG, tmp_path)


def test_checkpoints_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, [3])
    before = (tmp_path / "last.pt").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OutputError) as caught:
        patch.setattr(Path, "open", full)
        train(network(), loss_of, Numbers(), CONFIG, tmp_path)
    said = str(caught.value)
    assert "No space left on device" in said
    assert "resume the run" in said
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
    train(network(), loss_of, Numbers(), CONFIG, tmp_path)  # and it can go on
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == CONFIG.steps


_open = Path.open


def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
    """`Path.open` on a full disk."""
    if path.name.endswith(".partial"):
        _open(path, mode).close()
        raise OSError(28, "No space left on device")
    return _open(path, mode, *rest, **options)


def test_a_log_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(OutputError, match=r"log\.csv: cannot be written"):
        train(network(), loss_of, Numbers(), CONFIG, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        train(network(), loss_of, Numbers(), CONFIG, tmp_path / "file" / "run")


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = LoopConfig(steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates[10] == 1
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[55] == pytest.approx(0.01 + 0.99 / 2)
    assert rates[100] == pytest.approx(0.01)
    assert learning_rate(500, config) == pytest.approx(0.01)


def test_the_rate_reaches_the_optimizer(tmp_path: Path) -> None:
    still = dataclasses.replace(CONFIG, learning_rate=0.0)
    model = network()
    before = [p.clone() for p in model.parameters()]
    train(model, loss_of, Numbers(), still, tmp_path)
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-20, rtol=0)


def test_the_average_is_the_running_mean(tmp_path: Path) -> None:
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


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes a hundredth of a second each time it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(ticks) / 100)


@pytest.mark.usefixtures("steady")
def test_as_many_steps_as_fit_are_taken_and_the_cosine_ends_there(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=0, warmup=20)
    rates: list[float] = []

    def rate(step: int, chosen: LoopConfig) -> float:
        rates.append(learning_rate(step, chosen))
        return rates[-1]

    whole = network()
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "learning_rate", rate)
        train(whole, loss_of, Numbers(), config, tmp_path / "whole", minutes=0.1)
    state = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)
    assert state["step"] == state["steps"] == len(rates) > 60
    assert rates[19] == max(rates) and rates[-1] < 0.02 * max(rates)
    assert 0.8 * 6 < state["seconds"] <= 6
    # Stopped after the number is known, it goes on with that number.
    part = network()
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        train(part, _Stop(40), Numbers(), config, tmp_path / "part", minutes=0.1)
    part = network(seed=7)
    train(part, loss_of, Numbers(), config, tmp_path / "part")
    again = torch.load(tmp_path / "part" / "last.pt", weights_only=True)
    assert again["step"] == again["steps"] == pytest.approx(state["steps"], abs=2)


@pytest.mark.usefixtures("steady")
def test_a_warm_up_that_the_time_cuts_off_is_said(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=0, warmup=500)
    with pytest.warns(UserWarning, match="within the warm-up: lower warmup"):
        train(network(), loss_of, Numbers(), config, tmp_path, minutes=0.02)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_share_batches_as_they_share_samples(rank: int) -> None:
    config = dataclasses.replace(CONFIG, steps=5, batch_size=8, accumulate=2)
    world = World(rank, 2)
    asked: list[int] = []

    class Asked:
        def batch(self, first: int, count: int) -> dict[str, Tensor]:
            asked.extend(range(first, first + count))
            return {}

    at_once = world.share(config.batch_size, config.accumulate)
    taken = list(feed(Asked(), 2, config.steps, config.batch_size, 0, world, at_once))
    assert len(taken) == 3 * config.accumulate
    assert asked == list(world.order(2, 5, config.batch_size))


def test_steps_that_follow_from_no_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set `minutes`"):
        train(network(), loss_of, Numbers(), dataclasses.replace(CONFIG, steps=0), tmp_path)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    norms: list[float] = []
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    config = dataclasses.replace(CONFIG, clip=0.01, steps=3)

    def large(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return (net(batch["x"]) * 1e4).square().mean(), {}

    def note(net: nn.Module) -> None:  # called after each step with the network and the average
        norms.extend(float(p.grad.norm()) for p in net.parameters() if p.grad is not None)

    train(model, large, Numbers(), config, tmp_path, constraint=note)
    assert len(norms) == 3 * 2
    assert 0 < max(norms) <= 0.01 + 1e-6


def test_the_log_goes_on_and_its_clock_too(tmp_path: Path) -> None:
    rows: list[tuple[int, dict[str, float]]] = []
    for steps in (3, 8):
        config = dataclasses.replace(CONFIG, steps=steps)
        train(
            network(), loss_of, Numbers(), config, tmp_path, report=lambda s, r: rows.append((s, r))
        )
    with (tmp_path / "log.csv").open(newline="") as file:
        log = list(csv.DictReader(file))
    assert [int(row["step"]) for row in log] == [3, 8] == [step for step, _ in rows]
    assert float(log[0]["seconds"]) <= float(log[1]["seconds"])
    for row, (_, reported) in zip(log, rows, strict=True):
        assert float(row["loss"]) == pytest.approx(reported["loss"], rel=1e-4)
        assert 0 <= reported["chance"] <= 1


def test_what_was_logged_after_the_checkpoint_is_taken_back(tmp_path: Path) -> None:
    def validate(average: nn.Module) -> dict[str, float]:
        return {"score": 1.0}

    config = dataclasses.replace(CONFIG, steps=3, validate_steps=3)
    train(network(), loss_of, Numbers(), config, tmp_path, validate=validate)
    for name in ("log.csv", "validation.csv"):
        path = tmp_path / name
        *rest, last = path.read_text().splitlines()
        later = ",".join(["5", *last.split(",")[1:]])
        path.write_text("\n".join([*rest, last, later, "6,0."]) + "\n")
    config = dataclasses.replace(config, steps=4)
    train(network(), loss_of, Numbers(), config, tmp_path)
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [3, 4]
    assert [row["step"] for row in read_log(tmp_path / "validation.csv")] == [3]

    # Begun anew, nothing of the run before is left.
    (tmp_path / "last.pt").unlink()
    train(network(), loss_of, Numbers(), config, tmp_path)
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "last.pt", "log.csv"]


def test_workers_give_the_very_same(tmp_path: Path) -> None:
    # In a process of its own: pytest's fault handler gives signals a small stack, which the one
    # that tells of a worker's end has been seen to overflow.
    torch.manual_seed(1)
    config = dataclasses.replace(CONFIG, steps=3)
    expected = network()
    train(expected, loss_of, Numbers(), config, tmp_path / "here")
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import dataclasses, torch
from test_loop import CONFIG, Numbers, loss_of, network, train
torch.set_num_threads(1); torch.manual_seed(1)
config = dataclasses.replace(CONFIG, steps=3, workers=1)
train(network(), loss_of, Numbers(), config, {str(tmp_path / "there")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    here, there = (
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("here", "there")
    )
    for kind in ("network", "average"):
        for name, tensor in here[kind].items():
            assert torch.equal(tensor, there[kind][name]), name
