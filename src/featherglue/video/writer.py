"""Writing what is shown: a video file, or a folder of pictures."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.drawing import RGB
from featherglue.errors import OutputError, UsageError
from featherglue.io.files import write_image
from featherglue.video.capture import quiet_opencv
from featherglue.video.frames import Frame

if TYPE_CHECKING:
    from typing_extensions import Self

CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
LIVE_RATE = 15.0
_RESERVE = 8 << 20  # bytes that stay free on the disk, so that the video can be finished
_LONGEST_PAUSE = 2.0  # seconds that a live video stands still at most


class FrameWriter(ABC):
    """Takes pictures in order. What was written is kept, whatever ends the run.

    Attributes:
        path: the video, or the folder. frames: how many pictures were taken.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.frames = path, 0

    @abstractmethod
    def write(self, picture: RGB, frame: Frame) -> None:
        """Take the picture (H, W, 3) RGB of a frame.

        Raises:
            OutputError: it cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish. Can be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_writer(
    output: str | os.PathLike[str], *, rate: float, real_time: bool = False
) -> FrameWriter:
    """A writer by the name: a video by its suffix, otherwise a folder of pictures.

    Args:
        rate: frames a second of a video.
        real_time: place frames by their times, for a live source.

    Raises:
        UsageError: a suffix that we do not write, or a folder with pictures of another run.
        OutputError: the folder cannot be made.
    """
    path = Path(output)
    if path.is_dir() or str(output).endswith(("/", os.sep)) or not path.suffix:
        return PictureFolder(path)
    if path.suffix.lower() in CODECS:
        return VideoWriter(path, rate=rate, real_time=real_time)
    known = ", ".join(CODECS)
    raise UsageError(f"-o {path}: a video ends in {known}; for a folder of pictures write {path}/")


class PictureFolder(FrameWriter):
    """`frame_000012.jpg` for frame 12."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be made ({error.strerror})") from None
        if next(path.glob("frame_*.jpg"), None) is not None:
            raise UsageError(
                f"-o {path}: holds pictures of another run (frame_*.jpg); "
                "name another folder or remove them"
            )

    def write(self, picture: RGB, frame: Frame) -> None:
        """Write the picture whole or not at all."""
        write_image(self.path / f"frame_{frame.number:06d}.jpg", picture)
        self.frames += 1

    def close(self) -> None:
        """Every picture is written already."""


class VideoWriter(FrameWriter):
    """A video of constant rate and size; pictures of another size are fitted into it.

    It is written under another name and gets its own when it is closed.

    Args:
        path: its suffix chooses the format. rate: frames a second.
        real_time: repeat or leave out pictures so that the video runs as fast as it was live.
    """

    def __init__(self, path: Path, *, rate: float, real_time: bool = False) -> None:
        super().__init__(path)
        self._rate, self._real_time = writable_rate(rate), real_time
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
        self._video: cv2.VideoWriter | None = None
        self._last: NDArray[Any] | None = None
        self._size = (0, 0)
        self._place = 0  # pictures in the video, repeated ones included
        self._shift = 0.0  # seconds that were cut out
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._partial.open("wb"):
                pass
            self._partial.unlink()
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None

    def write(self, picture: RGB, frame: Frame) -> None:
        """Append the picture.

        Raises:
            OutputError: it cannot be written, or the disk is nearly full.
        """
        disk = shutil.disk_usage(self.path.parent)
        if disk.free < _RESERVE and disk.total:
            raise OutputError(f"{self.path}: the disk is nearly full; make room and run again")
        if self._video is None:
            self._video = self._open(picture)
            self._shift = frame.time
        fitted = cv2.cvtColor(fit(picture, self._size), cv2.COLOR_RGB2BGR)
        times = self._repeats(frame.time)
        with quiet_opencv():
            for i in range(times):  # what was shown before stands until this picture's time
                self._video.write(fitted if i == times - 1 or self._last is None else self._last)
        self._place += times
        self._last = fitted if self._real_time else None
        self.frames += 1

    def _repeats(self, seconds: float) -> int:
        """How many pictures there are to write up to this time."""
        if not self._real_time:
            return 1
        gap = seconds - self._shift - self._place / self._rate
        if gap > _LONGEST_PAUSE:
            self._shift += gap - _LONGEST_PAUSE
        return max(0, round((seconds - self._shift) * self._rate) - self._place + 1)

    def _open(self, picture: RGB) -> cv2.VideoWriter:
        height, width = picture.shape[:2]
        self._size = (width + width % 2, height + height % 2)  # codecs want even sides
        code = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        with quiet_opencv():
            video = cv2.VideoWriter(str(self._partial), code, self._rate, self._size)
        if not video.isOpened():
            self._partial.unlink(missing_ok=True)
            raise OutputError(f"{self.path}: OpenCV cannot write such a video here; try .avi")
        return video

    def close(self) -> None:
        """Finish the video and give it its name.

        Raises:
            OutputError: it could not be written, or only its beginning, which then is kept.
        """
        if self._video is None:
            return
        with quiet_opencv():
            self._video.release()
        self._video = None
        try:
            readable = self._readable()
            if readable == 0:
                self._partial.unlink(missing_ok=True)
                raise OutputError(f"{self.path}: could not be written; is the disk full?")
            self._partial.replace(self.path)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from None
        if readable < self._place:
            raise OutputError(
                f"{self.path}: only {readable} of {self._place} frames could be written; "
                "is the disk full?"
            )

    def _readable(self) -> int:
        """How many frames the video holds; a file that does not say is read through."""
        with quiet_opencv():
            video = cv2.VideoCapture(str(self._partial))
            readable = int(video.isOpened() and video.grab())
            if readable and video.get(cv2.CAP_PROP_FRAME_COUNT) >= self._place:
                readable = self._place
            while 0 < readable < self._place and video.grab():
                readable += 1
            video.release()
        return readable


def writable_rate(rate: float) -> float:
    """The nearest rate that MPEG-4 can count in: OpenCV writes it as a fraction below 65536 / n."""
    return max(0.01, round(rate, 3 if rate < 65 else 2 if rate < 650 else 0))


def fit(picture: RGB, size: tuple[int, int]) -> RGB:
    """A picture within (width, height): shrunk or enlarged as a whole, on black."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    scale = min(size[0] / width, size[1] / height)
    if 1 <= scale < 1.01:  # a row or column short of even sides
        scale = 1.0
    inner = (
        min(size[0], max(1, round(width * scale))),
        min(size[1], max(1, round(height * scale))),
    )
    if inner != (width, height):
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = np.asarray(cv2.resize(picture, inner, interpolation=way), np.uint8)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[: inner[1], : inner[0]] = picture
    return canvas
