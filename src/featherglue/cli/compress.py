"""`featherglue compress`: a smaller model by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from featherglue.artifact.folder import check_output
from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.cli.common import (
    STANDARD_OUTPUT,
    JsonFile,
    console,
    error_console,
    save_json,
)
from featherglue.cli.info import describe
from featherglue.cli.session_options import parse_resize
from featherglue.cli.train import Device, Threads, choose_device
from featherglue.cli.train_progress import TrainingProgress
from featherglue.errors import MissingExtraError, UsageError
from featherglue.io.image import read_evenly

if TYPE_CHECKING:
    from featherglue.compression.recipe import Recipe
    from featherglue.compression.step_types import Finetune
    from featherglue.train.engine.run_log import Report
    from featherglue.train.stages.distill import DistillStage

ModelArgument = Annotated[str, typer.Argument(help="A shipped model's name, or a folder.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder of the new model.")]
Calibration = Annotated[
    Path | None,
    typer.Option(
        "--calibration", metavar="FOLDER", help="Photographs, to see activations and matches on."
    ),
]
Images = Annotated[
    int, typer.Option("--images", min=1, help="How many of them, spread over the folder.")
]
Size = Annotated[
    str, typer.Option("--image-size", metavar="W H", help="Size at which they are looked at.")
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="GLOB", help="Layers to change; may be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Layers to leave; may be repeated."),
]


def compress(
    model: ModelArgument,
    recipe: Annotated[Path, typer.Option("--recipe", help="TOML file of the steps.")],
    output: Output,
    calibration: Calibration = None,
    images: Images = 16,
    image_size: Size = "640,480",
    train_images: Annotated[
        Path | None,
        typer.Option("--train-images", metavar="FOLDER", help='For the steps "finetune".'),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option("--runs", metavar="FOLDER", help="Where their runs are kept and go on."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Make a smaller model by a recipe: prune, quantize, share weights, fine-tune."""
    try:
        from featherglue.compression.finetuning import stage_of, step_finetuner
        from featherglue.compression.recipe import Recipe
        from featherglue.compression.step_types import FinetuneConfig
    except ModuleNotFoundError:
        raise MissingExtraError("compress", "train") from None
    if (train_images is None) != (runs is None):
        raise UsageError("--train-images and --runs go together")
    steps = Recipe.load(recipe)
    tuned = [config for config in steps.steps if isinstance(config, FinetuneConfig)]
    if tuned and train_images is None:
        raise UsageError(f'{recipe}: the step "finetune" requires `train_images` and `runs`')
    finetune = None
    if train_images is not None and runs is not None:
        if not tuned:
            raise UsageError(f'{recipe}: has no step "finetune"; leave --train-images out')
        teacher = find_model(model)
        for config in tuned:  # all of them before any work
            stage_of(config, teacher)
        finetune = step_finetuner(
            teacher, train_images, runs, device=choose_device(device, threads), started=_progress
        )
    follow(steps, model, output, calibration, images, image_size, json_file, finetune)


def _progress(stage: DistillStage) -> Report:
    """Lines for a step of fine-tuning; the bar of the recipe keeps the terminal."""
    shown = TrainingProgress(Console(stderr=True, force_terminal=False), stage.loop.steps or None)
    return shown.report


def follow(
    recipe: Recipe,
    model: str,
    output: Path,
    calibration: Path | None,
    images: int,
    image_size: str,
    json_file: str | None,
    finetune: Finetune | None = None,
) -> None:
    """Make, save and describe a model, as the three commands do."""
    from featherglue.compression.compress import compress
    from featherglue.compression.quantization.linear import LinearConfig
    from featherglue.compression.quantization.linear_targets import delicate_targets
    from featherglue.models.model import Model

    size = parse_resize(image_size)
    if size is None or len(size) != 2:
        raise UsageError(f"--image-size takes W H, not {image_size!r}")
    source = load_artifact(find_model(model))
    check_output(output)
    parent = Model.from_artifact(source)
    recipe.check(parent.architecture, bool(parent.quantization))
    photographs = read_evenly(calibration, images) if calibration is not None else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=error_console,
        disable=not error_console.is_terminal,
    ) as bar:
        task = bar.add_task("compressing", total=len(recipe.steps))
        made = compress(
            parent,
            recipe,
            calibration_images=photographs,
            image_size=(size[0], size[1]),
            parent=source.hash,
            finetune=finetune,
            report=lambda step, name: bar.update(task, description=name, completed=step - 1),
        )
        bar.update(task, completed=len(recipe.steps))
    made.save(output)
    facts = describe(load_artifact(output), (640, 480), 512, source)
    _show(output, facts, json_file)
    linear = [config for config in recipe.steps if isinstance(config, LinearConfig)]
    delicate = (name for step in linear for name in delicate_targets(made.architecture, step))
    _warn(list(dict.fromkeys(delicate)))


def _warn(delicate: Sequence[str]) -> None:
    if delicate:
        error_console.print(
            f"warning: quantized because `include` takes them along: {', '.join(delicate)}. "
            "Much of the accuracy may hang on them; they stay floats without `include`, "
            "or with their names in `exclude`",
            markup=False,
        )


def _show(output: Path, facts: dict[str, Any], json_file: str | None) -> None:
    kept = (
        "parameters",
        "nonzero",
        "macs",
        "macs_effective",
        "bytes_on_disk",
        "study_bytes",
        "disk_ratio",
        "study_ratio",
        "integer_layers",
        "float_layers",
        "saturates_without_vnni",
        "hash",
        "provenance",
    )
    save_json({"output": str(output), **{name: facts[name] for name in kept}}, json_file)
    if json_file == STANDARD_OUTPUT:
        return
    console.print(
        f"wrote {output}: {facts['parameters']:,} parameters, {facts['nonzero']:,} not zero, "
        f"{facts['macs'] / 1e9:.3f} GMACs, {facts['bytes_on_disk']:,} bytes on disk "
        f"({facts['disk_ratio']:.2f}× smaller than its parent in float32)",
        markup=False,
    )
    if facts["integer_layers"]:
        console.print(f"{len(facts['integer_layers'])} layers run as whole numbers", markup=False)
    for reason in dict.fromkeys(facts["float_layers"].values()):
        names = [name for name, why in facts["float_layers"].items() if why == reason]
        which = (
            f"{names[0]} runs" if len(names) == 1 else f"{len(names)} layers ({names[0]}, …) run"
        )
        console.print(f"{which} as floats: {reason}", markup=False)
