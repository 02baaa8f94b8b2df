"""Recipes that continue from a model that has been made before.

A recipe whose first steps are those of another one starts from the fine-tuned model of the latter,
so that it is fine-tuned only once. Fine-tuning starts from the model before fine-tuning, so that it
is calibrated only once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherglue.artifact.format import Artifact, load_artifact
from featherglue.compression.quantization.linear import LinearConfig
from featherglue.compression.recipe import Recipe
from featherglue.compression.step_types import FinetuneConfig
from studies.compression.experiments import EXPERIMENTS, Experiment


@dataclass(frozen=True, kw_only=True)
class Start:
    """The finished model from which a recipe continues.

    Attributes:
        folder: folder of the model.
        num_steps: number of steps of the recipe that the model has gone through.
        finetuning: settings of its fine-tuning, if it was made by an earlier run.
        origin: when and where it was fine-tuned; see `journal.current_origin`.
    """

    folder: Path
    num_steps: int
    finetuning: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any]


def first_part(recipe: Recipe, recipes: Path) -> tuple[Experiment, int] | None:
    """Return an experiment with the same first steps and the same fine-tuning, or None.

    Args:
        recipe: recipe of another experiment.
        recipes: folder of the recipes.

    Returns:
        The experiment, and the number of its steps.
    """
    for experiment in EXPERIMENTS:
        path = recipes / f"{experiment.name}.toml"
        if not path.is_file():
            continue
        first = Recipe.load(path).steps
        tuned = any(isinstance(step, FinetuneConfig) for step in first)
        left = recipe.steps[len(first) :]
        if not (tuned and left and recipe.steps[: len(first)] == first):
            continue
        if not any(isinstance(step, FinetuneConfig) for step in left):
            return experiment, len(first)
    return None


def num_steps_before_tuning(recipe: Recipe) -> int:
    """Return the number of steps whose result is the model before fine-tuning, or 0.

    It is 0 if other steps follow the first fine-tuning, or if fine-tuning needs more than that
    model: after linear quantization, the weights before they were rounded.
    """
    tunes = [isinstance(step, FinetuneConfig) for step in recipe.steps]
    if True not in tunes:
        return 0
    count = tunes.index(True)
    rounded = any(isinstance(step, LinearConfig) for step in recipe.steps[:count])
    return 0 if rounded or not all(tunes[count:]) else count


def is_made_from(artifact: Artifact, dense: Artifact) -> bool:
    """Return whether a model was made from a dense model, directly or in several stages."""
    made, source = artifact.provenance, dense.provenance
    history = source.recipe
    return made.parent == dense.hash or bool(history and made.recipe[: len(history)] == history)


def finished_model(
    row: Mapping[str, Any], folder: Path, dense: Artifact, num_steps: int
) -> Start | None:
    """Return a finished model of an earlier run, or None if it is not stored.

    Args:
        row: row of the model in the stored results; {} if there is none.
        folder: folder of the model.
        dense: the dense model.
        num_steps: as in `Start`.
    """
    if not row.get("after") or not folder.is_dir():
        return None
    if not is_made_from(load_artifact(folder), dense):
        return None
    settings = {name: row["finetuning"][name] for name in ("minutes", "steps", "device")}
    return Start(
        folder=folder,
        num_steps=num_steps,
        finetuning=settings,
        origin=row["origin"].get("tuning", {}),
    )
