"""`featherglue vocabulary`: the vocabulary of a model, for retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, console, save_json
from featherglue.collection.reconstruction_config import FEATURES
from featherglue.collection.retrieval import learn_vocabulary


def vocabulary(
    feature_file: Annotated[
        Path,
        typer.Option(
            "--feature-file",
            metavar="FILE",
            help="Features of the model: a few thousand photographs of many places.",
        ),
    ] = Path(FEATURES),
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File to write: vocabulary.safetensors in the folder of the model.",
        ),
    ] = Path("vocabulary.safetensors"),
    json_file: JsonFile = None,
) -> int:
    """Train the vocabulary with which retrieval describes photographs, for a model of your own."""
    trained = learn_vocabulary(feature_file, output)
    num_bytes = output.stat().st_size
    save_json(
        {"size": trained.size, "centers": len(trained.centers), "bytes": num_bytes}, json_file
    )
    if json_file != STANDARD_OUTPUT:
        console.print(
            f"{len(trained.centers)} centers, {trained.size} values, {num_bytes} bytes: {output}",
            markup=False,
        )
    return 0
