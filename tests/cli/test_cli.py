"""The command line as a whole: help, errors, exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import featherglue.cli
from featherglue.cli import main
from featherglue.cli.common import join_sizes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_in_empty_folder: Run) -> Run:
    """As `call`, in an empty folder."""
    return run_in_empty_folder


# --- help -----------------------------------------------------------------------------------


def test_every_command_is_listed_and_has_a_help(run: Run) -> None:
    code, everything, _ = run("--help")
    assert code == 0
    for name in featherglue.cli._COMMANDS:
        assert f"│ {name} " in everything
        code, own, err = run(name, "--help")
        assert (code, err) == (0, "")
        assert f"Usage: featherglue {name}" in own


def test_help_before_a_command_is_the_general_help(run: Run) -> None:
    assert run("--help", "match") == run("--help")


def test_missing_command_shows_the_help_with_exit_code_2(run: Run) -> None:
    for words, listed in (((), "match"), (("evaluate",), "homography")):
        code, out, err = run(*words)
        assert (code, err) == (2, "")
        assert f"│ {listed} " in out


def test_an_unknown_command_is_an_error_with_a_suggestion(run: Run) -> None:
    code, out, err = run("mach", "match")
    assert (code, out) == (2, "")
    assert "No such command 'mach'" in err
    assert "'match'" in err


def test_the_help_lists_commands_in_groups(run: Run) -> None:
    _, out, _ = run("--help")
    groups = [line.split()[1] for line in out.splitlines() if line.startswith("╭─ ")]
    assert groups == ["Options", "Match", "Collections", "Measure", "Models", "Compress", "Train"]


def test_completion_imports_only_the_called_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_FEATHERGLUE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "featherglue match --runtime ")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert list(featherglue.cli._called([])) == ["match"]
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    names = ["auto", "native", "onnxruntime", "openvino", "torch", "sparse"]
    assert capsys.readouterr().out.split() == names


# --- sizes ----------------------------------------------------------------------------------


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


# --- errors ---------------------------------------------------------------------------------


USAGE_ERRORS: dict[str, list[object]] = {
    "a file as the folder of results": ["match", "{frames}", "--model", "{m}", "-o", "{a}"],
    "no command": [],
    "unknown command": ["glue"],
    "unknown option": ["match", "{a}", "{b}", "--fast"],
    "nothing to match": ["match"],
    "one image": ["match", "{a}"],
    "three images": ["match", "{a}", "{b}", "{a}"],
    "images and a list": ["match", "{a}", "{b}", "--input-pairs", "pairs.txt"],
    "not a number": ["match", "{a}", "{b}", "--max-keypoints", "many"],
    "a value out of range": ["match", "{a}", "{b}", "--match-threshold", "2", "--model", "{m}"],
    "no threads": ["match", "{a}", "{b}", "--threads", "0", "--model", "{m}"],
    "unknown features": ["match", "{a}", "{b}", "--features", "surf", "--model", "{m}"],
    "unknown runtime": ["match", "{a}", "{b}", "--runtime", "cuda", "--model", "{m}"],
    "no size": ["match", "{a}", "{b}", "--model", "{m}", "--resize"],
    "half a size": ["match", "{a}", "{b}", "--model", "{m}", "--resize", "640", "0"],
    "a size of words": ["match", "{a}", "{b}", "--model", "{m}", "--resize=big"],
    "a picture and --no-viz": ["match", "{a}", "{b}", "--model", "{m}", "-o", "x.png", "--no-viz"],
    "no picture format": ["match", "{a}", "{b}", "--model", "{m}", "-o", "x.xyz"],
    "a folder without a list": ["match", "{a}", "{b}", "--model", "{m}", "--input-dir", "."],
    "overwriting one picture": ["match", "{a}", "{b}", "--model", "{m}", "--overwrite"],
    "a missing list": ["match", "--input-pairs", "missing.txt", "--model", "{m}"],
    "a bad list": ["match", "--input-pairs", "{bad}", "--model", "{m}"],
    "one number as a size": ["info", "--model", "{m}", "--image-size", "640"],
    "zero as a size": ["info", "--model", "{m}", "--image-size", "0", "480"],
    "no keypoints": ["info", "--model", "{m}", "--max-keypoints", "0"],
    "nothing to export": ["export", "--model", "{m}", "--no-graphs"],
    "a copy in place": ["export", "--model", "{m}", "--fold"],
    "a copy onto itself": ["export", "--model", "{m}", "--float16", "-o", "{m}"],
    "graphs of no keypoints": [
        *("export", "--model", "{m}", "-o", "x", "--end-to-end", "--num-keypoints", "0"),
    ],
    "graphs of a wrong size": [
        *("export", "--model", "{m}", "-o", "x", "--end-to-end", "--size", "640", "4"),
    ],
    "graphs of half a size": [
        *("export", "--model", "{m}", "-o", "x", "--end-to-end", "--size", "640"),
    ],
    "a size without its graphs": ["export", "--model", "{m}", "-o", "x", "--size", "640", "480"],
    "end-to-end graphs without a folder": ["export", "--model", "{m}", "--end-to-end"],
    "a number of no images": [
        *("combine", "--extractor", "{m}", "--matcher", "{m}", "-o", "x", "--num-images", "2"),
    ],
    "no output": ["import-weights", "{a}"],
    "unknown stage": ["train", "both", "--config", "{a}", "--images", ".", "-o", "run"],
}
FAILURE: dict[str, list[object]] = {
    "a missing image": ["match", "{a}", "missing.png", "--model", "{m}"],
    "no image": ["match", "{a}", "{bad}", "--model", "{m}"],
    "a missing model": ["match", "{a}", "{b}", "--model", "nowhere"],
    "a folder that is no model": ["match", "{a}", "{b}", "--model", "{folder}"],
    "unwritable picture": ["match", "{a}", "{b}", "--model", "{m}", "-o", "{a}/x.png"],
    "an empty folder": ["match", "{empty}", "--model", "{m}"],
    "info of a missing model": ["info", "--model", "nowhere"],
    "export of a missing model": ["export", "--model", "nowhere"],
    "unwritable graphs": ["export", "--model", "{m}", "-o", "{a}/x"],
    "weights that are missing": ["import-weights", "missing.pth", "-o", "model"],
}


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [pytest.param(2, arguments, id=name) for name, arguments in USAGE_ERRORS.items()]
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


def test_the_exit_code_of_an_interruption_is_130(
    run: Run, monkeypatch: pytest.MonkeyPatch, matching: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("featherglue.cli.info.load_artifact", interrupt)
    assert run("info", "--model", matching)[0] == 130


def test_an_unexpected_exception_is_reported_as_a_bug(
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["match", "a.png", "b.png", "--json"], "'--json' requires an argument: --json FILE|-"),
        (["match", "a.png", "b.png", "--max-keypoints", "x"], "'--max-keypoints': not an integer"),
        (["benchmark", "--num-repetitions", "0"], "'--num-repetitions': must be at least 1"),
        (["benchmark", "--runtime", "cuda"], "'cuda' is not one of 'auto', 'native'"),
    ],
)
def test_wrong_values_are_explained_in_plain_words(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments", [["pairs"], ["extract", "--overwrite"]])
def test_an_image_of_the_folder_is_not_overwritten(
    run: Run, photographs: dict[str, np.ndarray], arguments: list[str]
) -> None:
    Path("photos").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(f"photos/{name}", photographs["coffee"])
    before = Path("photos/a.png").read_bytes()
    code, _, err = run(*arguments, "photos", "-o", "photos/a.png")
    assert code == 2
    assert "photos/a.png: the command reads it" in err
    assert Path("photos/a.png").read_bytes() == before
