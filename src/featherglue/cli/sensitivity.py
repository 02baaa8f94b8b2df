"""`featherglue sensitivity`: how much accuracy each layer loses when it is compressed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherglue.artifact.registry import find_model
from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, Model, console, save_json
from featherglue.cli.compression_options import Exclude, Include
from featherglue.cli.progress import ProgressDisplay
from featherglue.cli.sensitivity_options import (
    Bits,
    Histograms,
    Images,
    Method,
    Metric,
    Minutes,
    NumPairs,
    Output,
    PairFile,
    Ratios,
    Refine,
    Seed,
)
from featherglue.errors import MissingExtraError, UsageError
from featherglue.evaluation.homography_suite import HomographyConfig, HomographySuite
from featherglue.io.tables import format_table

if TYPE_CHECKING:
    from featherglue.models.model import Model as Network
    from featherglue.sensitivity.results import Scan
    from featherglue.sensitivity.scan import ScanConfig
    from featherglue.sensitivity.scoring import ScoringConfig


def sensitivity(
    model: Model,
    images: Images,
    output: Output,
    pair_file: PairFile = None,
    num_pairs: NumPairs = 32,
    method: Method = "prune",
    ratios: Ratios = "",
    bits: Bits = "",
    include: Include = None,
    exclude: Exclude = None,
    minutes: Minutes = None,
    metric: Metric = "mean",
    histograms: Histograms = None,
    refine: Refine = False,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Prune or quantize each layer at several levels, and measure the loss of accuracy.

    The output folder gets the table scan.csv and figures.
    """
    try:
        from featherglue.models.model import Model as Network
        from featherglue.sensitivity.scan import ScanConfig, plan, prepare_model
        from featherglue.sensitivity.scoring import ScoringConfig
    except ModuleNotFoundError as error:
        raise MissingExtraError("sensitivity", "train") from error
    from featherglue.sensitivity.figures import draw_scan  # raises before any work is done

    if ratios and method != "prune":
        raise UsageError("`ratios` requires method=prune")
    if bits and method == "prune":
        raise UsageError("`bits` requires method=codebook or method=linear")
    config = ScanConfig(
        method=method,
        levels=_numbers(ratios or bits),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        minutes=minutes,
    )
    scanned = prepare_model(Network.load(find_model(model)), config.method)
    planned = len(plan(scanned.architecture, config))
    layers = _histogram_layers(scanned, histograms or [])
    suite = HomographySuite(folder=images, pair_file=pair_file, config=HomographyConfig(seed=seed))
    scoring = ScoringConfig(num_pairs=num_pairs, seed=seed, refine=refine)
    found = _scan(scanned, suite, scoring, config, output)
    score = "" if metric == "mean" else metric
    pictures = draw_scan(found, config.method, score, output)
    pictures += _draw_histograms(scanned, layers, output)
    facts = _facts(found, config, score) | {
        "output": str(output),
        "planned": planned,
        "pictures": [str(path) for path in pictures],
    }
    save_json(facts, json_file)
    if json_file != STANDARD_OUTPUT:
        _print_facts(facts, metric)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"numbers must be separated by commas, as in 0.5,0.9: {text!r}") from None


def _scan(
    model: Network,
    suite: HomographySuite,
    scoring: ScoringConfig,
    config: ScanConfig,
    output: Path,
) -> Scan:
    from featherglue.sensitivity.scan import scan
    from featherglue.sensitivity.scoring import HomographyScorer

    with ProgressDisplay("extracting features", unit="pairs") as progress:
        scorer = HomographyScorer(
            model, suite, scoring, lambda done, total: progress.update(done, total=total)
        )
    with ProgressDisplay("scanning", unit="scores") as progress:
        return scan(
            model,
            scorer,
            output,
            config,
            about=scorer.settings(),
            progress=lambda done, total, change: progress.update(
                done, f"{change.layer or 'unchanged'} {change.level:g}", total=total
            ),
        )


def _histogram_layers(model: Network, globs: list[str]) -> list[str]:
    from featherglue.artifact.layers import layers
    from featherglue.compression.layer_selection import select_layers

    names = [layer.name for layer in layers(model.architecture)]
    return select_layers(names, [], globs, ()) if globs else []


def _draw_histograms(model: Network, names: list[str], output: Path) -> list[Path]:
    if not names:
        return []
    from featherglue.evaluation.plots import save_figure
    from featherglue.sensitivity.figures import histogram_figure

    arrays = model.to_artifact().arrays
    path = output / "histograms.png"
    save_figure(histogram_figure({name: arrays[f"{name}.weight"] for name in names}), path)
    return [path]


def _facts(found: Scan, config: ScanConfig, score: str) -> dict[str, Any]:
    costs, order = found.costs(config.method, score), found.order(config.method, score)
    return {
        "base": dict(found.base),
        "scored": sum(len(curve) for curve in costs.values()),
        "order": order,
        "costs": {n: {f"{level:g}": loss for level, loss in costs[n].items()} for n in order},
    }


def _print_facts(facts: dict[str, Any], metric: str) -> None:
    base = ", ".join(f"{name} {value:.1f}" for name, value in facts["base"].items())
    console.print(f"unchanged model: {base}", markup=False)
    costs = facts["costs"]
    if facts["order"]:
        levels = sorted({level for curve in costs.values() for level in curve}, key=float)
        rows = [
            [name, *(f"{costs[name][x]:.1f}" if x in costs[name] else "" for x in levels)]
            for name in facts["order"]
        ]
        console.print(format_table([f"loss of {metric}, points", *levels], rows), markup=False)
    console.print(
        f"{facts['scored']} of {facts['planned']} scores are in {facts['output']}", markup=False
    )
