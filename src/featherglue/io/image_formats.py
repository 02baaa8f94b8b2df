"""Headers of image formats: size, number of pages and memory of decoding, without decoding.

Each parser reads the fields at the places where the decoders of OpenCV read them. A parser raises
`ValueError` for a header that is damaged, and `struct.error` or `IndexError` beyond its end.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_MAX_PARTS = 1_000_000  # chunks, boxes or directories of a file
_MAX_SCANS = 200  # of a JPEG file; encoders write at most 15
_MAX_COMPONENTS = 4


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
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ValueError("the PNG file is truncated, or the length of a chunk is wrong")
        yield kind, at + 8, at + 8 + length
        if kind == b"IEND":
            return
        at += 12 + length
    raise ValueError("too many chunks")


def parse_jpeg(data: bytes) -> ImageHeader:
    """JPEG: the first frame header."""
    start = scan_start(data)
    frame = next((at for code, at in _jpeg_segments(data) if code in _JPEG_FRAMES), None)
    if frame is None or frame > start:
        raise ValueError("no frame header")
    _, height, width, components = struct.unpack_from(">BHHB", data, frame + 2)
    end = data.find(b"\xff\xd9", start)
    if data.count(b"\xff\xda", start, end if end > 0 else len(data)) > _MAX_SCANS:
        raise ValueError(f"more than {_MAX_SCANS} scans")
    return ImageHeader(
        format="JPEG", width=width, height=height, bytes_per_pixel=2 + 2 * max(1, components)
    )


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def scan_start(data: bytes) -> int:
    """Index of the first scan of a JPEG file."""
    for code, at in _jpeg_segments(data):
        if code == 0xDA:
            return at
    raise ValueError("no picture data")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and index of the length of each segment, up to the first scan."""
    at = 2
    for _ in range(_MAX_PARTS):
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


def parse_bmp(data: bytes) -> ImageHeader:
    """Windows bitmap."""
    kind, layout = int.from_bytes(data[14:18], "little"), "<ii"
    if kind == 12:
        layout = "<HH"
    width, height = struct.unpack_from(layout, data, 18)
    return ImageHeader(format="BMP", width=abs(width), height=abs(height), bytes_per_pixel=5)


def parse_tiff(data: bytes) -> ImageHeader:
    """TIFF and BigTIFF: the first directory, and the number of full pages."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    offset = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)[0]
    pages: list[dict[int, int]] = []
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < 1000:
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
    if first.get(254, 0) & 1 or first.get(262) in (32803, 34892):
        raise ValueError("a raw photograph of a camera; convert it to TIFF or JPEG")
    width, height = first.get(256, 0), first.get(257, 0)
    samples, bits = first.get(277, 1), first.get(258, 1)
    if samples > 16 or bits > 64:
        raise ValueError(f"{samples} samples of {bits} bits")
    tile = first.get(322, 0) * first.get(323, 0)
    if tile > max(width * height, 1 << 24):
        raise ValueError("its tiles are larger than the image")
    return ImageHeader(
        format="TIFF",
        width=width,
        height=height,
        bytes_per_pixel=6 + 2 * samples * bits / 8,
        num_pages=1 + sum(1 for page in pages[1:] if not page.get(254, 0) & 5),
    )


def _tiff_directory(data: bytes, at: int, order: str, big: bool) -> tuple[dict[int, int], int]:
    """First value of each integer tag of a directory, and the offset of the next one."""
    head, entry, step = ("Q", "HHQ", 20) if big else ("H", "HHI", 12)
    (count,) = struct.unpack_from(order + head, data, at)
    at += struct.calcsize(order + head)
    tags: dict[int, int] = {}
    for i in range(min(count, 4096)):
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
    for _ in range(_MAX_PARTS):
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


_NETPBM = re.compile(rb"P[1-6](?:\s|#[^\r\n]*[\r\n])+(\d{1,9})(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})")
_PFM = re.compile(rb"P[Ff]\s+(\d{1,9})\s+(\d{1,9})")


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
