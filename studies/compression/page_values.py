"""Numbers in the prose of the page, from results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherglue.io.toml import read_toml
from studies.compression.experiments import DENSE
from studies.compression.page_tables import Row, lost, numbers, study_of

_PAIRED = {"study_a": "fine-grained-superglue", "study_channel_loss": "channel-fine-grained"}
_BEFORE = {"before_a": "fine-grained-superglue", "before_b": "fine-grained-both"}
_RECALLS = {
    "recall_all": "… without products of attention, similarity and Sinkhorn",
    "recall_inner": "… and without first and last layers",
}
_HERE = Path(__file__).parent
_RECIPE = _HERE / "recipes" / "fine-grained-superglue.toml"
_LOSSES = {
    "ours_a": "fine-grained-superglue",
    "ours_b": "fine-grained-both",
    "ours_c": "channel-fine-grained",
    "ours_linear": "linear-8",
    "k8": "kmeans-8",
    "k6": "kmeans-6",
    "k5": "kmeans-5",
    "k4": "kmeans-4",
    "huffman": "prune-kmeans-huffman",
    "m25": "macs-25",
    "m10": "macs-10",
}


def method_values(results: Row) -> dict[str, Any]:
    """Return the numbers, and one sentence, of `page_text.METHODS` that were measured."""
    rows = {row["name"]: row for row in results["rows"]}
    dense = results["rows"][0]
    values: dict[str, Any] = {
        key: lost(rows[n], dense)[0] for key, n in _LOSSES.items() if n in rows
    }
    assert DENSE.study is not None
    for key, name in _PAIRED.items():
        study = study_of(name)
        assert study is not None
        values[key] = DENSE.study.auc[0] - study.auc[0]
    both = study_of("fine-grained-both")
    assert both is not None
    values["study_gain"] = both.auc[0] - DENSE.study.auc[0]
    values["study_zeros"] = 100 * read_toml(_RECIPE)["steps"][0]["ratio"]
    for key, name in _BEFORE.items():
        if name in rows:
            values[key] = numbers(dense["before"])[0] - numbers(rows[name]["before"])[0]
    if "prune-kmeans-huffman" in rows:
        small = rows["prune-kmeans-huffman"]["bytes_on_disk"]
        values["huffman_ratio"] = dense["bytes_on_disk"] / small
    explained = {row["title"]: row for row in results["explanations"].get("channels", [])}
    linear = {row["title"]: row for row in results["explanations"].get("linear", [])}
    for key, title in _RECALLS.items():
        if title in linear:
            values[key] = linear[title]["recall"]
    whole = explained.get("all channels")
    taylor = explained.get("smallest Taylor importance, inputs aligned")
    norm = explained.get("smallest L2 norm, inputs aligned")
    wrong = explained.get("smallest Taylor importance, inputs of other channels")
    if whole and taylor and norm and wrong:
        values["taylor_loss"] = whole["auc5"] - taylor["auc5"]
        values["norm"] = norm["auc5"]
        values["mistakes"] = (
            f"If each layer reads the channel after the right one, AUC@5 is {wrong['auc5']:.1f}."
        )
    statistics = explained.get(
        "smallest Taylor importance, inputs aligned, statistics of other channels"
    )
    if statistics and "mistakes" in values:
        values["mistakes"] += (
            " If it reads the right one, but normalizes it like the channel after it, AUC@5 is "
            f"{statistics['auc5']:.1f}."
        )
    return values


def weight_values(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of `page_text.FIGURE_6`. Models without normalization lack some."""
    rows = {row["layer"]: row for row in weights["layers"]}
    chosen = weights["chosen"]
    values: dict[str, Any] = {}
    if "unnormalized" in chosen:
        bad = rows[chosen["unnormalized"]]
        values |= {
            "bad": bad["layer"],
            "bad_tensor": bad["tensor4"],
            "bad_channel": bad["channel4"],
        }
    good = rows[chosen["works"]]
    values |= {"good": good["layer"], "good_tensor": good["tensor4"]}
    if "folded" in chosen:
        folded = rows[chosen["folded"]]
        values |= {
            "folded": folded["layer"],
            "unfolded": folded["unfolded8"],
            "tensor8": folded["tensor8"],
            "channel8": folded["channel8"],
            "most_channel8": max(row["channel8"] for row in rows.values()),
        }
        normalized = [row for row in rows.values() if row["normalized"]]
        grown = [row for row in normalized if row["tensor8"] > row["unfolded8"]]
        values |= {"num_grown": len(grown), "num_normalized": len(normalized)}
    return values


def tuning_text(rows: Sequence[Row]) -> str:
    """Return a sentence about fine-tuning that names the models without it."""
    devices = {row["finetuning"]["device"] for row in rows if row.get("finetuning")}
    untuned = [row["title"] for row in rows if row["after"] is None]
    text = ""
    if devices:
        files = {"cpu": "finetune.toml", "cuda": "finetune-gpu.toml"}
        sizes = [
            f"{read_toml(_HERE / name)['loop']['batch_size']} pairs on {device} (`{name}`)"
            for device, name in files.items()
            if device in devices
        ]
        text = (
            "Fine-tuning is distillation: the compressed model learns to repeat the outputs of the "
            "dense model on warped photographs. *Steps* are those of "
            "both fine-tunings where a recipe has two; their number was given, or is what fitted "
            "into a time. "
            f"A step has {' and '.join(sizes)}. "
            "Models with more steps on a GPU gain more, so compare methods with care."
        )
    if untuned:
        text += f" **Not fine-tuned**: {', '.join(untuned)}."
    return text.strip()
