"""The sensitivity scan of the study: each layer pruned and quantized, scored on each pair.

A stopped scan continues. The strongest level of all layers is first, for both methods. Then the
levels in between follow, the largest changes of the score first.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.errors import ConfigError, UsageError
from featherglue.evaluation import HomographySuite
from featherglue.fingerprint import file_fingerprint
from featherglue.models.model import Model
from featherglue.sensitivity.merging import merge_scans
from featherglue.sensitivity.pair_scores import loss_interval
from featherglue.sensitivity.results import (
    PAIRS,
    SETTINGS,
    TABLE,
    Change,
    Method,
    Scan,
    model_fingerprint,
    read_scan,
    write_scan,
)
from featherglue.sensitivity.scan import Measurement, ScanConfig, plan, ratios_for, scan
from featherglue.sensitivity.scoring import HomographyScorer, ScoringConfig, scoring_settings

LEVELS: Mapping[Method, tuple[float, ...]] = {
    "prune": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "codebook": (2, 3, 4, 5, 6, 7, 8),
}
_TURN = 5.0  # minutes of a method before the other one continues
CACHE_BYTES = 5 * 2**30


@dataclass(frozen=True, kw_only=True)
class ScanSettings:
    """Settings of the scan.

    Attributes:
        num_pairs: number of pairs of the suite.
        max_keypoints: maximum number of keypoints of an image.
        minutes: time limit.
        levels: levels by method.
    """

    num_pairs: int = 32
    max_keypoints: int = 512
    minutes: float = 60.0
    levels: Mapping[Method, tuple[float, ...]] = field(default_factory=lambda: LEVELS)


def run_scan(
    dense: Model,
    suite: HomographySuite,
    folder: Path,
    settings: ScanSettings,
    report: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
    cache_bytes: int = CACHE_BYTES,
) -> Scan:
    """Scan until the time is over or everything is scored, and return all rows of the folder.

    Args:
        dense: the dense model, with folded batch normalization.
        suite: suite with the pairs.
        folder: folder of the scan; a scan in it is continued.
        settings: settings of the scan.
        report: called with a line of text for each score.
        clock: returns seconds from any origin.
        cache_bytes: maximum number of bytes of cached activations.

    Raises:
        UsageError: the folder contains a scan of another model or with other settings.
    """
    end = clock() + 60 * settings.minutes
    scorer = HomographyScorer(dense, suite, _scoring(settings, cache_bytes))
    about = about_scores(suite, settings)

    def score(model: Model) -> Measurement:
        pairs = scorer.measure(model)
        return Measurement(pairs["unrefined"].summary(suite.thresholds), pairs)

    def progress(done: int, total: int, change: Change) -> None:
        report(f"    {done} of {total} {change.method}: {change.layer} {change.level:g}")

    def continue_scan(method: Method, levels: tuple[float, ...], minutes: float) -> Scan:
        config = ScanConfig(method=method, levels=levels, minutes=minutes, order="adaptive")
        return scan(dense, score, folder, config, about=about, progress=progress, clock=clock)

    for method, levels in settings.levels.items():
        strongest = levels[-1:] if method == "prune" else levels[:1]
        continue_scan(method, strongest, max(1e-6, (end - clock()) / 60))
    while (left := (end - clock()) / 60) > 0:
        for method, levels in settings.levels.items():
            continue_scan(method, levels, min(_TURN, left))
        if not missing(dense, read_scan(folder), settings):
            break
    return read_scan(folder)


def about_scores(suite: HomographySuite, settings: ScanSettings) -> dict[str, Any]:
    """Return what affects the scores: the same values wherever the images are."""
    found = scoring_settings(suite, _scoring(settings))
    about = {k: v for k, v in found.items() if k not in ("folder", "list")}
    if suite.pair_file is not None:
        about["list"] = file_fingerprint(suite.pair_file)
    return about


def _scoring(settings: ScanSettings, cache_bytes: int = CACHE_BYTES) -> ScoringConfig:
    return ScoringConfig(
        num_pairs=settings.num_pairs,
        max_keypoints=settings.max_keypoints,
        refine=True,
        cache_bytes=cache_bytes,
    )


def missing(dense: Model, found: Scan, settings: ScanSettings) -> list[Change]:
    """Return the changes that the scan lacks."""
    scored = {row.change for row in found.rows}
    return [
        change
        for method, levels in settings.levels.items()
        for change in plan(dense.architecture, ScanConfig(method=method, levels=levels))
        if change not in scored
    ]


def copy_scan(source: Path, target: Path) -> None:
    """Copy the files of a scan to another folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (SETTINGS, PAIRS, TABLE):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def published_scan(dense: Model, published: Path) -> Scan:
    """Return the published scan, or an empty one if there is none of this model."""
    try:
        found = read_scan(published)
    except UsageError:
        return Scan()
    return found if found.settings.get("model") == model_fingerprint(dense) else Scan()


def continue_published(
    dense: Model, suite: HomographySuite, published: Path, folder: Path, settings: ScanSettings
) -> None:
    """Copy a published scan to a folder without a scan, so that it is continued.

    A scan of another model or with other settings is not copied.
    """
    found = published_scan(dense, published)
    if read_scan(folder).settings or found.settings.get("score") != about_scores(suite, settings):
        return
    copy_scan(published, folder)


def read_scans(dense: Model, folders: Sequence[Path]) -> list[Scan]:
    """Return the scans in some folders.

    Raises:
        UsageError: a folder has no scan, or one of another model.
    """
    scans = [read_scan(folder) for folder in folders]
    for folder, found in zip(folders, scans, strict=True):
        if not found.settings:
            raise UsageError(f"{folder}: contains no scan")
        if found.settings.get("model") != model_fingerprint(dense):
            raise UsageError(f"{folder}: contains a scan of another model")
    return scans


def merge_into(folder: Path, scans: Sequence[Scan]) -> Scan:
    """Add the rows of other scans to the scan in a folder, and return the result.

    Raises:
        UsageError: the models or settings differ; see `merge_scans`.
    """
    found = merge_scans([read_scan(folder), *scans])
    if found.settings:
        write_scan(folder, found)
    return found


def summary(dense: Model, found: Scan | None, settings: ScanSettings) -> dict[str, Any]:
    """Return what the scan has measured, as plain values for the page.

    Returns:
        {} without a scan. Otherwise `pairs`, `keypoints`, `seconds` of all scores, and for each
        method the number of `scored` and `planned` changes, and the `levels` with the number of
        layers scored at each.
    """
    if found is None or not found.rows:
        return {}
    scoring = found.settings.get("score", {})
    methods = {}
    for method, levels in settings.levels.items():
        counts = {f"{level:g}": 0 for level in levels}
        for row in found.rows:
            key = f"{row.change.level:g}"
            if row.change.method == method and key in counts:
                counts[key] += 1
        num_layers = len(plan(dense.architecture, ScanConfig(method=method, levels=levels[:1])))
        methods[method] = {
            "scored": sum(counts.values()),
            "planned": num_layers * len(levels),
            "layers": num_layers,
            "levels": counts,
        }
    base = next(row for row in found.rows if row.change.layer == "")
    scores = {state: pairs.summary() for state, pairs in base.pairs.items()}
    facts = {"pairs": scoring.get("num_pairs"), "keypoints": scoring.get("max_keypoints")}
    facts["seconds"] = round(sum(row.seconds for row in found.rows))
    return {**facts, "methods": methods, "unchanged": scores}


def compare_allocation(
    dense: Model,
    suite: HomographySuite,
    found: Scan,
    sparsities: Sequence[float],
    settings: ScanSettings,
) -> list[dict[str, Any]]:
    """Prune the scanned layers by the allocation of a scan, and by one ratio, and score both.

    Args:
        dense: the dense model.
        suite: suite with the pairs.
        found: the scan.
        sparsities: fractions of zeros among all weights of the scanned layers.
        settings: settings of the scan.

    Returns:
        Rows with `sparsity`, `allocation` ("scan" or "uniform"), `state`, and the loss of the mean
        score in points: `loss`, `low` and `high`. Sparsities beyond the scan are left out.
    """
    scorer = HomographyScorer(dense, suite, _scoring(settings))
    base = scorer.measure(dense)
    scanned = tuple(found.costs("prune"))
    rows = []
    for sparsity in sparsities:
        try:
            ratios = ratios_for(found, dense.architecture, sparsity)
        except ConfigError:
            continue
        variants = {"scan": ratios, "uniform": dict.fromkeys(scanned, sparsity)}
        for name, given in variants.items():
            model = prune(dense, PruneConfig(ratio=0, ratios=given, include=scanned))
            for state, pairs in scorer.measure(model).items():
                loss = loss_interval(base[state], pairs)
                rows.append(
                    {
                        "sparsity": sparsity,
                        "layers": len(scanned),
                        "allocation": name,
                        "state": state,
                        "loss": round(loss.value, 2),
                        "low": round(loss.low, 2),
                        "high": round(loss.high, 2),
                    }
                )
    return rows
