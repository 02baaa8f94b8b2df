"""Recipes: the steps of compressing a model, as a TOML file.

    [[steps]]
    step = "prune"
    ratio = 0.9
    include = ["matcher.*"]

    [[steps]]
    step = "codebook"
    bits = 4

The keys of a step are the fields of its configuration; see `steps.STEP_KINDS`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featherglue.compression.step_types import ModelState
from featherglue.compression.steps import STEP_KINDS, kind_of, step_record
from featherglue.config import ArchitectureConfig, from_dict, to_dict
from featherglue.errors import ConfigError, UsageError
from featherglue.io.files import atomic_write
from featherglue.io.toml import read_toml, toml_lines


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The steps of compressing a model.

    Attributes:
        steps: configurations of the steps, in order; see `steps.STEP_KINDS`.
        architecture: the architecture that the recipe is made for, or None for any architecture
            that has the named layers.

    Raises:
        ConfigError: there is no step, or a step has an unknown kind.
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
            ConfigError: the file cannot be read, or a step, version or key is unknown.
        """
        data = read_toml(path)
        try:
            return Recipe.from_dict(data)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Recipe:
        """Return the recipe of plain values from `to_dict`. Raises ConfigError like `load`."""
        unknown = sorted(set(data) - {"steps", "architecture"})
        if unknown:
            raise ConfigError(f"unknown key {unknown[0]!r}; the keys are steps and architecture")
        steps = data.get("steps", [])
        if not isinstance(steps, list):
            raise ConfigError("steps must be a list of tables, [[steps]]")
        architecture = None
        if "architecture" in data:
            architecture = from_dict(ArchitectureConfig, data["architecture"], "architecture")
        configs = tuple(_read_step(step, f"steps[{i}]") for i, step in enumerate(steps))
        return Recipe(steps=configs, architecture=architecture)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the name, the version and all settings of every step."""
        data: dict[str, Any] = {"steps": [step_record(config) for config in self.steps]}
        if self.architecture is not None:
            architecture = to_dict(self.architecture)
            data["architecture"] = {k: v for k, v in architecture.items() if v is not None}
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a TOML file atomically. Raises OutputError."""
        data = self.to_dict()
        lines: list[str] = []
        if "architecture" in data:
            lines += ["[architecture]", *toml_lines(data["architecture"]), ""]
        for step in data["steps"]:
            lines += ["[[steps]]", *toml_lines(step), ""]
        with atomic_write(path) as file:
            file.write("\n".join(lines).encode())

    def check(self, architecture: ArchitectureConfig, quantized: bool = False) -> None:
        """Check that every step can be performed after the preceding ones.

        Args:
            architecture: architecture of the model.
            quantized: whether any part of the model is quantized.

        Raises:
            ConfigError: a step does not fit the model. The message names the step.
            UsageError: the steps are in an impossible order. The message names the step.
        """
        _check_architecture(self.architecture, architecture)
        state = ModelState(architecture=architecture, quantized=quantized)
        for i, config in enumerate(self.steps):
            kind = kind_of(config)
            try:
                state = kind.check(state, config)
            except (ConfigError, UsageError) as error:
                raise type(error)(f"step {i + 1} ({kind.name}): {error}") from None


def _check_architecture(expected: ArchitectureConfig | None, actual: ArchitectureConfig) -> None:
    if expected is None or expected == actual:
        return
    for part in ("extractor", "matcher"):
        ours, theirs = getattr(expected, part), getattr(actual, part)
        if ours is None or theirs is None:
            if ours is not theirs:
                owner = "the model" if ours is None else "the recipe"
                raise ConfigError(
                    f"this recipe is for another architecture: the {part} is only in {owner}"
                )
            continue
        for field in dataclasses.fields(ours):
            if getattr(ours, field.name) != getattr(theirs, field.name):
                raise ConfigError(
                    f"this recipe is for another architecture: its {part}.{field.name} is "
                    f"{getattr(ours, field.name)}, that of the model is "
                    f"{getattr(theirs, field.name)}"
                )


def _read_step(data: Any, where: str) -> Any:
    if not isinstance(data, dict) or not isinstance(data.get("step"), str):
        raise ConfigError(f'{where}: a step is a table with a name, such as step = "prune"')
    values = dict(data)
    name = values.pop("step")
    kind = STEP_KINDS.get(name)
    if kind is None:
        raise ConfigError(f"{where}: no step {name!r}; the steps are {', '.join(STEP_KINDS)}")
    version = values.pop("version", None)
    if kind.renamed and version in (None, *range(1, kind.version)):
        values = {kind.renamed.get(key, key): value for key, value in values.items()}
    elif version not in (None, kind.version):
        raise ConfigError(
            f"{where}: version {version!r} of {name!r} is not supported, only {kind.version}"
        )
    return from_dict(kind.config, values, f"{where} ({name})")
