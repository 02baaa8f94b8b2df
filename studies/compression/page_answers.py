"""Short answers on the page: the summary table, and the questions that a reader brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherglue.io.tables import format_table
from featherglue.sensitivity.pair_scores import Interval
from studies.compression import page_text
from studies.compression.page_tables import Row, lost

_PHONE_BYTES = 2_000_000
_SENSITIVE = 1.0  # points


def summary_table(rows: Sequence[Row]) -> str:
    """Return a row for each method: size, speed, accuracy lost, and when to use it."""
    dense, table = rows[0], []
    for row in rows[1:]:
        faster = "–"
        if dense["ms"].get("onnxruntime") and row["ms"].get("onnxruntime"):
            same_run = row["origin"].get("latency") == dense["origin"].get("latency")
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
    found: Mapping[str, Mapping[float, Interval]],
    num_layers: int,
    earlier: Mapping[str, Any] | None = None,
) -> str:
    """Return which layers must not be pruned.

    Args:
        found: losses of pruning, unrefined; see `layer_figures.losses`.
        num_layers: number of all layers.
        earlier: facts about an earlier scan, for layers without scores.
    """
    if not found:
        if earlier:
            text = page_text.EARLIER_ANSWER.format(**earlier).strip()
            return page_text.PRUNE_ANSWER.format(text=text)
        return page_text.NO_SCAN
    level = max(level for curve in found.values() for level in curve)
    losses = {name: curve[level] for name, curve in found.items() if level in curve}
    bad = sorted((n for n in losses if losses[n].low > _SENSITIVE), key=lambda n: -losses[n].value)
    named = ", ".join(f"`{name}` ({losses[name].value:.0f} points)" for name in bad[:8])
    text = (
        f"With {100 * level:.0f} % of one layer's weights at zero, {len(bad)} of {len(losses)} "
        f"scored layers lose more than {_SENSITIVE:g} point for certain"
    )
    text += f": {named}{', …' if len(bad) > 8 else ''}. " if bad else ". "
    if bad:
        networks = {name.partition(".")[0] for name in bad}
        if networks == {"extractor"}:
            text += "All of them belong to SuperPoint. "
    if len(losses) < num_layers:
        text += f"The scan has scored {len(losses)} of {num_layers} layers at this ratio so far. "
        if earlier:
            text += page_text.EARLIER_ANSWER.format(**earlier)
    return page_text.PRUNE_ANSWER.format(text=text.strip())


def phone(rows: Sequence[Row], shipped: Sequence[Row] = ()) -> str:
    """Return which model of the study fits 2 MB, or else which shipped model does."""
    dense = rows[0]
    fits = [row for row in rows[1:] if row["bytes_on_disk"] <= _PHONE_BYTES]
    smallest = min(rows[1:], key=lambda row: row["bytes_on_disk"], default=None)
    if smallest is None:
        return ""
    if fits:
        best = min(fits, key=lambda row: lost(row, dense)[0])
        text = f"`{best['name']}.toml`: {_facts(best, dense)}."
        others = [row for row in fits if row is not best]
    else:
        text = f"None of the rows does. The smallest is `{smallest['name']}.toml`: "
        text += f"{_facts(smallest, dense)}."
        small = [row for row in shipped if row["bytes_on_disk"] <= _PHONE_BYTES]
        for row in small[-1:]:
            text += (
                f" The shipped model `{row['name']}` fits: {row['bytes_on_disk'] / 1e6:.2f} MB "
                f"with {dense['macs'] / row['macs']:.0f} times fewer operations than `dense`; "
                "[how to compress it further](tutorial/compress.md)."
            )
        others = []
    if smallest is not None and smallest not in fits and fits:
        text += f" The file of `{smallest['name']}.toml` is too large by a little: "
        text += f"{_facts(smallest, dense)}."
    for row in others:
        text += f" `{row['name']}.toml` fits too: {_facts(row, dense)}."
    close = [row for row in rows[1:] if _PHONE_BYTES < row["bytes_on_disk"] <= 1.2 * _PHONE_BYTES]
    if fits and close:
        row = close[0]
        if row is not smallest:
            text += f" `{row['name']}.toml` just misses it: {_facts(row, dense)}."
    return page_text.PHONE.format(text=text)


def _facts(row: Row, dense: Row) -> str:
    loss = lost(row, dense)[0]
    macs = dense["macs"] / row["macs"]
    operations = f", {macs:.0f} times fewer operations" if macs >= 1.5 else ", all operations"
    return f"{row['bytes_on_disk'] / 1e6:.2f} MB, {loss:.1f} points of AUC@5{operations}"
