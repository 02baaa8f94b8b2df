"""`featherglue pairs`: the choice of the pairs of a folder of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.collection_options import NumNeighbors, Overlap, PairFile, Pairs, Photos
from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, console, save_json
from featherglue.collection.pair_selection import choose_pairs, write_pairs
from featherglue.collection.photo_frames import image_names
from featherglue.collection.reconstruction_config import PAIRS


def pairs(
    photos: Photos,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="List of pairs to write.")
    ] = Path(PAIRS),
    method: Pairs = "exhaustive",
    pair_file: PairFile = None,
    overlap: Overlap = 10,
    num_neighbors: NumNeighbors = 20,
    json_file: JsonFile = None,
) -> int:
    """Choose the pairs of photographs to match, and write them as a list."""
    names = image_names(photos)
    chosen = choose_pairs(
        method,
        photos,
        names,
        pair_file=pair_file,
        overlap=overlap,
        num_neighbors=num_neighbors,
    )
    write_pairs(output, chosen)
    save_json({"photos": len(names), "pairs": len(chosen), "output": str(output)}, json_file)
    if json_file != STANDARD_OUTPUT:
        console.print(f"{len(chosen)} pairs of {len(names)} photos: {output}", markup=False)
    return 0
