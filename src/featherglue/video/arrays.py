"""Frames from arrays, and from a capture that the caller opened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from featherglue.errors import UsageError
from featherglue.io.image import load_gray
from featherglue.video.frames import Frame, FrameSource
from featherglue.video.image_sequence import DEFAULT_RATE
from featherglue.video.video_file import VideoFile


class ArraySequence(FrameSource):
    """Images as frames, in their order.

    Args:
        images: arrays (H, W) or (H, W, 3) RGB, images of Pillow, or paths.
        rate: frames per second, for the times of the frames.
        skip: take every `skip`-th image.
    """

    def __init__(self, images: Iterable[Any], *, rate: float = DEFAULT_RATE, skip: int = 1) -> None:
        length = len(range(0, len(images), skip)) if isinstance(images, Sized) else None
        super().__init__("images", rate, length)
        self._images, self._skip = images, skip

    def _frames(self) -> Iterator[Frame]:
        for frame in to_frames(self._images, self.rate or DEFAULT_RATE, self._skip):
            if self._stopping:
                return
            yield frame

    def close(self) -> None:
        """Do nothing: the caller owns the images."""


def to_frames(images: Iterable[Any], rate: float = DEFAULT_RATE, skip: int = 1) -> Iterator[Frame]:
    """Frames of images; what is a frame already stays.

    Raises:
        ImageError: an image has an unsupported shape or type.
    """
    for number, image in enumerate(images):
        if number % skip:
            continue
        if isinstance(image, Frame):
            yield image
            continue
        start = time.perf_counter()
        gray = load_gray(image)
        milliseconds = (time.perf_counter() - start) * 1e3
        yield Frame(number=number, time=number / rate, image=gray, read_ms=milliseconds)


def as_source(source: Any) -> FrameSource | Iterator[Frame]:
    """The frames of a source, of a `cv2.VideoCapture`, or of images.

    Raises:
        UsageError: the source is a name, which `open_source` opens.
    """
    if isinstance(source, FrameSource):
        return source
    if is_capture(source):
        return VideoFile("capture", source)
    if isinstance(source, (str, os.PathLike, int)) or not isinstance(source, Iterable):
        raise UsageError(
            f"`source` must be an opened source or images, not {type(source).__name__}; "
            "pass open_source(…)"
        )
    return to_frames(source)


def is_capture(source: Any) -> bool:
    """Whether a value has the methods of a `cv2.VideoCapture`."""
    return all(hasattr(source, name) for name in ("read", "grab", "release", "get"))
