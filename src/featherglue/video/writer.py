"""Writing pictures to a video file or to a folder."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.drawing import RGB
from featherglue.errors import OutputError, UsageError
from featherglue.io.files import write_image
from featherglue.io.partial import PartialFile
from featherglue.video.capture import quiet_opencv
from featherglue.video.frames import Frame

if TYPE_CHECKING:
    from typing_extensions import Self

CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
LIVE_RATE = 15.0  # frames per second
_MIN_FREE = 8 << 20  # bytes that stay free on the disk, so that the video can be finished
_MAX_PAUSE = 2.0  # seconds; longer pauses of a live source are shortened


class FrameWriter(ABC):
    """Writes pictures in order. An error or interruption keeps what was written.

    Attributes:
        path: the video file or the folder.
        num_frames: number of written pictures.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.num_frames = path, 0

    @abstractmethod
    def write(self, picture: RGB, frame: Frame) -> None:
        """Write the picture (H, W, 3) RGB uint8 of a frame.

        Raises:
            OutputError: the picture cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish the output. Can be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_writer(
    output: str | os.PathLike[str], *, rate: float, real_time: bool = False
) -> FrameWriter:
    """Open a video file, by its suffix, or a folder of pictures.

    Args:
        output: path of the video or the folder.
        rate: frames per second of a video.
        real_time: place frames by their times, for a live source.

    Raises:
        UsageError: an unknown suffix, or a folder with pictures of another run.
        OutputError: the output cannot be created.
    """
    path = Path(output)
    if path.is_dir() or str(output).endswith(("/", os.sep)) or not path.suffix:
        return PictureFolder(path)
    if path.suffix.lower() in CODECS:
        return VideoWriter(path, rate=rate, real_time=real_time)
    known = ", ".join(CODECS)
    raise UsageError(f"{path}: a video ends in {known}; for a folder of pictures write {path}/")


class PictureFolder(FrameWriter):
    """A folder of pictures: `frame_000012.jpg` is frame 12.

    Raises:
        OutputError: the folder cannot be created.
        UsageError: it has pictures of another run.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be created ({error.strerror})") from None
        if next(path.glob("frame_*.jpg"), None) is not None:
            raise UsageError(
                f"{path}: contains pictures of another run (frame_*.jpg); "
                "name another folder or remove them"
            )

    def write(self, picture: RGB, frame: Frame) -> None:
        """Write the picture completely or not at all."""
        write_image(self.path / f"frame_{frame.number:06d}.jpg", picture)
        self.num_frames += 1

    def close(self) -> None:
        """Do nothing: every picture is complete."""


class VideoWriter(FrameWriter):
    """A video of constant rate and size.

    The first picture sets the size; pictures of another size are fitted into it. The file has a
    temporary name until it is closed.

    Args:
        path: the file; its suffix chooses the format.
        rate: frames per second.
        real_time: repeat or omit pictures so that the video runs at the speed of the live source.

    Raises:
        OutputError: the file cannot be created.
    """

    def __init__(self, path: Path, *, rate: float, real_time: bool = False) -> None:
        super().__init__(path)
        self._rate, self._real_time = writable_rate(rate), real_time
        self._video: cv2.VideoWriter | None = None
        self._last: NDArray[Any] | None = None
        self._size = (0, 0)
        self._length = 0  # number of pictures in the video, including repeated ones
        self._shift = 0.0  # seconds of the source at the start of the video, plus removed pauses
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = PartialFile(path.parent, path.suffix)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None

    def write(self, picture: RGB, frame: Frame) -> None:
        """Append the picture.

        Raises:
            OutputError: the picture cannot be written, or the disk is nearly full.
        """
        disk = shutil.disk_usage(self.path.parent)
        if disk.free < _MIN_FREE and disk.total:
            raise OutputError(
                f"{self.path}: the disk is nearly full; free some space and run again"
            )
        if self._video is None:
            self._video = self._open(picture)
            self._shift = frame.time
        fitted = cv2.cvtColor(fit(picture, self._size), cv2.COLOR_RGB2BGR)
        count = self._num_missing(frame.time)
        with quiet_opencv():
            for i in range(count):  # the previous picture fills the time until this one
                self._video.write(fitted if i == count - 1 or self._last is None else self._last)
        self._length += count
        self._last = fitted if self._real_time else None
        self.num_frames += 1

    def _num_missing(self, seconds: float) -> int:
        """Number of pictures to write so that the video lasts until this time."""
        if not self._real_time:
            return 1
        gap = seconds - self._shift - self._length / self._rate
        if gap > _MAX_PAUSE:
            self._shift += gap - _MAX_PAUSE
        return max(0, round((seconds - self._shift) * self._rate) - self._length + 1)

    def _open(self, picture: RGB) -> cv2.VideoWriter:
        height, width = picture.shape[:2]
        self._size = (width + width % 2, height + height % 2)  # codecs need even sides
        code = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        with quiet_opencv():
            video = cv2.VideoWriter(
                str(self._partial.path.absolute()), code, self._rate, self._size
            )
        if not video.isOpened():
            raise OutputError(f"{self.path}: OpenCV cannot write this format here; try .avi")
        return video

    def close(self) -> None:
        """Finish the video and give it its final name.

        Raises:
            OutputError: the video could not be written. A readable beginning is kept.
        """
        if self._video is None:
            self._partial.discard()
            return
        with quiet_opencv():
            self._video.release()
        self._video = None
        try:
            num_readable = self._num_readable()
            if num_readable == 0:
                raise OutputError(f"{self.path}: could not be written; is the disk full?")
            self._partial.replace(self.path)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from None
        finally:
            self._partial.discard()
        if num_readable < self._length:
            raise OutputError(
                f"{self.path}: only {num_readable} of {self._length} frames could be written; "
                "is the disk full?"
            )

    def _num_readable(self) -> int:
        """Number of readable frames, counted if the header does not state enough of them."""
        with quiet_opencv():
            video = cv2.VideoCapture(str(self._partial.path))
            readable = int(video.isOpened() and video.grab())
            if readable and video.get(cv2.CAP_PROP_FRAME_COUNT) >= self._length:
                readable = self._length
            while 0 < readable < self._length and video.grab():
                readable += 1
            video.release()
        return readable


def writable_rate(rate: float) -> float:
    """The nearest rate that OpenCV can write to MPEG-4, whose time base has 16 bits."""
    return max(0.01, round(rate, 3 if rate < 65 else 2 if rate < 650 else 0))


def fit(picture: RGB, size: tuple[int, int]) -> RGB:
    """Scale a picture to fit into (width, height), on a black background.

    Args:
        picture: (H, W, 3) RGB uint8.
        size: (width, height).

    Returns:
        (height, width, 3) RGB uint8.
    """
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    scale = min(size[0] / width, size[1] / height)
    if 1 <= scale < 1.01:  # one row or column less than even sides
        scale = 1.0
    inner = (
        min(size[0], max(1, round(width * scale))),
        min(size[1], max(1, round(height * scale))),
    )
    if inner != (width, height):
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = np.asarray(cv2.resize(picture, inner, interpolation=method), np.uint8)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[: inner[1], : inner[0]] = picture
    return canvas
