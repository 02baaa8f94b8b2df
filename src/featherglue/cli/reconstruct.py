"""`featherglue reconstruct`: a sparse model from a folder of photographs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from featherglue.cli.collection_options import (
    Adjust,
    CameraModel,
    CameraModeOption,
    CameraParams,
    Cascade,
    LoopClosure,
    MaxSize,
    NumKeypoints,
    NumNeighbors,
    Overlap,
    Overwrite,
    PairFile,
    Pairs,
    Photos,
    RefineCameras,
    StepDisplay,
)
from featherglue.cli.common import (
    STANDARD_OUTPUT,
    JsonFile,
    Masks,
    Model,
    Ray,
    Workers,
    console,
    save_json,
)
from featherglue.cli.session_options import session_options_without
from featherglue.collection.reconstruction import reconstruct as run
from featherglue.collection.reconstruction_config import MAX_SIZE, NUM_KEYPOINTS, PAGE
from featherglue.collection.reconstruction_result import Reconstruction, facts
from featherglue.options import SessionOptions

DEFAULT_FOLDER = Path("featherglue_work")


@session_options_without("resize", "max_keypoints", "refine", "guided_matching", "threads")
def reconstruct(
    photos: Photos,
    work: Annotated[
        Path, typer.Option("-o", "--output", metavar="WORK", help="Work folder of the results.")
    ] = DEFAULT_FOLDER,
    model: Model = "fast",
    pairs: Pairs = "auto",
    pair_file: PairFile = None,
    overlap: Overlap = 10,
    num_neighbors: NumNeighbors = 20,
    loop_closure: LoopClosure = False,
    max_size: MaxSize = MAX_SIZE,
    num_keypoints: NumKeypoints = NUM_KEYPOINTS,
    masks: Masks = None,
    camera_mode: CameraModeOption = "auto",
    camera_model: CameraModel = "SIMPLE_RADIAL",
    camera_params: CameraParams = "",
    refine_cameras: RefineCameras = True,
    cascade: Cascade = True,
    adjust: Adjust = True,
    mapped: Annotated[bool, typer.Option("--map/--no-map", help="Make the sparse model.")] = True,
    workers: Workers = None,
    ray: Ray = None,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
    *,
    options: SessionOptions,
) -> int:
    """Reconstruct the cameras and a sparse model of a folder of photographs.

    The work folder has the features and matches in hloc's layout, a COLMAP database, the sparse
    model of COLMAP, its points and a summary page. A run that was interrupted resumes.
    """
    with StepDisplay() as display:
        result = run(
            photos,
            work,
            model=model,
            options=options,
            progress=display.show,
            pairs=pairs,
            pair_file=pair_file,
            overlap=overlap,
            num_neighbors=num_neighbors,
            loop_closure=loop_closure,
            max_size=max_size if max_size > 0 else None,
            masks=masks,
            num_keypoints=num_keypoints,
            camera_mode=camera_mode,
            camera_model=camera_model,
            camera_params=camera_params,
            refine_cameras=refine_cameras,
            cascade=cascade,
            adjust=adjust,
            map=mapped,
            workers=workers,
            ray=ray,
            overwrite=overwrite,
        )
    save_json(_values(result), json_file)
    if json_file != STANDARD_OUTPUT:
        for name, reason in result.skipped.items():
            console.print(f"skipped {name}: {reason}", markup=False)
        for note in result.notes:
            console.print(note, markup=False)
        for name, value in facts(result).items():
            console.print(f"{name:<20}{value}", markup=False)
        console.print(f"{'summary':<20}{result.work / PAGE}", markup=False)
    empty = result.model is not None and result.model.folder is None
    return 1 if empty else 0


def _values(result: Reconstruction) -> dict[str, Any]:
    """The result as plain values."""
    values: dict[str, Any] = _plain(dataclasses.asdict(result))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
