"""The page docs/compression.md, rendered from the results of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from featherglue.errors import counted
from featherglue.io.markdown import wrap_paragraphs
from studies.compression import page_answers, page_tables, page_text
from studies.compression.experiments import DENSE
from studies.compression.layer_figures import Losses
from studies.compression.page_tables import Row, where
from studies.compression.page_values import method_values, tuning_text, weight_values
from studies.compression.results_file import MACS_TOLERANCE
from studies.compression.sparsity_page import section
from studies.compression.timing import num_turns

_RECIPES = Path(__file__).parent / "recipes"
_SHOWN = ("prune-kmeans-huffman", "macs-10-linear-8", "macs-10")  # two of them that were measured
_CAPTIONS = {
    "size": "AUC@5 against size on disk. Hollow: before fine-tuning.",
    "figure-3": (
        "Figure 3: latency of SuperPoint (top) and SuperGlue (bottom) against the number of "
        "keypoints. SIFT and XFeat are the gray lines; their matching is that of nearest neighbors."
    ),
    "figure-4": "Figure 4: loss of each layer when it is pruned, in the order of the network.",
    "figure-4-sorted": "Figure 4, sorted: the layers that lose most when they are pruned.",
    "figure-4-curves": "Figure 4, by ratio: the layers with the largest losses.",
    "figure-5": "Figure 5: loss of each layer with k-means, in the order of the network.",
    "figure-5-sorted": "Figure 5, sorted: the layers that lose most with k-means.",
    "figure-5-curves": "Figure 5, by bits: the layers with the largest losses.",
    "figure-6": (
        "Figure 6: weights of a layer whose error grows by folding (top), of one without "
        "normalization and with a large error (middle), and of one with a small error (bottom). "
        "Dashed: the grid of 4 bits."
    ),
    "figure-6-variances": "Variances of a batch normalization, and what 8 bits make of them.",
}


def render(
    results: Row,
    pictures: Mapping[str, str],
    command: str,
    pruned: Mapping[str, Losses] | None = None,
    shared: Mapping[str, Losses] | None = None,
) -> str:
    """Return the page as Markdown.

    Args:
        results: content of results.json.
        pictures: name → path relative to the page; see `page_figures.draw`.
        command: command that reproduces the results.
        pruned: state ("unrefined", "refined") → losses of pruning by layer; see
            `layer_figures.losses`.
        shared: the same of k-means.
    """
    parts = [
        "# Compression study\n",
        *([page_text.QUICK.format(**results)] if results["quick"] else []),
        *_introduction(results, pruned or {}),
        *_accuracy(results),
        *_size_and_speed(results, pictures),
        *_methods(results, pictures),
        *_sensitivity(results, pictures, pruned or {}, shared or {}),
        *_zeros(results),
        *_recipes(results["rows"]),
        *_reproduction(results, command),
    ]
    return wrap_paragraphs("\n".join(part.rstrip("\n") + "\n" for part in parts))


def _zeros(results: Row) -> list[str]:
    """Return the section on the runtime of pruned models."""
    return [section(results["sparsity"])] if results["sparsity"] else []


def _picture(name: str, pictures: Mapping[str, str]) -> list[str]:
    if name not in pictures:
        return []
    caption = _CAPTIONS[name]
    return [f"![{caption}]({pictures[name]})", f"*{caption}*"]


def _introduction(results: Row, pruned: Mapping[str, Losses]) -> list[str]:
    rows, dense = results["rows"], results["rows"][0]
    width, height = results["size"]
    study = _study_loss("channel-fine-grained")
    text = page_text.INTRODUCTION.format(
        parameters=dense["parameters"] / 1e6,
        mib=dense["bytes_on_disk"] / 2**20,
        gmacs=dense["macs"] / 1e9,
        width=width,
        height=height,
        study_channel_loss=study,
        model=_model(results),
    )
    return [
        text,
        page_text.TERMS.format(pairs=results["pairs"]),
        *([page_text.GROWN] if results.get("grown") else []),
        "## At a glance\n",
        page_answers.summary_table(rows),
        page_text.GLANCE,
        page_answers.why_zero(results["explanations"]),
        page_answers.which_layers(pruned, results["scan"]),
        page_answers.phone(rows, results["shipped"]),
    ]


def _model(results: Row) -> str:
    name = results.get("model", DENSE.name)
    same = ", featherglue's model of the same size" if name == DENSE.name else ""
    return f"`{name}`{same}"


def _study_loss(name: str) -> float:
    row = page_tables.study_of(name)
    assert row is not None and DENSE.study is not None
    return DENSE.study.auc[0] - row.auc[0]


def _accuracy(results: Row) -> list[str]:
    rows = results["rows"]
    measured = page_tables.origins(rows, "accuracy", "measured")
    return [
        "## How much accuracy is lost?\n",
        "Table 1a: points lost relative to the dense model of the same source, after fine-tuning: "
        "ours, and in brackets the study's. RANSAC depends on the [order of the "
        "matches](experiments/accuracy-variance.md), which alone changes AUC@5 by 0.3 to 0.5 "
        "points (standard deviation). Differences of less than a point between our rows are "
        "chance: a model in 8 bits is not better than its source in 32.\n",
        page_tables.loss_table(rows),
        measured,
        "Table 1b: scores in percent, before → after fine-tuning.\n",
        page_tables.accuracy_table(rows),
        "Table 1c: how the models were made. A star marks a match threshold that the recipe has "
        "chosen again.\n",
        page_tables.settings_table(rows),
        tuning_text(rows),
        page_text.CALIBRATION,
    ]


def _size_and_speed(results: Row, pictures: Mapping[str, str]) -> list[str]:
    rows, shipped = results["rows"], results["shipped"]
    width, height = results["size"]
    own = [{"origin": {"latency": row["origin"]}} for row in shipped if row.get("ms")]
    timed = page_tables.origins([*rows, *own], "latency", "timed")
    parts = [
        "## How small, and how fast?\n",
        "Table 2a: size. *On disk* is the folder of the model with everything that is needed to "
        "run it. The study's numbers are in brackets.\n",
        page_tables.size_table(rows, shipped),
        *_picture("size", pictures),
        "Table 2b: operations and time.\n",
        page_tables.speed_table(rows, shipped),
        page_text.SPEED.format(
            width=width, height=height, origins=f"{_remade(rows)} {timed}".strip()
        ),
    ]
    if results["speed"]:
        parts += [*_picture("figure-3", pictures), _speed_text(results["speed"])]
    return parts


def _remade(rows: Sequence[Row]) -> str:
    """Name the rows whose model was made again for its time."""
    titles = [f"*{row['title']}*" for row in rows if row["origin"].get("latency", {}).get("remade")]
    if not titles:
        return ""
    return (
        "These models were made again by their recipes without fine-tuning, for the time only: "
        f"{'; '.join(titles)}. Their number of operations is that of the row within "
        f"{100 * MACS_TOLERANCE:.0f} %."
    )


def _speed_text(measured: Row) -> str:
    stopped = [
        f"{row['label']} in {page_tables.RUNTIMES[row['runtime']]} beyond {row['stopped']}"
        for row in measured["rows"]
        if row["stopped"] and row["stopped"] < max(measured["keypoints"])
    ]
    conditions = {name: measured[name] for name in ("threads", "turns", "load") if name in measured}
    text = page_text.FIGURE_3.format(
        where=where(measured["origin"] | conditions), fewer=_fewer_turns(measured)
    )
    if stopped:
        text += (
            f" A network that takes more than {measured['budget']:g} s for one call is not "
            f"measured with more keypoints: {'; '.join(stopped)}."
        )
    return text


def _fewer_turns(measured: Row) -> str:
    """State which numbers of keypoints were measured in fewer turns."""
    asked = measured["turns"]
    fewer = {n: num_turns(asked, n) for n in measured["keypoints"] if num_turns(asked, n) < asked}
    listed = [f"{counted(turns, 'turn')} with {n} keypoints" for n, turns in fewer.items()]
    return f"; {', '.join(listed)}" if listed else ""


def _methods(results: Row, pictures: Mapping[str, str]) -> list[str]:
    values, explained = method_values(results), results["explanations"]
    parts = ["## What does each method do?\n"]
    for key, (title, text) in page_text.METHODS.items():
        filled = _fill(text, values)
        if filled:
            parts += [f"### {title}\n", filled]
        if key == "channels" and explained.get("channels"):
            table = page_tables.explanation_table(explained["channels"])
            parts += [table, _explained(explained, "channels")]
        if key == "linear":
            if explained.get("linear"):
                table = page_tables.explanation_table(explained["linear"])
                parts += [table, _explained(explained, "linear")]
            parts += _weights(results, pictures)
    return parts


def _fill(text: str, values: Mapping[str, float]) -> str:
    """Return the text with its numbers, or "" if one of them was not measured."""
    try:
        return text.format(**values)
    except KeyError:
        return ""


def _explained(found: Row, part: str) -> str:
    return f"Measured on {found['pairs']} pairs {where(found['origins'][part])}."


def _weights(results: Row, pictures: Mapping[str, str]) -> list[str]:
    weights = results["weights"]
    if not weights:
        return []
    parts = [_fill(page_text.FIGURE_6, weight_values(weights)), *_picture("figure-6", pictures)]
    if weights["variances"]:
        parts.append(page_text.VARIANCES.format(**weights["variances"][0]))
        parts += _picture("figure-6-variances", pictures)
    return parts


def _sensitivity(
    results: Row,
    pictures: Mapping[str, str],
    pruned: Mapping[str, Losses],
    shared: Mapping[str, Losses],
) -> list[str]:
    scan = results["scan"]
    names = [f"figure-{n}{form}" for n in ("4", "5") for form in ("", "-sorted", "-curves")]
    drawn = [part for name in names for part in _picture(name, pictures)]
    if not (scan and drawn):
        return []
    origins = results.get("origins", {})
    facts = {"pairs": scan["pairs"], "keypoints": scan["keypoints"], "progress": _progress(scan)}
    parts = ["## Sensitivity of each layer\n", page_text.SCAN.format(**facts)]
    if "scan" in origins:
        parts.append(f"The last scores were measured {where(origins['scan'])}.")
    parts += [page_answers.findings(pruned, shared), *drawn]
    if rows := results["allocation"]:
        parts += [page_text.ALLOCATION.format(gain=page_answers.allocation_gain(rows))]
        parts += [page_tables.allocation_table(rows)]
    if rows and "allocation" in origins:
        parts.append(f"Measured on {scan['pairs']} pairs {where(origins['allocation'])}.")
    return parts


def _progress(scan: Row) -> str:
    """State how much of the scan is measured."""
    if all(facts["scored"] == facts["planned"] for facts in scan["methods"].values()):
        return "All levels of all layers are scored."
    names = {"prune": "pruning", "codebook": "k-means"}
    texts = []
    for method, facts in scan["methods"].items():
        text = f"{names[method]}, {facts['scored']} of {facts['planned']} scores"
        levels = [f"{counted(n, 'layer')} at {level}" for level, n in facts["levels"].items() if n]
        texts.append(text + (f" ({', '.join(levels)})" if levels else ""))
    return f"Measured so far: {'; '.join(texts)}. The same command continues the scan."


def _recipes(rows: Sequence[Row]) -> list[str]:
    parts = ["## Recipes\n", page_text.RECIPES]
    measured = {row["name"] for row in rows}
    for name in [name for name in _SHOWN if name in measured][:2]:
        text = (_RECIPES / f"{name}.toml").read_text(encoding="utf-8")
        parts.append(f"`{name}.toml`:\n\n```toml\n{text}```")
    parts.append("All recipes of this page are in `studies/compression/recipes`.")
    return parts


def _reproduction(results: Row, command: str) -> list[str]:
    dates = sorted({row["origin"]["accuracy"]["date"] for row in results["rows"]})
    seconds = dict(results["seconds"])
    if results["scan"]:
        seconds["sensitivity scan"] = results["scan"]["seconds"]
    return [
        "## How is this page made?\n",
        "One command makes the models and measures them. It prints how long it will take, and "
        "continues where it was stopped. `--quick` measures on 16 pairs, does not fine-tune and "
        "takes less than 20 minutes on two cores.\n",
        f"```bash\n{command}\n```",
        "Without `--minutes` or `--steps`, each fine-tuning takes an hour. The rows of this page "
        "had the steps of Table 1c.\n",
        f"Rows keep their date when a later run repeats only a part; these are of "
        f"{', '.join(dates)}. Time of all steps:",
        page_tables.times_table(seconds),
    ]
