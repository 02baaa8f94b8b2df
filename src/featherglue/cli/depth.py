"""`featherglue depth`: depth maps of the photographs of COLMAP models, for training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, console, save_json
from featherglue.cli.progress import ProgressDisplay
from featherglue.data.depth_estimation import estimate_depths
from featherglue.errors import counted


def depth(
    photos: Annotated[
        Path,
        typer.Argument(
            metavar="PHOTOS", help="Folder of photographs, the same as `--images` of the training."
        ),
    ],
    models: Annotated[
        Path,
        typer.Argument(metavar="MODELS", help="Folder of COLMAP models without lens distortion."),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Folder for the depth maps."),
    ] = Path("depths"),
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Number of threads; one per core by default."),
    ] = None,
    json_file: JsonFile = None,
) -> int:
    """Estimate depth maps of the photographs of COLMAP models, for training on real pairs.

    Photographs with a depth map of the same model are skipped, so an interrupted run resumes.
    """
    with ProgressDisplay("depth", unit="photos") as display:
        result = estimate_depths(
            photos,
            models,
            output,
            threads=threads,
            progress=lambda done, total: display.update(done, total=total),
        )
    save_json({**dataclasses.asdict(result), "output": str(output)}, json_file)
    if json_file != STANDARD_OUTPUT:
        reused = f", {result.num_reused} of them from before" if result.num_reused else ""
        covered = f"; the others have a depth at {result.coverage:.0%} of their pixels"
        console.print(
            f"{counted(result.num_photos, 'photo')}{reused}; {result.num_without} without depth"
            f"{covered if result.coverage else ''}: {output}",
            markup=False,
        )
    return 0
