"""The image formats: how a file of each is recognized, and what parses its header."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from featherglue.io.image_headers.bitmaps import parse_bmp, parse_netpbm, parse_sun
from featherglue.io.image_headers.boxes import parse_avif, parse_jpeg2000
from featherglue.io.image_headers.chunks import parse_gif, parse_png, parse_webp
from featherglue.io.image_headers.header import ImageHeader
from featherglue.io.image_headers.jpeg import parse_jpeg
from featherglue.io.image_headers.tiff import parse_tiff

Parser = Callable[[bytes], ImageHeader]
_PARSERS: tuple[tuple[re.Pattern[bytes], Parser], ...] = tuple(
    (re.compile(pattern, re.DOTALL), parser)
    for pattern, parser in (
        (rb"\x89PNG\r\n\x1a\n", parse_png),
        (rb"\xff\xd8\xff", parse_jpeg),
        (rb"GIF8[79]a", parse_gif),
        (rb"BM", parse_bmp),
        (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", parse_tiff),
        (rb"RIFF....WEBP", parse_webp),
        (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", parse_jpeg2000),
        (rb"....ftyp(?:avi[fs]|m[is]f1.{0,48}avif)", parse_avif),
        (rb"P[1-6Ff][\s#]|P7\s", parse_netpbm),
        (rb"\x59\xa6\x6a\x95", parse_sun),
    )
)
_UNSUPPORTED: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"....ftyp(?:hei|hev|mif1|msf1)", "HEIC"),
        (rb"\x76\x2f\x31\x01", "OpenEXR"),
        (rb"#\?(?:RADIANCE|RGBE)", "Radiance HDR"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
        (rb"8BPS", "Photoshop"),
        (rb"%PDF", "PDF"),
        (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", "video"),
    )
)


def parse_header(data: bytes) -> ImageHeader:
    """The header of an image file.

    Raises:
        ValueError: not an image, a format that is not read, or a damaged header; the message is
            the reason.
    """
    for pattern, parser in _PARSERS:
        if pattern.match(data):
            try:
                return parser(data)
            except (struct.error, IndexError, OverflowError):
                raise ValueError("truncated or damaged") from None
    for pattern, name in _UNSUPPORTED:
        if pattern.match(data):
            raise ValueError(f"{name} files are not read; convert it to PNG or JPEG")
    raise ValueError("not an image format that is read")
