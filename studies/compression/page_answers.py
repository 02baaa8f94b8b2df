"""Short answers on the page: the summary table, and the questions that a reader brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        f"If {100 * level:.0f} % of the weights of one layer become zero, without fine-tuning, the "
        "mean of AUC@5, AUC@10, AUC@25, precision and recall falls by more than "
        f"{_SENSITIVE:g} point for certain (95 % interval) with {len(bad)} of {num_scored} layers"
    )
    text += f": {_named(losses, level, bad)}. " if bad else ". "
    text += (
        f"This is measured on {scan['pairs']} pairs with {scan['keypoints']} keypoints, whose "
        "positions are not refined to a fraction of a pixel. "
    )
    if {name.partition(".")[0] for name in bad} == {"extractor"}:
        text += "All of them belong to SuperPoint. "
    if bad:
        worst = _sensitive(found.get("refined", {}), level)
        listed = f": {_named(found['refined'], level, worst)}" if worst else ""
        verb = "still loses" if len(worst) == 1 else "still lose"
        number = counted(len(worst), "layer")
        text += f"With refined positions, {number} {verb} that much{listed}. "
    num_layers = scan["methods"]["prune"]["layers"]
    if num_scored < num_layers:
        text += f"The scan has scored {num_scored} of {num_layers} layers at this ratio so far. "
    safe = [ratio for ratio in sorted(_levels(losses)) if not _sensitive(losses, ratio)]
    if bad and safe:
        text += (
            f"Prune them less than the others, and fine-tune: up to {100 * safe[-1]:.0f} % zeros "
            "in one layer, none falls that much for certain. "
        )
    return page_text.PRUNE_ANSWER.format(text=text.strip())


def findings(pruned: Mapping[str, Losses], shared: Mapping[str, Losses]) -> str:
    """Return what the scan shows, or "" if a method was not scanned.

    Args:
        pruned, shared: state → losses of pruning and of k-means; see `layer_figures.losses`.
    """
    by_ratio, by_bits = pruned.get("unrefined", {}), shared.get("unrefined", {})
    if not (by_ratio and by_bits):
        return ""
    ratios, bits = sorted(_levels(by_ratio)), sorted(_levels(by_bits), reverse=True)
    return page_text.FINDINGS.format(
        prune=_harm(by_ratio, ratios, lambda ratio: f"{100 * ratio:.0f} % zeros"),
        codebook=_harm(by_bits, bits, lambda number: f"codebooks of {number:.0f} bits"),
    )


def _harm(losses: Losses, levels: Sequence[float], words: Callable[[float], str]) -> str:
    """State which layers lose at which level; the levels ascend in strength."""
    lost_at = {level: _sensitive(losses, level) for level in levels}
    first = next((i for i, level in enumerate(levels) if lost_at[level]), len(levels))
    texts = []
    if first:
        texts.append(
            f"with {words(levels[first - 1])} no layer loses more than a point for certain"
        )
    before: list[str] = []
    for level in levels[first:]:
        if lost_at[level] != before:
            number = counted(len(lost_at[level]), "layer")
            verb = "loses" if len(lost_at[level]) == 1 else "lose"
            named = _named(losses, level, lost_at[level], most=4)
            texts.append(f"with {words(level)} {number} {verb} more for certain: {named}")
        before = lost_at[level]
    text = "; ".join(texts)
    return f"{text[:1].upper()}{text[1:]}."


def allocation_gain(rows: Sequence[Row]) -> str:
    """State what the allocation saves at the lowest sparsity, with refined matches."""
    least = min(row["sparsity"] for row in rows)
    loss = {
        row["allocation"]: row["loss"]
        for row in rows
        if row["sparsity"] == least and row["state"] == "refined"
    }
    return (
        f"With {100 * least:.0f} % zeros and refined matches, the allocation loses "
        f"{loss['scan']:.1f} points and one ratio {loss['uniform']:.1f}."
    )


def _levels(losses: Losses) -> set[float]:
    return {level for curve in losses.values() for level in curve}


def _sensitive(losses: Losses, level: float) -> list[str]:
    """Return the layers that lose for certain at a level, those with the largest loss first."""
    at = {name: curve[level] for name, curve in losses.items() if level in curve}
    certain = [name for name, loss in at.items() if loss.low > _SENSITIVE]
    return sorted(certain, key=lambda name: -at[name].value)


def _named(losses: Losses, level: float, names: Sequence[str], most: int = 8) -> str:
    """Name the layers that lose most, with their losses."""
    values = [f"{losses[name][level].value:.0f}" for name in names[:most]]
    values[:1] = [f"{value} points" for value in values[:1]]
    named = [f"`{name}` ({value})" for name, value in zip(names, values, strict=False)]
    return ", ".join([*named, *(["…"] if len(names) > most else [])])


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
    if small:
        found = [
            f"`{row['name']}` ({row['bytes_on_disk'] / 1e6:.2f} MB, "
            f"{dense['macs'] / row['macs']:.0f} times fewer operations than `dense`)"
            for row in sorted(small, key=lambda row: row["bytes_on_disk"])
        ]
        verb = "fits" if len(found) == 1 else "fit"
        number = "model" if len(found) == 1 else "models"
        texts.append(
            f"The shipped {number} {' and '.join(found)} {verb} without a recipe; [their accuracy, "
            "and how to compress them further](how-to/compress.md)."
        )
    decoded = 4 * dense["parameters"] / 1e6
    texts.append(
        "The 2 MB are those of the stored files, and 1 MB is a million bytes; the tables count in "
        "MiB (2^20 bytes). A running program needs more memory: the "
        f"{dense['parameters'] / 1e6:.1f} million weights of the same architecture take "
        f"{decoded:.0f} MB as floats."
    )
    return page_text.PHONE.format(text=" ".join(texts))


def _facts(row: Row, dense: Row) -> str:
    loss = lost(row, dense)[0]
    macs = dense["macs"] / row["macs"]
    operations = f"{macs:.0f} times fewer operations" if macs >= 1.5 else "operations as in `dense`"
    size = f"{row['bytes_on_disk'] / 1e6:.2f} MB"
    return f"{size}, {loss:.1f} points of AUC@5 lost, {operations}"
