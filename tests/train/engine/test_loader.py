"""The order of the training data."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_training import CONFIG, Numbers, loss_of, network

from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.loader import CombinedSamples, batch_of, make_loader
from featherglue.train.engine.loop import train


def test_samples_are_requested_in_order_and_once(tmp_path: Path) -> None:
    for steps, expected in ((5, range(15)), (8, range(15, 24))):
        samples = Numbers()
        config = dataclasses.replace(CONFIG, steps=steps)
        train(network(), loss_of, samples, config, tmp_path)
        assert samples.requested == list(expected)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_divide_batches_like_samples(rank: int) -> None:
    group = ProcessGroup(rank, 2)
    requested: list[int] = []

    class Recorder:
        def batch(self, first: int, count: int) -> dict[str, Tensor]:
            requested.extend(range(first, first + count))
            return {}

    loader = make_loader(
        Recorder(),
        first_step=2,
        steps=5,
        batch_size=8,
        micro_batch_size=group.micro_batch_size(8, 2),
        workers=0,
        group=group,
    )
    assert len(list(loader)) == 3 * 2
    assert requested == list(group.sample_indices(2, 5, 8))


@pytest.mark.slow
def test_worker_processes_do_not_change_the_result(tmp_path: Path) -> None:
    # In a separate process: pytest's fault handler gives signal handlers a small stack, which the
    # handler for exited workers can overflow.
    torch.manual_seed(1)
    config = dataclasses.replace(CONFIG, steps=3)
    expected = network()
    train(expected, loss_of, Numbers(), config, tmp_path / "here")
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import dataclasses, torch
from toy_training import CONFIG, Numbers, loss_of, network
from featherglue.train.engine.loop import train
torch.set_num_threads(1); torch.manual_seed(1)
config = dataclasses.replace(CONFIG, steps=3, workers=1)
train(network(), loss_of, Numbers(), config, {str(tmp_path / "there")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    here, there = (
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("here", "there")
    )
    for kind in ("network", "average"):
        for name, tensor in here[kind].items():
            assert torch.equal(tensor, there[kind][name]), name


def test_combined_samples_have_the_keys_of_all_sources() -> None:
    sources = {"views": Numbers(), "scenes": Numbers()}
    sample = CombinedSamples(sources)[3]
    assert sorted(sample) == ["scenes.x", "scenes.y", "views.x", "views.y"]
    batch = {key: torch.as_tensor(value) for key, value in sample.items()}
    assert batch_of("views", batch) == {"x": batch["views.x"], "y": batch["views.y"]}
