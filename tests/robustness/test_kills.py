"""Commands that are killed and started again; `kills.py` does it for a long time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kills import KillTest, commands, make_photographs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["match", "evaluate", "train"])
def test_a_killed_command_resumes_without_a_loss(name: str, tmp_path: Path) -> None:
    command = commands(make_photographs(tmp_path / "photographs"), tmp_path)[name]
    test = KillTest(command, tmp_path / name, np.random.default_rng(0))
    assert test.expected
    assert test.run(1) >= 1
