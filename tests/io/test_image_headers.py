"""Headers of image files: size, number of pages and errors, from a few bytes."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from featherglue.io.image_headers import parse_header

WIDTH, HEIGHT = 77, 53


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        (".png", "PNG"),
        (".jpg", "JPEG"),
        (".bmp", "BMP"),
        (".tif", "TIFF"),
        (".webp", "WebP"),
        (".jp2", "JPEG 2000"),
        (".ppm", "PNM"),
        (".pfm", "PNM"),
        (".ras", "Sun raster"),
    ],
)
def test_sizes_of_files_of_opencv(suffix: str, form: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pixels = image.astype(np.float32) if suffix == ".pfm" else image
    header = parse_header(cv2.imencode(suffix, pixels)[1].tobytes())
    assert (header.format, header.width, header.height) == (form, WIDTH, HEIGHT)
    assert header.num_pages == 1
    assert header.bytes_per_pixel >= 3  # at least the decoded image


def test_the_orientation_of_a_bitmap_does_not_change_its_size() -> None:
    start = b"BM" + bytes(12) + struct.pack("<I", 40)
    header = parse_header(start + struct.pack("<ii", WIDTH, -HEIGHT))  # stored from top to bottom
    assert (header.width, header.height) == (WIDTH, HEIGHT)
    old = b"BM" + bytes(12) + struct.pack("<IHH", 12, WIDTH, HEIGHT)
    assert (parse_header(old).width, parse_header(old).height) == (WIDTH, HEIGHT)


def test_comments_before_the_size_of_a_bitmap() -> None:
    header = parse_header(b"P5 # a comment 9 9\n# another\n77\n53\n255\n")
    assert (header.width, header.height) == (WIDTH, HEIGHT)
    header = parse_header(b"P7\nWIDTH 77\nHEIGHT 53\nDEPTH 4\nMAXVAL 255\nENDHDR\n")
    assert (header.format, header.width, header.height) == ("PAM", WIDTH, HEIGHT)


def gif(num_frames: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", WIDTH, HEIGHT, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<4HB", 0, 0, WIDTH, HEIGHT, 0) + b"\x02\x02\x4c\x01\0"
    return screen + num_frames * (b"\x21\xf9\x04\0\0\0\0\0" + frame) + b"\x3b"


@pytest.mark.parametrize(("num_frames", "num_pages"), [(1, 1), (2, 2), (5, 2)])
def test_frames_of_a_gif(num_frames: int, num_pages: int) -> None:
    header = parse_header(gif(num_frames))
    assert (header.width, header.height, header.num_pages) == (WIDTH, HEIGHT, num_pages)


def tiff(order: str, *directories: dict[int, int]) -> bytes:
    """A TIFF file of directories with tags of 16 bits, and no pixels."""
    data = (b"II\x2a\0" if order == "<" else b"MM\0\x2a") + struct.pack(f"{order}I", 8)
    for tags in directories:
        following = len(data) + 2 + 12 * len(tags) + 4
        data += struct.pack(f"{order}H", len(tags))
        for tag, value in tags.items():
            data += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        data += struct.pack(f"{order}I", 0 if tags is directories[-1] else following)
    return data


PAGE = {256: WIDTH, 257: HEIGHT, 258: 16, 277: 3}


@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_of_a_tiff(order: str) -> None:
    thumbnail, mask = {254: 1} | PAGE, {254: 4} | PAGE
    header = parse_header(tiff(order, PAGE, thumbnail, dict(PAGE), mask))
    assert (header.width, header.height, header.num_pages) == (WIDTH, HEIGHT, 2)
    assert header.bytes_per_pixel == 6 + 2 * 3 * 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image format"),
        (b"hello world", "not an image format"),
        (b"\x89PNG\r\n\x1a\n\0\0", "truncated or damaged"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "truncated before the picture data"),
        (b"\xff\xd8\xff\xda\0\x08", "no frame header"),
        (b"II\x2a\0\0\0\0\0", "no image directory"),
        (tiff("<", {262: 32803} | PAGE), "a raw photograph of a camera"),
        (tiff("<", PAGE | {322: 9000, 323: 9000}), "its tiles are larger than the image"),
        (tiff("<", PAGE | {277: 99}), "99 samples of 16 bits"),
        (b"RIFF\0\0\0\0WEBPVP9 ", "no picture data"),
        (b"\0\0\0\x18ftypheic", "HEIC files are not read; convert it to PNG or JPEG"),
    ],
)
def test_damaged_headers_are_errors(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_header(data)
