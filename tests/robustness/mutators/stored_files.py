"""Files that featherglue wrote itself: matches, features, labels, caches, scans, logs, results."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st

from featherglue.collection.pair_matching import match_pairs
from featherglue.data.keypoint_labels import KeypointLabels, PhotoLabels
from featherglue.errors import FeatherglueError
from featherglue.evaluation import plots  # noqa: F401 (loaded here, not in each process of cases)
from featherglue.evaluation.report import read_results, write_report
from featherglue.evaluation.result_cache import FeatureCache, ResultLog
from featherglue.export.cache import read_fingerprint
from featherglue.io.files import write_npz
from featherglue.io.json_lines import checked_line
from featherglue.io.npz import read_npz
from featherglue.io.pairs import Pair
from featherglue.sensitivity.results import read_scan
from featherglue.train.engine.log_files import read_rows, truncate_logs
from mutators.byte_edits import Damaged, damaged
from mutators.mutator import Mutator
from mutators.stub_session import StubSession
from mutators.values import Change, changes

IMAGE = np.full((32, 40), 90, np.uint8)
PAIR = Pair(name0="a.png", name1="b.png")
_ENTRY = {"key": "0123456789abcdef", "metrics": {"error": 0.5}, "failure": ""}


def _written(write: Callable[[Path], Any]) -> bytes:
    """The content of a file that `write` writes."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def _match(path: Path) -> None:
    session = StubSession()
    session.match(session.extract(IMAGE), session.extract(IMAGE)).save(
        path, {"fingerprint": np.array("0" * 16)}
    )


def _labels(path: Path) -> None:
    counts = np.ones(3, np.uint16)
    labels = PhotoLabels(
        size=(40, 32),
        points=np.ones((3, 2), np.float32),
        scores=np.ones(3, np.float32),
        covered=counts,
        found=counts,
        matched=counts,
    )
    KeypointLabels({"a.png": labels}, "0" * 64, {"views": 3}).save(path)


def _features(path: Path) -> None:
    features = StubSession().extract(IMAGE)
    write_npz(
        path,
        {
            "keypoints": features.keypoints,
            "scores": features.scores,
            "descriptors": features.descriptors,
            "image_size": np.array(features.image_size),
            "has_image": np.array(False),
        },
    )


SEEDS: dict[str, Callable[[], bytes]] = {
    "match": partial(_written, _match),
    "labels": partial(_written, _labels),
    "features": partial(_written, _features),
    "lines": f"\n{checked_line(_ENTRY)}\n\n{checked_line(_ENTRY)}\n".encode,
    "scan": lambda: (
        b"layer,method,level,auc,seconds\n,,0,50.1234,3.00\nextractor.conv1a,prune,0.5,40,2\n"
    ),
    "scan-settings": lambda: b'{"version": 2, "model": "0", "score": {"pairs": 3}}',
    "log": lambda: b"step,seconds,loss\n100,1.5,0.25\n200,3,0.125\n",
    "graph": lambda: bytes.fromhex("72180a0b66696e6765727072696e74120930313233343536")[:24],
}


def _use_match(path: Path, folder: Path) -> None:
    """A match file is either found intact, or written again."""
    images, output = folder / "images", folder / "out"
    images.mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(images / name), IMAGE)
    (first,) = match_pairs(StubSession(), [PAIR], images, output, pictures=False)
    expected = read_npz(first.output)
    first.output.write_bytes(path.read_bytes())
    list(match_pairs(StubSession(), [PAIR], images, output, pictures=False))
    found = read_npz(first.output)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def _use_features(path: Path, folder: Path) -> None:
    """Features are found intact, or extracted again."""
    session = StubSession()
    cache = FeatureCache(session, folder / "cache")
    assert cache._folder is not None
    expected = session.extract(IMAGE)
    cache.extract(IMAGE)
    (stored,) = cache._folder.iterdir()
    stored.write_bytes(path.read_bytes())
    found = FeatureCache(session, folder / "cache").extract(IMAGE)
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    np.testing.assert_array_equal(found.descriptors, expected.descriptors)


def _use_labels(path: Path, folder: Path) -> None:
    labels = KeypointLabels.load(path)
    for name in labels:
        labels.points(name)


def _use_lines(path: Path, folder: Path) -> None:
    """Every result that is still there is the one that was stored."""
    log = object.__new__(ResultLog)
    log.path = path
    for key, entry in log._read().items():
        assert {"key": key, **entry} == _ENTRY


def _use_scan(path: Path, folder: Path) -> None:
    (folder / "scan.json").write_bytes(SEEDS["scan-settings"]())
    (folder / "scan.csv").write_bytes(path.read_bytes())
    scan = read_scan(folder)
    scan.costs("prune")


def _use_scan_settings(path: Path, folder: Path) -> None:
    (folder / "scan.json").write_bytes(path.read_bytes())
    read_scan(folder)


def _use_log(path: Path, folder: Path) -> None:
    (folder / "log.csv").write_bytes(path.read_bytes())
    read_rows(folder / "log.csv")
    truncate_logs(folder, 100)
    read_rows(folder / "log.csv")


def _use_graph(path: Path, folder: Path) -> None:
    read_fingerprint(path)


USES: dict[str, Callable[[Path, Path], None]] = {
    "match": _use_match,
    "labels": _use_labels,
    "features": _use_features,
    "lines": _use_lines,
    "scan": _use_scan,
    "scan-settings": _use_scan_settings,
    "log": _use_log,
    "graph": _use_graph,
}


def _use(case: Damaged, folder: Path) -> None:
    path = folder / "damaged"
    path.write_bytes(case.data())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is damaged is said
        USES[case.seed](path, folder)


STORED = Mutator(
    name="stored", cases=damaged(SEEDS, max_edits=3), use=_use, num_tested=150, goal=1500
)


# --- results of evaluations and benchmarks --------------------------------------------------

RESULTS: dict[str, dict[str, Any]] = {
    "evaluation": {
        "format_version": 1,
        "kind": "evaluation",
        "featherglue": "0.2.0",
        "suite": "homography",
        "model": {"name": "fast", "extractor": {"max_keypoints": 512}},
        "settings": {"seed": 0},
        "auc": {"5": 50.0, "10": 60.0, "25": 70.0},
        "precision": 90.0,
        "recall": 80.0,
        "matches": 200.0,
        "pairs": 3,
        "failures": 1,
        "command": "featherglue evaluate homography",
        "results": [{"index": i, "error": e} for i, e in enumerate((0.5, 2.0, None))],
    },
    "benchmark": {
        "format_version": 1,
        "kind": "benchmark",
        "image_size": [640, 480],
        "repetitions": 3,
        "machine": {"processor": "P", "cores": 2, "flags": ["avx2"]},
        "rows": [
            {
                "label": "fast",
                "max_keypoints": 512,
                "stages": {"extractor": {"median_ms": 9.0, "p95_ms": 9.5}},
                "end_to_end": {"median_ms": 20.0, "p95_ms": 22.0},
                "frames_per_second": 50.0,
                "bytes_on_disk": 1000,
            }
        ],
    },
}


@dataclass(frozen=True)
class Result:
    """A result with changes of its values."""

    seed: str
    changes: tuple[Change, ...]


def _report(case: Result, folder: Path) -> None:
    """The report of a changed result is written, or the result is refused."""
    values: Any = RESULTS[case.seed]
    for change in case.changes:
        values = change.apply(values)
    path = folder / "result.json"
    path.write_text(json.dumps(values))
    other = folder / "other.json"
    other.write_text(json.dumps(RESULTS[case.seed]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of matplotlib, about empty names
        write_report(read_results([path]), folder / "report.html")
        with suppress(FeatherglueError):  # the two may not be comparable
            write_report(read_results([path, other]), folder / "report.html")


REPORTS = Mutator(
    name="results",
    cases=st.builds(
        Result,
        seed=st.sampled_from(sorted(RESULTS)),
        changes=st.lists(changes(), min_size=1, max_size=2).map(tuple),
    ),
    use=_report,
    num_tested=25,
    goal=500,
)
