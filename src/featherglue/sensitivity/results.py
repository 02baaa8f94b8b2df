"""Results of a sensitivity scan and their files.

`scan.csv` has a row for each scored model: `layer`, `method` ("prune", "codebook" or "linear"),
`level` (a ratio, or bits), the scores, the `seconds` that scoring took, and a `checksum`: the
CRC-32 of the heading and of the values before it. The first row has no layer and holds the scores
of the unchanged model. `scan.json` describes the model and the scores. `pairs.npz` holds the scores
of each pair, if the scan has measured them; see `pair_files`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from featherglue.config import to_dict
from featherglue.errors import StoredFileWarning, UsageError, counted
from featherglue.fingerprint import fingerprint
from featherglue.io.files import atomic_write, write_json
from featherglue.io.json import read_json
from featherglue.models.model import Model
from featherglue.sensitivity.pair_files import read_pairs, write_pairs
from featherglue.sensitivity.pair_scores import PairScores

Method = Literal["prune", "codebook", "linear"]
TABLE, SETTINGS, PAIRS = "scan.csv", "scan.json", "pairs.npz"
VERSION = 2
# Columns before and after those of the scores, and the last column.
_BEFORE, _AFTER, _CHECKSUM = ("layer", "method", "level"), ("seconds",), "checksum"


@dataclass(frozen=True)
class Change:
    """A change of one layer.

    Attributes:
        layer: layer name, or "" for the unchanged model.
        method: kind of change; see `Method`.
        level: pruning ratio in [0, 1), or number of bits.
    """

    layer: str
    method: str
    level: float


UNCHANGED = Change("", "", 0.0)


@dataclass(frozen=True)
class Row:
    """The scores of a changed model.

    Attributes:
        change: the change.
        scores: name → score. Higher is better.
        seconds: duration of scoring.
        pairs: scores of each pair by state, "unrefined" or "refined". May be empty.
    """

    change: Change
    scores: Mapping[str, float]
    seconds: float = 0.0
    pairs: Mapping[str, PairScores] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The rows of a scan. The first row is the unchanged model.

    Attributes:
        rows: the rows.
        settings: the content of `scan.json`: the fingerprint of the model, and what affects scores.
    """

    rows: tuple[Row, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Mapping[str, float]:
        """Scores of the unchanged model. Raises UsageError if there are none yet."""
        for row in self.rows:
            if row.change == UNCHANGED:
                return row.scores
        raise UsageError("this scan was stopped before its first score; run it again to continue")

    def curves(self, method: Method, metric: str = "") -> dict[str, dict[float, float]]:
        """Return layer name → level → score, with levels in ascending order.

        Args:
            method: which rows to use.
            metric: name of a score, or "" for the mean of all scores.

        Raises:
            UsageError: the score does not exist.
        """
        found: dict[str, dict[float, float]] = {}
        for row in self.rows:
            if row.change.method == method:
                value = score_value(row.scores, metric)
                found.setdefault(row.change.layer, {})[row.change.level] = value
        return {layer: dict(sorted(curve.items())) for layer, curve in found.items()}

    def costs(self, method: Method, metric: str = "") -> dict[str, dict[float, float]]:
        """Return layer name → level → loss of the score, the input of `allocation.allocate`.

        Arguments and errors are those of `curves`.
        """
        base = score_value(self.base, metric)
        return {
            layer: {level: base - value for level, value in curve.items()}
            for layer, curve in self.curves(method, metric).items()
        }

    def order(self, method: Method, metric: str = "") -> list[str]:
        """Return the layers by their mean loss, the largest first.

        The mean is over the levels that all layers have in common, or over all levels of a layer
        if there are none. Arguments and errors are those of `curves`.
        """
        costs = self.costs(method, metric)
        common = set.intersection(*(set(curve) for curve in costs.values())) if costs else set()
        means = {
            layer: float(np.mean([curve[level] for level in common or curve]))
            for layer, curve in costs.items()
        }
        return sorted(means, key=lambda layer: -means[layer])


def score_value(scores: Mapping[str, float], metric: str) -> float:
    """Return a score by name, or the mean for "". Raises UsageError for unknown names."""
    if not metric:
        return float(np.mean(list(scores.values())))
    if metric not in scores:
        raise UsageError(f"no score {metric!r}; the scores are {', '.join(scores)}")
    return scores[metric]


def model_fingerprint(model: Model) -> str:
    """Return the fingerprint of the tensors and of the quantization of activations of a model."""
    artifact = model.to_artifact()
    activations = {n: to_dict(storage) for n, storage in artifact.quantization.activations.items()}
    return fingerprint(artifact.arrays, activations)


def read_scan(folder: str | os.PathLike[str]) -> Scan:
    """Return the scan in a folder, or an empty scan if there is none.

    A row whose checksum is wrong counts as absent, with a StoredFileWarning. Tables of version 0.1
    have no checksums; their rows are only parsed.

    Raises:
        UsageError: a file is missing or damaged.
    """
    table, path = Path(folder) / TABLE, Path(folder) / SETTINGS
    if not table.exists() and not path.exists():
        return Scan()
    try:
        settings = read_json(path)
        if not isinstance(settings, dict) or settings.get("version") != VERSION:
            raise ValueError(f"its version is not {VERSION}")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read ({error}), so that the model of {TABLE} is unknown; choose "
            "another folder"
        ) from None
    if not table.exists():
        return Scan(settings=settings)
    try:
        rows, num_damaged = _parse_table(table.read_bytes().decode("utf-8", "replace"))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"{table}: damaged ({error}); remove it to start again") from None
    if num_damaged:
        warnings.warn(
            f"{table}: {counted(num_damaged, 'damaged row')} left out; run the scan again to fill "
            "the gap",
            StoredFileWarning,
            stacklevel=2,
        )
    return Scan(rows=tuple(_with_pairs(rows, Path(folder) / PAIRS)), settings=settings)


def _with_pairs(rows: Sequence[Row], path: Path) -> list[Row]:
    """Return the rows with the scores of their pairs, if the file has them."""
    found = read_pairs(path) if path.exists() else {}
    return [replace(row, pairs=found.get(astuple(row.change), {})) for row in rows]


def _parse_table(text: str) -> tuple[list[Row], int]:
    """The intact rows of a table, and the number of damaged ones. Raises ValueError."""
    heading, *lines = text.splitlines() or [""]
    names = next(csv.reader([heading]), [])
    checked = names[-1:] == [_CHECKSUM]
    plain = names[:-1] if checked else names
    if tuple(plain[:3]) != _BEFORE or tuple(plain[-1:]) != _AFTER:
        raise ValueError("its heading is wrong")
    if not checked:
        return [_row(dict(zip(names, _cells(line), strict=True))) for line in lines], 0
    rows = []
    for line in lines:
        values, _, checksum = line.rpartition(",")
        if checksum == _line_checksum(heading, values):
            rows.append(_row(dict(zip(names, _cells(line), strict=True))))
    if lines and not rows:
        raise ValueError("no row has a correct checksum")
    return rows, len(lines) - len(rows)


def _cells(line: str) -> list[str]:
    return next(csv.reader([line]), [])


def _line_checksum(heading: str, values: str) -> str:
    return f"{zlib.crc32(f'{heading} {values}'.encode()):08x}"


def _row(values: Mapping[str, str]) -> Row:
    change = Change(values["layer"], values["method"], float(values["level"]))
    names = [name for name in values if name not in (*_BEFORE, *_AFTER, _CHECKSUM)]
    return Row(change, {name: float(values[name]) for name in names}, float(values["seconds"]))


def open_scan(folder: str | os.PathLike[str], model: str, about: Mapping[str, Any]) -> Scan:
    """Return the scan in a folder, or start a new one and write its settings.

    Args:
        folder: folder of the scan.
        model: fingerprint of the model.
        about: plain values that affect the scores.

    Raises:
        UsageError: the folder contains a scan of another model or with other scores.
        OutputError: the folder cannot be written.
    """
    found = read_scan(folder)
    settings = json.loads(json.dumps({"version": VERSION, "model": model, "score": dict(about)}))
    if not found.settings:
        write_json(Path(folder) / SETTINGS, settings)
        return Scan(settings=settings)
    if found.settings.get("model") != model:
        raise UsageError(f"{folder}: contains a scan of another model; choose another folder")
    before = found.settings.get("score", {})
    changed = [
        k for k in {**before, **settings["score"]} if before.get(k) != settings["score"].get(k)
    ]
    if changed:
        raise UsageError(
            f"{folder}: its scores used other settings ({changed[0]} was "
            f"{before.get(changed[0])!r}); choose another folder"
        )
    return found


def write_scan(folder: str | os.PathLike[str], scan: Scan) -> None:
    """Write the settings and the rows of a scan in place of those in the folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_json(Path(folder) / SETTINGS, dict(scan.settings))
    if scan.rows:
        write_rows(folder, scan.rows)


def write_rows(folder: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write the table, and the scores of pairs if there are any. Raises OutputError.

    Each file is replaced atomically. The table is last, so that no row of it lacks its pairs.
    """
    pairs = {astuple(row.change): row.pairs for row in rows if row.pairs}
    if pairs:
        write_pairs(Path(folder) / PAIRS, pairs)
    names = list(rows[0].scores) if rows else []
    heading = _csv_line([*_BEFORE, *names, *_AFTER, _CHECKSUM])
    lines = [heading]
    for row in rows:
        scores = [f"{row.scores[name]:.4f}" for name in names]
        level = f"{row.change.level:.15g}"
        values = [row.change.layer, row.change.method, level, *scores, f"{row.seconds:.2f}"]
        line = _csv_line(values)
        lines.append(f"{line},{_line_checksum(heading, line)}")
    with atomic_write(Path(folder) / TABLE) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def _csv_line(values: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()
