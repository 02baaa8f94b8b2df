"""Short answers on the page: the summary table, and the questions that a reader brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherglue.errors import counted
from featherglue.io.tables import format_table
from studies.compression import page_text
from studies.compression.layer_figures import Losses
from studies.compression.page_tables import Row, lost

_PHONE_BYTES, _NEARLY = 2_000_000, 1.2
_SENSITIVE = 1.0  # points


def summary_table(rows: Sequence[Row]) -> str:
    """Return a row for each method: size, speed, accuracy lost, and when to use it."""
    dense, table = rows[0], []
    for row in rows[1:]:
        faster = "–"
        if dense["ms"].get("onnxruntime") and row["ms"].get("onnxruntime"):
            runs = [dict(r["origin"].get("latency", {})) | {"remade": 0} for r in (row, dense)]
            same_run = runs[0] == runs[1]
            ratio = dense["ms"]["onnxruntime"] / row["ms"]["onnxruntime"]
            faster = f"{ratio:.1f}" if same_run else "–"
        loss = f"{lost(row, dense)[0]:.1f}{'' if row['after'] is not None else ' (not tuned)'}"
        table.append(
            [
                row["title"],
                f"{row['bytes_on_disk'] / 2**20:.1f}",
                f"{dense['bytes_on_disk'] / row['bytes_on_disk']:.1f}",
                faster,
                loss,
                page_text.USE.get(row["name"], ""),
            ]
        )
    head = ["", "MiB", "times smaller", "times faster", "AUC@5 lost", "when to use it"]
    return format_table(head, table)


def why_zero(found: Mapping[str, Any]) -> str:
    """Return why linear quantization gave zero, or "" if it was not measured."""
    rows = {row["title"]: row for row in found.get("linear", [])}
    names = {
        "four_bits": "all in 4 bits, one scale per tensor, min–max range",
        "zero_points": "weights in 8 bits, zero points ignored",
        "variances": "all tensors in 8 bits, including variances of normalization",
        "unfolded": "weights in 8 bits, normalization not folded",
    }
    if any(title not in rows for title in names.values()):
        return ""
    scores = {name: rows[title]["auc5"] for name, title in names.items()}
    return page_text.WHY_ZERO.format(
        **scores,
        folding_loss=rows["float32"]["auc5"] - scores["unfolded"],
        variances_recall=rows[names["variances"]]["recall"],
    )


def which_layers(
    found: Mapping[str, Losses],
    scan: Row,
) -> str:
    """Return which layers must not be pruned.

    Args:
        found: state ("unrefined", "refined") → losses of pruning; see `layer_figures.losses`.
        scan: facts about the scan; see `scanning.summary`.
    """
    losses = found.get("unrefined", {})
    if not losses:
        return page_text.NO_SCAN
    level = max(level for curve in losses.values() for level in curve)
    num_scored = sum(level in curve for curve in losses.values())
    bad = _sensitive(losses, level)
    text = (
        f"With {100 * level:.0f} % of one layer's weights at zero, {len(bad)} of {num_scored} "
        f"layers certainly lose more than {_SENSITIVE:g} point ({scan['pairs']} pairs, "
        f"{scan['keypoints']} keypoints, matches not refined)"
    )
    text += f": {_named(losses, level, bad)}. " if bad else ". "
    if {name.partition(".")[0] for name in bad} == {"extractor"}:
        text += "All of them belong to SuperPoint. "
    if bad:
        worst = _sensitive(found.get("refined", {}), level)
        listed = f": {_named(found['refined'], level, worst)}" if worst else ""
        verb = "still loses" if len(worst) == 1 else "still lose"
        number = counted(len(worst), "layer")
        text += f"With refined matches, {number} {verb} that much{listed}. "
    num_layers = scan["methods"]["prune"]["layers"]
    if num_scored < num_layers:
        text += f"The scan has scored {num_scored} of {num_layers} layers at this ratio so far. "
    return page_text.PRUNE_ANSWER.format(text=text.strip())


def _sensitive(losses: Losses, level: float) -> list[str]:
    """Return the layers that lose for certain at a level, those with the largest loss first."""
    at = {name: curve[level] for name, curve in losses.items() if level in curve}
    certain = [name for name, loss in at.items() if loss.low > _SENSITIVE]
    return sorted(certain, key=lambda name: -at[name].value)


def _named(losses: Losses, level: float, names: Sequence[str]) -> str:
    """Name the first eight layers with their losses."""
    values = [f"{losses[name][level].value:.0f}" for name in names[:8]]
    values[:1] = [f"{value} points" for value in values[:1]]
    named = [f"`{name}` ({value})" for name, value in zip(names, values, strict=False)]
    return ", ".join([*named, *(["…"] if len(names) > 8 else [])])


def phone(rows: Sequence[Row], shipped: Sequence[Row] = ()) -> str:
    """Return which models of the study fit 2 MB, and which shipped model does."""
    dense, others = rows[0], rows[1:]
    if not others:
        return ""
    fits = [row for row in others if row["bytes_on_disk"] <= _PHONE_BYTES]
    fits = sorted(fits, key=lambda row: lost(row, dense)[0])
    smallest = min(others, key=lambda row: row["bytes_on_disk"])
    close = [row for row in others if _PHONE_BYTES < row["bytes_on_disk"] <= _NEARLY * _PHONE_BYTES]
    if fits:
        texts = [f"`{fits[0]['name']}.toml`: {_facts(fits[0], dense)}."]
        texts += [f"`{row['name']}.toml` fits too: {_facts(row, dense)}." for row in fits[1:]]
        texts += [f"`{row['name']}.toml` just misses it: {_facts(row, dense)}." for row in close]
    else:
        texts = [
            f"None of the recipes does. The smallest file is that of `{smallest['name']}.toml`: "
            f"{_facts(smallest, dense)}."
        ]
    small = [row for row in shipped if row["bytes_on_disk"] <= _PHONE_BYTES]
    for row in sorted(small, key=lambda row: row["bytes_on_disk"])[:1]:
        texts.append(
            f"The shipped model `{row['name']}` fits without a recipe: "
            f"{row['bytes_on_disk'] / 1e6:.2f} MB with {dense['macs'] / row['macs']:.0f} times "
            "fewer operations than `dense`; [how to compress it further](how-to/compress.md)."
        )
    return page_text.PHONE.format(text=" ".join(texts))


def _facts(row: Row, dense: Row) -> str:
    loss = lost(row, dense)[0]
    macs = dense["macs"] / row["macs"]
    operations = f"{macs:.0f} times fewer operations" if macs >= 1.5 else "operations as in `dense`"
    size = f"{row['bytes_on_disk'] / 1e6:.2f} MB"
    return f"{size}, {loss:.1f} points of AUC@5 lost, {operations}"
