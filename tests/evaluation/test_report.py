"""Reports: content, and errors of their input."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from featherglue.cli import main
from featherglue.errors import ImageError, ReportError, UsageError
from featherglue.evaluation.report import read_results, write_report
from featherglue.evaluation.report.html_table import Column, table


def evaluation(name: str, auc: float, suite: str = "homography") -> dict[str, Any]:
    errors = [0.5, 2.0, None]
    return {
        "format_version": 1,
        "kind": "evaluation",
        "featherglue": "0.1.0",
        "suite": suite,
        "model": {"name": name, "extractor": {"max_keypoints": 512}},
        "settings": {"seed": 0},
        "auc": {"5": auc, "10": auc + 10, "25": auc + 20},
        "precision": 90.0,
        "recall": 80.0,
        "matches": 200.0,
        "pairs": 3,
        "failures": 1,
        "command": f"featherglue evaluate {suite} <{name}>",
        "results": [{"index": i, "error": error} for i, error in enumerate(errors)],
    }


def speed(names: list[str], counts: tuple[int, ...] = (512,)) -> dict[str, Any]:
    rows = [
        {
            "label": name,
            "max_keypoints": count,
            "stages": {"extractor": {"median_ms": 9.0, "p95_ms": 9.5}},
            "end_to_end": {"median_ms": 20.0, "p95_ms": 22.0},
            "frames_per_second": 50.0,
            "bytes_on_disk": 1000,
        }
        for name in names
        for count in counts
    ]
    return {
        "format_version": 1,
        "kind": "benchmark",
        "image_size": [640, 480],
        "repetitions": 3,
        "machine": {"processor": "P <1>", "cores": 2, "flags": ["avx2"]},
        "rows": rows,
    }


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    contents = {
        "fast": evaluation("fast", 70.0),
        "sift": evaluation("sift", 60.0),
        "pose": evaluation("fast", 30.0, "pose"),
        "speed": speed(["fast", "sift"], (256, 512)),
    }
    paths = []
    for name, content in contents.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


def test_page_is_whole_and_self_contained(files: list[Path], tmp_path: Path) -> None:
    picture = tmp_path / "worst.png"
    cv2.imwrite(str(picture), np.full((20, 30, 3), 90, np.uint8))
    page = tmp_path / "report.html"
    arguments = ["report", *map(str, files), "-o", str(page), "--baseline", "sift"]
    assert main([*arguments, "--picture", str(picture), "--title", "A <b>"]) == 0
    text = page.read_text()
    outside = re.findall(r"""(?:src|href)=["']?(?!data:|#)([^"'> ]+)""", text)
    assert not [link for link in outside if not link.startswith("#")]
    assert "<title>A &lt;b&gt;</title>" in text
    assert "P &lt;1&gt;" in text and "featherglue evaluate homography &lt;fast&gt;" in text
    assert text.count("<h2>Suite: ") == 2
    assert "<b>70.0</b><small>+10.0</small>" in text  # the best, against the baseline
    # Recall of both suites, time and size of the suite with two models, latency.
    assert text.count("<svg") == 2 + 2 + 1
    assert "data:image/jpeg;base64," in text


def test_figures_that_only_a_later_result_has_are_shown(tmp_path: Path) -> None:
    old, new = evaluation("fast", 70.0), evaluation("sift", 60.0)
    new["auc_lo"] = {"5": 81.25, "10": 90.0, "25": 95.0}
    paths = [tmp_path / "old.json", tmp_path / "new.json"]
    for path, content in zip(paths, (old, new), strict=True):
        path.write_text(json.dumps(content))
    page = tmp_path / "report.html"
    assert main(["report", *map(str, paths), "-o", str(page)]) == 0
    text = page.read_text()
    assert "optimized@5" in text and "81.2" in text


def test_table_marks_the_smallest_where_less_is_better() -> None:
    rows = [{"x": 3.0}, {"x": 2.0}, {"x": None}]
    column = Column("x", lambda row: row["x"], -1)
    text = table(["a", "b", "c"], rows, [column], 0)
    assert "<b>2.0</b><small>-1.0</small>" in text
    assert "<th>c</th>" in text and "–" in text


def test_times_of_other_keypoints_are_not_taken(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text(json.dumps(speed(["fast", "sift"], (256,))))
    page = tmp_path / "report.html"
    write_report(read_results(files), page)
    assert page.read_text().count("<svg") == 2  # recall alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"results": [{"index": i, "error": 1.0, "name": "x"} for i in range(3)]}, "different"),
        ({"settings": {"seed": 1}}, "differ in settings"),
        ({"pairs": 5}, "differ in pairs"),
        ({"format_version": 2}, "newer"),
        ({"kind": "poem"}, "not a result"),
    ],
)
def test_incomparable_results_are_rejected(
    files: list[Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    odd = copy.deepcopy(evaluation("odd", 1.0)) | change
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(odd))
    with pytest.raises(ReportError, match=message):
        read_results([*files, path])
    page = tmp_path / "report.html"
    assert main(["report", *map(str, files), str(path), "-o", str(page)]) == 1
    assert not page.exists()


def test_models_with_equal_names_get_file_names(files: list[Path], tmp_path: Path) -> None:
    again = tmp_path / "fast-256.json"
    again.write_text(files[0].read_text())
    names = [result["model"]["name"] for result in read_results([files[0], again])]
    assert names == ["fast (fast)", "fast (fast-256)"]


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(ReportError, match=r"broken\.json"):
        read_results([path])
    with pytest.raises(ReportError, match=r"missing\.json"):
        read_results([tmp_path / "missing.json"])


def test_invalid_arguments_and_pictures(files: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    results = read_results(files)
    with pytest.raises(UsageError, match="nothing to report"):
        write_report([], page)
    with pytest.raises(UsageError, match="not among the results"):
        write_report(results, page, baseline="orb")
    with pytest.raises(ImageError, match=r"none\.png"):
        write_report(results, page, pictures=[tmp_path / "none.png"])
    assert not page.exists()


@pytest.mark.parametrize(
    ("name", "change", "key"),
    [
        ("fast", {"model": {}}, "model.name"),
        ("fast", {"settings": None}, "settings"),
        ("fast", {"auc": {"5": "much"}}, "auc"),
        ("fast", {"results": [{"error": "large"}]}, r"results\[0\].error"),
        ("fast", {"results": [1]}, r"results\[0\]"),
        ("speed", {"machine": {"processor": "P", "cores": 2}}, "machine.flags"),
        ("speed", {"rows": [{"label": "a"}]}, r"rows\[0\].max_keypoints"),
        ("speed", {"image_size": "640x480"}, "image_size"),
        ("fast", {"auc": {"nan": 1.0}}, "auc"),
        ("fast", {"auc": {"5": 1e300}}, "auc"),
        ("fast", {"results": [{}]}, r"results\[0\].error"),
        ("fast", {"results": [{"error": 10**299}]}, r"results\[0\].error"),
        ("fast", {"model": {"name": "a", "extractor": [1]}}, "model.extractor"),
        ("fast", {"model": {"name": "a", "max_keypoints": {}}}, "model.max_keypoints"),
    ],
)
def test_wrong_values_are_named_with_file_and_key(
    files: list[Path], name: str, change: dict[str, Any], key: str
) -> None:
    path = next(file for file in files if file.stem == name)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ReportError, match=rf"{name}\.json: `{key}`"):
        read_results([path])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages", {"extractor": None}),
        ("stages", {"extractor": {}}),
        ("image_size", 3),
        ("image_size", [3]),
        ("macs", "1"),
        ("peak_bytes", None),
        ("end_to_end", {"median_ms": 1e300, "p95_ms": 1.0}),
    ],
)
def test_wrong_values_of_a_row_are_named(
    files: list[Path], tmp_path: Path, key: str, value: Any
) -> None:
    result = speed(["fast"])
    result["rows"][0][key] = value
    (tmp_path / "speed.json").write_text(json.dumps(result))
    with pytest.raises(ReportError, match=rf"speed\.json: `.*{key}"):
        read_results([tmp_path / "speed.json"])


def test_a_kind_that_is_no_text_is_not_a_result(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(json.dumps(evaluation("fast", 70.0) | {"kind": []}))
    with pytest.raises(ReportError, match="not a result"):
        read_results([tmp_path / "odd.json"])


def test_names_are_labels_as_they_are(tmp_path: Path) -> None:
    names = ["_a", "b$c$", "d$\\alph{", "plain"]
    for i, name in enumerate(names):
        (tmp_path / f"{i}.json").write_text(json.dumps(evaluation(name, 70.0 + i)))
    (tmp_path / "speed.json").write_text(json.dumps(speed(names, (-1, 512))))
    page = tmp_path / "report.html"
    write_report(read_results(sorted(tmp_path.glob("*.json"))), page)
    text = page.read_text()
    # Twice as the row of a table, and in the legends of the figures.
    assert all(text.count(f">{name}<") + text.count(f"> {name}<") >= 4 for name in names)


def test_a_model_without_a_threshold_has_no_point(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(evaluation("a", 70.0)))
    other = evaluation("b", 70.0) | {"auc": {"3": None, "10": 1.0}}
    (tmp_path / "b.json").write_text(json.dumps(other))
    (tmp_path / "speed.json").write_text(json.dumps(speed(["a", "b"])))
    write_report(read_results(sorted(tmp_path.glob("*.json"))), tmp_path / "report.html")
    assert "Accuracy against" in (tmp_path / "report.html").read_text()


def test_a_single_point_is_not_plotted(tmp_path: Path) -> None:
    (tmp_path / "fast.json").write_text(json.dumps(evaluation("fast", 70.0)))
    (tmp_path / "speed.json").write_text(json.dumps(speed(["fast"])))
    page = tmp_path / "report.html"
    write_report(read_results([tmp_path / "fast.json", tmp_path / "speed.json"]), page)
    assert "Accuracy against" not in page.read_text()


def test_poses_have_a_matching_score_instead_of_a_recall(tmp_path: Path) -> None:
    """The true correspondences of poses are unknown."""
    values = evaluation("fast", 70.0) | {"matching_score": 12.3, "recall": 12.3}
    for suite, headings in (("pose", ["matching score"]), ("homography", ["recall"])):
        (tmp_path / "fast.json").write_text(json.dumps(values | {"suite": suite}))
        write_report(read_results([tmp_path / "fast.json"]), tmp_path / "report.html")
        main_table = (tmp_path / "report.html").read_text().split("<table>")[1]
        found = [name for name in ("recall", "matching score") if f"<th>{name}</th>" in main_table]
        assert found == headings


def test_examples_are_shown_and_missing_ones_are_named(tmp_path: Path) -> None:
    example = {"kind": "worst", "name": "a <b>", "caption": "failed", "jpeg": "AAAA"}
    (tmp_path / "one.json").write_text(json.dumps(evaluation("one", 1.0) | {"examples": [example]}))
    (tmp_path / "two.json").write_text(json.dumps(evaluation("two", 2.0)))
    page = tmp_path / "report.html"
    write_report(read_results([tmp_path / "one.json", tmp_path / "two.json"]), page)
    text = page.read_text()
    assert "Worst pairs of one" in text and "a &lt;b&gt;: failed" in text
    assert "No pictures of two" in text
    assert "Correct matches are green" in text
    write_report(read_results([tmp_path / "two.json"]), page)
    assert "Correct matches are green" not in page.read_text()
