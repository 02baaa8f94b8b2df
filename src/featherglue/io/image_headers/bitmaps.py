"""The headers of plain bitmaps: BMP, Netpbm and Sun raster."""

from __future__ import annotations

import re
import struct

from featherglue.io.image_headers.header import ImageHeader

_NETPBM = re.compile(rb"P[1-6](?:\s|#[^\r\n]*[\r\n])+(\d{1,9})(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})")
_PFM = re.compile(rb"P[Ff]\s+(\d{1,9})\s+(\d{1,9})")


def parse_bmp(data: bytes) -> ImageHeader:
    """Windows bitmap."""
    kind, layout = int.from_bytes(data[14:18], "little"), "<ii"
    if kind == 12:
        layout = "<HH"
    width, height = struct.unpack_from(layout, data, 18)
    return ImageHeader(format="BMP", width=abs(width), height=abs(height), bytes_per_pixel=5)


def parse_netpbm(data: bytes) -> ImageHeader:
    """PBM, PGM, PPM (P1 to P6), PAM (P7) and PFM."""
    head = data[:4096]
    if head[:2] == b"P7":
        fields = dict(re.findall(rb"(WIDTH|HEIGHT|DEPTH)\s+(\d{1,9})", head))
        width, height, depth = (int(fields.get(k, 0)) for k in (b"WIDTH", b"HEIGHT", b"DEPTH"))
        return ImageHeader(
            format="PAM", width=width, height=height, bytes_per_pixel=4 + 4 * max(1, depth)
        )
    found = _PFM.match(head) or _NETPBM.match(head)
    if found is None:
        raise ValueError("no size in its header")
    width, height = (int(digits) for digits in found.groups())
    return ImageHeader(format="PNM", width=width, height=height, bytes_per_pixel=16)


def parse_sun(data: bytes) -> ImageHeader:
    """Sun raster."""
    width, height = struct.unpack_from(">II", data, 4)
    return ImageHeader(format="Sun raster", width=width, height=height, bytes_per_pixel=6)
