"""`featherglue train`: the stages of training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import (
    STANDARD_OUTPUT,
    JsonFile,
    console,
    error_console,
    save_json,
)
from featherglue.cli.train_progress import TrainingProgress, refuse_run, shown
from featherglue.cli.training_options import (
    Device,
    DeviceName,
    Minutes,
    Resume,
    Threads,
    choose_device,
)
from featherglue.errors import MissingExtraError, UsageError


def train(
    stage: Annotated[str, typer.Argument(help="shapes, adapt, superpoint, superglue or distill.")],
    config: Annotated[Path, typer.Option("--config", help="TOML file of the stage.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the run; for adapt also a .npz file.")
    ],
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of photographs; shapes needs none.")
    ] = None,
    minutes: Minutes = float("inf"),
    resume: Resume = False,
    device: Device = DeviceName.AUTO,
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Train a network, from scratch or from a teacher, or label photographs to train on."""
    try:
        from featherglue.train.stages.registry import STAGES, read_stage
    except ModuleNotFoundError:
        raise MissingExtraError("train", "train") from None
    if stage not in STAGES:
        raise UsageError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
    chosen = STAGES[stage]
    if images is None and chosen.needs_images:
        raise UsageError(f"{stage} learns from photographs: say where with --images FOLDER")
    kept = chosen.kept_in(output)
    refuse_run(output, kept, resume)
    chosen_device = choose_device(device, threads)
    settings = read_stage(chosen.config, config)
    loop = getattr(settings, "loop", None)
    unit = "photographs" if chosen.labels else "steps"
    progress = TrainingProgress(error_console, (loop and loop.steps) or None, minutes, unit)
    with shown(progress, output, kept):
        made = chosen.run(
            settings, images, output, minutes=minutes, device=chosen_device, report=progress.report
        )
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one writes
        return
    save_json({name: str(path) for name, path in made.items()}, json_file)
    if json_file != STANDARD_OUTPUT:
        for path in made.values():
            console.print(f"wrote {path}", markup=False)
