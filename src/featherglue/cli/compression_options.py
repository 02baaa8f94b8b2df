"""Options of the commands that compress a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.session_options import parse_resize
from featherglue.errors import UsageError
from featherglue.io.gray import Gray
from featherglue.io.image import read_evenly_spaced

_NUM_IMAGES, _SIZE = 16, "640,480"

Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the new model.")
]
CalibrationImages = Annotated[
    Path | None,
    typer.Option(
        "--calibration-images",
        metavar="DIR",
        help="Photographs on which activations and matches are measured.",
    ),
]
NumCalibrationImages = Annotated[
    int | None,
    typer.Option(
        "--num-calibration-images",
        min=1,
        metavar="N",
        help=f"Number of photographs to use, evenly spread over the folder (default: "
        f"{_NUM_IMAGES}).",
        show_default=False,
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="W H",
        help="Size to which the photographs are resized (default: 640 480).",
        show_default=False,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="GLOB", help="Layers to change. Can be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Layers to leave unchanged. Can be repeated."),
]


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """The options about calibration images, as given on the command line.

    Raises:
        UsageError: an option about the images is given without a folder, or the size is invalid.
    """

    folder: Path | None
    num_images: int | None = None
    image_size: str | None = None

    def __post_init__(self) -> None:
        given = {"num_calibration_images": self.num_images, "image_size": self.image_size}
        if self.folder is None:
            for name, value in given.items():
                if value is not None:
                    raise UsageError(f"`{name}` requires `calibration_images`")
        if len(parse_resize(self.image_size or _SIZE)) != 2:
            raise UsageError(f"`image_size` must be a width and a height, not {self.image_size!r}")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        width, height = parse_resize(self.image_size or _SIZE)
        return width, height

    def read(self) -> list[Gray] | None:
        """Read the photographs, or return None without a folder. Raises ImageError."""
        if self.folder is None:
            return None
        return read_evenly_spaced(self.folder, self.num_images or _NUM_IMAGES)
