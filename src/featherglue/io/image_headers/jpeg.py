"""The header of JPEG files."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from featherglue.io.image_headers.header import MAX_PARTS, ImageHeader

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers: sizes of the image
_MAX_SCANS = 200  # of a file; encoders write at most 15


def parse_jpeg(data: bytes) -> ImageHeader:
    """JPEG: the first frame header."""
    start = scan_start(data)
    frame = next((at for code, at in _jpeg_segments(data) if code in _FRAMES), None)
    if frame is None or frame > start:
        raise ValueError("no frame header")
    _, height, width, components = struct.unpack_from(">BHHB", data, frame + 2)
    end = data.find(b"\xff\xd9", start)
    if data.count(b"\xff\xda", start, end if end > 0 else len(data)) > _MAX_SCANS:
        raise ValueError(f"more than {_MAX_SCANS} scans")
    return ImageHeader(
        format="JPEG", width=width, height=height, bytes_per_pixel=2 + 2 * max(1, components)
    )


def scan_start(data: bytes) -> int:
    """Index of the length of the first scan header of a JPEG file."""
    for code, at in _jpeg_segments(data):
        if code == 0xDA:
            return at
    raise ValueError("no picture data")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and index of the length of each segment, up to the first scan."""
    at = 2
    for _ in range(MAX_PARTS):
        at = data.find(b"\xff", at)
        if at < 0:
            raise ValueError("truncated before the picture data")
        while data[at] == 0xFF:  # padding
            at += 1
        code = data[at]
        at += 1
        if code < 2 or 0xD0 <= code <= 0xD8:  # no segment follows
            continue
        yield code, at
        if code in (0xD9, 0xDA):
            return
        at += int.from_bytes(data[at : at + 2], "big")
    raise ValueError("too many segments")
