"""The EXIF orientation of JPEG files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from featherglue.io.exif import jpeg_orientation


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    assert jpeg_orientation(jpeg(exif=exif)) == orientation


def test_files_without_an_orientation_are_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    for encoded in (jpeg(), jpeg(exif=exif), b"", b"\xff\xd8", b"\x89PNG", jpeg()[:25]):
        assert jpeg_orientation(encoded) == 1


def test_damaged_tags_are_no_error() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = jpeg(exif=exif)
    start = encoded.index(b"Exif")
    for i in range(start, start + 40):
        damaged = encoded[:i] + b"\xff" + encoded[i + 1 :]
        assert jpeg_orientation(damaged) in range(1, 9)
