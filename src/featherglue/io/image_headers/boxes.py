"""The headers of formats made of ISO boxes: JPEG 2000 and AVIF."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from featherglue.io.image_headers.header import MAX_PARTS, ImageHeader

_MAX_COMPONENTS = 4


def parse_jpeg2000(data: bytes) -> ImageHeader:
    """JPEG 2000: the SIZ marker of the codestream."""
    start = 0
    if data[:4] != b"\xff\x4f\xff\x51":
        found = (box for kind, box, _ in _boxes(data, 0, len(data)) if kind == b"jp2c")
        start = next(found, -1)
    if start < 0 or data[start : start + 4] != b"\xff\x4f\xff\x51":
        raise ValueError("no picture data")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack_from(
        ">8IH", data, start + 8
    )
    if components > _MAX_COMPONENTS or not components:
        raise ValueError(f"{components} components")
    if not tile_x or not tile_y or x1 <= x0 or y1 <= y0:
        raise ValueError("an empty image or tile")
    tiles = ((x1 - tile_x0 - 1) // tile_x + 1) * ((y1 - tile_y0 - 1) // tile_y + 1)
    pixels = (x1 - x0) * (y1 - y0)
    return ImageHeader(
        format="JPEG 2000",
        width=x1 - x0,
        height=y1 - y0,
        # Components of 32 bits twice, and the coding parameters of each tile.
        bytes_per_pixel=4 + 8 * components + tiles * (6000 + 1200 * components) / pixels,
    )


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each box of an ISO base media file."""
    for _ in range(MAX_PARTS):
        if at + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        stop = end if length == 0 else at + length
        if stop < at + head or stop > len(data):
            raise ValueError("truncated, or the length of a box is wrong")
        yield kind, at + head, min(stop, end)
        at = stop


def parse_avif(data: bytes) -> ImageHeader:
    """AVIF: the largest stated size of its pictures, which include alpha and thumbnails."""
    sizes, animated = [(0, 0)], data[8:12] == b"avis"
    open_boxes = [(0, len(data))]
    while open_boxes:
        for kind, start, end in _boxes(data, *open_boxes.pop()):
            if kind in (b"meta", b"iprp", b"ipco", b"moov", b"trak"):
                open_boxes.append((start + (4 if kind == b"meta" else 0), end))
            elif kind == b"ispe":
                sizes.append(struct.unpack_from(">II", data, start + 4))
            elif kind == b"tkhd":
                width, height = struct.unpack_from(">II", data, end - 8)
                sizes.append((width >> 16, height >> 16))
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return ImageHeader(
        format="AVIF", width=width, height=height, bytes_per_pixel=20, num_pages=1 + animated
    )
