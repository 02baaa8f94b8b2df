"""The working size of a model, and matches of images beyond it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.matching.working_size import working_factor, working_size
from featherglue.options import ProcessingConfig
from featherglue.session import load


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        ((4000, 3000), {}, (1024, 768)),
        ((3000, 4000), {}, (768, 1024)),
        ((1024, 768), {}, (1024, 768)),
        ((640, 480), {}, (640, 480)),
        ((4000, 3000), {"working_size": 800}, (800, 600)),
        ((4000, 3000), {"resize": (-1,)}, (4000, 3000)),
        ((4000, 3000), {"resize": (640,)}, (640, 480)),
        ((4000, 3000), {"tile": True}, (4000, 3000)),
        ((4000, 3000), {"tile": True, "resize": (2000,)}, (2000, 1500)),
    ],
)
def test_working_size(
    size: tuple[int, int], settings: dict[str, object], expected: tuple[int, int]
) -> None:
    processing = ProcessingConfig(**settings)  # type: ignore[arg-type]
    assert working_size(size, processing) == expected
    factor = expected[0] / size[0] if max(size) > processing.working_size else 1.0
    assert working_factor(size, processing) == pytest.approx(factor)


@pytest.mark.slow
@pytest.mark.parametrize("times", [(3, 3), (3, 1)])
def test_large_images_are_matched_to_a_fraction_of_their_pixels(
    times: tuple[int, int], photographs: dict[str, np.ndarray]
) -> None:
    """Two crops of a photograph, enlarged by whole numbers."""
    image, shift = photographs["camera"], (64, 40)
    crops = image[: -shift[1], : -shift[0]], image[shift[1] :, shift[0] :]
    large = [
        cv2.resize(crop, None, fx=factor * 1.1, fy=factor * 1.1, interpolation=cv2.INTER_CUBIC)
        for crop, factor in zip(crops, times, strict=True)
    ]
    assert max(large[0].shape) > 1024
    result = load("fast", threads=1)(*large)
    assert result.features0.image_size == large[0].shape[::-1]
    first, second = (
        (points + 0.5) / (factor * 1.1)
        for points, factor in zip(
            (result.matches.points0, result.matches.points1), times, strict=True
        )
    )
    errors = np.linalg.norm(first - second - shift, axis=1) * 1.1 * times[1]
    assert len(errors) > 150
    assert np.median(errors[result.matches.refined]) < 0.4
    assert np.mean(errors < 1.5) > 0.8
