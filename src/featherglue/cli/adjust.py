"""`featherglue adjust`: adjust the keypoints of a feature file to their tracks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.collection_options import (
    FeatureFile,
    MatchFile,
    Overwrite,
    Photos,
    StepDisplay,
)
from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, Ray, Workers, console, save_json
from featherglue.collection.adjustment import adjust_collection, write_retained_pairs
from featherglue.collection.reconstruction_config import (
    ADJUSTED_FEATURES,
    ADJUSTED_MATCHES,
    ADJUSTED_PAIRS,
    FEATURES,
    MATCHES,
)


def adjust(
    photos: Photos,
    feature_file: FeatureFile = Path(FEATURES),
    match_file: MatchFile = Path(MATCHES),
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help=f"Folder of {ADJUSTED_FEATURES}, {ADJUSTED_MATCHES} and {ADJUSTED_PAIRS}.",
        ),
    ] = Path(),
    workers: Workers = None,
    ray: Ray = None,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
) -> int:
    """Give each keypoint one position that fits all its matches, and reject wrong matches.

    It writes the adjusted keypoints and the retained matches in hloc's layout, and a list of the
    pairs that have some.
    """
    with StepDisplay() as display:
        result = adjust_collection(
            photos,
            feature_file,
            match_file,
            output / ADJUSTED_FEATURES,
            output / ADJUSTED_MATCHES,
            workers=workers,
            ray=ray,
            overwrite=overwrite,
            progress=display.step("adjusting", "pairs"),
        )
    write_retained_pairs(result.match_file, output / ADJUSTED_PAIRS)
    values = dataclasses.asdict(result)
    values |= {name: str(values[name]) for name in ("feature_file", "match_file")}
    save_json(values, json_file)
    if json_file != STANDARD_OUTPUT:
        for note in result.notes:
            console.print(note, markup=False)
        console.print(
            f"{result.num_retained} of {result.num_matches} matches retained, keypoints moved by "
            f"{result.median_displacement:.2f} px (median): {result.match_file}",
            markup=False,
        )
    return 0
