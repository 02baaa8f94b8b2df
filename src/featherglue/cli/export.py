"""`featherglue export`: ONNX graphs of a model, and a model that is ready to publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.artifact.format import Artifact, load_artifact
from featherglue.artifact.packaging import package
from featherglue.artifact.registry import find_model
from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, Model, console, save_json
from featherglue.errors import MissingExtraError, UsageError


def export(
    model: Model = "fast",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder to write; by default that of the model."
        ),
    ] = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold", help="Write a copy of the model with batch normalization folded as well."
        ),
    ] = False,
    float16: Annotated[
        bool,
        typer.Option("--float16", help="Write a copy of the model with float16 weights as well."),
    ] = False,
    graphs: Annotated[
        bool, typer.Option("--graphs/--no-graphs", help="Write extractor.onnx and matcher.onnx.")
    ] = True,
    end_to_end: Annotated[
        bool,
        typer.Option(
            "--end-to-end",
            help="Write graphs from pixels to matches: extract.onnx, match.onnx and pipeline.onnx.",
        ),
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="W H", help="Image size of end-to-end graphs; by default any size."
        ),
    ] = None,
    num_keypoints: Annotated[
        int | None,
        typer.Option(
            "--num-keypoints",
            metavar="K",
            help="Number of keypoints of end-to-end graphs; by default the maximum of the model.",
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Write a model as ONNX graphs, extractor.onnx and matcher.onnx.

    With --end-to-end the graphs contain the steps before and after the networks. With --fold and
    --float16 the output is a complete model, ready to publish.
    """
    packaged = fold or float16
    if not end_to_end and not (size is None and num_keypoints is None):
        raise UsageError("--size and --num-keypoints belong to --end-to-end: add it")
    if end_to_end and (output is None or not graphs):
        raise UsageError("--end-to-end needs a folder for its graphs: add -o, without --no-graphs")
    if not (graphs or packaged):
        raise UsageError("--no-graphs leaves nothing to write: add --fold or --float16")
    folder = find_model(model)
    if packaged and (output is None or output.resolve() == folder.resolve()):
        raise UsageError("--fold and --float16 write another model: name its folder with -o")
    target = output or folder
    artifact = load_artifact(folder)
    sizes: dict[str, int] = {}
    if packaged:
        artifact = package(artifact, target, fold=fold, float16=float16)
        sizes = {str(target / name): size for name, size in artifact.file_sizes().items()}
    if graphs:
        if end_to_end:
            sizes |= _write_end_to_end(artifact, target, size, num_keypoints, float16)
        else:
            sizes |= _write_graphs(artifact, target)
    save_json({"files": list(sizes), "bytes": list(sizes.values())}, json_file)
    if json_file != STANDARD_OUTPUT:
        for path, length in sizes.items():
            console.print(f"wrote {path}: {length:,} bytes", markup=False)


def _write_graphs(artifact: Artifact, folder: Path) -> dict[str, int]:
    try:
        from featherglue.export.networks import export_onnx
    except ModuleNotFoundError:
        raise MissingExtraError("export", "export") from None
    return {str(path): path.stat().st_size for path in export_onnx(artifact, folder)}


def _write_end_to_end(
    artifact: Artifact, folder: Path, size: str | None, num_keypoints: int | None, float16: bool
) -> dict[str, int]:
    try:
        from featherglue.export.pipeline import PipelineConfig, export_pipeline
    except ModuleNotFoundError:
        raise MissingExtraError("export", "export") from None
    config = PipelineConfig(
        size=None if size is None else _parsed_size(size),
        num_keypoints=num_keypoints,
        float16=float16,
    )
    return {str(path): path.stat().st_size for path in export_pipeline(artifact, folder, config)}


def _parsed_size(text: str) -> tuple[int, int]:
    """The value of --size: "640,480" or "640x480"."""
    try:
        width, height = map(int, text.lower().replace("x", ",").split(","))
    except ValueError:
        raise UsageError(f"size must be a width and a height, not {text!r}") from None
    return width, height
