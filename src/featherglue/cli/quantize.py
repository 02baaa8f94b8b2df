"""`featherglue quantize`: store weights in fewer bits."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from featherglue.cli.apply_recipe import apply_step
from featherglue.cli.common import JsonFile, Model
from featherglue.cli.compression_options import (
    CalibrationImages,
    CalibrationOptions,
    Exclude,
    ImageSize,
    Include,
    NumCalibrationImages,
    Output,
)
from featherglue.errors import UsageError

SchemeName = Literal["linear", "codebook"]
Granularity = Literal["channel", "tensor"]


def quantize(
    model: Model,
    output: Output,
    scheme: Annotated[
        SchemeName,
        typer.Option("--scheme", help="linear: integers with a scale. codebook: k-means."),
    ] = "linear",
    bits: Annotated[
        int | None,
        typer.Option("--bits", help="Bits of a weight: linear 4 to 8, codebook 2 to 8."),
    ] = None,
    activation_bits: Annotated[
        int | None,
        typer.Option(
            "--activation-bits", help="Bits of an activation, 4 to 8; 0 keeps floats. Linear only."
        ),
    ] = None,
    per: Annotated[
        Granularity | None,
        typer.Option(
            "--per", help="One scale for each output channel (default) or tensor. Linear only."
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    calibration_images: CalibrationImages = None,
    num_calibration_images: NumCalibrationImages = None,
    image_size: ImageSize = None,
    json_file: JsonFile = None,
) -> None:
    """Store weights in fewer bits. Layers with quantized activations run with integers."""
    if scheme == "codebook":
        for name, value in {"activation_bits": activation_bits, "per": per}.items():
            if value is not None:
                raise UsageError(f"`{name}` requires scheme=linear")
    calibration = CalibrationOptions(
        folder=calibration_images, num_images=num_calibration_images, image_size=image_size
    )
    settings = {
        "bits": bits,
        "activation_bits": activation_bits,
        "per": per,
        "include": include or None,
        "exclude": exclude or None,
    }
    # Without activations, images are only needed for bias correction.
    if activation_bits == 0 and calibration_images is None:
        settings["correct_bias"] = False
    apply_step("quantize", scheme, settings, model, output, calibration, json_file)
