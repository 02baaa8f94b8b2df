"""`featherglue depth`: depth maps of the photographs of COLMAP models, for training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from featherglue.cli.collection_options import Photos
from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, Workers, console, save_json
from featherglue.cli.progress import ProgressDisplay
from featherglue.data.depth_estimation import DepthEstimator
from featherglue.data.depth_maps import depth_path, save_depth
from featherglue.data.multiview import read_models
from featherglue.data.photographs import PhotoFolder
from featherglue.errors import counted
from featherglue.machine import num_cores


def depth(
    photos: Photos,
    models: Annotated[
        Path,
        typer.Argument(metavar="MODELS", help="Folder of COLMAP models, without lens distortion."),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DEPTHS", help="Folder for the depth maps."),
    ] = Path("depths"),
    workers: Workers = None,
    json_file: JsonFile = None,
) -> int:
    """Estimate depth maps of the photographs of COLMAP models, for training on real pairs.

    Photographs with a depth map are skipped, so a run that was stopped goes on.
    """
    folder = PhotoFolder(photos)
    scenes = read_models(models, folder)
    count = sum(map(len, scenes))
    coverage: list[float] = []
    skipped = 0
    with (
        ProgressDisplay("depth", count, unit="photos") as display,
        ThreadPoolExecutor(workers or num_cores()) as pool,
    ):
        for scene in scenes:
            names = [folder.names[photo.number] for photo in scene]
            left = [i for i, name in enumerate(names) if not depth_path(output, name).exists()]
            skipped += len(scene) - len(left)
            for index, found in zip(
                left, pool.map(DepthEstimator(scene, folder), left), strict=True
            ):
                save_depth(depth_path(output, names[index]), found)
                coverage.append(0.0 if found is None else float(np.isfinite(found).mean()))
                display.advance()
    mean = float(np.mean(coverage)) if coverage else None
    empty = sum(value == 0 for value in coverage)
    values = {"photos": count, "skipped": skipped, "without_depth": empty, "coverage": mean}
    save_json({**values, "output": str(output)}, json_file)
    if json_file != STANDARD_OUTPUT:
        if skipped:
            console.print(f"skipped {counted(skipped, 'photo')}: their depth maps exist")
        if mean is not None:
            console.print(
                f"{counted(len(coverage), 'depth map')}, {mean:.0%} of the pixels, "
                f"{empty} without any: {output}",
                markup=False,
            )
    return 0
