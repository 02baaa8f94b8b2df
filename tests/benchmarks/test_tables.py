"""benchmarks/tables.py on results of two contenders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SPEEDS = {"fast": 25.0, "SIFT, refined": 80.0}


def _row(label: str, milliseconds: float) -> dict[str, Any]:
    return {
        "label": label,
        "max_keypoints": 300,
        "end_to_end": {"median_ms": milliseconds, "p95_ms": 1.5 * milliseconds},
        "frames_per_second": 1e3 / milliseconds,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    for key, area in (("val", 61.25), ("val-no-photometric", 72.25), ("real", 33.75)):
        for name in SPEEDS:
            result = {
                "auc": {"5": area},
                "auc_dlt": {"5": area - 9},
                "recall": 44.5,
                "precision": 88.5,
                "pairs": 7,
            }
            path = folder / f"{key}-{name.replace(' ', '-')}.json"
            path.write_text(json.dumps(result))
    rows = [_row(*one) for one in SPEEDS.items()]
    rows[0] |= {"cold_start_ms": 432.0, "peak_bytes": 150 * 2**20}
    machine = {"processor": "CPU of the test", "cores": 3, "flags": ["avx2"]}
    machine["versions"] = {"numpy": "9.8.7"}
    speed = {
        "command": "python peers.py",
        "repetitions": 5,
        "threads": 2,
        "machine": machine,
        "rows": rows,
    }
    (folder / "speed.json").write_text(json.dumps(speed))
    return folder


def test_the_page_shows_the_results(
    load_script: Callable[[str], ModuleType], results: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    load_script("tables").main([str(results), str(page)])
    text = page.read_text()
    first, homographies, poses, correct, estimators, speed = text.split("\n## ")
    for section, areas in (
        (homographies, ("61.2", "72.2")),
        (poses, ("33.8",)),
        (correct, ("88.5",) * 3),
        (estimators, ("52.2", "63.2")),
    ):
        rows = [line for line in section.splitlines() if line.startswith(("| fast", "| SIFT"))]
        assert len(rows) == 2 * len(areas)
        assert all(
            area in row
            for row, area in zip(rows, [area for area in areas for _ in SPEEDS], strict=True)
        )
    assert correct.count("44.5") == 4  # no recall without true correspondences
    assert "python peers.py --suites val val-no-photometric real\n" in correct
    assert "| SIFT, refined | 80.0 | 120.0 | 12.5 |" in speed
    assert "432 ms; peak memory 150 MiB" in " ".join(speed.split())
    assert "CPU of the test, 3 cores, avx2; numpy 9.8.7" in " ".join(speed.split())
    assert "300 keypoints" in first
    code = [line for line in text.splitlines() if line.startswith(("python", "|"))]
    assert all(len(line) <= 100 for line in text.splitlines() if line not in code)


def test_a_missing_result_is_named(load_script: Callable[[str], ModuleType], results: Path) -> None:
    (results / "real-fast.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"real-fast\.json"):
        load_script("tables").render(results)
