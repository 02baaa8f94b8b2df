"""`featherglue compress`: make a smaller model by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from featherglue.artifact.registry import find_model
from featherglue.cli.apply_recipe import apply_recipe
from featherglue.cli.common import JsonFile, Model
from featherglue.cli.compression_options import (
    CalibrationImages,
    CalibrationOptions,
    ImageSize,
    NumCalibrationImages,
    Output,
)
from featherglue.cli.train_progress import TrainingProgress
from featherglue.cli.training_options import Device, DeviceName, Threads
from featherglue.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from featherglue.compression.recipe import Recipe
    from featherglue.compression.step_types import Finetune
    from featherglue.train.engine.run_log import Report
    from featherglue.train.stages.distill_stage import DistillStage


def compress(
    model: Model,
    recipe: Annotated[
        Path, typer.Option("--recipe", metavar="FILE", help="TOML file with the steps.")
    ],
    output: Output,
    calibration_images: CalibrationImages = None,
    num_calibration_images: NumCalibrationImages = None,
    image_size: ImageSize = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="DIR", help='Training photographs for the steps "finetune".'
        ),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            "--runs", metavar="DIR", help="Folder of the training runs. Existing runs continue."
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Make a smaller model by a recipe of pruning, quantization and fine-tuning."""
    try:
        from featherglue.compression.recipe import Recipe
    except ModuleNotFoundError:
        raise MissingExtraError("compress", "train") from None
    if (images is None) != (runs is None):
        raise UsageError("`images` and `runs` require each other: set both or neither")
    if images is None and (device != "auto" or threads is not None):
        raise UsageError("`device` and `threads` require `images`: they apply to fine-tuning only")
    calibration = CalibrationOptions(
        folder=calibration_images, num_images=num_calibration_images, image_size=image_size
    )
    loaded = Recipe.load(recipe)
    finetune = _finetune(loaded, recipe, model, images, runs, device, threads)
    apply_recipe(loaded, model, output, calibration, json_file, finetune)


def _finetune(
    recipe: Recipe,
    path: Path,
    model: str,
    images: Path | None,
    runs: Path | None,
    device: DeviceName,
    threads: int | None,
) -> Finetune | None:
    """Return the function of the steps "finetune", if the recipe has any."""
    from featherglue.compression.finetuning import finetune_stage, step_finetuner
    from featherglue.compression.step_types import FinetuneConfig
    from featherglue.train.engine.devices import choose_device

    configs = [config for config in recipe.steps if isinstance(config, FinetuneConfig)]
    if images is None or runs is None:
        if configs:
            raise UsageError(f'{path}: the step "finetune" requires `images` and `runs`')
        return None
    if not configs:
        raise UsageError(f'{path}: there is no step "finetune"; leave out `images` and `runs`')
    teacher = find_model(model)
    for config in configs:  # raises before any work is done
        finetune_stage(config, teacher)
    return step_finetuner(
        teacher, images, runs, device=choose_device(device, threads), started=_progress_lines
    )


def _progress_lines(stage: DistillStage) -> Report:
    """Return the progress report of a training: lines, because the bar shows the recipe."""
    progress = TrainingProgress(
        Console(stderr=True, force_terminal=False), stage.loop.steps or None
    )
    return progress.report
