"""Application of a recipe to a model, for `compress`, `prune` and `quantize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherglue.artifact.folder import check_output
from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.cli.common import STANDARD_OUTPUT, console, error_console, save_json
from featherglue.cli.compression_options import CalibrationOptions
from featherglue.cli.model_facts import describe
from featherglue.cli.progress import ProgressDisplay
from featherglue.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from featherglue.compression.recipe import Recipe
    from featherglue.compression.step_types import Finetune
    from featherglue.models.model import Model

_FACTS = (
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


def apply_recipe(
    recipe: Recipe,
    model: str,
    output: Path,
    calibration: CalibrationOptions,
    json_file: str | None,
    finetune: Finetune | None = None,
    include_name: str = '"include" of the recipe',
) -> None:
    """Compress a model, save it and print its cost.

    Args:
        recipe: the steps.
        model: name or folder of the model.
        output: folder of the new model.
        calibration: calibration images.
        json_file: see `save_json`.
        finetune: runs the steps "finetune"; None if the recipe has none.
        include_name: what the user calls the selection of layers, for the warning about it.

    Raises:
        FeatherglueError: the recipe does not fit, an option would have no effect, an image cannot
            be read, or the model cannot be saved.
    """
    from featherglue.compression.compress import compress
    from featherglue.models.model import Model

    source = load_artifact(find_model(model))
    check_output(output)
    parent = Model.from_artifact(source)
    recipe.check(parent.architecture, bool(parent.quantization))
    _check_calibration(recipe, calibration)
    images = calibration.read()
    with ProgressDisplay("compressing", len(recipe.steps), unit="steps") as progress:
        compressed = compress(
            parent,
            recipe,
            calibration_images=images,
            image_size=calibration.size,
            parent=source.hash,
            finetune=finetune,
            report=lambda step, name: progress.update(step - 1, description=name),
        )
        progress.update(len(recipe.steps))
    compressed.save(output)
    facts = describe(load_artifact(output), (640, 480), 512, source)
    save_json({"output": str(output), **{name: facts[name] for name in _FACTS}}, json_file)
    if json_file != STANDARD_OUTPUT:
        _print_facts(output, facts)
    _warn_about_sensitive_layers(recipe, compressed, include_name)


def apply_step(
    command: str,
    step: str,
    settings: Mapping[str, Any],
    model: str,
    output: Path,
    calibration: CalibrationOptions,
    json_file: str | None,
) -> None:
    """Compress a model by a recipe with one step; see `apply_recipe`.

    Args:
        command: name of the command, for the error if PyTorch is missing.
        step: name of the step.
        settings: settings of the step. None uses the default.
        model: name or folder of the model.
        output: folder of the new model.
        calibration: calibration images.
        json_file: see `save_json`.
    """
    try:
        from featherglue.compression.recipe import Recipe
    except ModuleNotFoundError:
        raise MissingExtraError(command, "train") from None
    given = {key: value for key, value in settings.items() if value is not None}
    recipe = Recipe.from_dict({"steps": [{"step": step} | given]})
    apply_recipe(recipe, model, output, calibration, json_file, include_name="--include")


def _check_calibration(recipe: Recipe, calibration: CalibrationOptions) -> None:
    from featherglue.compression.steps import kind_of

    used = any(kind_of(config).uses_images(config) for config in recipe.steps)
    if calibration.folder is not None and not used:
        raise UsageError("no step uses `calibration_images`; leave it out")


def _warn_about_sensitive_layers(recipe: Recipe, compressed: Model, include_name: str) -> None:
    from featherglue.compression.quantization.linear import LinearConfig
    from featherglue.compression.quantization.linear_targets import sensitive_targets

    linear = [config for config in recipe.steps if isinstance(config, LinearConfig)]
    names = (
        name for config in linear for name in sensitive_targets(compressed.architecture, config)
    )
    sensitive = list(dict.fromkeys(names))
    if sensitive:
        error_console.print(
            f"warning: {include_name} selects {', '.join(sensitive)}, which are sensitive to "
            "quantization. They stay floats by default, or if they are excluded",
            markup=False,
        )


def _print_facts(output: Path, facts: dict[str, Any]) -> None:
    console.print(
        f"wrote {output}: {facts['parameters']:,} parameters, {facts['nonzero']:,} non-zero, "
        f"{facts['macs'] / 1e9:.3f} GMACs, {facts['bytes_on_disk']:,} bytes on disk "
        f"({facts['disk_ratio']:.2f}× smaller than its parent in float32)",
        markup=False,
    )
    if facts["integer_layers"]:
        console.print(f"{_count(facts['integer_layers'])} with integers", markup=False)
    for reason in dict.fromkeys(facts["float_layers"].values()):
        names = [name for name, why in facts["float_layers"].items() if why == reason]
        console.print(f"{_count(names)} with floats: {reason}", markup=False)


def _count(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} runs"
    return f"{len(names)} layers ({names[0]}, …) run"
