"""docs/compression.md and its figures, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from featherglue.evaluation.plots import save_figure
from featherglue.io.tables import format_table
from featherglue.models.model import Model
from featherglue.sensitivity.figures import costs_figure, curves_figure, histogram_figure
from featherglue.sensitivity.results import Scan, value_of
from study.experiments import DENSE, EXPERIMENTS, StudyRow
from study.journal import said

Row = Mapping[str, Any]
_LEVELS = {
    "prune": ("4", "share of the layer's weights that are 0"),
    "codebook": ("5", "bits of a weight"),
}
_GROWN = (
    "The dense model grew from small ones (docs/training.md): some of what is taken away here it "
    "may never have come to use. One that was trained from scratch may be harder to compress.\n"
)
_EARLIER_SCAN = (
    "The {scores} scores of the sensitivity scan are of an earlier run of this command, with "
    "`--scan-minutes` above 0.\n"
)


def render(results: Mapping[str, Any], pictures: Mapping[str, str], command: str) -> str:
    """The page.

    Args:
        results: what results/compression.json holds. pictures: caption → path from the page.
    """
    rows = results["rows"]
    how = _finetuning(rows)
    machine, scan = results["machine"], results["scan"]
    parts = [
        "# Compression\n",
        "Everything on this page comes from one command, which goes on where it was stopped:\n",
        f"```\n{command}\n```\n",
        f"{results['pairs']} pairs of the val suite; a pair that fails counts with an infinite "
        f"error, and precision and recall 0. {how} The study's numbers are those of its own "
        "models, data and evaluation, which left out pairs with fewer than 12 matches: compare "
        "what each loses against its own dense model.\n",
        *([_GROWN] if results.get("grown") else []),
        *([_EARLIER_SCAN.format(**scan)] if scan["scores"] and scan["earlier"] else []),
        "## Table 1: accuracy, before → after fine-tuning\n",
        "*Threshold*: of matches, at the end; that of the dense model, or, where it has a star, "
        "chosen anew by a step of the recipe, on views of the photographs, so that the larger of "
        "the losses of precision and of recall is smallest.\n",
        _accuracy_table(rows),
        "\n## Table 2: size and speed\n",
        "*Study* counts the bits of what is not 0, as the study does; *on disk* are the files of "
        f"the artifact. Times are medians of a {'×'.join(map(str, results['size']))} frame and its "
        "matches with the frame before, all models taking turns, threads: "
        f"{results['threads']}, on {machine['processor']}.\n",
        _size_table(rows),
        *(f"\n![{caption}]({path})\n\n*{caption}*" for caption, path in pictures.items()),
        *_explanations(results.get("explanations", {})),
        _times(results["seconds"]),
    ]
    return "\n".join(parts) + "\n"


def _finetuning(rows: Sequence[Row]) -> str:
    """How the models were fine-tuned, those that were not by name."""
    tuned = [row for row in rows if row["after"] is not None and "finetuning" in row]
    left = [row["title"] for row in rows if row["after"] is None]
    ways = dict.fromkeys(_time(row["finetuning"]) for row in tuned)
    said_of = ""
    if tuned:
        said_of = f"Fine-tuned by distillation from the dense model, {' or '.join(ways)} a model. "
    if left and not tuned:
        said_of = "**Not fine-tuned** (`--minutes 0`): all of them."
    elif left:
        said_of += f"**Not fine-tuned** (`--minutes 0`): {', '.join(left)}. "
    return said_of.rstrip()


def _time(how: Row) -> str:
    if how["steps"]:
        limit = f", stopped after {2 * how['minutes']:g} minutes" if how["minutes"] else ""
        return f"{how['steps']} steps on {how['device']}{limit}"
    return f"{how['minutes']:g} minutes on {how['device']}"


def _accuracy_table(rows: Sequence[Row]) -> str:
    head = ["", "AUC@5", "AUC@10", "AUC@25", "precision", "recall", "steps", "threshold"]
    table = []
    for row in rows:
        before = [f"{value:.1f}" for value in _numbers(row["before"])]
        cells = [*before, ""]
        threshold = f"{row['match_threshold']:.2f}{' *' if row['threshold_chosen'] else ''}"
        if row["name"] != DENSE.name:
            after = ["–"] * len(before)
            if row["after"] is not None:
                after = [f"{value:.1f}" for value in _numbers(row["after"])]
            cells = [f"{old} → {new}" for old, new in zip(before, after, strict=True)]
            cells.append(" + ".join(map(str, row["finetuning"].get("taken", []))) or "–")
        table.append([row["title"], *cells, threshold])
        study = _study_of(row["name"])
        if study is not None:
            values = (*study.auc, study.precision, study.recall)
            table.append(["– the study's", *(f"{value:.1f}" for value in values), "", ""])
    return format_table(head, table)


def _numbers(measured: Row) -> list[float]:
    areas = [measured["auc"][threshold] for threshold in ("5", "10", "25")]
    return [*areas, measured["precision"], measured["recall"]]


def _size_table(rows: Sequence[Row]) -> str:
    head = [
        "",
        "parameters, M",
        "not 0, M",
        "GMACs",
        "study, MiB",
        "on disk, MiB",
        "× smaller on disk",
        "ms",
        "study's: M",
        "MiB",
    ]
    table = []
    for row in rows:
        study = _study_of(row["name"])
        table.append(
            [
                row["title"],
                f"{row['parameters'] / 1e6:.2f}",
                f"{row['nonzero'] / 1e6:.2f}",
                f"{row['macs'] / 1e9:.2f}",
                f"{row['study_bytes'] / 2**20:.2f}",
                f"{row['bytes_on_disk'] / 2**20:.2f}",
                f"{row['disk_ratio']:.1f}",
                f"{row['latency_ms']:.1f}" if row["latency_ms"] is not None else "–",
                f"{study.parameters:.2f}" if study else "",
                f"{study.mib:.2f}" if study else "",
            ]
        )
    return format_table(head, table)


def _study_of(name: str) -> StudyRow | None:
    return next((e.study for e in (DENSE, *EXPERIMENTS) if e.name == name), None)


def _explanations(found: Mapping[str, Sequence[Row]]) -> list[str]:
    texts = {
        "linear": (
            "Why linear quantization can give nothing",
            "Weights and activations in 8 bits, nothing fine-tuned. The first rows are ways to go "
            "wrong, the later ones leave out one carelessness after the other, down to "
            "what `featherglue quantize` does:",
        ),
        "channels": (
            "Why channel pruning collapses",
            "A fifth of SuperPoint's channels, as in the study, without fine-tuning. Where the "
            "inputs of the next layer are not those of the channels that stayed, nothing is left; "
            "where they are, what remains is what fine-tuning starts from:",
        ),
    }
    parts = []
    for key, rows in found.items():
        title, text = texts[key]
        names = [name for name in rows[0] if name != "title"]
        head = ["", *(name.replace("auc", "AUC@") for name in names)]
        table = [[row["title"], *(f"{row[name]:.1f}" for name in names)] for row in rows]
        parts.append(f"\n## {title}\n\n{text}\n\n{format_table(head, table)}")
    return parts


def _times(seconds: Mapping[str, float]) -> str:
    rows = [[name, said(spent)] for name, spent in seconds.items()]
    return f"\n## How long it took\n\n{format_table(['', 'time'], rows)}"


def draw(
    rows: Sequence[Row], found: Scan | None, dense: Model, layers: Sequence[str], folder: Path
) -> dict[str, str]:
    """Draw the figures; their paths, from the folder above, by caption.

    Args:
        found: a sensitivity scan, if there is one. layers: for histograms.
    """
    figures: dict[str, tuple[str, Figure]] = {
        "size": ("AUC@5 against bytes on disk; hollow before fine-tuning", _size_figure(rows))
    }
    for what, (number, level) in _LEVELS.items():
        if found is None or not found.curves(what):  # type: ignore[arg-type]
            continue
        order, base = found.order(what), value_of(found.base, "")  # type: ignore[arg-type]
        score = "mean of AUC, precision and recall, %"
        curves, costs = found.curves(what), found.costs(what)  # type: ignore[arg-type]
        scored = found.settings.get("score", {})
        refined = "refined" if scored.get("refine") else "not refined"
        of = f"by {scored.get('pairs', '?')} pairs, {refined}; what is gained by it is chance"
        figures[f"figure-{number}"] = (
            f"Figure {number}: what each layer minds, the dearest named, {of}",
            curves_figure(curves, order, base, level, score),
        )
        figures[f"figure-{number}-layers"] = (
            f"Figure {number}, all layers: points lost, {of}",
            costs_figure(costs, order, level, "the mean score"),
        )
    arrays = dense.to_artifact().arrays
    weights = {name: arrays[f"{name}.weight"] for name in layers}
    figures["figure-6"] = "Figure 6: weights of the dense model", histogram_figure(weights)
    pictures = {}
    for name, (caption, figure) in figures.items():
        save_figure(figure, folder / f"compression-{name}.png")
        pictures[caption] = f"{folder.name}/compression-{name}.png"
    return pictures


def _size_figure(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
        mib, colour = row["bytes_on_disk"] / 2**20, f"C{i % 10}"
        marker = "os^"[i // 10]
        axes.plot([mib], [row["before"]["auc"]["5"]], marker, color=colour, fillstyle="none")
        if row["after"] is not None:
            axes.plot([mib], [row["after"]["auc"]["5"]], marker, color=colour, label=row["title"])
        else:
            axes.plot([], [], marker, color=colour, fillstyle="none", label=row["title"])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("on disk, MiB")
    axes.set_ylabel("AUC@5, %")
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, fontsize=7, loc="outside right upper")
    return figure
