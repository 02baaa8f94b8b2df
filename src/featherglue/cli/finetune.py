"""`featherglue finetune`: train a compressed model to match like its teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.cli.common import JsonFile, error_console
from featherglue.cli.common import Model as ModelOption
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

if TYPE_CHECKING:
    from featherglue.train.stages.distill_stage import DistillStage

PartName = Literal["extractor", "matcher", "both"]
STEPS, LEARNING_RATE = 2000, 2e-4


def finetune(
    model: ModelOption,
    images: Annotated[
        Path, typer.Option("--images", metavar="DIR", help="Folder of photographs to learn from.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the run.")
    ],
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="NAME|DIR",
            help="Model to learn from, such as the one before compression.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file of the stage distill."),
    ] = None,
    part: Annotated[
        PartName | None, typer.Option("--part", help="Networks to train; both by default.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help=f"Number of optimizer steps; {STEPS} by default."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help=f"Peak learning rate; {LEARNING_RATE} by default."),
    ] = None,
    minutes: Minutes = float("inf"),
    resume: Resume = False,
    device: Device = "auto",
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Train a pruned or quantized model to match like its teacher.

    Pruned weights stay zero, and quantized weights stay quantized.
    """
    try:
        from featherglue.compression.finetuning import before_rounding, finetune
        from featherglue.models.model import Model
        from featherglue.train.engine.devices import choose_device
        from featherglue.train.engine.log_files import LAST
        from featherglue.train.engine.run_settings import with_stored_warmup
    except ModuleNotFoundError:
        raise MissingExtraError("finetune", "train") from None
    resume_files = [output / LAST]
    require_resume(output, resume_files, resume)
    stage = _stage(config, teacher, part, steps, learning_rate)
    if resume:
        stage = with_stored_warmup(stage, output)
    artifact = load_artifact(find_model(model))
    student = Model.from_artifact(artifact)
    original = None
    if student.quantization:
        original = before_rounding(student, load_artifact(stage.teacher))
    student = replace(student, provenance=replace(student.provenance, parent=artifact.hash))
    progress = TrainingProgress(error_console, stage.loop.steps or None, minutes)
    with show_training(progress, output, resume_files):
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
    if is_main_process():
        trained = load_artifact(output / "model")
        print_outputs({"output": output / "model"}, json_file, hash=trained.hash)


def _stage(
    config: Path | None,
    teacher: str | None,
    part: PartName | None,
    steps: int | None,
    learning_rate: float | None,
) -> DistillStage:
    """The settings of the training: those of the file or defaults, with the given options."""
    from featherglue.train.engine.loop_config import LoopConfig
    from featherglue.train.engine.run_settings import read_stage
    from featherglue.train.stages.distill_stage import DistillStage

    if config is None and teacher is None:
        raise UsageError("a teacher is required: --teacher MODEL, or `teacher` in --config FILE")
    loop: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate}
    if steps is not None:
        loop["warmup"] = min(200, steps // 10)
    loop = {name: value for name, value in loop.items() if value is not None}
    changes: dict[str, Any] = {}
    if teacher is not None:
        changes["teacher"] = str(find_model(teacher))
    if part is not None:
        changes["part"] = part
    if config is not None:
        stage = read_stage(DistillStage, config)
        return replace(stage, **changes, loop=replace(stage.loop, **loop))
    defaults: dict[str, Any] = {"steps": STEPS, "learning_rate": LEARNING_RATE}
    return DistillStage(**changes, loop=LoopConfig(**(defaults | loop)))
