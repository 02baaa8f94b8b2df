"""Choice of the device to train on."""

from __future__ import annotations

import pytest
import torch

from featherglue.errors import ConfigError, UsageError
from featherglue.train.engine.devices import choose_device


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)


@pytest.mark.parametrize(
    ("cuda", "device", "chosen"),
    [
        (False, "auto", "cpu"),
        (True, "auto", "cuda"),
        (False, "cpu", "cpu"),
        (True, "cpu", "cpu"),
        (True, "cuda", "cuda"),
    ],
    indirect=["cuda"],
)
def test_auto_is_cuda_where_it_is_available(cuda: None, device: str, chosen: str) -> None:
    assert choose_device(device) == chosen


@pytest.mark.parametrize("cuda", [False], indirect=True)
def test_a_device_that_is_missing_or_unknown_is_an_error(cuda: None) -> None:
    with pytest.raises(UsageError, match="no CUDA device; set device=cpu"):
        choose_device("cuda")
    with pytest.raises(UsageError, match="'auto', 'cpu' or 'cuda', not 'gpu'"):
        choose_device("gpu")


def test_the_number_of_threads_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    choose_device("cpu")
    choose_device("cpu", 1)
    assert chosen == [1]
    with pytest.raises(ConfigError, match="threads must be in"):
        choose_device("cpu", 0)
