"""Image files of every format: intact, damaged, and with false headers."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from featherglue.io.image import read_gray
from featherglue.io.image_headers import parse_header
from mutators.byte_edits import Damaged, damaged
from mutators.mutator import Mutator

RNG = np.random.default_rng(0)
SMOOTH = cv2.GaussianBlur(RNG.integers(0, 256, (48, 64, 4)).astype(np.uint8), (0, 0), 2)
GRAY, RGB, RGBA = SMOOTH[..., 0], SMOOTH[..., :3], SMOOTH

PAM_HEADER = b"P7\nWIDTH 64\nHEIGHT 48\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"


def _opencv(suffix: str, image: np.ndarray, *parameters: int) -> bytes:
    ok, data = cv2.imencode(suffix, image, parameters)
    assert ok
    return data.tobytes()


def _pillow(form: str, *frames: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    images = [Image.fromarray(frame).convert(mode) for frame in frames]
    file = io.BytesIO()
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:]}
    images[0].save(file, form, **options)
    return file.getvalue()


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


SEEDS: dict[str, Callable[[], bytes]] = {
    "png-gray": partial(_opencv, ".png", GRAY),
    "png-16": partial(_opencv, ".png", RGB.astype(np.uint16) * 257),
    "png-rgba": partial(_opencv, ".png", RGBA),
    "png-palette": partial(_pillow, "PNG", RGB, mode="P"),
    "png-1": partial(_pillow, "PNG", GRAY, mode="1"),
    "png-animated": partial(_pillow, "PNG", RGB, RGB[::-1]),
    "jpeg": partial(_opencv, ".jpg", RGB),
    "jpeg-progressive": partial(_opencv, ".jpg", RGB, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "jpeg-restart": partial(_opencv, ".jpg", RGB, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "jpeg-cmyk": partial(_pillow, "JPEG", RGB, mode="CMYK"),
    "jpeg-exif": partial(_pillow, "JPEG", RGB, exif=_exif(6)),
    "jpeg-multi": partial(_pillow, "MPO", RGB, RGB[::-1]),
    "gif": partial(_pillow, "GIF", RGB),
    "gif-animated": partial(_pillow, "GIF", RGB, RGB[::-1], GRAY),
    "bmp": partial(_opencv, ".bmp", RGB),
    "bmp-palette": partial(_pillow, "BMP", RGB, mode="P"),
    "tiff-lzw": partial(_pillow, "TIFF", RGB, compression="tiff_lzw"),
    "tiff-deflate": partial(_pillow, "TIFF", RGB, compression="tiff_adobe_deflate"),
    "tiff-jpeg": partial(_pillow, "TIFF", RGB, compression="jpeg"),
    "tiff-16": partial(_opencv, ".tif", GRAY.astype(np.uint16) * 257),
    "tiff-float": partial(_opencv, ".tif", GRAY.astype(np.float32) / 255),
    "tiff-pages": partial(_pillow, "TIFF", RGB, GRAY),
    "tiff-big": partial(_pillow, "TIFF", RGB, big_tiff=True),
    "webp": partial(_opencv, ".webp", RGB, cv2.IMWRITE_WEBP_QUALITY, 80),
    "webp-lossless": partial(_pillow, "WEBP", RGBA, lossless=True),
    "webp-animated": partial(_pillow, "WEBP", RGB, RGB[::-1]),
    "jp2": partial(_opencv, ".jp2", RGB),
    "j2k": partial(_pillow, "JPEG2000", RGB, no_jp2=True),
    "avif": partial(_pillow, "AVIF", RGB),
    "avif-animated": partial(_pillow, "AVIF", RGB, RGB[::-1]),
    "pgm": partial(_opencv, ".pgm", GRAY),
    "ppm-text": partial(_opencv, ".ppm", RGB[:8, :8], cv2.IMWRITE_PXM_BINARY, 0),
    "pbm": partial(_pillow, "PPM", GRAY, mode="1"),
    "pam": lambda: PAM_HEADER + RGBA.tobytes(),
    "pfm": partial(_opencv, ".pfm", GRAY.astype(np.float32)),
    "hdr": partial(_opencv, ".hdr", RGB.astype(np.float32) / 255),
    "sun": partial(_opencv, ".ras", RGB),
}


def _read(case: Damaged, folder: Path) -> None:
    """Read the file; what is read is a gray image of the size that its header states."""
    path, data = folder / f"image.{case.seed.partition('-')[0]}", case.data()
    path.write_bytes(data)
    gray = read_gray(path)
    header = parse_header(data)
    assert gray.shape in ((header.height, header.width), (header.width, header.height))
    assert gray.dtype == np.uint8
    assert gray.ndim == 2
    assert gray.size > 0


IMAGES = Mutator(name="images", cases=damaged(SEEDS), use=_read, num_tested=150, goal=10_000)
