"""`featherglue import-weights` and `featherglue export`: models from and to other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.cli.common import Json, console, print_json
from featherglue.errors import MissingExtraError, UsageError


def import_weights(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="superpoint_v1.pth and superglue_*.pth, or model.safetensors of transformers; "
            "either one or both."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new model.")],
    as_json: Json = False,
) -> None:
    """Turn published checkpoints into a model. Mind their licence: it stays theirs."""
    try:
        from featherglue.export.networks import export_onnx
        from featherglue.models.published import load_published, read_state
    except ModuleNotFoundError:
        raise MissingExtraError("import-weights", "train") from None
    if len(files) > 2:
        raise UsageError("at most two files: a SuperPoint and a SuperGlue")
    superpoint: Path | None = None
    superglue: Path | None = None
    for path in files:
        if any(name.endswith("bin_score") for name in read_state(path)):
            superglue = path
        else:
            superpoint = path
    if len(files) == 2 and (superpoint is None or superglue is None):
        raise UsageError(
            "the two files are of the same kind; a SuperPoint and a SuperGlue go together"
        )
    artifact = load_published(superpoint, superglue).save(output)
    export_onnx(artifact, output)  # so that it runs where neither PyTorch nor onnx is
    if as_json:
        print_json(
            {"output": str(output), "parameters": artifact.num_parameters, "hash": artifact.hash}
        )
    else:
        console.print(f"wrote {output}: {artifact.num_parameters:,} parameters", markup=False)


def export(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or a folder.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the graphs; the model's own by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model's networks as ONNX graphs: extractor.onnx and matcher.onnx."""
    folder = find_model(model)
    artifact = load_artifact(folder)
    try:
        from featherglue.export.networks import export_onnx
    except ModuleNotFoundError:
        raise MissingExtraError("export", "export") from None
    paths = export_onnx(artifact, output or folder)
    if as_json:
        print_json({"files": [str(path) for path in paths]})
    else:
        for path in paths:
            console.print(f"wrote {path}: {path.stat().st_size:,} bytes", markup=False)
