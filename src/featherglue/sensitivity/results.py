"""What a sensitivity scan found, and its files: `scan.csv` with a row a model, `scan.json` with
what it is a scan of.

The columns of `scan.csv`: `layer`, `what` ("prune", "codebook" or "linear"), `level` (a ratio, or
bits), what the model scored, and the `seconds` that took. The first row, without a layer, is the
model as it was.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from featherglue.errors import UsageError
from featherglue.io.files import atomic, write_json
from featherglue.models.model import Model

What = Literal["prune", "codebook", "linear"]
TABLE, SETTINGS = "scan.csv", "scan.json"
VERSION = 1
_BEFORE, _AFTER = ("layer", "what", "level"), ("seconds",)


@dataclass(frozen=True)
class Change:
    """One thing done to one layer.

    Attributes:
        layer: its name, "" for nothing done. level: a ratio in [0, 1), or bits.
    """

    layer: str
    what: str
    level: float


UNCHANGED = Change("", "", 0.0)


@dataclass(frozen=True)
class Row:
    """A change, what the changed model scored (the higher the better), and the time it took."""

    change: Change
    scores: Mapping[str, float]
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Rows of a scan, the unchanged model's first, if it was reached.

    Attributes:
        settings: of `scan.json`: the model's hash, and what the caller said of the scores.
    """

    rows: tuple[Row, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Mapping[str, float]:
        """The scores of the unchanged model. Raises UsageError where it was not reached."""
        for row in self.rows:
            if row.change == UNCHANGED:
                return row.scores
        raise UsageError("this scan was stopped before its first score; run it again to go on")

    def curves(self, what: What, metric: str = "") -> dict[str, dict[float, float]]:
        """Layer → level → score, levels rising, layers in the order in which they came.

        Args:
            metric: one of the scores; "" for their mean.

        Raises:
            UsageError: no such score.
        """
        found: dict[str, dict[float, float]] = {}
        for row in self.rows:
            if row.change.what == what:
                value = value_of(row.scores, metric)
                found.setdefault(row.change.layer, {})[row.change.level] = value
        return {layer: dict(sorted(curve.items())) for layer, curve in found.items()}

    def costs(self, what: What, metric: str = "") -> dict[str, dict[float, float]]:
        """Layer → level → what it costs, in points of the score: what `allocation.allocate` takes.

        Arguments and errors as in `curves`.
        """
        base = value_of(self.base, metric)
        return {
            layer: {level: base - value for level, value in curve.items()}
            for layer, curve in self.curves(what, metric).items()
        }

    def order(self, what: What, metric: str = "") -> list[str]:
        """The layers by what they cost at the levels that all of them have, the dearest first."""
        costs = self.costs(what, metric)
        shared = set.intersection(*(set(curve) for curve in costs.values())) if costs else set()
        means = {
            layer: float(np.mean([curve[level] for level in shared or curve]))
            for layer, curve in costs.items()
        }
        return sorted(means, key=lambda layer: -means[layer])


def value_of(scores: Mapping[str, float], metric: str) -> float:
    """One of the scores, or their mean for "". Raises UsageError where there is no such one."""
    if not metric:
        return float(np.mean(list(scores.values())))
    if metric not in scores:
        raise UsageError(f"no score {metric!r}; there are {', '.join(scores)}")
    return scores[metric]


def model_hash(model: Model) -> str:
    """SHA-256 of a model's tensors and of how its activations are quantized."""
    artifact = model.to_artifact()
    digest = hashlib.sha256(repr(sorted(artifact.quantization.activations.items())).encode())
    for name, array in sorted(artifact.arrays.items()):
        digest.update(f"{name}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_scan(folder: str | os.PathLike[str]) -> Scan:
    """The scan in a folder; an empty one where there is none.

    Raises:
        UsageError: a table without its settings, or one that is damaged.
    """
    table, path = Path(folder) / TABLE, Path(folder) / SETTINGS
    if not table.exists() and not path.exists():
        return Scan()
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or settings.get("version") != VERSION:
            raise ValueError(f"not of version {VERSION}")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: nobody can say what {TABLE} is a scan of ({error}); choose another folder"
        ) from None
    if not table.exists():
        return Scan(settings=settings)
    try:
        text = table.read_text(encoding="utf-8")
        rows = tuple(_row(values) for values in csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{table}: damaged ({error}); remove it to scan anew") from None
    return Scan(rows=rows, settings=settings)


def _row(values: Mapping[str, str]) -> Row:
    change = Change(values["layer"], values["what"], float(values["level"]))
    names = [name for name in values if name not in (*_BEFORE, *_AFTER)]
    return Row(change, {name: float(values[name]) for name in names}, float(values["seconds"]))


def open_scan(folder: str | os.PathLike[str], model: str, about: Mapping[str, Any]) -> Scan:
    """The scan in a folder, or a new one, whose settings are written.

    Args:
        model: its hash. about: plain values, what shapes the scores.

    Raises:
        UsageError: it is a scan of another model or by another score.
        OutputError: the folder cannot be written.
    """
    found = read_scan(folder)
    settings = json.loads(json.dumps({"version": VERSION, "model": model, "score": dict(about)}))
    if not found.settings:
        write_json(Path(folder) / SETTINGS, settings)
        return Scan(settings=settings)
    if found.settings.get("model") != model:
        raise UsageError(f"{folder}: holds the scan of another model; choose another folder")
    before = found.settings.get("score", {})
    changed = [
        k for k in {**before, **settings["score"]} if before.get(k) != settings["score"].get(k)
    ]
    if changed:
        raise UsageError(
            f"{folder}: its scores were made in another way ({changed[0]} was "
            f"{before.get(changed[0])!r}); choose another folder"
        )
    return found


def write_rows(folder: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write the table, whole or not at all. Raises OutputError."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = list(rows[0].scores) if rows else []
    writer.writerow([*_BEFORE, *names, *_AFTER])
    for row in rows:
        values = [f"{row.scores[name]:.4f}" for name in names]
        level = f"{row.change.level:.15g}"
        writer.writerow([row.change.layer, row.change.what, level, *values, f"{row.seconds:.2f}"])
    with atomic(Path(folder) / TABLE) as file:
        file.write(text.getvalue().encode())
