"""A frame, and the interface of every source of frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featherglue.errors import SourceError
from featherglue.io.gray import Gray

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One image of a source.

    Attributes:
        number: index of the frame in the source, from 0; skipped and dropped frames leave gaps.
        time: seconds since the first frame: the timestamps of a video, the clock of a live source,
            or `number` divided by the rate of an image sequence.
        image: (H, W) uint8, gray.
        name: file name of an image of a sequence, otherwise "".
        read_ms: milliseconds of reading and decoding. Live sources read in a thread of their own;
            for them it is the time of the conversion to gray.
    """

    number: int
    time: float
    image: Gray = field(repr=False)
    name: str = ""
    read_ms: float = 0.0


class FrameSource(ABC):
    """Frames in order, once. Close it, or use it in a `with` statement.

    Attributes:
        name: name for messages, without the password of an address.
        live: whether frames arrive in real time, so that a slow reader misses some.
        rate: frames per second; None if it is unknown.
        num_frames: number of frames; None if it is unknown.
        num_delivered: number of frames that were delivered so far.
        num_dropped: number of frames that a slow reader missed so far.
        problems: faults that did not end the source, one line each.
    """

    live = False

    def __init__(self, name: str, rate: float | None = None, num_frames: int | None = None) -> None:
        self.name, self.rate, self.num_frames = name, rate, num_frames
        self.num_delivered = self.num_dropped = 0
        self.problems: list[str] = []
        self._stopping = False

    @abstractmethod
    def _frames(self) -> Iterator[Frame]:
        """Yield every frame in order, until the end or until `stopping`."""

    @abstractmethod
    def close(self) -> None:
        """Release the camera, file or connection. Can be called again."""

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def stop(self) -> None:
        """End the iteration after the present frame. A signal handler may call it."""
        self._stopping = True

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            SourceError: the source has no frame that can be read.
        """
        for frame in self._frames():
            self.num_delivered += 1
            yield frame
            if self._stopping:
                return
        if self.num_delivered == 0 and not self._stopping:
            first = self.problems[0].removeprefix(f"{self.name}: ") if self.problems else ""
            reason = f": {first}" if first else ""
            raise SourceError(f"{self.name}: no frame could be read{reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
