"""`featherglue export-colmap`: a COLMAP database from a feature file and a match file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.collection_options import (
    CameraModel,
    CameraModeOption,
    CameraParams,
    FeatureFile,
    MatchFile,
    Overwrite,
    Photos,
)
from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, Workers, console, save_json
from featherglue.collection.colmap import CameraOptions
from featherglue.collection.colmap_export import export_colmap as export
from featherglue.collection.reconstruction_config import DATABASE, FEATURES, MATCHES
from featherglue.errors import counted


def export_colmap(
    photos: Photos,
    feature_file: FeatureFile = Path(FEATURES),
    match_file: MatchFile = Path(MATCHES),
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Database to write.")
    ] = Path(DATABASE),
    camera_mode: CameraModeOption = "auto",
    camera_model: CameraModel = "SIMPLE_RADIAL",
    camera_params: CameraParams = "",
    workers: Workers = None,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
) -> int:
    """Write a COLMAP database with cameras, keypoints and verified matches."""
    result = export(
        photos,
        feature_file,
        match_file,
        output,
        cameras=CameraOptions(mode=camera_mode, model=camera_model, params=camera_params),
        num_threads=workers,
        overwrite=overwrite,
    )
    save_json({**dataclasses.asdict(result), "database": str(result.database)}, json_file)
    if json_file != STANDARD_OUTPUT:
        console.print(
            f"{counted(result.num_images, 'photo')}, {counted(result.num_pairs, 'pair')}, "
            f"{result.num_verified_pairs} verified: {result.database}",
            markup=False,
        )
    return 0
