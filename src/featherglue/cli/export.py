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
    json_file: JsonFile = None,
) -> None:
    """Write a model as ONNX graphs, extractor.onnx and matcher.onnx.

    With --fold and --float16 the output is a complete model, ready to publish.
    """
    packaged = fold or float16
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
        sizes |= _write_graphs(artifact, target)
    save_json({"files": list(sizes), "bytes": list(sizes.values())}, json_file)
    if json_file != STANDARD_OUTPUT:
        for path, size in sizes.items():
            console.print(f"wrote {path}: {size:,} bytes", markup=False)


def _write_graphs(artifact: Artifact, folder: Path) -> dict[str, int]:
    try:
        from featherglue.export.networks import export_onnx
    except ModuleNotFoundError:
        raise MissingExtraError("export", "export") from None
    return {str(path): path.stat().st_size for path in export_onnx(artifact, folder)}
