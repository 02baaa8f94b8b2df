"""`featherglue prune`: a recipe of one step that takes weights or channels away."""

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


def prune(
    model: ModelArgument,
    output: Output,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="Share that goes, in [0, 1).")
    ] = None,
    channels: Annotated[
        bool, typer.Option("--channels", help="Take whole channels instead of weights.")
    ] = False,
    macs: Annotated[
        float | None,
        typer.Option("--macs", help="Share of the MACs that stays; takes channels away for it."),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option("--scope", help="Compare weights within a layer or a row, or global."),
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option("--importance", help="magnitude, taylor, activation; l2, taylor of channels."),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option("--pattern", help='"2:4" and the like, "4x1" and the like.')
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    calibration: Calibration = None,
    images: Images = 16,
    image_size: Size = "640,480",
    json_file: JsonFile = None,
) -> None:
    """Set weights to zero, or take channels away. Fine-tune afterwards."""
    try:
        from featherglue.compression.recipe import Recipe
    except ModuleNotFoundError:
        raise MissingExtraError("prune", "train") from None
    if macs is not None and (ratio is not None or channels):
        raise UsageError("--macs decides itself what goes: leave --ratio and --channels out")
    if macs is None and ratio is None and (pattern is None or ":" not in pattern):
        raise UsageError("say how much goes: --ratio 0.5, --macs 0.25 or --pattern 2:4")
    if pattern is not None and ":" in pattern and ratio is not None:
        raise UsageError(f"--pattern {pattern} decides itself how much goes: leave --ratio out")
    if (channels or macs is not None) and (scope or pattern):
        raise UsageError("--scope and --pattern are about single weights, not channels")
    name = "macs" if macs is not None else "channels" if channels else "prune"
    given = {
        "share": macs,
        "ratio": ratio,
        "scope": scope,
        "importance": importance,
        "pattern": pattern,
        "include": include or None,
        "exclude": exclude or None,
    }
    step = {"step": name} | {key: value for key, value in given.items() if value is not None}
    recipe = Recipe.from_dict({"steps": [step]})
    follow(recipe, model, output, calibration, images, image_size, json_file)
