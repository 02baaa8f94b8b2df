"""`featherglue train`: the stages of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import Json, console, error_console, print_json
from featherglue.errors import MissingExtraError, TrainingError, UsageError

STAGES = ("superpoint", "superglue")


def train(
    stage: Annotated[str, typer.Argument(help="superpoint or superglue.")],
    config: Annotated[Path, typer.Option("--config", help="TOML file of the stage.")],
    images: Annotated[Path, typer.Option("--images", help="Folder of photographs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    minutes: Annotated[
        float, typer.Option("--minutes", min=0, help="Stop, resumable, after this time.")
    ] = float("inf"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that is in the folder.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of the networks; 1 where the machine is shared."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a network from scratch on a folder of photographs."""
    try:
        import torch

        from featherglue.train import stages
    except ModuleNotFoundError:
        raise MissingExtraError("train", "train") from None
    if stage not in STAGES:
        raise UsageError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
    if (output / "last.pt").exists() and not resume:
        raise TrainingError(f"{output}: holds a run; add --resume to go on, or choose another")
    if threads is not None:
        torch.set_num_threads(threads)
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"no device {device!r}; there are auto, cpu and cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch finds no CUDA device here; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

    def report(step: int, row: dict[str, float]) -> None:
        values = " ".join(f"{name} {value:.3f}" for name, value in row.items())
        error_console.print(f"step {step} {values}")

    if stage == "superpoint":
        point = stages.read_stage(stages.SuperPointStage, config)
        stages.train_superpoint(
            point, images, output, minutes=minutes, device=device, report=report
        )
    else:
        glue = stages.read_stage(stages.SuperGlueStage, config)
        stages.train_superglue(glue, images, output, minutes=minutes, device=device, report=report)
    if as_json:
        print_json({"output": str(output / "model"), "log": str(output / "log.csv")})
    else:
        console.print(f"wrote {output / 'model'}", markup=False)
