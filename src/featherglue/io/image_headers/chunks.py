"""The headers of formats made of chunks or blocks: PNG, GIF and WebP."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from featherglue.io.image_headers.header import MAX_PARTS, ImageHeader


def parse_png(data: bytes) -> ImageHeader:
    """PNG and APNG. The length of every chunk must lie within the file."""
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR":
        raise ValueError("its first chunk is not IHDR")
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(color, 4)
    pages = 1
    for kind, start, end in _png_chunks(data):
        if kind == b"acTL" and end - start >= 4:
            pages = int.from_bytes(data[start : start + 4], "big")
    size = channels * max(depth, 8) // 8
    return ImageHeader(
        format="PNG",
        width=width,
        height=height,
        bytes_per_pixel=2 + size + (12 if pages > 1 else 0),
        num_pages=max(1, pages),
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each chunk."""
    at = 8
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ValueError("the PNG file is truncated, or the length of a chunk is wrong")
        yield kind, at + 8, at + 8 + length
        if kind == b"IEND":
            return
        at += 12 + length
    raise ValueError("too many chunks")


def parse_gif(data: bytes) -> ImageHeader:
    """GIF: the logical screen, and whether a second frame follows."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    frames, at = 0, 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    while frames < 2 and at < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x2C:
            frames += 1
            local = data[at + 9]
            at += 11 + (3 << ((local & 7) + 1) if local & 0x80 else 0)
        else:
            at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return ImageHeader(
        format="GIF", width=width, height=height, bytes_per_pixel=9, num_pages=max(1, frames)
    )


def parse_webp(data: bytes) -> ImageHeader:
    """WebP: the canvas, or the frame of a file without one."""
    kind, animated = data[12:16], False
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        animated = bool(data[20] & 2)
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("no picture data")
    return ImageHeader(
        format="WebP",
        width=width,
        height=height,
        bytes_per_pixel=14 if animated else 8,
        num_pages=1 + animated,
    )
