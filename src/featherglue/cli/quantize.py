"""`featherglue quantize`: a recipe of one step that stores weights in fewer bits."""

from __future__ import annotations

from typing import Annotated

import typer

from featherglue.cli.common import JsonFile
from featherglue.cli.compress import (
    Calibration,
    Exclude,
    Images,
    Include,
    ModelArgument,
    Output,
    Size,
    follow,
)
from featherglue.errors import MissingExtraError, UsageError


def quantize(
    model: ModelArgument,
    output: Output,
    scheme: Annotated[
        str, typer.Option("--scheme", help="linear: whole numbers. codebook: shared values.")
    ] = "linear",
    bits: Annotated[
        int | None, typer.Option("--bits", help="Of a weight: 4 to 8, in codebooks 2 to 8.")
    ] = None,
    activation_bits: Annotated[
        int | None, typer.Option("--activation-bits", help="4 to 8; 0 leaves them as floats.")
    ] = None,
    per: Annotated[
        str | None, typer.Option("--per", help="A scale for each channel, or for the tensor.")
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    calibration: Calibration = None,
    images: Images = 16,
    image_size: Size = "640,480",
    json_file: JsonFile = None,
) -> None:
    """Store weights in fewer bits, and run layers as whole numbers."""
    try:
        from featherglue.compression.recipe import Recipe
    except ModuleNotFoundError:
        raise MissingExtraError("quantize", "train") from None
    if scheme not in ("linear", "codebook"):
        raise UsageError(f"no scheme {scheme!r}; there are linear and codebook")
    if scheme == "codebook" and (activation_bits or per):
        raise UsageError("--activation-bits and --per belong to --scheme linear")
    given = {
        "bits": bits,
        "activation_bits": activation_bits if scheme == "linear" else None,
        "per": per,
        "include": include or None,
        "exclude": exclude or None,
    }
    step = {"step": scheme} | {key: value for key, value in given.items() if value is not None}
    if scheme == "linear" and activation_bits == 0 and calibration is None:
        step["correct_bias"] = False  # which needs images, as nothing else here does
    recipe = Recipe.from_dict({"steps": [step]})
    follow(recipe, model, output, calibration, images, image_size, json_file)
