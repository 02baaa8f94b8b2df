"""`featherglue extract`: the features of a folder of photographs as a feature file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.collection_options import (
    MaxSize,
    NumKeypoints,
    Overwrite,
    Photos,
    StepDisplay,
    print_step,
)
from featherglue.cli.common import JsonFile, Masks, Model, Ray, Workers
from featherglue.cli.session_options import session_options_without
from featherglue.collection.extraction import SessionSource, extract_features
from featherglue.collection.photo_frames import image_names
from featherglue.collection.reconstruction_config import FEATURES, MAX_SIZE, NUM_KEYPOINTS
from featherglue.options import SessionOptions, make_options


@session_options_without(
    "resize", "max_keypoints", "refine", "guided_matching", "search", "threads"
)
def extract(
    photos: Photos,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Feature file (HDF5) to write.")
    ] = Path(FEATURES),
    model: Model = "fast",
    max_size: MaxSize = MAX_SIZE,
    num_keypoints: NumKeypoints = NUM_KEYPOINTS,
    masks: Masks = None,
    workers: Workers = None,
    ray: Ray = None,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
    *,
    options: SessionOptions,
) -> int:
    """Extract the features of a folder of photographs into a feature file in hloc's layout.

    A run that was interrupted resumes. A photograph that cannot be read is reported and skipped.
    """
    source = SessionSource(
        model=model, options=make_options(options, max_keypoints=num_keypoints, resize=-1)
    )
    with StepDisplay() as display:
        result = extract_features(
            photos,
            output,
            image_names(photos),
            source,
            max_size=max_size if max_size > 0 else None,
            masks=masks,
            workers=workers,
            ray=ray,
            overwrite=overwrite,
            progress=display.step("extracting", "photos"),
        )
    return print_step(result, "photos", json_file)
