"""JSON, CSV and Markdown of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

from evaluation_cases import SIFT, homographies

from featherglue.evaluation import (
    evaluate,
    markdown_table,
)


def test_files_and_table(photos: Path, tmp_path: Path) -> None:
    (photos / "b.png").write_bytes(b"not an image")
    found = evaluate(SIFT, homographies(photos, None))
    found.save(tmp_path / "out.json")
    found.save_csv(tmp_path / "out.csv")
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["format_version"] == 1 and data["suite"] == "homography"
    assert data["model"]["name"] == "sift+nn" and data["settings"]["photometric"] is True
    assert data["results"][1]["error"] is None and data["results"][1]["unreadable"] is True
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("index,name,group,error,")
    table = found.to_markdown().splitlines()
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1
    assert "AUC@5" in table[0] and "sift+nn" in table[2]
    both = markdown_table([("one", found.summary), ("two | three", found.summary)])
    assert "two \\| three" in both
    old = {name: value for name, value in found.summary.items() if name != "auc_lo"}
    head, _, first, second = markdown_table([("old", old), ("new", found.summary)]).splitlines()
    assert "optimized AUC@5" in head
    assert (first.count("–"), second.count("–")) == (3, 0)
