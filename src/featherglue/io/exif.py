"""The EXIF orientation of a JPEG file."""

from __future__ import annotations

import struct

_ORIENTATION_TAG, _SHORT = 0x0112, 3
_START_OF_SCAN, _APP1 = 0xDA, 0xE1


def jpeg_orientation(encoded: bytes) -> int:
    """EXIF orientation of a JPEG file, 1 to 8; 1 (upright) without a valid tag.

    Args:
        encoded: the file, or its first 64 KiB.
    """
    if encoded[:2] != b"\xff\xd8":
        return 1
    position = 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker, length = struct.unpack_from(">BH", encoded, position + 1)
        segment = encoded[position + 4 : position + 2 + length]
        if marker == _APP1 and segment[:6] == b"Exif\0\0":
            return _orientation(segment[6:])
        if marker == _START_OF_SCAN:
            return 1
        position += 2 + length
    return 1


def _orientation(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF structure."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * i)
            if tag == _ORIENTATION_TAG and kind == _SHORT:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # damaged
        return 1
    return 1
