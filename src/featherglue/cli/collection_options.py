"""Options and the progress display of the commands for collections."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import STANDARD_OUTPUT, console, save_json
from featherglue.cli.progress import ProgressDisplay
from featherglue.collection.colmap import CameraMode
from featherglue.collection.pair_selection import PairMethod
from featherglue.collection.reconstruction_result import StepProgress
from featherglue.collection.resumable import StepResult
from featherglue.errors import counted

Photos = Annotated[
    Path, typer.Argument(help="Folder of photographs, with its sub-folders.", show_default=False)
]
FeatureFile = Annotated[
    Path, typer.Option("--feature-file", metavar="FILE", help="Features of the photographs.")
]
MatchFile = Annotated[
    Path, typer.Option("--match-file", metavar="FILE", help="Matches of the pairs.")
]
Pairs = Annotated[
    PairMethod,
    typer.Option(
        "--pairs",
        help="Pairs to match: all, each photograph with the following ones, with the most similar "
        "ones, with the nearest ones by GPS, or those of a file. auto: all of up to 200 "
        "photographs, else the most similar ones.",
    ),
]
PairFile = Annotated[
    Path | None,
    typer.Option("--pair-file", metavar="FILE", help="List of pairs, for --pairs file."),
]
Overlap = Annotated[
    int,
    typer.Option(
        "--num-overlap", min=1, help="Number of following photographs, for --pairs sequential."
    ),
]
NumNeighbors = Annotated[
    int,
    typer.Option(
        "--num-neighbors",
        min=1,
        help="Number of most similar photographs (retrieval) or of nearest ones (spatial).",
    ),
]
LoopClosure = Annotated[
    bool,
    typer.Option(
        "--loop-closure",
        help="Add the most similar photographs to every tenth one, for --pairs sequential.",
    ),
]
MaxSize = Annotated[
    int,
    typer.Option(
        "--max-size",
        metavar="PIXELS",
        help="Shrink larger photographs to this longest side; -1 keeps the size.",
    ),
]
NumKeypoints = Annotated[
    int,
    typer.Option("--num-keypoints", min=1, help="Maximum number of keypoints of a photograph."),
]
CameraModeOption = Annotated[
    CameraMode,
    typer.Option(
        "--camera-mode",
        help="Photographs that share a camera: those of one size without EXIF focal length if "
        "nearly all are such, and those with equal tags (auto); all (single), those of a folder, "
        "or none (per-image).",
    ),
]
CameraModel = Annotated[
    str, typer.Option("--camera-model", metavar="NAME", help="Camera model of COLMAP.")
]
CameraParams = Annotated[
    str,
    typer.Option(
        "--camera-params",
        metavar="VALUES",
        help="Comma-separated parameters of the camera model, in COLMAP's order.",
    ),
]
RefineCameras = Annotated[
    bool,
    typer.Option(
        "--refine-cameras/--no-refine-cameras",
        help="Refine focal lengths and distortion; turn off for calibrated cameras.",
    ),
]
Cascade = Annotated[
    bool,
    typer.Option(
        "--cascade/--no-cascade",
        help="Match easy pairs by their descriptors, and reject pairs without an "
        "epipolar geometry.",
    ),
]
Adjust = Annotated[
    bool, typer.Option("--adjust/--no-adjust", help="Adjust the keypoints to their tracks.")
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace results that were made with other settings."),
]


class StepDisplay(AbstractContextManager["StepDisplay"]):
    """The progress of the steps of a command, one after the other."""

    def __init__(self) -> None:
        self._display: ProgressDisplay | None = None

    def show(self, progress: StepProgress) -> None:
        """Show how far a step is."""
        if self._display is None or self._display.description != progress.step:
            self.close()
            self._display = ProgressDisplay(progress.step, progress.total, unit=progress.unit)
        self._display.update(progress.completed, total=progress.total)

    def step(self, name: str, unit: str) -> Callable[[int, int], None]:
        """A function that shows the number of completed units of a step, and of all."""
        return lambda completed, total: self.show(
            StepProgress(step=name, completed=completed, total=total, unit=unit)
        )

    def close(self) -> None:
        """Remove the bar."""
        if self._display is not None:
            self._display.close()
            self._display = None

    def __exit__(self, *exception: object) -> None:
        self.close()


def print_step(result: StepResult, unit: str, json_file: str | None) -> int:
    """Print the outcome of a step; returns the exit code."""
    failures = {" and ".join(key): reason for key, reason in result.failures.items()}
    save_json(
        {
            unit: result.num_items,
            "reused": result.num_reused,
            "skipped": failures,
            "output": str(result.output),
        },
        json_file,
    )
    if json_file != STANDARD_OUTPUT:
        for note in result.notes:
            console.print(note, markup=False)
        for name, reason in failures.items():
            console.print(f"skipped {name}: {reason}", markup=False)
        console.print(
            f"{counted(result.num_items - len(failures), unit.removesuffix('s'))}, "
            f"{result.num_reused} already done, {len(failures)} skipped: {result.output}",
            markup=False,
        )
    return 1 if failures else 0
