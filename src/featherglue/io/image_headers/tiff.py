"""The header of TIFF and BigTIFF files."""

from __future__ import annotations

import struct

from featherglue.io.image_headers.header import ImageHeader

# Tags of a directory.
_KIND, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES = 254, 256, 257, 258, 262, 277
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_RAW = (32803, 34892)  # photometric interpretations: color filter array, linear raw
_REDUCED, _MASK = 1, 4  # bits of the kind of a page
_MAX_PAGES, _MAX_TAGS = 1000, 4096


def parse_tiff(data: bytes) -> ImageHeader:
    """TIFF and BigTIFF: the first directory, and the number of full pages."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    offset = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)[0]
    pages: list[dict[int, int]] = []
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < _MAX_PAGES:
        seen.add(offset)
        try:
            tags, offset = _tiff_directory(data, offset, order, big)
        except (struct.error, OverflowError):
            if not pages:
                raise
            break
        pages.append(tags)
    if not pages:
        raise ValueError("no image directory")
    first = pages[0]
    if first.get(_KIND, 0) & _REDUCED or first.get(_PHOTOMETRIC) in _RAW:
        raise ValueError("a raw photograph of a camera; convert it to TIFF or JPEG")
    width, height = first.get(_WIDTH, 0), first.get(_HEIGHT, 0)
    samples, bits = first.get(_SAMPLES, 1), first.get(_BITS, 1)
    if samples > 16 or bits > 64:
        raise ValueError(f"{samples} samples of {bits} bits")
    tile = first.get(_TILE_WIDTH, 0) * first.get(_TILE_HEIGHT, 0)
    if tile > max(width * height, 1 << 24):
        raise ValueError("its tiles are larger than the image")
    return ImageHeader(
        format="TIFF",
        width=width,
        height=height,
        bytes_per_pixel=6 + 2 * samples * bits / 8,
        num_pages=1 + sum(1 for page in pages[1:] if not page.get(_KIND, 0) & (_REDUCED | _MASK)),
    )


def _tiff_directory(data: bytes, at: int, order: str, big: bool) -> tuple[dict[int, int], int]:
    """First value of each integer tag of a directory, and the offset of the next one."""
    head, entry, step = ("Q", "HHQ", 20) if big else ("H", "HHI", 12)
    (count,) = struct.unpack_from(order + head, data, at)
    at += struct.calcsize(order + head)
    tags: dict[int, int] = {}
    for i in range(min(count, _MAX_TAGS)):
        tag, kind, number = struct.unpack_from(order + entry, data, at + i * step)
        field = at + i * step + struct.calcsize(order + entry)
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is None or number == 0:
            continue
        if number * struct.calcsize(order + letter) > (8 if big else 4):
            (field,) = struct.unpack_from(order + ("Q" if big else "I"), data, field)
        try:
            tags.setdefault(tag, struct.unpack_from(order + letter, data, field)[0])
        except (struct.error, OverflowError):  # a value beyond the end of the file
            continue
    (following,) = struct.unpack_from(order + ("Q" if big else "I"), data, at + count * step)
    return tags, following
