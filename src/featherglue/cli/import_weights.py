"""`featherglue import-weights`: published checkpoints as a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, console, save_json
from featherglue.errors import MissingExtraError, UsageError


def import_weights(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="superpoint_v1.pth and superglue_*.pth, or model.safetensors of transformers; "
            "one file or both."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the new model.")
    ],
    json_file: JsonFile = None,
) -> None:
    """Convert published SuperPoint and SuperGlue checkpoints.

    The license of the checkpoints applies to the model too.
    """
    try:
        from featherglue.export.networks import export_onnx
        from featherglue.models.published import load_published, read_state
    except ModuleNotFoundError:
        raise MissingExtraError("import-weights", "train") from None
    if len(files) > 2:
        raise UsageError("give at most two files: a SuperPoint and a SuperGlue")
    superpoint: Path | None = None
    superglue: Path | None = None
    for path in files:
        if any(name.endswith("bin_score") for name in read_state(path)):
            superglue = path
        else:
            superpoint = path
    if len(files) == 2 and (superpoint is None or superglue is None):
        raise UsageError(
            "both files are of the same network; give one SuperPoint and one SuperGlue"
        )
    artifact = load_published(superpoint, superglue).save(output)
    export_onnx(artifact, output)  # the model then runs without PyTorch and onnx
    facts = {"output": str(output), "parameters": artifact.num_parameters, "hash": artifact.hash}
    save_json(facts, json_file)
    if json_file != STANDARD_OUTPUT:
        console.print(f"wrote {output}: {artifact.num_parameters:,} parameters", markup=False)
