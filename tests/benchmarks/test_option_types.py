"""The types of options that the benchmarks share, and who uses them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_numbers_of_at_least_one(load_script: Callable[[str], ModuleType]) -> None:
    script = load_script("option_types")
    assert script.positive("2") == 2
    for text in ("0", "-1", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
            script.positive(text)


def test_every_number_of_a_benchmark_is_at_least_one() -> None:
    lines = [line for path in FOLDER.glob("*.py") for line in path.read_text().splitlines()]
    assert [line.split('"')[1] for line in lines if "type=int" in line] == ["--nms-radius"]
