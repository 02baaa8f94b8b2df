"""The command `evaluate`: its options, files, output and exit codes."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from scenes import Array, pair_line, texture, write_sequence

from featherglue.cli.common import join_sizes
from featherglue.cli.evaluate import evaluate_app
from featherglue.errors import PairListError, UsageError

SIFT = ("--features", "sift", "--matcher", "nn", "--max-keypoints", "200")
NAMES = {"auc", "precision", "recall", "matches", "pairs", "failures"}


def run(*words: object) -> int:
    """`featherglue evaluate …`, as the command line of the package calls it."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.add_typer(evaluate_app, name="evaluate")
    arguments = join_sizes(["evaluate", *map(str, words)])
    code = app(arguments, standalone_mode=False, prog_name="featherglue")
    assert isinstance(code, int)
    return code


@pytest.fixture
def mild() -> Array:
    """A homography for 640×480."""
    return np.array([[0.97, -0.09, 30.0], [0.06, 1.03, -12.0], [4e-5, -2e-5, 1.0]])


def test_homography(
    photos: Path,
    write_list: Callable[[Array], Path],
    mild: Array,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out" / "homography.json"
    words = ("homography", "--images", photos, "--pairs", write_list(mild), *SIFT, "--seed", "3")
    files = ("--json", out, "--csv", tmp_path / "out.csv", "--cache", tmp_path / "cache")
    pictures = ("--num-worst", "1", "--worst-dir", tmp_path / "worst")
    assert run(*words, *files, *pictures) == 0
    data = json.loads(out.read_text())
    assert set(data) >= NAMES | {"auc_lo", "auc_magsac", "auc_dlt", "suite", "settings", "model"}
    assert set(data["auc"]) == {"5", "10", "25"} and data["auc"]["25"] > 80
    assert (data["pairs"], data["failures"], data["format_version"]) == (3, 0, 1)
    assert data["settings"]["photometric"] is True and data["settings"]["seed"] == 3
    assert data["model"]["extractor"]["max_keypoints"] == 200
    shown = shlex.split(data["command"])
    assert shown[:3] == ["featherglue", "evaluate", "homography"]
    assert sorted(shown) == sorted(["featherglue", "evaluate", *map(str, words)])
    printed = capsys.readouterr().out
    assert "sift+nn on homography: 0 of 3 pairs failed" in printed
    assert f"{data['auc']['5']:.1f}" in printed
    assert [example["kind"] for example in data["examples"]] == ["best", "best", "worst"]
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["a.png", "b.png", "c.png"]
    assert math.isclose(float(rows[0]["error"]), data["results"][0]["error"])
    assert len(list((tmp_path / "worst").glob("01_*.png"))) == 1
    before = out.read_bytes()
    assert run(*words, *files) == 0
    assert out.read_bytes() == before


def test_options_reach_the_suite_and_the_session(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ("homography", "--images", photos, *SIFT, "--num-pairs", "1", "--resize", "320", "240")
    assert run(*words, "--no-photometric", "--no-refine", "--json", out) == 0
    data = json.loads(out.read_text())
    assert data["pairs"] == 1 and data["settings"]["photometric"] is False
    assert data["model"]["extractor"]["resize"] == [320, 240]
    assert data["model"]["matcher"]["refine"] is False
    assert "--resize 320 240" in data["command"] and "--no-refine" in data["command"]


def test_hpatches(tmp_path: Path, shift_and_turn: Array) -> None:
    write_sequence(tmp_path / "hp" / "v_one", shift_and_turn, 1)
    out = tmp_path / "out.json"
    assert run("hpatches", "--images", tmp_path / "hp", *SIFT, "--json", out) == 0
    data = json.loads(out.read_text())
    assert set(data) >= NAMES | {"accuracy", "mma", "repeatability", "viewpoint"}
    assert data["pairs"] == data["viewpoint"]["pairs"] == 5
    assert data["auc"]["5"] > 60 and data["mma"]["3"] > 80


def pose_folder(folder: Path) -> tuple[Path, list[str]]:
    K = np.array([[300.0, 0, 158.0], [0, 310.0, 121.0], [0, 0, 1]])
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.array([0.1, -0.2, 0.05]))[0]
    T[:3, 3] = T[:3, :3] @ (0, 0, 0.6)
    H = K @ (T[:3, :3] + np.outer(T[:3, 3], (0, 0, 1)) / 2) @ np.linalg.inv(K)
    image = texture(4, (320, 240))
    cv2.imwrite(str(folder / "a.png"), image)
    cv2.imwrite(str(folder / "b.png"), cv2.warpPerspective(image, H, (320, 240)))
    return folder / "pairs.txt", [pair_line("a.png", name, K, T) for name in ("b.png", "none.png")]


def test_pose(tmp_path: Path) -> None:
    path, lines = pose_folder(tmp_path)
    path.write_text(lines[0])
    out = tmp_path / "out.json"
    assert run("pose", "--images", tmp_path, "--pairs", path, *SIFT, "--json", out) == 0
    data = json.loads(out.read_text())
    assert set(data) >= NAMES and set(data["auc"]) == {"5", "10", "20"}
    assert data["auc"]["20"] > 50 and data["precision"] > 90


def test_a_missing_image_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, lines = pose_folder(tmp_path)
    path.write_text("".join(lines))
    out = tmp_path / "out.json"
    assert run("pose", "--images", tmp_path, "--pairs", path, *SIFT, "--json", out) == 1
    data = json.loads(out.read_text())
    assert (data["pairs"], data["failures"], data["unreadable"]) == (2, 1, 1)
    assert data["results"][0]["error"] < 10
    assert "none.png: no such file" in data["results"][1]["failure"]
    assert "none.png: no such file" in capsys.readouterr().err


def test_a_failed_estimate_does_not_change_the_exit_code(tmp_path: Path) -> None:
    folder = tmp_path / "blank"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((60, 80), np.uint8))
    out = tmp_path / "out.json"
    assert run("homography", "--images", folder, *SIFT, "--no-photometric", "--json", out) == 0
    data = json.loads(out.read_text())
    assert (data["failures"], data["unreadable"]) == (1, 0)
    assert data["auc"] == {"5": 0, "10": 0, "25": 0}


@pytest.mark.parametrize("suite", ["homography", "pose"])
def test_a_malformed_line_is_named(photos: Path, suite: str) -> None:
    path = photos / "list.txt"
    path.write_text("a.png 1 2\n")
    with pytest.raises(PairListError, match=r"list\.txt, line 1: 3 tokens"):
        run(suite, "--images", photos, "--pairs", path, *SIFT)


def test_the_table_fits_80_columns(
    tmp_path: Path, shift_and_turn: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sequence(tmp_path / "hp" / "v_one", shift_and_turn, 1)
    write_sequence(tmp_path / "hp" / "i_one", np.eye(3), 1)
    path, lines = pose_folder(tmp_path)
    path.write_text(lines[0])
    assert run("hpatches", "--images", tmp_path / "hp", *SIFT) == 0
    assert run("pose", "--images", tmp_path, "--pairs", path, *SIFT) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    words = printed.split()
    for word in ("AUC@1", "AUC@20", "illumination", "viewpoint", "recall", "score", "matches"):
        assert word in words
    assert "…" not in printed


def test_json_and_csv_go_to_standard_output(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("homography", "--images", photos, *SIFT, "--num-pairs", "1")
    assert run(*words, "--json", "-") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["pairs"] == 1 and "examples" not in data
    assert run(*words, "--csv", "-") == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["name"] for row in rows] == ["a.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--worst-dir", "worst"), "--worst-dir has no effect without --num-worst"),
        (("--json", "-", "--csv", "-"), "exclude each other"),
    ],
)
def test_options_without_effect_are_rejected(
    photos: Path, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run("homography", "--images", photos, *SIFT, *options)
