"""`featherglue prune`: set weights to zero, or remove channels."""

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

ScopeName = Literal["layer", "row", "global"]
ImportanceName = Literal["magnitude", "activation", "taylor", "l2"]


def prune(
    model: Model,
    output: Output,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="Ratio to remove, in [0, 1).")
    ] = None,
    channels: Annotated[
        bool, typer.Option("--channels", help="Remove whole channels instead of single weights.")
    ] = False,
    macs: Annotated[
        float | None,
        typer.Option("--macs", help="Ratio of the MACs to keep; channels are removed to reach it."),
    ] = None,
    scope: Annotated[
        ScopeName | None,
        typer.Option(
            "--scope",
            help="Compare the weights of a layer, of an output channel, or of all layers; "
            "layer by default.",
        ),
    ] = None,
    importance: Annotated[
        ImportanceName | None,
        typer.Option(
            "--importance",
            help="Importance of a weight: magnitude (default), activation or taylor. Importance "
            "of a channel: l2 (default) or taylor.",
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern",
            metavar="N:M|Bx1|1xB",
            help="Sparsity pattern of weights, such as 2:4, 4x1 or 1x8.",
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    calibration_images: CalibrationImages = None,
    num_calibration_images: NumCalibrationImages = None,
    image_size: ImageSize = None,
    json_file: JsonFile = None,
) -> None:
    """Set weights to zero, or remove channels. Fine-tune the model afterward."""
    fixed_ratio = pattern is not None and ":" in pattern
    if macs is not None and (ratio is not None or channels):
        raise UsageError("`macs` determines what is removed; leave out `ratio` and `channels`")
    if macs is None and ratio is None and not fixed_ratio:
        raise UsageError("set how much to remove: --ratio 0.5, --macs 0.25 or --pattern 2:4")
    if fixed_ratio and ratio is not None:
        raise UsageError(f"pattern {pattern} determines the ratio; leave out `ratio`")
    if (channels or macs is not None) and (scope or pattern):
        raise UsageError("`scope` and `pattern` apply to single weights, not to channels")
    calibration = CalibrationOptions(
        folder=calibration_images, num_images=num_calibration_images, image_size=image_size
    )
    name = "macs" if macs is not None else "channels" if channels else "prune"
    settings = {
        "budget": macs,
        "ratio": ratio,
        "scope": scope,
        "importance": importance,
        "pattern": pattern,
        "include": include or None,
        "exclude": exclude or None,
    }
    apply_step("prune", name, settings, model, output, calibration, json_file)
