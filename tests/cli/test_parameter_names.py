"""Library messages name parameters; the command line shows its flags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from featherglue import cli
from featherglue.cli.parameter_names import Flag, option_flags, with_flags

FLAGS = {
    "max_keypoints": Flag(on="--max-keypoints"),
    "resize": Flag(on="--resize"),
    "matcher": Flag(on="--matcher"),
    "refine": Flag(on="--refine", off="--no-refine"),
    "rate": Flag(on="--fps"),
}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("lower `max_keypoints`", "lower --max-keypoints"),
        ("set `resize=1600`", "set --resize 1600"),
        ("set `resize=(640, 480)`", "set --resize 640 480"),
        ("use `matcher='nn'`", "use --matcher nn"),
        ("set `refine=False`", "set --no-refine"),
        ("set `refine=True`", "set --refine"),
        ("`rate` must be positive", "--fps must be positive"),
        ("max_keypoints is −1 or at least 1", "--max-keypoints is −1 or at least 1"),
        ("a.png: reduce max_keypoints", "a.png: reduce --max-keypoints"),
        ("no matcher; use matcher='nn'", "no matcher; use --matcher nn"),
        ("set resize=1600, or refine=False.", "set --resize 1600, or --no-refine."),
        ("resize must be positive", "--resize must be positive"),
        (
            "use a smaller `resize` and `max_keypoints`",
            "use a smaller --resize and --max-keypoints",
        ),
    ],
)
def test_parameter_names_become_flags(message: str, shown: str) -> None:
    assert with_flags(message, FLAGS) == shown


@pytest.mark.parametrize(
    "message",
    [
        "`iterations` must be positive",
        "resize the image first",
        "max_keypoints.toml: no such file",
        "max_keypoints/0.png: no such file",
        "model/config.json: processing.max_keypoints is missing",
        "config.json: unknown key 'max_keypoints'",
        "the matcher has no resize",
    ],
)
def test_other_words_stay(message: str) -> None:
    assert with_flags(message, FLAGS) == message


@pytest.mark.parametrize("words", [["match", "a.png", "b.png"], ["evaluate", "homography", "x"]])
def test_every_session_setting_has_its_flag(words: list[str]) -> None:
    command = typer.main.get_command(cli._application(words[:1]))
    flags = option_flags(command, words)
    for name in ("resize", "max_keypoints", "keypoint_threshold", "nms_radius", "matcher"):
        assert flags[name].on == "--" + name.replace("_", "-")


def test_options_are_those_of_the_called_command() -> None:
    command = typer.main.get_command(cli._application(["match", "video"]))
    assert "camera_size" not in option_flags(command, ["match", "a.png"])
    assert option_flags(command, ["video", "a.mp4"])["rate"].on == "--fps"


def test_an_error_of_the_library_names_the_flag(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, error = call("video", str(tmp_path), "--camera-size", "640", "480")
    assert code == 2
    assert (
        error == "error: --camera-size applies only to cameras; --resize works for every source\n"
    )
