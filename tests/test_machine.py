"""The description of the machine."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from featherglue.machine import describe_machine, num_cores, peak_memory


def test_the_description_is_plain_and_complete() -> None:
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["processor"] and machine["system"] and machine["python"]
    assert machine["cores"] == num_cores()
    assert machine["versions"]["numpy"] == np.__version__


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs the affinity of a process")
def test_only_allowed_cores_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    assert num_cores() == 3


def test_peak_memory_grows_with_use() -> None:
    before = peak_memory()
    block = np.ones(2**25)  # 256 MiB
    assert peak_memory() > 2**26
    assert peak_memory() >= before
    assert block[0] == 1
