"""Types of options that the benchmarks share."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """An integer of at least 1, for an option of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text}")
    return int(text)
