"""Reading and conversion of images, and mapping of points between sizes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from featherglue.errors import ImageError, ImageWarning
from featherglue.io.gray import to_gray
from featherglue.io.image import (
    list_images,
    load_gray,
    map_points,
    read_evenly_spaced,
    read_gray,
    resize_gray,
    resized_size,
)

SIZES = [((640, 480), (320, 240)), ((641, 483), (97, 1025)), ((10, 7), (1000, 3)), ((8, 8), (8, 9))]


def write(path: Path, image: np.ndarray) -> Path:
    ok, encoded = cv2.imencode(path.suffix, image)
    assert ok
    path.write_bytes(encoded.tobytes())
    return path


def with_orientation(jpeg: bytes, orientation: int, endian: str) -> bytes:
    """Put an EXIF segment with nothing but an orientation behind the JPEG's first marker."""
    order = b"II" if endian == "<" else b"MM"
    header = order + struct.pack(f"{endian}HI", 42, 8)
    entry = struct.pack(f"{endian}HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = header + struct.pack(f"{endian}H", 1) + entry + struct.pack(f"{endian}I", 0)
    body = b"Exif\0\0" + tiff
    assert jpeg[:2] == b"\xff\xd8"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


# --- arrays ---------------------------------------------------------------------------------


def test_gray_uint8_is_unchanged(gray: np.ndarray) -> None:
    np.testing.assert_array_equal(to_gray(gray), gray)
    np.testing.assert_array_equal(to_gray(gray[..., None]), gray)
    view = to_gray(gray[::2, ::-3])
    np.testing.assert_array_equal(view, gray[::2, ::-3])
    assert view.flags.c_contiguous


def test_rgb_is_weighted_by_luminance(color: np.ndarray) -> None:
    expected = color @ np.array([0.299, 0.587, 0.114])
    assert np.abs(to_gray(color) - expected).max() <= 1
    # Red before blue: the order matters.
    pure = np.zeros((1, 3, 3), np.uint8)
    pure[0, [0, 1, 2], [0, 1, 2]] = 255
    np.testing.assert_array_equal(to_gray(pure), [[76, 150, 29]])


def test_alpha_is_ignored(color: np.ndarray) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, color.shape[:2], np.uint8)
    np.testing.assert_array_equal(to_gray(np.dstack((color, alpha))), to_gray(color))


def test_sixteen_bits_are_divided_by_257() -> None:
    values = np.array([[0, 128, 129, 257, 65407, 65535, 32896]], np.uint16)
    np.testing.assert_array_equal(to_gray(values), [[0, 0, 1, 1, 255, 255, 128]])
    every = np.arange(256, dtype=np.uint16)[None] * 257
    np.testing.assert_array_equal(to_gray(every), np.arange(256)[None])
    np.testing.assert_array_equal(to_gray(np.dstack([every] * 3)), np.arange(256)[None])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_lie_between_0_and_1(dtype: type, gray: np.ndarray) -> None:
    scaled = (gray / 255).astype(dtype)
    np.testing.assert_array_equal(to_gray(scaled), gray)
    np.testing.assert_array_equal(to_gray(np.dstack([scaled] * 3)), gray)


def test_bools_are_black_and_white(gray: np.ndarray) -> None:
    np.testing.assert_array_equal(to_gray(gray > 100), np.where(gray > 100, 255, 0))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.int32), "int32"),
        (np.full((4, 4), 255.0), "divide by the maximum"),
        (np.full((4, 4), -0.1), r"\[0, 1\], not in \[-0.1, -0.1\]"),
        (np.full((4, 4), np.nan), "nan"),
        (np.full((4, 4), np.inf), "inf"),
        (np.zeros((4,), np.uint8), "shape"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "empty"),
        (np.zeros((4, 0, 3), np.uint8), "empty"),
        (np.zeros((4, 4), np.complex64), "complex64"),
    ],
)
def test_invalid_arrays_are_rejected(image: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        to_gray(image)


def test_more_than_200_megapixels_are_rejected() -> None:
    huge = np.broadcast_to(np.zeros(1, np.uint8), (20_001, 10_000))
    with pytest.raises(ImageError, match="megapixels"):
        to_gray(huge)


def test_a_huge_png_is_rejected_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(30_000, 30_000))
    with pytest.raises(ImageError, match=r"bomb.png: 30000×30000 pixels are more .* reduce"):
        read_gray(bomb)
    bomb.write_bytes(png(14_000, 14_000))
    with pytest.raises(ImageError, match=r"states 14000×14000 pixels in 45 bytes"):
        read_gray(bomb)
    data = png(10, 10)
    bomb.write_bytes(data[:33] + b"\x7f\xff\xff\xffIDAT" + data[33:])
    with pytest.raises(ImageError, match="the length of a chunk is wrong"):
        read_gray(bomb)


def png(width: int, height: int) -> bytes:
    """A PNG file that states a size and holds no pixels."""
    header = struct.pack(">II5B", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_a_jpeg_without_its_end_marker_is_read(tmp_path: Path, gray: np.ndarray) -> None:
    for parameters in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)):
        data = cv2.imencode(".jpg", gray, parameters)[1].tobytes()
        path = tmp_path / "a.jpg"
        path.write_bytes(data)
        whole = read_gray(path)
        path.write_bytes(data[:-2])
        np.testing.assert_array_equal(read_gray(path), whole)
        for missing in (20, 200, 2000):
            path.write_bytes(data[:-missing])
            with pytest.raises(ImageError, match="truncated"):
                read_gray(path)


def test_a_thumbnail_does_not_hide_that_a_photograph_is_truncated(
    tmp_path: Path, gray: np.ndarray
) -> None:
    data = cv2.imencode(".jpg", gray)[1].tobytes()
    thumbnail = cv2.imencode(".jpg", gray[::8, ::8])[1].tobytes()
    path = tmp_path / "a.jpg"
    whole = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    path.write_bytes(whole)
    assert read_gray(path).shape == gray.shape
    path.write_bytes(whole[: len(whole) - len(data) // 2])
    with pytest.raises(ImageError, match="truncated"):
        read_gray(path)


def test_of_several_pages_the_first_one_is_read(tmp_path: Path, gray: np.ndarray) -> None:
    for name in ("a.tif", "a.gif", "a.webp", "a.png"):
        path = tmp_path / name
        first, second = PIL.Image.fromarray(gray), PIL.Image.fromarray(gray[::-1].copy())
        first.save(path, save_all=True, append_images=[second], **LOSSLESS.get(name, {}))
        with pytest.warns(ImageWarning, match=rf"{name}: has several pages"):
            np.testing.assert_allclose(read_gray(path), gray, atol=2)
        first.save(path, **LOSSLESS.get(name, {}))
        np.testing.assert_allclose(read_gray(path), gray, atol=2)


LOSSLESS = {"a.webp": {"lossless": True}}


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"\0\0\0\x18ftypisom", "video"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_unsupported_formats_are_named(tmp_path: Path, start: bytes, name: str) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(start + bytes(100))
    with pytest.raises(ImageError, match=f"a.heic: {name} files are not read; convert"):
        read_gray(path)
    assert list_images(tmp_path) == [path]


# --- Pillow ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "HSV", "YCbCr", "I", "F"]
)
def test_pillow_images_of_every_mode(mode: str, color: np.ndarray) -> None:
    source = PIL.Image.fromarray(color)
    image = source.convert("RGB" if mode in ("LA", "I", "F") else mode)
    expected, tolerance = to_gray(np.asarray(image.convert("RGB"))), 2
    if mode == "LA":
        image = source.convert("LA")
    elif mode == "I":
        image = PIL.Image.fromarray(to_gray(color).astype(np.int32) * 257)
    elif mode == "F":
        image = PIL.Image.fromarray(to_gray(color).astype(np.float32) / 255)
    assert image.mode == mode
    np.testing.assert_allclose(load_gray(image).astype(int), expected, atol=tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillow_images_are_turned_upright(
    tmp_path: Path, orientation: int, color: np.ndarray
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    PIL.Image.fromarray(color).save(path, exif=exif)
    with PIL.Image.open(path) as image:
        turned = load_gray(image).astype(int)
        # Luminance is clipped differently where the colors of the file are out of range.
        assert np.abs(turned - read_gray(path)).mean() < 0.5
        upright = PIL.ImageOps.exif_transpose(image)
        np.testing.assert_array_equal(load_gray(image), load_gray(upright))


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_16_bit_arrays_with_fewer_bits_are_scaled(bits: int, gray: np.ndarray) -> None:
    values = ((gray.astype(np.uint32) * (2**bits - 1) + 127) // 255).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    with pytest.warns(ImageWarning, match=f"up to {2**bits - 1} are taken for {bits}-bit"):
        scaled = to_gray(values)
    np.testing.assert_allclose(scaled[1:].astype(int), gray[1:], atol=1)


def test_other_byte_orders_and_ragged_lists(gray: np.ndarray) -> None:
    wide = gray.astype(np.uint16) * 257
    np.testing.assert_array_equal(to_gray(wide.astype(">u2")), to_gray(wide))
    with pytest.raises(ImageError, match="equal lengths"):
        load_gray([[1, 2], [3]])  # type: ignore[arg-type]


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".pgm", ".tif"])
def test_lossless_files_are_read_exactly(tmp_path: Path, suffix: str, gray: np.ndarray) -> None:
    np.testing.assert_array_equal(read_gray(write(tmp_path / f"a{suffix}", gray)), gray)


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".tif", ".bmp"])
def test_color_files_agree_with_color_arrays(
    tmp_path: Path, suffix: str, color: np.ndarray
) -> None:
    path = write(tmp_path / f"a{suffix}", color[..., ::-1])
    # Decoders round the luminance in their own ways.
    assert np.abs(read_gray(path).astype(int) - to_gray(color)).max() <= 1


def test_a_file_with_alpha(tmp_path: Path, color: np.ndarray) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, color.shape[:2], np.uint8)
    path = write(tmp_path / "a.png", np.dstack((color[..., ::-1], alpha)))
    assert np.abs(read_gray(path).astype(int) - to_gray(color)).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_file_of_16_bits(tmp_path: Path, suffix: str, gray: np.ndarray) -> None:
    path = write(tmp_path / f"a{suffix}", gray.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_gray(path), gray)


def test_jpeg_and_webp_are_close(tmp_path: Path, gray: np.ndarray) -> None:
    for suffix in (".jpg", ".webp"):
        read = read_gray(write(tmp_path / f"a{suffix}", gray))
        assert read.shape == gray.shape
        assert np.abs(read.astype(int) - gray).mean() < 4


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(
    tmp_path: Path, orientation: int, endian: str
) -> None:
    # 64×32 blocks of four grays: JPEG compression does not change which side is up.
    upright = np.kron(np.array([[20, 90], [160, 230]], np.uint8), np.ones((16, 32), np.uint8))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(stored))[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(with_orientation(jpeg, orientation, endian))
    read = read_gray(path)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() < 10


@pytest.mark.parametrize("name", ["grün ☂.png", "照片.png", "with space.PNG", "-dash.png"])
def test_file_names_may_have_any_characters(tmp_path: Path, name: str, gray: np.ndarray) -> None:
    path = tmp_path / name
    path.write_bytes(cv2.imencode(".png", gray)[1].tobytes())
    np.testing.assert_array_equal(load_gray(str(path)), gray)
    np.testing.assert_array_equal(load_gray(path), gray)


def test_files_without_an_image_are_rejected(tmp_path: Path) -> None:
    empty, text, folder = tmp_path / "empty.png", tmp_path / "text.jpg", tmp_path / "folder.png"
    empty.touch()
    text.write_text("not an image\n" * 100)
    folder.mkdir()
    for path, message in (
        (empty, "empty"),
        (text, "not an image format"),
        (folder, "folder"),
        (tmp_path / "missing.png", "no such file"),
        (text / "below.png", "cannot be read|no such file"),
    ):
        with pytest.raises(ImageError, match=message) as caught:
            read_gray(path)
        assert path.name in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.9])
def test_truncated_files_are_rejected(
    tmp_path: Path, suffix: str, fraction: float, gray: np.ndarray
) -> None:
    path = write(tmp_path / f"a{suffix}", gray)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(ImageError, match=r"a\."):
        read_gray(path)


def test_only_images_are_listed_sorted_by_name(tmp_path: Path, gray: np.ndarray) -> None:
    for name in ("b.png", "a.JPG", "c.tiff", "notes.txt", "under/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png", "c.tiff"]
    every = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, True)]
    assert every == ["a.JPG", "b.png", "c.tiff", "under/d.png"]
    with pytest.raises(ImageError, match="no images"):
        list_images(tmp_path / "folder.png")
    with pytest.raises(ImageError, match="no such folder"):
        list_images(tmp_path / "nowhere")


def test_hidden_files_and_folders_are_not_listed(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".thumbnails/a.png", "sub/b.png", "sub/._b.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert list_images(tmp_path, True) == [tmp_path / "a.png", tmp_path / "sub/b.png"]
    # The folder itself may be hidden.
    assert list_images(tmp_path / ".thumbnails") == [tmp_path / ".thumbnails" / "a.png"]


def test_numbers_in_names_are_sorted_by_value(tmp_path: Path) -> None:
    for name in ("frame10.png", "frame2.png", "frame1.png"):
        (tmp_path / name).touch()
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["frame1.png", "frame2.png", "frame10.png"]


@pytest.mark.parametrize(("num_images", "expected"), [(2, [0, 3]), (3, [0, 2, 4]), (9, range(6))])
def test_images_are_read_evenly_spaced(
    tmp_path: Path, num_images: int, expected: Sequence[int]
) -> None:
    for i in range(6):
        write(tmp_path / f"{i}.png", np.full((4, 4), i, np.uint8))
    images = read_evenly_spaced(tmp_path, num_images)
    assert [int(image[0, 0]) for image in images] == list(expected)


# --- sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((640, 480), (), (640, 480)),
        ((640, 480), (-1,), (640, 480)),
        ((640, 480), (320,), (320, 240)),
        ((480, 640), (320,), (240, 320)),
        ((640, 480), (1280,), (1280, 960)),
        ((640, 480), (100, 300), (100, 300)),
        ((1000, 2), (100,), (100, 1)),
        ((1001, 667), (640,), (640, 426)),
    ],
)
def test_resized_sizes(
    size: tuple[int, int], resize: tuple[int, ...], expected: tuple[int, int]
) -> None:
    assert resized_size(size, resize) == expected


@pytest.mark.parametrize(("first", "second"), SIZES)
def test_points_return_to_their_positions(first: tuple[int, int], second: tuple[int, int]) -> None:
    points = (np.random.default_rng(0).random((100, 2)) * first).astype(np.float32)
    there = map_points(points, first, second)
    back = map_points(there, second, first)
    assert back.dtype == np.float32
    assert np.abs(back - points).max() < 1e-3
    assert np.abs(there - points).max() > 0.02


@pytest.mark.parametrize(("first", "second"), SIZES)
def test_edges_map_to_edges(first: tuple[int, int], second: tuple[int, int]) -> None:
    edges = np.array([(-0.5, -0.5), (first[0] - 0.5, first[1] - 0.5)], np.float32)
    expected = [(-0.5, -0.5), (second[0] - 0.5, second[1] - 0.5)]
    np.testing.assert_allclose(map_points(edges, first, second), expected, atol=1e-3)


@pytest.mark.parametrize("to_size", [(160, 120), (130, 90), (600, 437), (320, 100)])
def test_points_follow_the_pixels_of_a_resized_image(to_size: tuple[int, int]) -> None:
    size = 320, 240
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    for point in ((80.0, 60.0), (200.3, 31.6), (159.5, 200.0)):
        blob = 250 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * 6.0**2))
        resized = resize_gray(blob.astype(np.uint8), to_size).astype(float)
        assert resized.shape == to_size[::-1]
        columns, rows = np.arange(to_size[0]), np.arange(to_size[1])
        total = resized.sum()
        centroid = (resized.sum(0) @ columns / total, resized.sum(1) @ rows / total)
        mapped = map_points(np.array([point], np.float32), size, to_size)[0]
        # Half a pixel of the smaller image would be much more than this.
        np.testing.assert_allclose(mapped, centroid, atol=0.06)


def test_an_image_of_the_right_size_is_not_copied(gray: np.ndarray) -> None:
    assert resize_gray(gray, gray.shape[::-1]) is gray
