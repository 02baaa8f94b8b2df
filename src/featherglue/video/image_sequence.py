"""Frames from image files: a folder, a glob, a numbered pattern, a list or a single image."""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from featherglue.errors import ImageError, SourceError
from featherglue.io.image import is_image_name, natural_sort_key, read_gray
from featherglue.video.capture import quiet_opencv
from featherglue.video.frames import Frame, FrameSource

DEFAULT_RATE = 10.0  # frames per second


class ImageSequence(FrameSource):
    """Image files as frames, in the given order.

    A file that cannot be read is skipped and reported in `problems`.

    Args:
        name: name for messages.
        paths: the files.
        rate: frames per second, for the times of the frames.
        skip: take every `skip`-th file.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], *, rate: float = DEFAULT_RATE, skip: int = 1
    ) -> None:
        super().__init__(name, rate, len(range(0, len(paths), skip)))
        self._paths, self._skip = list(paths), skip

    def _frames(self) -> Iterator[Frame]:
        assert self.rate is not None
        for number in range(0, len(self._paths), self._skip):
            if self._stopping:
                return
            path, start = self._paths[number], time.perf_counter()
            try:
                with quiet_opencv():
                    image = read_gray(path)
            except ImageError as error:
                self.problems.append(str(error))
                continue
            yield Frame(
                number=number,
                time=number / self.rate,
                image=image,
                name=path.name,
                read_ms=(time.perf_counter() - start) * 1e3,
            )

    def close(self) -> None:
        """Do nothing: no file stays open."""


def find_images(pattern: str) -> list[Path] | None:
    """The images that match a glob (`*`, `?`, `[…]`) or a numbered pattern (`%06d`), in order.

    Returns:
        The paths; None if the text is not a pattern.

    Raises:
        SourceError: no image matches the pattern.
    """
    numbered = re.search(r"%0?\d*d", pattern)
    if numbered:
        start, end = pattern[: numbered.start()], pattern[numbered.end() :]
        exact = re.compile(re.escape(start) + r"\d+" + re.escape(end))
        found = glob.glob(f"{glob.escape(start)}*{glob.escape(end)}")  # noqa: PTH207
        found = [path for path in found if exact.fullmatch(path)]
    elif glob.has_magic(pattern):
        escaped = _escape_folders(pattern)
        found = glob.glob(escaped, recursive=True)  # noqa: PTH207 (Path.glob takes no whole path)
    else:
        return None
    paths = [Path(path) for path in found if is_image_name(Path(Path(path).name))]
    if not paths:
        raise SourceError(f"{pattern}: no image matches this pattern")
    return sorted(paths, key=natural_sort_key)


def _escape_folders(pattern: str) -> str:
    """A glob in which a folder that exists by its literal name, such as `a[1]`, is literal."""
    folder, parts = Path(), list(Path(pattern).parts)
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    return str(Path(glob.escape(str(folder)), *parts))
