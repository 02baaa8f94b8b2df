"""`featherglue finetune`: train a compressed model, its zeros and codes held."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
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

if TYPE_CHECKING:
    from featherglue.train.stages.distill import DistillStage
    from featherglue.train.stages.student import Part

STEPS, RATE = 2000, 2e-4


def finetune(
    model: Annotated[str, typer.Argument(help="The compressed model: a folder.")],
    images: Annotated[Path, typer.Option("--images", help="Folder of photographs to learn from.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Model to learn from, such as the one before compression."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file of the stage `distill`, for all its settings."),
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="extractor, matcher or both (default).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help=f"Optimizer steps; {STEPS} by default.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help=f"Its peak; {RATE} by default.")
    ] = None,
    minutes: Minutes = float("inf"),
    resume: Resume = False,
    device: Device = DeviceName.AUTO,
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Train a pruned or quantized model to match as its teacher does."""
    try:
        from featherglue.compression.finetuning import finetune, unrounded
        from featherglue.models.model import Model
        from featherglue.train.engine.checkpoint import LAST
        from featherglue.train.stages.run_setup import with_noted_warmup
    except ModuleNotFoundError:
        raise MissingExtraError("finetune", "train") from None
    refuse_run(output, [output / LAST], resume)
    stage = _stage(config, teacher, part, steps, learning_rate)
    if resume:
        stage = with_noted_warmup(stage, output)
    artifact = load_artifact(find_model(model))
    student = Model.from_artifact(artifact)
    original = unrounded(student, load_artifact(stage.teacher)) if student.quantization else None
    student = replace(student, provenance=replace(student.provenance, parent=artifact.hash))
    progress = TrainingProgress(error_console, stage.loop.steps or None, minutes)
    with shown(progress, output, [output / LAST]):
        finetune(
            student,
            stage,
            images,
            output,
            original=original,
            minutes=minutes,
            device=choose_device(device, threads),
            report=progress.report,
        )
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one writes
        return
    made = load_artifact(output / "model")
    save_json({"output": str(output / "model"), "hash": made.hash}, json_file)
    if json_file != STANDARD_OUTPUT:
        console.print(f"wrote {output / 'model'}", markup=False)


def _stage(
    config: Path | None,
    teacher: str | None,
    part: str | None,
    steps: int | None,
    learning_rate: float | None,
) -> DistillStage:
    """The settings of a file, or short ones, with what the command line says."""
    from featherglue.train.engine.loop import LoopConfig
    from featherglue.train.stages.distill import DistillStage
    from featherglue.train.stages.registry import read_stage

    if config is None and teacher is None:
        raise UsageError("say what to learn from: --teacher MODEL, or `teacher` in --config FILE")
    loop: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate}
    if steps is not None:
        loop["warmup"] = min(200, steps // 10)
    loop = {name: value for name, value in loop.items() if value is not None}
    changes: dict[str, Any] = {}
    if teacher is not None:
        changes["teacher"] = str(find_model(teacher))
    if part is not None:
        changes["part"] = cast("Part", part)
    if config is not None:
        stage = read_stage(DistillStage, config)
        return replace(stage, **changes, loop=replace(stage.loop, **loop))
    defaults: dict[str, Any] = {"steps": STEPS, "learning_rate": RATE}
    return DistillStage(**changes, loop=LoopConfig(**(defaults | loop)))
