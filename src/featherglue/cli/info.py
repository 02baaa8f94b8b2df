"""`featherglue info`: what a model is."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from featherglue.artifact import Artifact, bytes_on_disk, load_artifact, nonzero, parameters
from featherglue.cli.common import Json, console, parse_resize, print_json
from featherglue.config import to_dict
from featherglue.errors import UsageError
from featherglue.layers import total_macs
from featherglue.session import find_model

_FLOAT_BYTES = 4


def info(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or a folder.")] = "fast",
    image_size: Annotated[
        str, typer.Option("--image-size", metavar="W H", help="Size for which MACs are counted.")
    ] = "640,480",
    max_keypoints: Annotated[
        int, typer.Option("--max-keypoints", min=1, help="Keypoints for which MACs are counted.")
    ] = 512,
    as_json: Json = False,
) -> None:
    """Show a model's parameters, cost, size on disk and where it comes from."""
    size = parse_resize(image_size)
    if size is None or len(size) != 2 or min(size) < 1:
        raise UsageError(f"--image-size takes W H, not {image_size!r}")
    facts = describe(load_artifact(find_model(model)), (size[0], size[1]), max_keypoints)
    if as_json:
        print_json(facts)
        return
    console.print(_table(str(model), facts, size, max_keypoints))


def describe(artifact: Artifact, image_size: tuple[int, int], keypoints: int) -> dict[str, Any]:
    """Everything that `info` says, as plain values.

    `macs` are multiply–accumulates for one extraction and one match; `study_bytes` counts
    non-zero weights at four bytes each, as the study's tables do.
    """
    macs = total_macs(artifact.architecture, image_size, keypoints)
    files = bytes_on_disk(artifact)
    remaining = nonzero(artifact)
    return {
        "parameters": parameters(artifact),
        "nonzero": remaining,
        "macs": sum(macs.values()),
        "macs_extractor": macs["extractor"],
        "macs_matcher": macs["matcher"],
        "image_size": list(image_size),
        "max_keypoints": keypoints,
        "bytes_on_disk": sum(files.values()),
        "files": files,
        "study_bytes": remaining * _FLOAT_BYTES,
        "hash": artifact.hash,
        "architecture": to_dict(artifact.architecture),
        "processing": to_dict(artifact.processing),
        "provenance": to_dict(artifact.provenance),
    }


def _table(name: str, facts: dict[str, Any], size: tuple[int, ...], keypoints: int) -> Table:
    table = Table(title=name, show_header=False, title_justify="left")
    table.add_row("parameters", f"{facts['parameters']:,}")
    table.add_row("non-zero", f"{facts['nonzero']:,}")
    table.add_row(
        f"MACs, {size[0]}×{size[1]}, {keypoints} keypoints",
        f"{facts['macs'] / 1e9:.3f} G ({facts['macs_extractor'] / 1e9:.3f} extract, "
        f"{facts['macs_matcher'] / 1e9:.3f} match)",
    )
    files = ", ".join(f"{file} {count:,}" for file, count in facts["files"].items())
    table.add_row("bytes on disk", f"{facts['bytes_on_disk']:,} ({files})")
    table.add_row("bytes as the study counts", f"{facts['study_bytes']:,}")
    provenance = facts["provenance"]
    table.add_row("licence", provenance["license"] or "unknown")
    table.add_row("data", provenance["data"] or "unknown")
    for i, step in enumerate(provenance["recipe"]):
        shown = ", ".join(f"{key} {value}" for key, value in step.items())
        table.add_row(f"step {i + 1}", shown)
    return table
