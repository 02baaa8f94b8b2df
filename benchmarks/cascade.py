"""The cascade of the matching of collections, compared with the whole matcher.

    python benchmarks/cascade.py FEATURES PHOTOS PAIRS --json FILE

FEATURES is a feature file, PHOTOS the folder of its photographs, PAIRS a list of pairs. A pair is
*verified* if COLMAP finds a two-view geometry with at least 15 inliers in the matches of the whole
matcher, and *lost* if it does not in those of the cascade. *Rejected* pairs have no matches by the
cascade, *whole* ones are left to the matcher with all keypoints. Times are processor times of one
thread, of the matching alone and of the whole record with alignment and reading of the features.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import numpy as np
import pycolmap
from option_types import positive

from featherglue.collection.extraction import SessionSource
from featherglue.collection.feature_reader import FeatureReader
from featherglue.collection.matching_cascade import match_by_cascade
from featherglue.collection.store_matching import match_record
from featherglue.io.pairs import read_pairs
from featherglue.options import make_options
from featherglue.session import Session
from featherglue.types import Features, MatchResult

MIN_INLIERS = 15
MAX_FOCAL = 1.2  # of COLMAP's first estimate, in units of the longest side


class Noted:
    """A session that notes the number of keypoints of each match."""

    def __init__(self, session: Session) -> None:
        self._session, self.sizes = session, list[int]()

    def match(self, features0: Features, features1: Features) -> MatchResult:
        self.sizes.append(len(features0))
        return self._session.match(features0, features1)


def num_verified(features0: Features, features1: Features, indices: np.ndarray) -> int:
    """Number of inliers of COLMAP's two-view geometry."""
    if len(indices) < MIN_INLIERS:
        return 0
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = 0
    cameras, points = [], []
    for features in (features0, features1):
        focal = MAX_FOCAL * max(features.image_size)
        cameras.append(
            pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", focal, *features.image_size)
        )
        points.append(features.keypoints.astype(float) + 0.5)
    geometry = pycolmap.estimate_two_view_geometry(
        cameras[0], points[0], cameras[1], points[1], indices.astype(np.uint32), options
    )
    return len(geometry.inlier_matches)


def measure(
    session: Session, reader: FeatureReader, pair: tuple[str, str], truth: bool
) -> dict[str, Any]:
    """What both methods find in a pair, and their times in ms."""
    start = time.process_time()
    match_record(session, reader, pair, cascade=True)
    row: dict[str, Any] = {"pair": pair, "record": 1000 * (time.process_time() - start)}
    features0, features1 = (reader.read(name) for name in pair)
    noted = Noted(session)
    start = time.process_time()
    found, _ = match_by_cascade(noted, features0, features1)  # type: ignore[arg-type]
    row["cascade"] = 1000 * (time.process_time() - start)
    row["stage"] = "nearest" if not noted.sizes else "selected"
    if noted.sizes and noted.sizes[-1] == len(features0):
        row["stage"] = "whole"
    elif not len(found):
        row["stage"] = "rejected"
    if truth:
        start = time.process_time()
        matches = session.match(features0, features1).matches
        row["matcher"] = 1000 * (time.process_time() - start)
        row["inliers"] = num_verified(features0, features1, matches.indices)
        row["found"] = num_verified(features0, features1, found)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Shares and mean times as a Markdown table."""
    lines = ["| figure | value |", "|---|---:|", f"| pairs | {len(rows)} |"]
    for stage in ("nearest", "selected", "rejected", "whole"):
        share = np.mean([row["stage"] == stage for row in rows])
        lines.append(f"| {stage} | {100 * share:.1f} % |")
    for name in ("record", "cascade", "matcher"):
        if name in rows[0]:
            lines.append(f"| {name}, ms | {np.mean([row[name] for row in rows]):.1f} |")
    verified = [row for row in rows if row.get("inliers", 0) >= MIN_INLIERS]
    if verified:
        lost = sum(row["found"] < MIN_INLIERS for row in verified)
        empty = sum(row["stage"] == "rejected" for row in verified)
        lines.append(f"| verified with the whole matcher | {len(verified)} |")
        lines.append(f"| of these rejected | {empty} ({100 * empty / len(verified):.1f} %) |")
        lines.append(f"| of these not verified | {lost} ({100 * lost / len(verified):.1f} %) |")
        more = sum(row["found"] >= MIN_INLIERS > row["inliers"] for row in rows)
        lines.append(f"| verified with the cascade only | {more} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("features", type=Path, help="feature file")
    parser.add_argument("photos", type=Path, help="folder of its photographs")
    parser.add_argument("pairs", type=Path, help="list of pairs")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--num-pairs", type=positive, help="random ones of the list")
    parser.add_argument("--no-truth", action="store_true", help="the cascade alone")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    source = SessionSource(model=options.model, options=make_options(resize=-1))
    session = source.open().with_settings(resize=-1, refine=False)
    reader = FeatureReader(options.features, options.photos)
    pairs = [(pair.name0, pair.name1) for pair in read_pairs(options.pairs)]
    if options.num_pairs is not None and options.num_pairs < len(pairs):
        chosen = np.random.default_rng(0).choice(len(pairs), options.num_pairs, replace=False)
        pairs = [pairs[i] for i in np.sort(chosen)]
    rows = [measure(session, reader, pair, not options.no_truth) for pair in pairs]
    if options.json is not None:
        options.json.write_text(json.dumps(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
