"""`featherglue match`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import featherglue.cli
from featherglue.errors import EstimationError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_in_empty_folder: Run) -> Run:
    """As `call`, in an empty folder."""
    return run_in_empty_folder


# --- two images -----------------------------------------------------------------------------


def test_two_images(run: Run, matching: Path, shifted: tuple[Path, Path]) -> None:
    code, out, err = run("match", *shifted, "--model", matching)
    assert (code, err) == (0, "")
    for word in ("keypoints", "matches", "inliers", "time"):
        assert word in out
    picture = Path("first_second_matches.png")
    assert [path.name for path in Path().iterdir()] == [picture.name]
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape == (224, 288 + 8 + 288, 3)


def test_pictures_of_different_scenes_have_no_consistent_geometry(
    run: Run, photographs: dict[str, np.ndarray]
) -> None:
    paths = ["first.png", "second.png"]
    for path, name in zip(paths, ("coffee", "camera"), strict=True):
        cv2.imwrite(path, photographs[name])
    code, out, _ = run("match", *paths, "--json", "facts.json")
    assert code == 0
    assert "inliers     no consistent geometry" in out
    assert json.loads(Path("facts.json").read_text())["inliers"] == 0


def test_a_search_is_named_if_there_is_a_geometry(
    tmp_path: Path,
    photographs: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = cv2.resize(photographs["coffee"], (480, 320), interpolation=cv2.INTER_AREA)
    for name, picture in (("a.png", image), ("b.png", image[::-1, ::-1])):
        cv2.imwrite(str(tmp_path / name), picture)
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "m.png")]
    call = ["match", *paths[:2], "-o", paths[2]]
    assert featherglue.cli.main(call) == 0
    assert "search      rotated by" in capsys.readouterr().out

    def fails(result: object, threshold: float) -> None:
        raise EstimationError("no consistent geometry")

    monkeypatch.setattr("featherglue.types.MatchResult.fundamental", fails)
    assert featherglue.cli.main(call) == 0
    assert "rotated by" not in capsys.readouterr().out


def test_a_large_image_is_said_to_be_reduced(
    run: Run, matching: Path, shifted: tuple[Path, Path]
) -> None:
    image = cv2.imread(str(shifted[0]))
    assert image is not None
    cv2.imwrite("large.png", cv2.resize(image, (1440, 1120)))
    arguments = ("match", "large.png", shifted[1], "--model", matching, "--no-viz")
    _, out, _ = run(*arguments)
    assert "size        1440×1120 reduced to 1024×796 (--tiles: full detail)" in out
    _, out, _ = run(*arguments, "--tiles")
    assert "reduced" not in out


def test_json_on_standard_output(run: Run, matching: Path, shifted: tuple[Path, Path]) -> None:
    code, out, err = run("match", *shifted, "--model", matching, "--json", "-", "--no-viz")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    result = featherglue.load(matching)(*shifted)
    assert facts["keypoints0"] == len(result.features0)
    assert facts["matches"] == len(result.matches)
    assert facts["refined"] == int(result.matches.refined.sum())
    assert 100 < facts["inliers"] <= facts["matches"]
    assert facts["picture"] is None
    assert facts["image0"] == str(shifted[0])
    assert set(facts["milliseconds"]) >= {"extractor", "matcher", "refine"}
    assert list(Path().iterdir()) == []


def test_output_names_the_picture(
    run: Run, matching: Path, shifted: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / "new" / "picture.jpg"
    code, out, _ = run("match", *shifted, "--model", matching, "-o", target, "--json", "-")
    assert code == 0
    assert json.loads(out)["picture"] == str(target)
    assert cv2.imread(str(target)) is not None
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--resize", "160", "120"], {"resize": (160, 120)}),
        (["--resize=160,120"], {"resize": (160, 120)}),
        (["--resize", "160x120"], {"resize": (160, 120)}),
        (["--resize", "200"], {"resize": (200,)}),
        (["--resize", "-1"], {}),
        (["--max-keypoints", "50"], {"max_keypoints": 50}),
        (["--max-keypoints", "-1"], {"max_keypoints": -1}),
        (["--keypoint-threshold", "0.3"], {"keypoint_threshold": 0.3}),
        (["--nms-radius", "9"], {"nms_radius": 9}),
        (["--sinkhorn-iterations", "2"], {"sinkhorn_iterations": 2}),
        (["--match-threshold", "0.6"], {"match_threshold": 0.6}),
        (["--remove-borders", "30"], {"remove_borders": 30}),
        (["--no-subpixel"], {"subpixel": False}),
        (["--descriptor-sampling", "published"], {"descriptor_sampling": "published"}),
        (["--consensus", "0.5"], {"consensus": 0.5}),
        (["--consensus", "off"], {"consensus": None}),
        (["--refine"], {"refine": True}),
        (["--no-refine"], {"refine": False}),
        (["--features", "sift", "--matcher", "nn"], {"features": "sift", "matcher": "nn"}),
        (["--runtime", "torch"], {"runtime": "torch"}),
        (["--threads", "1"], {"threads": 1}),
    ],
)
def test_options_reach_the_session(
    options: list[str],
    expected: dict[str, Any],
    run: Run,
    matching: Path,
    shifted: tuple[Path, Path],
) -> None:
    model = [] if "nn" in options else [matching]  # SIFT with nearest neighbors uses no model
    chosen = ["--model", *model] if model else []
    code, out, err = run("match", *options, *shifted, *chosen, "--json", "-", "--no-viz")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    result = featherglue.load(*model, **expected)(*shifted)
    assert facts["keypoints0"] == len(result.features0)
    assert facts["keypoints1"] == len(result.features1)
    assert facts["matches"] == len(result.matches)
    assert facts["refined"] == int(result.matches.refined.sum())


def test_a_blank_pair_has_no_matches_and_is_no_failure(
    run: Run, matching: Path, tmp_path: Path
) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((48, 64), 90, np.uint8))
    code, out, _ = run(
        *("match", blank, blank, "--model", matching),
        *("--keypoint-threshold", "0.9", "--json", "-"),
    )
    assert code == 0
    assert json.loads(out)["matches"] == json.loads(out)["inliers"] == 0


# --- many pairs -----------------------------------------------------------------------------


def test_a_folder_of_frames(run: Run, matching: Path, frames: Path, tmp_path: Path) -> None:
    code, out, err = run("match", frames, "--model", matching, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "matched 2 pairs" in out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "0_1_matches.npz",
        "0_1_matches.png",
        "1_2_matches.npz",
        "1_2_matches.png",
    ]
    code, out, _ = run("match", frames, "--model", matching, "-o", tmp_path / "out")
    assert code == 0
    assert "matched 0 pairs" in out
    assert "2 already done" in out
    code, out, _ = run("match", frames, "--model", matching, "-o", tmp_path / "out", "--overwrite")
    assert "matched 2 pairs" in out


def test_a_list_of_pairs(run: Run, matching: Path, frames: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("# two pairs\n0.png 1.png\n\n0.png 2.png 0 1\n")
    code, out, err = run(
        "match",
        *("--input-pairs", pairs, "--input-dir", frames, "--model", matching),
        *("-o", tmp_path / "out", "--no-viz", "--json", "-"),
    )
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["failed"] == 0
    assert [(row["image0"], row["image1"]) for row in facts["pairs"]] == [
        ("0.png", "1.png"),
        ("0.png", "2.png"),
    ]
    for row in facts["pairs"]:
        with np.load(row["output"]) as saved:
            assert (saved["matches"] >= 0).sum() == row["matches"]
    assert not list((tmp_path / "out").glob("*.png"))


def test_paths_of_a_list_are_relative_to_the_working_folder_by_default(
    run: Run, matching: Path, frames: Path
) -> None:
    Path("pairs.txt").write_text(f"{frames / '0.png'} {frames / '1.png'}\n")
    code, out, _ = run("match", "--input-pairs", "pairs.txt", "--model", matching)
    assert code == 0
    assert "featherglue_matches" in out
    assert len(list(Path("featherglue_matches").glob("*.npz"))) == 1


def test_an_unreadable_image_is_skipped_and_the_exit_code_is_1(
    run: Run, matching: Path, frames: Path, tmp_path: Path
) -> None:
    (frames / "1.png").write_bytes(b"no longer an image")
    (frames / "3.png").write_bytes((frames / "2.png").read_bytes())
    command = ("match", frames, "--model", matching, "-o", tmp_path / "out", "--no-viz")
    code, out, err = run(*command)
    assert code == 1
    assert err.count("skipped: ") == 2
    assert "1.png" in err
    assert "matched 1 pair " in out
    assert "2 failed" in out
    code, out, _ = run(*command, "--json", "-")
    assert code == 1
    facts = json.loads(out)
    assert facts["failed"] == 2
    assert ["error" in row for row in facts["pairs"]] == [True, True, False]
    assert facts["pairs"][2]["skipped"] is True


def test_json_in_a_file_leaves_the_summary_on_standard_output(
    run: Run, matching: Path, shifted: tuple[Path, Path]
) -> None:
    code, out, err = run("match", *shifted, "--model", matching, "--no-viz", "--json", "out.json")
    assert (code, err) == (0, "")
    assert out.startswith("keypoints   ")
    facts = json.loads(Path("out.json").read_text())
    assert f"matches     {facts['matches']}, {facts['refined']} refined" in out


def test_an_image_without_keypoints_is_named(
    tmp_path: Path, shifted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((120, 160), 90, np.uint8))
    assert featherglue.cli.main(["match", str(shifted[0]), str(blank), "--no-viz"]) == 0
    out = capsys.readouterr().out
    assert out.count(f"{blank}: no keypoints") == 1
    assert "inliers     0: there are no matches" in out
    assert featherglue.cli.main(["match", str(blank), str(blank), "--no-viz"]) == 0
    assert capsys.readouterr().out.count(f"{blank}: no keypoints") == 1
    assert featherglue.cli.main(["match", *map(str, shifted), "--no-viz"]) == 0
    assert "no keypoints" not in capsys.readouterr().out


def test_many_pairs_need_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featherglue.cli.match.load", None)  # fails before a model is loaded
    (tmp_path / "pairs.txt").write_text("a.png b.png\n")
    (tmp_path / "text").write_text("")
    for name in ("text", "matches.png"):
        arguments = ["match", "--input-pairs", str(tmp_path / "pairs.txt")]
        assert featherglue.cli.main([*arguments, "-o", str(tmp_path / name)]) == 2
        assert "is a file, not a folder" in capsys.readouterr().err


# --- outputs and inputs ---------------------------------------------------------------------


def test_matches_of_two_images_are_saved(
    run: Run, matching: Path, shifted: tuple[Path, Path]
) -> None:
    code, out, err = run("match", *shifted, "--model", matching, "-o", "x.npz", "--json", "x.json")
    assert (code, err) == (0, "")
    assert "x.npz" in out
    assert sorted(path.name for path in Path().iterdir()) == ["x.json", "x.npz"]
    facts = json.loads(Path("x.json").read_text())
    assert (facts["output"], facts["picture"]) == ("x.npz", None)
    with np.load("x.npz") as saved:
        assert len(saved["indices"]) == facts["matches"] == len(facts["scores"]) > 50
        np.testing.assert_allclose(saved["points0"], facts["points0"], atol=1e-3)
        np.testing.assert_allclose(saved["points1"], facts["points1"], atol=1e-3)


def test_an_input_is_never_overwritten(
    run: Run, matching: Path, shifted: tuple[Path, Path]
) -> None:
    first, second = shifted
    before = second.read_bytes()
    model = ("--model", matching)
    for arguments in (
        ("match", first, second, "-o", second),
        ("match", first, second, "-o", second.parent / "." / second.name),
        ("match", first, second, "--json", second),
        ("match", first, second, "-o", "x.png", "--json", "x.png"),
        ("match", second.parent, "-o", second.parent),
        ("match", second.parent, "-o", second.parent / ".." / second.parent.name),
    ):
        code, out, err = run(*arguments, *model)
        assert (code, out) == (2, ""), err
        assert "name another file" in err or "same file" in err
    assert second.read_bytes() == before
    assert sorted(path.name for path in second.parent.glob("*.png")) == ["first.png", "second.png"]


def test_a_model_does_not_replace_the_model_that_it_is_made_from(
    run: Run, matching: Path, tmp_path: Path
) -> None:
    weights = (matching / "model.safetensors").read_bytes()
    code, _, err = run("prune", "--model", matching, "-o", matching)
    assert code == 2
    assert "reads it" in err
    assert (matching / "model.safetensors").read_bytes() == weights


def test_a_list_on_standard_input(
    run: Run, matching: Path, shifted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = shifted
    stdin = io.TextIOWrapper(io.BytesIO(f'"{first}" "{second}"\n'.encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    code, out, err = run("match", "--input-pairs", "-", "-o", "out", "--model", matching)
    assert code == 0, err
    assert "matched 1 pair " in out
