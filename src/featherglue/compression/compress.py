"""`compress`: apply a recipe to a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from featherglue.compression.calibration import CalibrationData, prepare_calibration
from featherglue.compression.pruning.importance import Losses
from featherglue.compression.quantization.linear import LinearConfig
from featherglue.compression.recipe import Recipe
from featherglue.compression.step_types import Finetune, FinetuneConfig, StepContext
from featherglue.compression.steps import fold, kind_of
from featherglue.errors import UsageError
from featherglue.io.gray import Gray
from featherglue.models.model import Model


def compress(
    model: Model,
    recipe: Recipe,
    *,
    calibration_images: Sequence[Gray] | None = None,
    image_size: tuple[int, int] = (640, 480),
    losses: Losses | None = None,
    finetune: Finetune | None = None,
    parent: str = "",
    report: Callable[[int, str], None] = lambda step, name: None,
) -> Model:
    """Return the model that a recipe makes from another model.

    The whole recipe is checked before the first step runs.

    Args:
        model: stays unchanged.
        recipe: the steps.
        calibration_images: photographs, (H, W) gray uint8, for steps that measure activations or
            matches.
        image_size: (width, height) in pixels to which the photographs are resized, multiples of 8.
        losses: losses for importance "taylor"; `importance.probe_losses` by default.
        finetune: performs the steps "finetune"; see `step_types.Finetune`.
        parent: hash of the model's artifact, for the provenance.
        report: called with the number of a step, from 1, and its name, before the step runs.

    Raises:
        ConfigError: the recipe does not fit the model.
        UsageError: the steps are in an impossible order, or calibration images or `finetune` are
            missing.
    """
    if any(side < 8 or side % 8 for side in image_size):
        raise UsageError(f"image_size must be a multiple of 8 in both directions, not {image_size}")
    recipe.check(model.architecture, bool(model.quantization))
    context = StepContext(
        calibrate=_Calibration(calibration_images, image_size),
        losses=losses,
        finetune=finetune,
        start=model,
        images=tuple(calibration_images or ()),
        image_size=image_size,
    )
    _check_context(recipe, context)
    current = replace(
        model, provenance=replace(model.provenance, parent=parent or model.provenance.parent)
    )
    unquantized: Model | None = None
    for i, config in enumerate(recipe.steps):
        kind = kind_of(config)
        report(i + 1, kind.name)
        if isinstance(config, LinearConfig) and not current.quantization:
            unquantized = fold(current)
        result = kind.run(current, config, replace(context, unquantized=unquantized))
        if isinstance(config, FinetuneConfig):
            unquantized = None
        steps = (*current.provenance.recipe, *(dict(record) for record in result.record))
        current = replace(result.model, provenance=replace(current.provenance, recipe=steps))
    return current


class _Calibration:
    """Prepares the calibration data of a model when a step requires it."""

    def __init__(self, images: Sequence[Gray] | None, size: tuple[int, int]) -> None:
        self._images, self._size = images, size

    def __call__(self, model: Model) -> CalibrationData | None:
        if not self._images:
            return None
        return prepare_calibration(model, self._images, self._size)


def _check_context(recipe: Recipe, context: StepContext) -> None:
    for i, config in enumerate(recipe.steps):
        kind = kind_of(config)
        if kind.needs_images(config, context) and not context.images:
            raise UsageError(
                f"step {i + 1} ({kind.name}) requires photographs; set `calibration_images`"
            )
        if isinstance(config, FinetuneConfig) and context.finetune is None:
            raise UsageError(f"step {i + 1} (finetune) requires training; set `finetune`")
