"""Numbers in the prose of the page, from results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studies.compression.experiments import DENSE
from studies.compression.page_tables import Row, lost, study_of

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


def method_values(results: Row) -> dict[str, float]:
    """Return the numbers of `page_text.METHODS` that were measured."""
    rows = {row["name"]: row for row in results["rows"]}
    dense = results["rows"][0]
    values = {key: lost(rows[n], dense)[0] for key, n in _LOSSES.items() if n in rows}
    assert DENSE.study is not None
    for key, name in (
        ("study_a", "fine-grained-superglue"),
        ("study_channel_loss", "channel-fine-grained"),
    ):
        study = study_of(name)
        assert study is not None
        values[key] = DENSE.study.auc[0] - study.auc[0]
    pruned = rows.get("fine-grained-superglue")
    if pruned is not None:
        values["study_zeros"] = 100 * (1 - pruned["nonzero"] / pruned["parameters"])
    if "prune-kmeans-huffman" in rows:
        small = rows["prune-kmeans-huffman"]["bytes_on_disk"]
        values["huffman_ratio"] = dense["bytes_on_disk"] / small
    explained = {row["title"]: row for row in results["explanations"].get("channels", [])}
    whole = explained.get("all channels")
    taylor = explained.get("smallest Taylor importance, inputs aligned")
    if whole and taylor:
        values["taylor_loss"] = whole["auc5"] - taylor["auc5"]
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
        }
    return values


def tuning_text(rows: Sequence[Row]) -> str:
    """Return a sentence about fine-tuning that names the models without it."""
    tuned = [row for row in rows if row["after"] is not None and "finetuning" in row]
    untuned = [row["title"] for row in rows if row["after"] is None]
    times: dict[str, list[str]] = {}
    for row in tuned:
        date = row["origin"].get("tuning", {}).get("date")
        text = _tuning_time(row["finetuning"]) + (f" ({date})" if date else "")
        times.setdefault(text, []).append(row["title"])
    text = ""
    if times:
        text = f"Fine-tuning by distillation from the dense model: {' or '.join(times)}."
    if untuned:
        text += f" **Not fine-tuned**: {', '.join(untuned)}."
    return text.strip()


def _tuning_time(settings: Row) -> str:
    device, minutes = settings["device"], settings["minutes"]
    if settings["steps"]:
        limit = f", at most {2 * minutes:g} minutes" if minutes else ""
        return f"{settings['steps']} steps on {device}{limit}"
    return f"{minutes:g} minutes on {device}"
