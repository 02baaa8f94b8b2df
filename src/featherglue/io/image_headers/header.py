"""What is known of an image file before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PARTS = 1_000_000  # segments, chunks or boxes of a file


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What the header of an image file states.

    Attributes:
        format: name of the format.
        width, height: pixels.
        bytes_per_pixel: memory that decoding takes, approximately.
        num_pages: number of frames or pages; 2 also stands for more.
    """

    format: str
    width: int
    height: int
    bytes_per_pixel: float
    num_pages: int = 1
