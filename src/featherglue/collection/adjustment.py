"""The track adjustment of a collection, in two rounds.

The first round solves for the displacements of the keypoints (see `track_adjustment`) with the
alignments that were made with the matches. The second round aligns the matches again at the moved
keypoints, whose windows now show the same points of the scene, and solves again. The adjusted
keypoints and the retained matches are files in hloc's layout, as those of extraction and matching.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.collection.alignment_tasks import AlignmentTask, packed_rows, select_matches
from featherglue.collection.numbered_keypoints import (
    NumberedKeypoints,
    check_matches,
    read_matches,
)
from featherglue.collection.pair_selection import write_pairs
from featherglue.collection.records import ERROR, Key, Record
from featherglue.collection.resumable import Progress, work_results
from featherglue.collection.store import Store, write_store
from featherglue.collection.track_adjustment import (
    Adjustment,
    AdjustmentConfig,
    Equations,
    adjust_tracks,
)
from featherglue.errors import StoreError
from featherglue.fingerprint import file_state, fingerprint
from featherglue.io.image import check_folder

Float = NDArray[np.float32]
_MIN_MATCHES = 15  # of a pair that COLMAP verifies
_MIN_SHARE = 300  # pairs of a worker; each takes about 2 ms, starting it half a second
_COUNTS = "counts"


@dataclass(frozen=True, kw_only=True)
class AdjustmentResult:
    """The outcome of a track adjustment.

    Attributes:
        feature_file: adjusted keypoints.
        match_file: retained matches.
        num_matches: number of matches before the adjustment.
        num_retained: number of retained matches.
        median_displacement: px of the working frame, of the moved keypoints.
        notes: what the user should know, such as the loss of a worker.
    """

    feature_file: Path
    match_file: Path
    num_matches: int
    num_retained: int
    median_displacement: float
    notes: tuple[str, ...] = ()


def adjust_collection(
    images: str | os.PathLike[str],
    feature_file: str | os.PathLike[str],
    match_file: str | os.PathLike[str],
    adjusted_features: str | os.PathLike[str],
    adjusted_matches: str | os.PathLike[str],
    *,
    config: AdjustmentConfig | None = None,
    workers: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> AdjustmentResult:
    """Adjust the keypoints of a collection to their tracks, and reject contradicting matches.

    Matches without an alignment are rejected too: their keypoints show different points. So are
    pairs with an image that cannot be read any more; the notes of the result name them.

    Args:
        images: folder of the images.
        feature_file: see `extract_features`.
        match_file: see `match_features`.
        adjusted_features: feature file to write; it has keypoints, but no descriptors.
        adjusted_matches: match file to write.
        config: settings; None uses the defaults.
        workers: maximum number of processes; None takes one per core.
        ray: address of a Ray cluster that does the work, such as "auto" or "host:port", see
            `run_cluster`; `workers` is the maximum number of its processes. None works on this
            machine.
        overwrite: replace files that were made with other settings.
        progress: called with the number of pairs that are aligned and the number of all.

    Raises:
        MissingExtraError: h5py or SciPy is not installed.
        ImageError: `images` is no folder.
        StoreError: a file cannot be read, or has no alignments.
        OutputError: a file cannot be written.
    """
    config = config or AdjustmentConfig()
    check_folder(images)
    target, final = Path(adjusted_features), Path(adjusted_matches)
    moved = target.with_name(f".{target.name}.moved")
    aligned = final.with_name(f".{final.name}.aligned")
    manifest = _manifest(feature_file, match_file, config)
    finished = _finished(target, final, manifest, overwrite)
    if finished is not None:
        return finished
    with Store(feature_file) as features, Store(match_file) as matches:
        keypoints = NumberedKeypoints(features)
        first = _solve(keypoints, read_matches(matches, keypoints), config, match_file)
    _write_keypoints(moved, first, manifest)
    with work_results(
        aligned,
        manifest,
        dict.fromkeys(first.kept, fingerprint(manifest)),
        AlignmentTask(
            images=Path(images).absolute(),
            feature_file=moved.absolute(),
            match_file=Path(match_file).absolute(),
            kept={names: packed_rows(rows) for names, rows in first.kept.items()},
        ),
        defaults={"adjustment": asdict(AdjustmentConfig())},
        workers=workers,
        ray=ray,
        overwrite=overwrite,
        progress=progress,
        min_share=_MIN_SHARE,
    ) as results:
        failures: dict[Key, str] = {}
        records = _without_failures(map(results.read, first.kept), failures)
        second = _solve_again(moved, records, config, match_file)
        counts = _counts(first, second)
        _write_keypoints(target, second, manifest)
        selected = (select_matches(results.read(key), rows) for key, rows in second.kept.items())
        write_store(final, {**manifest, _COUNTS: counts}, selected)
    moved.unlink()
    notes = (*results.notes, *map(_left_out, failures.items()))
    return AdjustmentResult(feature_file=target, match_file=final, notes=notes, **counts)


def _left_out(failure: tuple[Key, str]) -> str:
    key, reason = failure
    return f"{' and '.join(key)}: left out: {reason}"


def write_retained_pairs(adjusted_matches: str | os.PathLike[str], output: Path) -> None:
    """Write the list of the pairs that an adjustment retains: those of its match file.

    Raises:
        StoreError: `adjusted_matches` cannot be read.
        OutputError: the list cannot be written.
    """
    with Store(adjusted_matches) as store:
        write_pairs(output, [(name0, name1) for name0, name1 in store.sorted_keys()])


def _finished(
    target: Path, final: Path, manifest: Mapping[str, Any], overwrite: bool
) -> AdjustmentResult | None:
    """The result of an earlier run with these inputs and settings; None if there is none.

    Raises:
        StoreError: without `overwrite`, a file exists that no adjustment wrote.
    """
    try:
        return _read_result(target, final, manifest)
    except StoreError as error:
        if overwrite:
            return None
        raise StoreError(f"{error}; use another folder, or `overwrite`") from None


def _read_result(target: Path, final: Path, manifest: Mapping[str, Any]) -> AdjustmentResult | None:
    """As `_finished`. Raises StoreError if a file exists that no adjustment wrote."""
    found = []
    for path in (target, final):
        if not path.exists():
            continue
        with Store(path) as store:
            found.append({n: v for n, v in store.manifest.items() if n != "version"})
        if found[-1].get("kind") != manifest["kind"]:
            raise StoreError(f"{path}: is not the result of an adjustment")
    counts = found[-1].pop(_COUNTS, None) if found else None
    if counts is None or found != [manifest, manifest]:
        return None
    return AdjustmentResult(feature_file=target, match_file=final, **counts)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Solution:
    """Moved keypoints, and the rows of the retained matches of each pair with enough of them."""

    keypoints: NumberedKeypoints
    points: dict[str, Float]
    kept: dict[Key, NDArray[np.int64]]
    num_matches: int


def _solve(
    keypoints: NumberedKeypoints,
    pairs: Iterable[tuple[Key, NDArray[np.int64], Record]],
    config: AdjustmentConfig,
    match_file: str | os.PathLike[str],
) -> _Solution:
    """Solve for the displacements.

    Args:
        keypoints: of all images.
        pairs: names, matches (M, 2) and record of each pair.
        config: settings.
        match_file: for the message of a file without alignments.
    """
    rows: dict[Key, NDArray[np.int64]] = {}
    counts: list[int] = []

    def parts() -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]]:
        for names, indices, record in pairs:
            alignment = record.arrays.get("alignment")
            if alignment is None or len(alignment) != len(indices):
                raise StoreError(f"{match_file}: has no alignments; match with this version again")
            counts.append(len(indices))
            rows[names] = np.flatnonzero(np.isfinite(alignment).all(1))
            yield (*keypoints.numbers(names, indices).T, alignment)

    equations = Equations.of(parts())
    adjusted = adjust_tracks(equations, keypoints.count, config)
    return _Solution(
        keypoints=keypoints,
        points=keypoints.moved(adjusted.displacements),
        kept=_kept(rows, adjusted),
        num_matches=sum(counts),
    )


def _solve_again(
    moved: Path,
    records: Iterable[Record],
    config: AdjustmentConfig,
    match_file: str | os.PathLike[str],
) -> _Solution:
    """Solve with the alignments at the moved keypoints."""
    with Store(moved) as features:
        keypoints = NumberedKeypoints(features)
    pairs = (check_matches(record, keypoints, Path(match_file)) for record in records)
    return _solve(keypoints, pairs, config, match_file)


def _counts(first: _Solution, second: _Solution) -> dict[str, Any]:
    """The numbers of `AdjustmentResult`."""
    return {
        "num_matches": first.num_matches,
        "num_retained": sum(map(len, second.kept.values())),
        "median_displacement": _median_displacement(first.keypoints, second.points),
    }


def _without_failures(records: Iterable[Record], failures: dict[Key, str]) -> Iterator[Record]:
    """The records with arrays. The errors of the others are added to `failures`."""
    for record in records:
        if record.arrays:
            yield record
        else:
            failures[record.key] = str(record.attributes[ERROR])


def _kept(
    rows: Mapping[Key, NDArray[np.int64]], adjusted: Adjustment
) -> dict[Key, NDArray[np.int64]]:
    kept, start = {}, 0
    for names, aligned in rows.items():
        retained = aligned[~adjusted.rejected[start : start + len(aligned)]]
        start += len(aligned)
        if len(retained) >= _MIN_MATCHES:
            kept[names] = retained
    return kept


def _write_keypoints(path: Path, solution: _Solution, manifest: Mapping[str, Any]) -> None:
    def records() -> Iterator[Record]:
        for name, points in solution.points.items():
            frame = solution.keypoints.frames[name]
            yield Record(
                key=(name,),
                attributes={"orientation": frame.orientation, "working_size": frame.working_size},
                arrays={"keypoints": points, "image_size": np.array(frame.size, np.int64)},
            )

    write_store(path, manifest, records())


def _manifest(
    feature_file: str | os.PathLike[str],
    match_file: str | os.PathLike[str],
    config: AdjustmentConfig,
) -> dict[str, Any]:
    """What the adjustment is made from and with."""
    with Store(match_file) as store:
        max_size = store.manifest.get("features", {}).get("max_size")
    return {
        "kind": "adjustment",
        "files": [file_state(path)[1:] for path in (feature_file, match_file)],
        "adjustment": asdict(config),
        "max_size": max_size,
    }


def _median_displacement(before: NumberedKeypoints, after: Mapping[str, Float]) -> float:
    """Median length, px of the working frame, of the displacements of the moved keypoints."""
    lengths = [np.zeros(0)]
    for name, points in after.items():
        frame = before.frames[name]
        moves = frame.to_working(points) - frame.to_working(before.points[name])
        lengths.append(np.linalg.norm(moves, axis=1))
    length = np.concatenate(lengths)
    return float(np.median(length[length > 0])) if (length > 0).any() else 0.0
