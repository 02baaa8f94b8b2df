"""Recipes: what is done to a model, in order, as a file that can be kept and repeated.

    [[steps]]
    step = "prune"
    ratio = 0.9
    include = ["matcher.*"]

    [[steps]]
    step = "codebook"
    bits = 4

The keys of a step are those of its configuration, see `steps`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.compression.calibration import Inputs, prepare_inputs
from featherglue.compression.pruning.importance import Losses
from featherglue.compression.quantization.linear import LinearConfig
from featherglue.compression.steps import (
    KINDS,
    Expected,
    Finetune,
    FinetuneConfig,
    Means,
    folded,
    kind_of,
)
from featherglue.config import ArchitectureConfig, from_dict, to_dict
from featherglue.errors import ConfigError, UsageError
from featherglue.io.files import atomic
from featherglue.io.toml import read_toml, toml_lines
from featherglue.models.model import Model

Grey = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps of compression.

    Attributes:
        steps: configurations, in order, of the kinds in `steps.KINDS`.
        architecture: of the models that it is for; None for all that its names fit.
    """

    steps: tuple[Any, ...]
    architecture: ArchitectureConfig | None = None

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigError("a recipe needs at least one step")
        for config in self.steps:
            kind_of(config)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Recipe:
        """Read a TOML file.

        Raises:
            ConfigError: it is missing or no TOML; an unknown step, version or key, with its name.
        """
        data = read_toml(path)
        try:
            return Recipe.from_dict(data)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Recipe:
        """The recipe from plain values, as `to_dict` gives them. Raises ConfigError as `load`."""
        unknown = sorted(set(data) - {"steps", "architecture"})
        if unknown:
            raise ConfigError(f"unknown key {unknown[0]!r}; known: steps, architecture")
        steps = data.get("steps", [])
        if not isinstance(steps, list):
            raise ConfigError("steps: expected a list of tables, [[steps]]")
        architecture = None
        if "architecture" in data:
            architecture = from_dict(ArchitectureConfig, data["architecture"], "architecture")
        read = tuple(_read_step(step, f"steps[{i}]") for i, step in enumerate(steps))
        return Recipe(steps=read, architecture=architecture)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: every key of every step, with its name and version."""
        data: dict[str, Any] = {"steps": [_plain_step(config) for config in self.steps]}
        if self.architecture is not None:
            data["architecture"] = _without_none(to_dict(self.architecture))
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a TOML file, whole or not at all. Raises OutputError."""
        data = self.to_dict()
        lines: list[str] = []
        if "architecture" in data:
            lines += ["[architecture]", *toml_lines(data["architecture"]), ""]
        for step in data["steps"]:
            lines += ["[[steps]]", *toml_lines(step), ""]
        with atomic(path) as file:
            file.write("\n".join(lines).encode())

    def check(self, architecture: ArchitectureConfig, quantized: bool = False) -> None:
        """See that every step can work on what those before it leave.

        Args:
            quantized: whether something of the model is.

        Raises:
            ConfigError, UsageError: the first thing that cannot be, with the step's place and name.
        """
        _check_same(self.architecture, architecture)
        at = Expected(architecture=architecture, quantized=quantized)
        for i, config in enumerate(self.steps):
            kind = kind_of(config)
            try:
                at = kind.check(at, config)
            except (ConfigError, UsageError) as error:
                raise type(error)(f"step {i + 1} ({kind.name}): {error}") from None


def compress(
    model: Model,
    recipe: Recipe,
    *,
    calibration: Sequence[Grey] | None = None,
    size: tuple[int, int] = (640, 480),
    losses: Losses | None = None,
    finetune: Finetune | None = None,
    parent: str = "",
    report: Callable[[int, str], None] = lambda step, name: None,
) -> Model:
    """A new model, made from another one by a recipe; the other one stays as it is.

    Everything that can be seen to be wrong is an error before the first step works.

    Args:
        calibration: photographs (H, W) grey uint8, for the steps that need to see
            activations or matches.
        size: (width, height) at which they are looked at, multiples of 8.
        losses: for importance by "taylor", instead of `importance.probe_losses`.
        finetune: does the steps "finetune", see `steps.Finetune`.
        parent: hash of the model's artifact, for the provenance.
        report: called with the number of a step, from 1, and its name, before it works.

    Raises:
        ConfigError: the recipe does not fit the model. UsageError: it is in an order that cannot
            be, or images or a way to fine-tune are missing.
    """
    if any(side < 8 or side % 8 for side in size):
        raise UsageError(f"size is a width and a height that are multiples of 8, not {size}")
    recipe.check(model.architecture, bool(model.quantization))
    means = Means(
        inputs=_Inputs(calibration, size),
        losses=losses,
        finetune=finetune,
        start=model,
        photographs=tuple(calibration or ()),
        size=size,
    )
    _check_means(recipe, means, calibration)
    provenance = replace(model.provenance, parent=parent or model.provenance.parent)
    made = replace(model, provenance=provenance)
    original: Model | None = None
    for i, config in enumerate(recipe.steps):
        kind = kind_of(config)
        report(i + 1, kind.name)
        # A step sees what was done before it.
        before = replace(made, provenance=provenance)
        if isinstance(config, LinearConfig) and not before.quantization:
            original = folded(before)
        made = kind.run(before, config, replace(means, original=original))
        steps = (*provenance.recipe, _plain_step(config))
        if isinstance(config, FinetuneConfig):
            original = None
            steps = _told(made, provenance.recipe) or steps
        provenance = replace(provenance, recipe=steps)
    return replace(made, provenance=provenance)


def _told(trained: Model, before: tuple[Any, ...]) -> tuple[Any, ...]:
    """The steps that a fine-tuned model tells of, if it went on from those before: more is known
    of its training than was asked for."""
    steps = trained.provenance.recipe
    return steps if len(steps) > len(before) and steps[: len(before)] == before else ()


class _Inputs:
    """What each model on the way is calibrated on; prepared when it is asked for."""

    def __init__(self, images: Sequence[Grey] | None, size: tuple[int, int]) -> None:
        self._images, self._size = images, size

    def __call__(self, model: Model) -> Inputs | None:
        if not self._images:
            return None
        return prepare_inputs(model, self._images, self._size)


def _check_means(recipe: Recipe, means: Means, calibration: Sequence[Grey] | None) -> None:
    for i, config in enumerate(recipe.steps):
        kind = kind_of(config)
        if kind.images(config, means) and not calibration:
            raise UsageError(
                f"step {i + 1} ({kind.name}) needs images for calibration: "
                f"`calibration` is {'empty' if calibration is not None else 'missing'}"
            )
        if isinstance(config, FinetuneConfig) and means.finetune is None:
            raise UsageError(
                f"step {i + 1} (finetune) needs training photographs: pass `train_images` and "
                "`runs`, or `finetune` in Python"
            )


def _check_same(wanted: ArchitectureConfig | None, given: ArchitectureConfig) -> None:
    if wanted is None or wanted == given:
        return
    for part in ("extractor", "matcher"):
        one, other = getattr(wanted, part), getattr(given, part)
        if one is None or other is None:
            if one is not other:
                raise ConfigError(
                    f"this recipe is for another architecture: the {part} is in "
                    f"{'the model' if one is None else 'the recipe'} only"
                )
            continue
        for field in dataclasses.fields(one):
            if getattr(one, field.name) != getattr(other, field.name):
                raise ConfigError(
                    f"this recipe is for another architecture: its {part}.{field.name} is "
                    f"{getattr(one, field.name)}, the model's {getattr(other, field.name)}"
                )


def _read_step(data: Any, where: str) -> Any:
    if not isinstance(data, dict) or not isinstance(data.get("step"), str):
        raise ConfigError(f'{where}: a step is a table with its name, step = "prune"')
    values = dict(data)
    name = values.pop("step")
    kind = KINDS.get(name)
    if kind is None:
        raise ConfigError(f"{where}: no step {name!r}; there are {', '.join(KINDS)}")
    version = values.pop("version", kind.version)
    if version != kind.version:
        raise ConfigError(
            f"{where}: version {version!r} of {name!r}; this featherglue knows {kind.version}"
        )
    return from_dict(kind.config, values, f"{where} ({name})")


def _plain_step(config: Any) -> dict[str, Any]:
    kind = kind_of(config)
    return {"step": kind.name, "version": kind.version, **_without_none(to_dict(config))}


def _without_none(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}
