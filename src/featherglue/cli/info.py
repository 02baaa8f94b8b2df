"""`featherglue info`: parameters, cost, size and provenance of a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, Model, console, save_json
from featherglue.cli.model_facts import describe
from featherglue.cli.session_options import parse_resize
from featherglue.errors import UsageError
from featherglue.native.library import kernels_name, missing_reason
from featherglue.runtime.base import automatic_runtime

_LAST_STEPS = 3  # of a recipe that are shown by default


def info(
    model: Model = "fast",
    image_size: Annotated[
        str,
        typer.Option(
            "--image-size", metavar="W H", help="Image size for which operations are counted."
        ),
    ] = "640,480",
    max_keypoints: Annotated[
        int,
        typer.Option(
            "--max-keypoints", min=1, help="Number of keypoints for which operations are counted."
        ),
    ] = 512,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="NAME|DIR",
            help="Model to compare the size with, as dense float32; by default the model itself.",
        ),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show the cost of each layer.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show all recipe steps with their settings.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Show the parameters, cost, size and provenance of a model."""
    size = parse_resize(image_size)
    if len(size) != 2 or min(size) < 1:
        raise UsageError(f"`image_size` takes W H, not {image_size!r}")
    other = load_artifact(find_model(baseline)) if baseline is not None else None
    artifact = load_artifact(find_model(model))
    facts = describe(artifact, (size[0], size[1]), max_keypoints, other)
    facts |= {
        "runtime": automatic_runtime(artifact),
        "kernels": kernels_name() or f"none: {missing_reason()}",
    }
    shown = facts if layers else {k: v for k, v in facts.items() if k != "layers"}
    save_json(shown, json_file)
    if json_file == STANDARD_OUTPUT:
        return
    console.print(_table(model, facts, size, max_keypoints, verbose))
    if layers:
        console.print(_layer_table(facts["layers"]))


def _table(
    name: str, facts: dict[str, Any], size: tuple[int, ...], keypoints: int, verbose: bool
) -> Table:
    table = Table(title=name, show_header=False, title_justify="left")
    table.add_row("parameters", f"{facts['parameters']:,}")
    table.add_row("non-zero", f"{facts['nonzero']:,}")
    table.add_row(
        f"MACs, {size[0]}×{size[1]}, {keypoints} keypoints",
        f"{facts['macs'] / 1e9:.3f} G ({facts['macs_extractor'] / 1e9:.3f} per image, "
        f"{facts['macs_matcher'] / 1e9:.3f} per match)",
    )
    if facts["macs_effective"] != facts["macs"]:
        table.add_row("MACs with non-zero weights", f"{facts['macs_effective'] / 1e9:.3f} G")
    files = ", ".join(f"{file} {count:,}" for file, count in facts["files"].items())
    table.add_row(
        "bytes on disk",
        f"{facts['bytes_on_disk']:,} without graphs, {facts['disk_ratio']:.2f}× smaller than dense "
        f"float32 ({files})",
    )
    table.add_row(
        "bytes of non-zero weights",
        f"{facts['study_bytes']:,}, {facts['study_ratio']:.2f}× smaller than dense float32",
    )
    _add_integer_rows(table, facts)
    table.add_row("runtime here", f"{facts['runtime']} (kernels: {facts['kernels']})")
    provenance = facts["provenance"]
    table.add_row("license", provenance["license"] or "unknown")
    table.add_row("data", provenance["data"] or "unknown")
    steps = provenance["recipe"]
    if verbose:
        for i, step in enumerate(steps):
            table.add_row(f"step {i + 1}", _step_line(step))
    elif steps:
        names = [str(step.get("step")) for step in steps[-_LAST_STEPS:]]
        earlier = f"{len(steps)} steps, the last are " if len(steps) > _LAST_STEPS else ""
        table.add_row("recipe", f"{earlier}{', '.join(names)} (--verbose: all settings)")
    return table


def _step_line(step: dict[str, Any]) -> str:
    """The plain settings of a recipe step; tables of settings are in the JSON output."""
    plain = {k: v for k, v in step.items() if isinstance(v, (int, float, str))}
    return ", ".join(f"{key} {value}" for key, value in plain.items() if len(str(value)) <= 40)


def _add_integer_rows(table: Table, facts: dict[str, Any]) -> None:
    """Add which layers run as integers, and why others do not."""
    if facts["integer_layers"]:
        exact = "7-bit weights, exact on every CPU"
        if facts["saturates_without_vnni"]:
            exact = "8-bit weights, sums may saturate on CPUs without VNNI"
        table.add_row("integer layers", f"{len(facts['integer_layers'])}: {exact}")
    reasons: dict[str, list[str]] = {}
    for name, reason in facts["float_layers"].items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        table.add_row("quantized layers run as floats", f"{len(names)}: {reason} ({shown})")


def _layer_table(rows: list[dict[str, Any]]) -> Table:
    """One row per layer."""
    table = Table(box=None, pad_edge=False, caption="∗ runs as integers")
    for column in ("layer", "stored as"):
        table.add_column(column, no_wrap=True)
    for column in ("parameters", "zero %", "MMACs", "non-zero", "bytes", "study"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['scheme']} {row['bits']}{' ∗' if row['integer'] else ''}",
            f"{row['parameters']:,}",
            f"{100 * row['sparsity']:.1f}",
            f"{row['macs'] / 1e6:,.1f}",
            f"{row['effective_macs'] / 1e6:,.1f}",
            f"{row['bytes']:,}",
            f"{row['study_bytes']:,.0f}",
        )
    return table
