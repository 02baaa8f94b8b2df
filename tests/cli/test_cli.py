"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import featherglue
import featherglue.cli
from featherglue.artifact.format import load_artifact
from featherglue.artifact.layers import total_macs
from featherglue.cli import main
from featherglue.cli.common import join_sizes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As `call`, in an empty folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("COLUMNS", "120")
    return call


@pytest.fixture
def frames(tmp_path: Path, grey: np.ndarray) -> Path:
    """Three overlapping frames and something that is none."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), grey[8 * i : 200 + 8 * i, 16 * i : 240 + 16 * i])
    (folder / "notes.txt").write_text("no image")
    return folder


# --- the commands ---------------------------------------------------------------------------


def test_help_knows_every_command_and_every_command_its_own(run: Run) -> None:
    code, everything, _ = run("--help")
    assert code == 0
    for name in featherglue.cli._COMMANDS:
        assert f"│ {name} " in everything
        code, own, err = run(name, "--help")
        assert (code, err) == (0, "")
        assert f"Usage: featherglue {name}" in own


def test_help_before_a_command_is_that_of_all(run: Run) -> None:
    assert run("--help", "match") == run("--help")


def test_nothing_asked_for_shows_the_help_and_is_misuse(run: Run) -> None:
    for words in ((), ("evaluate",)):
        code, out, err = run(*words)
        assert (code, err) == (2, "")
        assert "Commands" in out


def test_a_command_that_there_is_not_is_told_with_the_nearest(run: Run) -> None:
    code, out, err = run("mach", "match")
    assert (code, out) == (2, "")
    assert "No such command 'mach'" in err
    assert "'match'" in err


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


def test_two_images_as_json(run: Run, matching: Path, shifted: tuple[Path, Path]) -> None:
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


def test_the_picture_goes_where_it_should(
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
    model = [] if "nn" in options else [matching]  # which SIFT with nearest neighbours has not
    chosen = ["--model", *model] if model else []
    code, out, err = run("match", *options, *shifted, *chosen, "--json", "-", "--no-viz")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    result = featherglue.load(*model, **expected)(*shifted)
    assert facts["keypoints0"] == len(result.features0)
    assert facts["keypoints1"] == len(result.features1)
    assert facts["matches"] == len(result.matches)
    assert facts["refined"] == int(result.matches.refined.sum())


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        (["--resize", "640", "480", "a.jpg"], ["--resize=640,480", "a.jpg"]),
        (["--resize", "-1", "a.jpg"], ["--resize=-1", "a.jpg"]),
        (["--resize", "640", "--json"], ["--resize=640", "--json"]),
        (["--resize=640", "480"], ["--resize=640", "480"]),
        (["--image-size", "640", "480"], ["--image-size=640,480"]),
        (["a", "--", "--resize", "640", "480"], ["a", "--", "--resize", "640", "480"]),
        (["--resize", "1", "2", "3"], ["--resize=1,2", "3"]),
    ],
)
def test_sizes_are_joined(given: list[str], joined: list[str]) -> None:
    assert join_sizes(given) == joined


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


def test_paths_of_a_list_are_taken_from_here_by_default(
    run: Run, matching: Path, frames: Path
) -> None:
    Path("pairs.txt").write_text(f"{frames / '0.png'} {frames / '1.png'}\n")
    code, out, _ = run("match", "--input-pairs", "pairs.txt", "--model", matching)
    assert code == 0
    assert "featherglue_matches" in out
    assert len(list(Path("featherglue_matches").glob("*.npz"))) == 1


def test_a_bad_image_is_skipped_and_the_code_says_so(
    run: Run, matching: Path, frames: Path, tmp_path: Path
) -> None:
    (frames / "1.png").write_bytes(b"no longer an image")
    (frames / "3.png").write_bytes((frames / "2.png").read_bytes())
    command = ("match", frames, "--model", matching, "-o", tmp_path / "out", "--no-viz")
    code, out, err = run(*command)
    assert code == 1
    assert err.count("skipped: ") == 2
    assert "1.png" in err
    assert "matched 1 pairs" in out
    assert "2 failed" in out
    code, out, _ = run(*command, "--json", "-")
    assert code == 1
    facts = json.loads(out)
    assert facts["failed"] == 2
    assert ["error" in row for row in facts["pairs"]] == [True, True, False]
    assert facts["pairs"][2]["skipped"] is True


# --- info -----------------------------------------------------------------------------------


def test_info(run: Run, matching: Path) -> None:
    code, out, err = run("info", "--model", matching, "--json", "-", "--image-size", "320", "240")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    artifact = load_artifact(matching)
    macs = total_macs(artifact.architecture, (320, 240), 512)
    assert set(facts) == {
        "parameters",
        "nonzero",
        "macs",
        "macs_extractor",
        "macs_matcher",
        "macs_effective",
        "image_size",
        "max_keypoints",
        "bytes_on_disk",
        "files",
        "study_bytes",
        "disk_ratio",
        "study_ratio",
        "integer_layers",
        "float_layers",
        "saturates_without_vnni",
        "hash",
        "architecture",
        "processing",
        "provenance",
    }
    assert facts["parameters"] == artifact.num_parameters
    assert facts["nonzero"] == artifact.num_nonzero < facts["parameters"]
    assert facts["study_bytes"] == 4 * facts["nonzero"]
    assert (facts["macs_extractor"], facts["macs_matcher"]) == (macs["extractor"], macs["matcher"])
    assert facts["macs"] == sum(macs.values())
    assert facts["files"]["model.safetensors"] == (matching / "model.safetensors").stat().st_size
    assert facts["bytes_on_disk"] == sum(path.stat().st_size for path in matching.iterdir())
    assert facts["hash"] == artifact.hash
    assert facts["image_size"] == [320, 240]
    assert facts["provenance"]["license"] == "Apache-2.0"


def test_info_for_people(run: Run, matching: Path) -> None:
    code, out, _ = run("info", "--model", matching, "--max-keypoints", "1024")
    assert code == 0
    for fact in (
        f"{load_artifact(matching).num_parameters:,}",
        "640×480, 1024 keypoints",
        "Apache-2.0",
        "random numbers",
        "seed 5",
    ):
        assert fact in out


# --- failures -------------------------------------------------------------------------------


def test_help_is_no_failure(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for command in ("match", "info", "import-weights", "export", "train"):
        assert command in out


MISUSE: dict[str, list[object]] = {
    "no command": [],
    "unknown command": ["glue"],
    "unknown option": ["match", "{a}", "{b}", "--fast"],
    "nothing to match": ["match"],
    "one image": ["match", "{a}"],
    "three images": ["match", "{a}", "{b}", "{a}"],
    "images and a list": ["match", "{a}", "{b}", "--input-pairs", "pairs.txt"],
    "a number that is none": ["match", "{a}", "{b}", "--max-keypoints", "many"],
    "a value out of range": ["match", "{a}", "{b}", "--match-threshold", "2", "--model", "{m}"],
    "no threads": ["match", "{a}", "{b}", "--threads", "0", "--model", "{m}"],
    "unknown features": ["match", "{a}", "{b}", "--features", "surf", "--model", "{m}"],
    "unknown runtime": ["match", "{a}", "{b}", "--runtime", "cuda", "--model", "{m}"],
    "no size": ["match", "{a}", "{b}", "--model", "{m}", "--resize"],
    "half a size": ["match", "{a}", "{b}", "--model", "{m}", "--resize", "640", "0"],
    "a size of words": ["match", "{a}", "{b}", "--model", "{m}", "--resize=big"],
    "a picture and none": ["match", "{a}", "{b}", "--model", "{m}", "-o", "x.png", "--no-viz"],
    "no picture format": ["match", "{a}", "{b}", "--model", "{m}", "-o", "x.xyz"],
    "a folder without a list": ["match", "{a}", "{b}", "--model", "{m}", "--input-dir", "."],
    "overwriting one picture": ["match", "{a}", "{b}", "--model", "{m}", "--overwrite"],
    "a missing list": ["match", "--input-pairs", "missing.txt", "--model", "{m}"],
    "a bad list": ["match", "--input-pairs", "{bad}", "--model", "{m}"],
    "one number as a size": ["info", "--model", "{m}", "--image-size", "640"],
    "zero as a size": ["info", "--model", "{m}", "--image-size", "0", "480"],
    "no keypoints": ["info", "--model", "{m}", "--max-keypoints", "0"],
    "no output": ["import-weights", "{a}"],
    "unknown stage": ["train", "both", "--config", "{a}", "--images", ".", "-o", "run"],
}
FAILURE: dict[str, list[object]] = {
    "a missing image": ["match", "{a}", "missing.png", "--model", "{m}"],
    "no image": ["match", "{a}", "{bad}", "--model", "{m}"],
    "a missing model": ["match", "{a}", "{b}", "--model", "nowhere"],
    "a folder that is no model": ["match", "{a}", "{b}", "--model", "{folder}"],
    "no place for the picture": ["match", "{a}", "{b}", "--model", "{m}", "-o", "{a}/x.png"],
    "no place for the results": ["match", "{frames}", "--model", "{m}", "-o", "{a}"],
    "an empty folder": ["match", "{empty}", "--model", "{m}"],
    "info of nothing": ["info", "--model", "nowhere"],
    "export of nothing": ["export", "--model", "nowhere"],
    "no place for the graphs": ["export", "--model", "{m}", "-o", "{a}/x"],
    "weights that are missing": ["import-weights", "missing.pth", "-o", "model"],
}


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [pytest.param(2, arguments, id=name) for name, arguments in MISUSE.items()]
    + [pytest.param(1, arguments, id=name) for name, arguments in FAILURE.items()],
)
def test_failures_are_one_line_and_a_code(
    expected: int,
    arguments: list[str],
    run: Run,
    matching: Path,
    shifted: tuple[Path, Path],
    frames: Path,
    tmp_path: Path,
) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("one two three\n")
    (tmp_path / "empty").mkdir()
    places = {
        "a": shifted[0],
        "b": shifted[1],
        "m": matching,
        "bad": bad,
        "folder": tmp_path,
        "empty": tmp_path / "empty",
        "frames": frames,
    }
    code, out, err = run(*(argument.format(**places) for argument in arguments))
    assert code == expected
    last = err.strip().splitlines()[-1] if arguments else "error: "
    assert last.startswith("error: ")
    assert len(last) > len("error: ") or not arguments
    assert "{" not in out
    assert not [path for path in Path().rglob("*") if path.is_file()]


def test_a_missing_file_is_named(run: Run, matching: Path, shifted: tuple[Path, Path]) -> None:
    _, _, err = run("match", shifted[0], "missing [red].png", "--model", matching)
    assert err == "error: missing [red].png: no such file\n"


def test_an_interruption_is_130(run: Run, monkeypatch: pytest.MonkeyPatch, matching: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("featherglue.cli.info.load_artifact", interrupt)
    assert run("info", "--model", matching)[0] == 130


def test_a_mistake_of_ours_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch, matching: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("featherglue.cli.info.load_artifact", fail)
    assert main(["info", "--model", str(matching)]) == 1
    err = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    monkeypatch.setenv("FEATHERGLUE_DEBUG", "1")
    assert main(["info", "--model", str(matching)]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_blank_pair_is_no_failure(run: Run, matching: Path, tmp_path: Path) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((48, 64), 90, np.uint8))
    code, out, _ = run(
        "match", blank, blank, "--model", matching, "--keypoint-threshold", "0.9", "--json"
    )
    assert code == 0
    assert json.loads(out)["matches"] == json.loads(out)["inliers"] == 0
