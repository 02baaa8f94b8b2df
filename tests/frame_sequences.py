"""Sequences of frames for the tests of video."""

from __future__ import annotations

import numpy as np

from featherglue.video import Frame


def frames(pictures: list[np.ndarray]) -> list[Frame]:
    """The pictures as frames, ten per second."""
    return [Frame(number=i, time=i / 10, image=picture) for i, picture in enumerate(pictures)]


def back_and_forth(pictures: list[np.ndarray], count: int) -> list[np.ndarray]:
    """`count` pictures that run through the sequence, back, and again."""
    cycle = pictures + pictures[-2:0:-1]
    return [cycle[i % len(cycle)] for i in range(count)]
