"""Which models are made, by which recipes, and what the study measured of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featherglue.compression.pruning.fine_grained import PruneConfig, layer_ratios
from featherglue.compression.recipe import Recipe
from featherglue.config import ArchitectureConfig
from featherglue.errors import UsageError
from featherglue.sensitivity.results import Scan
from featherglue.sensitivity.scan import ratios_for


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """A row of the study's tables: AUC in percent by threshold in px, precision and recall in
    percent, parameters in millions, size in MiB."""

    auc: tuple[float, float, float]
    precision: float
    recall: float
    parameters: float
    mib: float


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A model to make.

    Attributes:
        name: of its recipe's file, without the suffix. title: in tables.
        study: the row of the study's model of that kind, or of none.
    """

    name: str
    title: str
    study: StudyRow | None = None


DENSE = Experiment(
    name="dense",
    title="dense",
    study=StudyRow(
        auc=(32.02, 49.09, 68.94), precision=78.64, recall=91.67, parameters=13.32, mib=50.83
    ),
)
EXPERIMENTS = (
    Experiment(
        name="fine-grained-superglue",
        title="fine-grained, SuperGlue only",
        study=StudyRow(
            auc=(28.77, 48.92, 71.04), precision=77.07, recall=85.95, parameters=2.63, mib=10.04
        ),
    ),
    Experiment(
        name="fine-grained-both",
        title="fine-grained, both",
        study=StudyRow(
            auc=(33.19, 50.71, 70.75), precision=80.34, recall=90.67, parameters=4.89, mib=18.64
        ),
    ),
    Experiment(
        name="channel-fine-grained",
        title="channel + fine-grained",
        study=StudyRow(
            auc=(8.28, 20.99, 42.20), precision=47.11, recall=62.60, parameters=7.19, mib=27.42
        ),
    ),
    Experiment(name="linear-8", title="linear, 8 bits, weights and activations"),
    *(Experiment(name=f"kmeans-{bits}", title=f"k-means, {bits} bits") for bits in (8, 6, 5, 4)),
    Experiment(name="prune-kmeans-huffman", title="pruned + k-means 4 bits + Huffman"),
    Experiment(name="macs-25", title="structured, 25 % of the MACs"),
    Experiment(name="macs-10", title="structured, 10 % of the MACs"),
)


def choose(names: Sequence[str]) -> list[Experiment]:
    """The experiments of these names, in order; all for none. Raises UsageError for others."""
    known = [experiment.name for experiment in EXPERIMENTS]
    for name in names:
        if name not in known:
            raise UsageError(f"no experiment {name!r}; there are {', '.join(known)}")
    return [e for e in EXPERIMENTS if not names or e.name in names]


def load_recipe(
    folder: Path, experiment: Experiment, architecture: ArchitectureConfig, found: Scan | None
) -> Recipe:
    """The recipe of an experiment for a model; whether it can be followed is not checked.

    Args:
        found: a sensitivity scan, by which the ratio of a pruning step is shared out among its
            layers so that it costs least; None gives all layers the same.

    Raises:
        ConfigError: as `Recipe.load`, or a share that the scan does not reach. UsageError: the scan
            lacks layers.
    """
    recipe = Recipe.load(folder / f"{experiment.name}.toml")
    if found is not None:
        steps = tuple(_shared_out(step, found, architecture) for step in recipe.steps)
        recipe = Recipe(steps=steps, architecture=recipe.architecture)
    return recipe


def _shared_out(step: Any, found: Scan, architecture: ArchitectureConfig) -> Any:
    """A pruning step with a ratio for each layer, of the same share in all."""
    if not isinstance(step, PruneConfig) or step.scope != "layer" or step.pattern:
        return step
    chosen = list(layer_ratios(architecture, step))
    rows = tuple(row for row in found.rows if row.change.layer in ("", *chosen))
    ratios = ratios_for(Scan(rows=rows, settings=found.settings), architecture, step.ratio)
    if set(ratios) != set(chosen):
        missing = sorted(set(chosen) - set(ratios))
        raise UsageError(f"the scan has not reached {missing[0]}; let it go on, or leave it out")
    return replace(step, ratios=ratios)
