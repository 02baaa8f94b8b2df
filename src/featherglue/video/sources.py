"""Opening a source of frames by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from featherglue.errors import SourceError, UsageError
from featherglue.io.image import SUFFIXES, list_images, num_pages
from featherglue.video.arrays import ArraySequence, is_capture
from featherglue.video.capture import Capture, call_with_timeout, open_camera, open_file, open_url
from featherglue.video.frames import FrameSource
from featherglue.video.image_sequence import DEFAULT_RATE, ImageSequence, find_images
from featherglue.video.live import LiveSource
from featherglue.video.video_file import VideoFile

VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"))
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SCHEMES = ("http", "https", "rtmp", "rtsp", "rtsps", "srt", "tcp", "udp")


def open_source(
    source: int | str | os.PathLike[str] | Sequence[Any] | Capture,
    *,
    rate: float | None = None,
    skip: int = 1,
    camera_size: tuple[int, int] | None = None,
    timeout: float = 10.0,
) -> FrameSource:
    """Open a source of frames.

    Args:
        source: index of a camera, as a number or text; device file; address (rtsp://, http://, …);
            video file; folder of images; glob (`frames/*.png`) or numbered pattern (`%06d.png`) of
            images; one image, a list of images (paths or arrays), or a `cv2.VideoCapture`, which
            the source releases.
        rate: frames per second: requested from a camera, otherwise used for the times of frames.
        skip: take every `skip`-th frame of a video or image sequence.
        camera_size: (width, height) to request from a camera.
        timeout: seconds to wait for a camera, an address or a named pipe.

    Returns:
        A live source for cameras and streams, which delivers the newest frame; otherwise a source
        that delivers every frame.

    Raises:
        SourceError: the source does not exist, cannot be opened, or does not answer in time.
        ImageError: a folder is missing or has no images.
        UsageError: an argument is out of range or does not apply to this kind of source.
    """
    _check(rate, skip, timeout, camera_size)
    if isinstance(source, int) or (isinstance(source, str) and source.isdecimal()):
        return _open_camera(int(source), f"camera {source}", rate, skip, camera_size, timeout)
    if not isinstance(source, (str, os.PathLike)):
        _refuse_camera_size(camera_size)
        if is_capture(source):
            return VideoFile("capture", cast("Capture", source), rate=rate, skip=skip)
        return _open_list(source, rate, skip)
    text = os.fspath(source)
    address = _ADDRESS.match(text)
    if address is None and _is_device(text):
        return _open_camera(text, text, rate, skip, camera_size, timeout)
    _refuse_camera_size(camera_size)
    if address:
        return _open_address(text, address[1].lower(), rate, skip, timeout)
    return _open_path(text, rate, skip, timeout)


def _is_device(text: str) -> bool:
    """Whether a path is a device. Raises UsageError for a name that no file can have."""
    try:
        return Path(text).is_char_device()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{text[:80]!r} cannot be the name of a source ({reason})") from None


def _check(
    rate: float | None, skip: int, timeout: float, camera_size: tuple[int, int] | None
) -> None:
    if rate is not None and not 0 < rate <= 1000:
        raise UsageError(f"`rate` must be in (0, 1000], not {rate:g}")
    if skip < 1:
        raise UsageError(f"`skip` must be at least 1 (1 takes every frame), not {skip}")
    if not 0 < timeout <= 3600:
        raise UsageError(f"`timeout` must be in (0, 3600] seconds, not {timeout:g}")
    if camera_size is not None and min(camera_size) < 8:
        raise UsageError(
            f"`camera_size` must be (width, height), at least 8 each, not {camera_size}"
        )


def _refuse_camera_size(size: tuple[int, int] | None) -> None:
    if size is not None:
        raise UsageError("`camera_size` applies only to cameras; `resize` works for every source")


def _refuse_skip(skip: int, name: str) -> None:
    if skip != 1:
        raise UsageError(
            f"{name}: `skip` applies only to files; a live source always returns its newest frame"
        )


def _open_camera(
    device: int | str,
    name: str,
    rate: float | None,
    skip: int,
    size: tuple[int, int] | None,
    timeout: float,
) -> FrameSource:
    _refuse_skip(skip, name)
    opener = partial(open_camera, device, name, size, rate)
    return LiveSource(name, opener, timeout=timeout, rate=rate)


def _open_address(
    url: str, scheme: str, rate: float | None, skip: int, timeout: float
) -> FrameSource:
    name = hide_password(url)
    if scheme not in _SCHEMES:
        known = ", ".join(_SCHEMES)
        raise UsageError(
            f"{name}: {scheme}:// is not supported, only {known}; name a file by its path"
        )
    url = scheme + url[len(scheme) :]  # FFmpeg expects lower case
    opener = partial(open_url, url, name, timeout)
    suffix = Path(url.partition("?")[0]).suffix.lower()
    if scheme in ("http", "https") and suffix in VIDEO_SUFFIXES:
        capture: Capture = call_with_timeout(timeout + 1, name, opener, lambda late: late.release())
        advice = "download it and name the file; the server may not support range requests"
        return VideoFile(name, capture, rate=rate, skip=skip, advice=advice)
    _refuse_skip(skip, name)
    return LiveSource(name, opener, timeout=timeout, rate=rate)


def _open_path(text: str, rate: float | None, skip: int, timeout: float) -> FrameSource:
    path = Path(text)
    try:
        exists, is_folder, size = path.exists(), path.is_dir(), 0
        if exists and path.is_file():
            size = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise SourceError(f"{text}: cannot be read ({error})") from None
    if is_folder:
        return _open_images(text, list_images(path), rate, skip)
    if not exists:
        found = find_images(text)
        if found is None:
            raise SourceError(f"{text}: no such file or folder")
        return _open_images(text, found, rate, skip)
    if path.is_file() and size == 0:
        raise SourceError(f"{text}: the file is empty")
    if path.suffix.lower() in SUFFIXES and not (
        path.suffix.lower() == ".gif" and num_pages(path) > 1
    ):
        return _open_images(text, [path], rate, skip)
    opener = partial(open_file, str(path), text)
    if path.is_fifo():  # waits for a writer
        capture = call_with_timeout(timeout, text, opener, lambda late: late.release())
        return VideoFile(text, capture, rate=rate, skip=skip)
    return VideoFile(text, opener(), rate=rate, skip=skip)


def _open_list(source: Any, rate: float | None, skip: int) -> FrameSource:
    """A source of a list of paths or of arrays."""
    if not isinstance(source, Sequence):
        raise UsageError(
            f"`source` must be a name, a list of images or a capture, not {type(source).__name__}"
        )
    if source and not any(isinstance(item, (str, os.PathLike)) for item in source):
        return ArraySequence(source, rate=rate or DEFAULT_RATE, skip=skip)
    return _open_images(f"{len(source)} images", list(source), rate, skip)


def _open_images(
    name: str, paths: Sequence[str | os.PathLike[str]], rate: float | None, skip: int
) -> FrameSource:
    files = [Path(path) for path in paths]
    if not files:
        raise SourceError("the list of images is empty")
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"{path}: several sources must all be images; a video must be the only source"
            )
    return ImageSequence(name, files, rate=rate or DEFAULT_RATE, skip=skip)


def hide_password(url: str) -> str:
    """An address with its password replaced by ***."""
    return re.sub(r"//([^/@:]*):[^/]*@", r"//\1:***@", url)
