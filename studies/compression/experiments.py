"""The experiments of the study: recipes, titles, and the numbers that the study reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featherglue.compression.match_threshold import ThresholdConfig
from featherglue.compression.pruning.fine_grained import PruneConfig, layer_ratios
from featherglue.compression.quantization.linear import LinearConfig
from featherglue.compression.recipe import Recipe
from featherglue.compression.steps import kind_of
from featherglue.config import ArchitectureConfig
from featherglue.errors import UsageError
from featherglue.sensitivity.results import Scan
from featherglue.sensitivity.scan import ratios_for


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """A row of the tables of the reference study.

    Attributes:
        auc: AUC of the corner error at 5, 10 and 25 px, in percent.
        precision: precision in percent.
        recall: recall in percent.
        parameters: number of parameters in millions.
        mib: size in MiB, counted in the way of the study.
    """

    auc: tuple[float, float, float]
    precision: float
    recall: float
    parameters: float
    mib: float


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A compressed model.

    Attributes:
        name: name of the recipe file without its suffix.
        title: title in tables.
        study: row of the corresponding model of the study, if there is one.
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
    Experiment(name="macs-10-linear-8", title="structured, 10 % of the MACs, in 8 bits"),
)


def select_experiments(names: Sequence[str]) -> list[Experiment]:
    """Return the named experiments in order, or all. Raises UsageError for unknown names."""
    known = [experiment.name for experiment in EXPERIMENTS]
    for name in names:
        if name not in known:
            raise UsageError(f"no experiment {name!r}; the experiments are {', '.join(known)}")
    return [e for e in EXPERIMENTS if not names or e.name in names]


def load_recipe(
    folder: Path, experiment: Experiment, architecture: ArchitectureConfig, found: Scan | None
) -> Recipe:
    """Return the recipe of an experiment, without checking it against the model.

    Args:
        folder: folder of the recipes.
        experiment: the experiment.
        architecture: architecture of the model.
        found: a sensitivity scan, from which the ratio of each layer is allocated so that the total
            loss is smallest. None prunes all layers of a step by the same ratio.

    Raises:
        ConfigError: the recipe is invalid, or the scan does not reach a ratio.
        UsageError: the scan lacks a layer.
    """
    recipe = Recipe.load(folder / f"{experiment.name}.toml")
    if found is not None:
        steps = tuple(_allocated(step, found, architecture) for step in recipe.steps)
        recipe = Recipe(steps=steps, architecture=recipe.architecture)
    return recipe


def calibrated_parts(folder: Path, row: Mapping[str, Any]) -> list[str]:
    """Return what calibration photographs determine: "importance", "ranges" and "threshold".

    Args:
        folder: folder of the recipes.
        row: row of a model in the results.
    """
    path = folder / f"{row['name']}.toml"
    found = ["threshold"] if row["threshold_chosen"] else []
    for step in Recipe.load(path).steps if path.is_file() else ():
        if isinstance(step, LinearConfig):
            found.append("ranges")
        elif not isinstance(step, ThresholdConfig) and kind_of(step).uses_images(step):
            found.append("importance")
    return sorted(set(found))


def _allocated(step: Any, found: Scan, architecture: ArchitectureConfig) -> Any:
    """Return a pruning step with a ratio for each layer and the same total number of zeros."""
    if not isinstance(step, PruneConfig) or step.scope != "layer" or step.pattern:
        return step
    selected = list(layer_ratios(architecture, step))
    rows = tuple(row for row in found.rows if row.change.layer in ("", *selected))
    ratios = ratios_for(Scan(rows=rows, settings=found.settings), architecture, step.ratio)
    if set(ratios) != set(selected):
        missing = sorted(set(selected) - set(ratios))
        raise UsageError(
            f"the scan lacks the layer {missing[0]}; continue it, or do not allocate ratios"
        )
    return replace(step, ratios=ratios)
