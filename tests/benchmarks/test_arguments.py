"""The types of options that the benchmarks share, and who uses them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_numbers_of_at_least_one(load_script: Callable[[str], ModuleType]) -> None:
    script = load_script("arguments")
    assert script.positive("2") == 2
    for text in ("0", "-1", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
            script.positive(text)


def test_every_number_of_a_benchmark_is_at_least_one() -> None:
    options = re.compile(r'add_argument\(\s*"(--[a-z-]+)", type=int')
    found = {name for path in FOLDER.glob("*.py") for name in options.findall(path.read_text())}
    assert found == {"--nms-radius"}  # 0 disables it
