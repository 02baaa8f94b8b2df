"""`featherglue train`: run a training stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from featherglue.cli.common import JsonFile, error_console
from featherglue.cli.train_progress import TrainingProgress, require_resume, show_training
from featherglue.cli.training_options import (
    Device,
    Minutes,
    Resume,
    Threads,
    is_main_process,
    print_outputs,
)
from featherglue.errors import MissingExtraError, UsageError

StageName = Literal["shapes", "adapt", "superpoint", "superglue", "distill", "distill-features"]


def train(
    stage: Annotated[StageName, typer.Argument(help="Stage of training.", show_default=False)],
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="TOML file with the settings.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder of the run; for adapt also a .npz file."
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="DIR", help="Folder of photographs; not for the stage shapes."
        ),
    ] = None,
    minutes: Minutes = float("inf"),
    resume: Resume = False,
    device: Device = "auto",
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Train a network, or label photographs to train on.

    shapes: a detector on synthetic shapes. adapt: label photographs by homographic adaptation.
    superpoint: an extractor. superglue: a matcher. distill: learn from a stronger model.
    distill-features: descriptors from the feature file of any extractor.
    """
    try:
        from featherglue.train.engine.devices import choose_device
        from featherglue.train.engine.run_settings import read_stage
        from featherglue.train.stages.stage_registry import STAGES
    except ModuleNotFoundError:
        raise MissingExtraError("train", "train") from None
    chosen = STAGES[stage]
    if images is None and chosen.uses_images:
        raise UsageError(f"the stage {stage} learns from photographs: add --images DIR")
    if images is not None and not chosen.uses_images:
        raise UsageError(f"the stage {stage} uses no photographs: leave out --images")
    resume_files = chosen.resume_files(output)
    require_resume(output, resume_files, resume)
    torch_device = choose_device(device, threads)
    settings = read_stage(chosen.config, config)
    loop = getattr(settings, "loop", None)
    unit = "photographs" if chosen.writes_labels else "steps"
    progress = TrainingProgress(error_console, (loop and loop.steps) or None, minutes, unit)
    with show_training(progress, output, resume_files):
        outputs = chosen.run(
            settings, images, output, minutes=minutes, device=torch_device, report=progress.report
        )
    if is_main_process():
        print_outputs(outputs, json_file)
