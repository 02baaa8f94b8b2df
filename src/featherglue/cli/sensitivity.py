"""`featherglue sensitivity`: what each layer minds when it is pruned or quantized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from featherglue.artifact.registry import find_model
from featherglue.cli.common import (
    STANDARD_OUTPUT,
    JsonFile,
    console,
    error_console,
    save_json,
)
from featherglue.cli.compress import Exclude, Include, ModelArgument
from featherglue.errors import MissingExtraError, UsageError
from featherglue.evaluation.homography_suite import HomographyConfig, HomographySuite
from featherglue.io.tables import format_table

if TYPE_CHECKING:
    from featherglue.models.model import Model
    from featherglue.sensitivity.results import Scan, What
    from featherglue.sensitivity.scan import ScanConfig
    from featherglue.sensitivity.scoring import HomographyScorer, ScoringConfig

_METRICS = ("auc5", "auc10", "auc25", "precision", "recall")
_SCORES = {"precision": "precision, %", "recall": "recall, %", "": "mean of the scores, %"}


def sensitivity(
    model: ModelArgument,
    suite: Annotated[Path, typer.Option("--suite", metavar="DIR", help="Folder of the images.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the scan; a stopped one goes on.")
    ],
    pair_file: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Lines `image h00 … h22`, for 640×480."),
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Of the suite, drawn.")] = 32,
    what: Annotated[
        str, typer.Option("--what", help="prune, codebook (k-means) or linear: what is tried.")
    ] = "prune",
    ratios: Annotated[
        str, typer.Option("--ratios", metavar="R[,R…]", help="To prune; 0.1 to 0.9 and 0.95.")
    ] = "",
    bits: Annotated[
        str, typer.Option("--bits", metavar="N[,N…]", help="Of weights; 2 to 8, linear 4 to 8.")
    ] = "",
    include: Include = None,
    exclude: Exclude = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Stop after this time; run again to go on.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option("--metric", help="Score that orders and is drawn: auc10, …; their mean."),
    ] = "",
    histograms: Annotated[
        list[str] | None,
        typer.Option("--histograms", metavar="GLOB", help="Also draw these layers' weights."),
    ] = None,
    refine: Annotated[bool, typer.Option("--refine", help="Refine matches; slower.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the pairs that are drawn.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Prune or quantize every layer alone, by degrees, and see what that costs.

    Writes scan.csv (see `ratios_for` for what to do with it), the curves, and all layers ordered
    by what they cost.
    """
    try:
        from featherglue.models.model import Model
        from featherglue.sensitivity.scan import ScanConfig, plan, prepared
        from featherglue.sensitivity.scoring import ScoringConfig
    except ModuleNotFoundError as error:
        raise MissingExtraError("sensitivity", "train") from error
    if (ratios and what != "prune") or (bits and what == "prune"):
        raise UsageError("--ratios belong to --what prune, --bits to codebook and linear")
    if metric and metric not in _METRICS:
        raise UsageError(f"no score {metric!r}; there are {', '.join(_METRICS)}")
    import featherglue.sensitivity.figures  # noqa: F401  where it is missing, before any work

    limit = {} if minutes is None else {"minutes": minutes}
    config = ScanConfig(
        what=cast("What", what),
        levels=_numbers(ratios or bits),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        **limit,
    )
    scanned = prepared(Model.load(find_model(model)), config.what)
    planned = len(plan(scanned.architecture, config))
    chosen = _histogram_layers(scanned, histograms or [])
    listed = HomographySuite(folder=suite, pair_file=pair_file, config=HomographyConfig(seed=seed))
    scoring = ScoringConfig(pairs=pairs, seed=seed, refine=refine)
    found = _run(scanned, listed, scoring, config, output)
    pictures = draw(found, config.what, metric, output)
    pictures += _draw_histograms(scanned, chosen, output)
    _show(found, config.what, metric, planned, pictures, output, json_file)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"numbers are separated by commas, as in 0.5,0.9: {text!r}") from None


def _run(
    model: Model, suite: HomographySuite, scoring: ScoringConfig, config: ScanConfig, output: Path
) -> Scan:
    from featherglue.sensitivity.scan import scan
    from featherglue.sensitivity.scoring import HomographyScorer

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=error_console,
        disable=not error_console.is_terminal,
    ) as bar:
        task = bar.add_task("features", total=None)

        def step(done: int, total: int, text: str = "features") -> None:
            bar.update(task, description=text, completed=done, total=total)

        scorer: HomographyScorer = HomographyScorer(model, suite, scoring, step)
        return scan(
            model,
            scorer,
            output,
            config,
            about=scorer.settings(),
            progress=lambda done, total, change: step(
                done, total, f"{change.layer or 'unchanged'} {change.level:g}"
            ),
        )


def draw(found: Scan, what: What, metric: str, output: Path) -> list[Path]:
    """The curves and the ordered layers of a scan, as pictures in its folder; none without scores.

    Raises:
        MissingExtraError: matplotlib is missing; the scan's table is there all the same.
    """
    from featherglue.evaluation.plots import save_figure
    from featherglue.sensitivity.results import value_of

    curves = found.curves(what, metric)
    if not curves:
        return []
    from featherglue.sensitivity.figures import costs_figure, curves_figure

    level = "share of the layer's weights that are 0" if what == "prune" else "bits of a weight"
    score = _SCORES.get(metric, metric.replace("auc", "AUC@") + ", %")
    order, base = found.order(what, metric), value_of(found.base, metric)
    figures = {
        "curves": curves_figure(curves, order, base, level, score),
        "layers": costs_figure(found.costs(what, metric), order, level, score.rstrip(", %")),
    }
    paths = [output / f"{what}-{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def _histogram_layers(model: Model, globs: list[str]) -> list[str]:
    from featherglue.artifact.layers import layers
    from featherglue.compression.layer_selection import select_layers

    names = [layer.name for layer in layers(model.architecture)]
    return select_layers(names, [], globs, ()) if globs else []


def _draw_histograms(model: Model, names: list[str], output: Path) -> list[Path]:
    if not names:
        return []
    from featherglue.evaluation.plots import save_figure
    from featherglue.sensitivity.figures import histogram_figure

    arrays = model.to_artifact().arrays
    path = output / "histograms.png"
    save_figure(histogram_figure({name: arrays[f"{name}.weight"] for name in names}), path)
    return [path]


def _show(
    found: Scan,
    what: What,
    metric: str,
    planned: int,
    pictures: list[Path],
    output: Path,
    json_file: str | None,
) -> None:
    costs, order = found.costs(what, metric), found.order(what, metric)
    scored = sum(len(curve) for curve in costs.values())
    facts: dict[str, Any] = {
        "output": str(output),
        "base": dict(found.base),
        "planned": planned,
        "scored": scored,
        "order": order,
        "costs": {n: {f"{x:g}": y for x, y in costs[n].items()} for n in order},
        "pictures": [str(path) for path in pictures],
    }
    save_json(facts, json_file)
    if json_file == STANDARD_OUTPUT:
        return
    base = ", ".join(f"{name} {value:.1f}" for name, value in found.base.items())
    console.print(f"unchanged: {base}", markup=False)
    if order:
        levels = sorted({level for curve in costs.values() for level in curve})
        rows = [
            [name, *(f"{costs[name][x]:.1f}" if x in costs[name] else "" for x in levels)]
            for name in order
        ]
        head = [f"{metric or 'mean'}, points lost", *(f"{x:g}" for x in levels)]
        console.print(format_table(head, rows), markup=False)
    console.print(f"{scored} scores, of {planned} asked for, in {output}", markup=False)
