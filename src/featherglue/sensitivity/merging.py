"""Merge scans of one model that ran apart, such as one for each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from featherglue.errors import UsageError
from featherglue.sensitivity.results import UNCHANGED, Change, Row, Scan

_TOLERANCE = 0.01  # points by which the scores of the unchanged model may differ


def merge_scans(scans: Sequence[Scan]) -> Scan:
    """Return the rows of all scans. Of two rows with the same change, the first one is kept.

    Args:
        scans: scans of the same model with the same settings. Empty ones are left out.

    Raises:
        UsageError: the models or settings differ, or the unchanged model has other scores, because
            the code or the images changed between the scans.
    """
    started = [scan for scan in scans if scan.settings]
    if not started:
        return Scan()
    first = started[0]
    rows: dict[Change, Row] = {}
    for scan in started:
        _check_settings(first.settings, scan.settings)
        for row in scan.rows:
            if row.change == UNCHANGED and UNCHANGED in rows:
                _check_scores(rows[UNCHANGED].scores, row.scores)
            rows.setdefault(row.change, row)
    ordered = sorted(rows.values(), key=lambda row: row.change != UNCHANGED)
    return Scan(rows=tuple(ordered), settings=first.settings)


def _check_settings(first: Mapping[str, object], other: Mapping[str, object]) -> None:
    if first == other:
        return
    if first.get("model") != other.get("model"):
        raise UsageError("the scans are of different models: scan the same model")
    before, after = (_flat(settings) for settings in (first, other))
    name = next(k for k in {**before, **after} if before.get(k) != after.get(k))
    raise UsageError(
        f"the scans used different settings ({name} is {before.get(name)!r} in one and "
        f"{after.get(name)!r} in another): use the same settings"
    )


def _flat(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings with those of the scores at the same level."""
    score = settings.get("score")
    return {**settings, **(score if isinstance(score, Mapping) else {}), "score": None}


def _check_scores(first: Mapping[str, float], other: Mapping[str, float]) -> None:
    for name in {**first, **other}:
        a, b = first.get(name, math.nan), other.get(name, math.nan)
        if not abs(a - b) <= _TOLERANCE:
            raise UsageError(
                f"the unchanged model has other scores in one of the scans ({name} is {a:.2f} and "
                f"{b:.2f}): scan with the same code and images"
            )
