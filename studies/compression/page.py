"""The page docs/compression.md, rendered from the results of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherglue.io.tables import format_table
from studies.compression.experiments import DENSE, EXPERIMENTS, StudyRow
from studies.compression.journal import format_duration

Row = Mapping[str, Any]
_GROWN = (
    "The dense model was grown from smaller models "
    "([training log](experiments/training-balanced-dense.md)), so it may not use all of its "
    "capacity. A model trained from scratch may be harder to compress.\n"
)
_EARLIER_SCAN = (
    "The {scores} scores of the sensitivity scan come from an earlier run of this command, with "
    "`--scan-minutes` above 0.\n"
)
_EXPLANATIONS = {
    "linear": (
        "Why linear quantization failed in the study",
        "All variants have weights and activations in 8 bits unless stated otherwise, without "
        "fine-tuning. The first rows are mistakes; each of the later rows removes one "
        "simplification, down to the default of `featherglue quantize`.",
    ),
    "channels": (
        "Why channel pruning failed in the study",
        "A fifth of the channels of SuperPoint is removed, as in the study, without fine-tuning. "
        "If the inputs of the next layer do not belong to the remaining channels, no accuracy is "
        "left. Pruning by Taylor importance loses little, and fine-tuning starts from there.",
    ),
}


def render(results: Mapping[str, Any], pictures: Mapping[str, str], command: str) -> str:
    """Return the page as Markdown.

    Args:
        results: content of results.json.
        pictures: caption → path relative to the page.
        command: command that reproduces the results.
    """
    rows = results["rows"]
    machine, scan = results["machine"], results["scan"]
    parts = [
        "# Compression\n",
        "One command produces everything on this page. It continues where it was stopped.\n",
        f"```bash\n{command}\n```\n",
        f"Accuracy is measured on {results['pairs']} pairs of the val suite. A failed pair has an "
        f"infinite error, and a precision and recall of 0. {_finetuning(rows)} The numbers of the "
        "study are from its own models, data and evaluation, which excluded pairs with fewer than "
        "12 matches. Compare the loss of each model against its own dense model.\n",
        *([_GROWN] if results.get("grown") else []),
        *([_EARLIER_SCAN.format(**scan)] if scan["scores"] and scan["earlier"] else []),
        "## Table 1: accuracy, before → after fine-tuning\n",
        "*Threshold* is the match threshold after compression. A star marks a threshold that a "
        "step of the recipe has chosen on views of the calibration photographs, to minimize the "
        "larger of the losses of precision and recall. Other models use that of the dense model.\n",
        _accuracy_table(rows),
        "\n## Table 2: size and speed\n",
        "*Study, MiB* counts the bits of non-zero weights, as the study does. *On disk* is the "
        "size of the artifact. *ms* is the median time of a "
        f"{'×'.join(map(str, results['size']))} frame and its match with the previous frame, "
        f"measured in turn for all models, on {machine['processor']} with {results['threads']} "
        "threads.\n",
        _size_table(rows),
        *(f"\n![{caption}]({path})\n\n*{caption}*" for caption, path in pictures.items()),
        *_explanations(results.get("explanations", {})),
        _times(results["seconds"]),
    ]
    return "\n".join(parts) + "\n"


def _finetuning(rows: Sequence[Row]) -> str:
    """Return a sentence about fine-tuning that names the models without it."""
    tuned = [row for row in rows if row["after"] is not None and "finetuning" in row]
    untuned = [row["title"] for row in rows if row["after"] is None]
    durations = dict.fromkeys(_tuning_time(row["finetuning"]) for row in tuned)
    if not tuned:
        return "**Not fine-tuned** (`--minutes 0`): all models." if untuned else ""
    text = (
        f"Each model is fine-tuned by distillation from the dense model: {' or '.join(durations)}."
    )
    if untuned:
        text += f" **Not fine-tuned** (`--minutes 0`): {', '.join(untuned)}."
    return text


def _tuning_time(settings: Row) -> str:
    device, minutes = settings["device"], settings["minutes"]
    if settings["steps"]:
        limit = f", at most {2 * minutes:g} minutes" if minutes else ""
        return f"{settings['steps']} steps on {device}{limit}"
    return f"{minutes:g} minutes on {device}"


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
            table.append(["– study", *(f"{value:.1f}" for value in values), "", ""])
    return format_table(head, table)


def _numbers(measured: Row) -> list[float]:
    areas = [measured["auc"][threshold] for threshold in ("5", "10", "25")]
    return [*areas, measured["precision"], measured["recall"]]


def _size_table(rows: Sequence[Row]) -> str:
    head = [
        "",
        "parameters, M",
        "non-zero, M",
        "GMACs",
        "study, MiB",
        "on disk, MiB",
        "ratio on disk",
        "ms",
        "of the study: M",
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
    parts = []
    for key, rows in found.items():
        title, text = _EXPLANATIONS[key]
        names = [name for name in rows[0] if name != "title"]
        head = ["", *(name.replace("auc", "AUC@") for name in names)]
        table = [[row["title"], *(f"{row[name]:.1f}" for name in names)] for row in rows]
        parts.append(f"\n## {title}\n\n{text}\n\n{format_table(head, table)}")
    return parts


def _times(seconds: Mapping[str, float]) -> str:
    rows = [[name, format_duration(spent)] for name, spent in seconds.items()]
    return f"\n## Computation time\n\n{format_table(['', 'time'], rows)}"
