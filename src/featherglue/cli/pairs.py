"""`featherglue pairs`: the choice of the pairs of a folder of photographs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from featherglue.cli.collection_options import (
    LoopClosure,
    NumNeighbors,
    Overlap,
    PairFile,
    Pairs,
    Photos,
    StepDisplay,
)
from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, Model, Workers, console, save_json
from featherglue.collection.pair_selection import choose_pairs, write_pairs
from featherglue.collection.photo_frames import image_names
from featherglue.collection.reconstruction_config import GLOBAL_DESCRIPTORS, PAIRS
from featherglue.collection.retrieval import (
    describe_images,
    find_vocabulary,
    read_global_descriptors,
)
from featherglue.errors import counted


def pairs(
    photos: Photos,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="List of pairs to write.")
    ] = Path(PAIRS),
    method: Pairs = "auto",
    pair_file: PairFile = None,
    overlap: Overlap = 10,
    num_neighbors: NumNeighbors = 20,
    loop_closure: LoopClosure = False,
    feature_file: Annotated[
        Path | None,
        typer.Option("--feature-file", metavar="FILE", help="Features, for retrieval."),
    ] = None,
    model: Model = "fast",
    workers: Workers = None,
    json_file: JsonFile = None,
) -> int:
    """Choose the pairs of photographs to match, and write them as a list.

    The most similar photographs are found by retrieval: it needs the features of the photographs,
    and the model that made them. Their global descriptors are written beside the features.
    """
    names = image_names(photos)
    describe = None
    if feature_file is not None:
        describe = functools.partial(_describe, feature_file, model, names, workers)
    chosen = choose_pairs(
        method,
        photos,
        names,
        pair_file=pair_file,
        overlap=overlap,
        num_neighbors=num_neighbors,
        loop_closure=loop_closure,
        descriptors=describe,
    )
    write_pairs(output, chosen)
    save_json({"photos": len(names), "pairs": len(chosen), "output": str(output)}, json_file)
    if json_file != STANDARD_OUTPUT:
        console.print(
            f"{counted(len(chosen), 'pair')} of {len(names)} photos: {output}", markup=False
        )
    return 0


def _describe(
    feature_file: Path, model: str, names: list[str], workers: int | None
) -> NDArray[np.float32]:
    with StepDisplay() as display:
        step = describe_images(
            feature_file,
            feature_file.with_name(GLOBAL_DESCRIPTORS),
            find_vocabulary(model),
            workers=workers,
            overwrite=True,
            progress=display.step("describing", "photos"),
        )
    return read_global_descriptors(step.output, names)
