"""`featherglue pairs`: the choice of the pairs of a folder of photographs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

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
from featherglue.collection.reconstruction_config import PAIRS
from featherglue.collection.retrieval import similar_images
from featherglue.collection.store import Store
from featherglue.errors import StoreError, counted


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
        typer.Option(
            "--feature-file",
            metavar="FILE",
            help="Features, for retrieval. Photographs without features are left out.",
        ),
    ] = None,
    model: Model = "fast",
    workers: Workers = None,
    json_file: JsonFile = None,
) -> int:
    """Choose the pairs of photographs to match, and write them as a list.

    The most similar photographs are found by retrieval: it needs the features of the photographs,
    and the model that made them. Their global descriptors, and the votes of local descriptors for
    the candidates, are written beside the features.
    """
    names = image_names(photos)
    skipped = []
    if feature_file is not None:
        with Store(feature_file) as store:
            skipped = [name for name in names if (name,) not in store]
        names = [name for name in names if name not in set(skipped)]
        if not names:
            raise StoreError(f"{feature_file}: has no features of any image of {photos}")
    with StepDisplay() as display:
        similar = None
        if feature_file is not None:
            similar = functools.partial(
                similar_images,
                feature_file,
                feature_file.parent,
                model,
                names,
                num_neighbors,
                workers=workers,
                progress=display.step,
            )
        chosen = choose_pairs(
            method,
            photos,
            names,
            pair_file=pair_file,
            overlap=overlap,
            num_neighbors=num_neighbors,
            loop_closure=loop_closure,
            similar=similar,
        )
    write_pairs(output, chosen)
    values = {"photos": len(names), "skipped": skipped, "pairs": len(chosen)}
    save_json({**values, "output": str(output)}, json_file)
    if json_file != STANDARD_OUTPUT:
        for name in skipped:
            console.print(f"skipped {name}: no features", markup=False)
        console.print(
            f"{counted(len(chosen), 'pair')} of {counted(len(names), 'photo')}: {output}",
            markup=False,
        )
    return 0
