"""A frame, and what every source of frames has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from featherglue.errors import SourceError
from featherglue.io.image import Grey

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        number: from 0, counting the frames of the source; those that were left out leave gaps.
        time: seconds since the first frame: a video's own time, a live source's clock, and for
            pictures their number divided by the source's rate.
        image: (H, W) uint8, grey.
        name: the file of a picture, otherwise "".
        read_ms: milliseconds spent on reading and decoding; 0 where a thread does it beside.
    """

    number: int
    time: float
    image: Grey = field(repr=False)
    name: str = ""
    read_ms: float = 0.0


class FrameSource(ABC):
    """Frames in order, once. Close it, or use it in a `with` statement.

    Attributes:
        name: for messages; the password of an address is left out.
        live: whether frames come by themselves, so that a slow reader misses some.
        rate: frames a second, or None where it is not known.
        count: how many frames there will be, or None.
        delivered, dropped: frames that were handed out, and that a slow reader missed.
        problems: what went wrong on the way without ending everything, one line each.
    """

    live = False

    def __init__(self, name: str, rate: float | None = None, count: int | None = None) -> None:
        self.name, self.rate, self.count = name, rate, count
        self.delivered = self.dropped = 0
        self.problems: list[str] = []
        self._stopping = False

    @abstractmethod
    def _frames(self) -> Iterator[Frame]:
        """Every frame in order, until the end or until `_stopping`."""

    @abstractmethod
    def close(self) -> None:
        """Give back the camera, file or connection. Can be called again."""

    @property
    def stopping(self) -> bool:
        """Whether the iteration was asked to end."""
        return self._stopping

    def stop(self) -> None:
        """End the iteration after the present frame. May be called by a signal handler."""
        self._stopping = True

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            SourceError: there was none at all.
        """
        for frame in self._frames():
            self.delivered += 1
            yield frame
            if self._stopping:
                return
        if self.delivered == 0 and not self._stopping:
            why = f": {self.problems[0]}" if self.problems else ""
            raise SourceError(f"{self.name}: not a single frame could be read{why}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
