"""`featherglue combine`: the extractor of one model with the matcher of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featherglue.artifact.registry import find_model
from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, console, save_json
from featherglue.errors import MissingExtraError, UsageError
from featherglue.io.image import read_evenly_spaced

NUM_IMAGES = 100


def combine(
    extractor: Annotated[
        str, typer.Option("--extractor", metavar="NAME|DIR", help="Model with the extractor.")
    ],
    matcher: Annotated[
        str, typer.Option("--matcher", metavar="NAME|DIR", help="Model with the matcher.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the new model.")
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help="Folder of photographs on which the descriptors are aligned with the matcher's.",
        ),
    ] = None,
    num_images: Annotated[
        int | None,
        typer.Option(
            "--num-images",
            min=1,
            help=f"Number of photographs to use, spread over the folder; {NUM_IMAGES} by default.",
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Combine the extractor of one model with the matcher of another.

    The descriptors of independently trained extractors differ by a rotation. With --images the
    extractor is aligned with the matcher; without it the matcher needs further training.
    """
    try:
        from featherglue.train.combination import combine
    except ModuleNotFoundError:
        raise MissingExtraError("combine", "train") from None
    if num_images is not None and images is None:
        raise UsageError("--num-images needs --images")
    photographs = read_evenly_spaced(images, num_images or NUM_IMAGES) if images is not None else ()
    combined = combine(find_model(extractor), find_model(matcher), photographs)
    artifact = combined.model.save(output)
    facts: dict[str, Any] = {"output": str(output), "hash": artifact.hash}
    if combined.aligned is not None:
        facts["cosine_before"] = combined.aligned.cosine_before
        facts["cosine_after"] = combined.aligned.cosine_after
    save_json(facts, json_file)
    if json_file == STANDARD_OUTPUT:
        return
    if combined.aligned is not None:
        console.print(
            f"cosine to the descriptors that the matcher was trained on: "
            f"{facts['cosine_before']:.3f} before, {facts['cosine_after']:.3f} after"
        )
    console.print(f"wrote {output}", markup=False)
