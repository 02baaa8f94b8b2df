"""The command `sensitivity`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Run) -> Run:
    """run(*arguments) of `sensitivity`: exit code, standard output and standard error."""
    return lambda *arguments: run("sensitivity", *arguments)


@pytest.fixture
def suite(tmp_path: Path, photographs: dict[str, np.ndarray]) -> tuple[object, ...]:
    """Options for a suite of two photographs."""
    folder = tmp_path / "suite"
    folder.mkdir()
    for name in ("camera", "astronaut"):
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(photographs[name], (160, 120)))
    H = "0.98 -0.08 19 0.07 1.01 -15 1e-5 -5e-5 1"
    (folder / "list.txt").write_text(f"camera.png {H}\nastronaut.png {H}\n")
    return "--images", folder, "--pairs", folder / "list.txt", "--num-pairs", 1


@pytest.mark.slow
def test_scan_writes_a_table_and_figures(
    run: Run, matching: Path, suite: tuple[object, ...], tmp_path: Path
) -> None:
    few = ("--include", "extractor.convDb", "--include", "matcher.final_proj")
    given = ("--model", matching, *suite, *few, "--ratios", "0.9", "-o", "out")
    code, out, err = run(*given, "--json", "-", "--histograms", "extractor.conv1*")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["planned"] == facts["scored"] == 2
    assert set(facts["order"]) == {"extractor.convDb", "matcher.final_proj"}
    assert list(facts["base"]) == ["auc5", "auc10", "auc25", "precision", "recall"]
    pictures = [Path(path) for path in facts["pictures"]]
    assert [p.name for p in pictures] == ["prune-curves.png", "prune-layers.png", "histograms.png"]
    for path in pictures:
        assert cv2.imread(str(path)).std() > 10
    with Path("out/scan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["level"] for row in rows] == ["0", "0.9", "0.9"]
    # Another method extends the scan, and the table is printed.
    given = ("--model", matching, *suite, *few, "--method", "codebook", "--bits", "2", "-o", "out")
    code, out, err = run(*given, "--metric", "recall")
    assert (code, err) == (0, "")
    assert "loss of recall, points" in out and "2 of 2 scores" in out
    assert Path("out/codebook-layers.png").exists()
    assert len(Path("out/scan.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ratios", "0.5,1"), "a ratio must be in [0, 1), not 1.0"),
        (("--ratios", "half"), "separated by commas"),
        (("--bits", "4"), "--bits requires --method codebook"),
        (("--method", "codebook", "--ratios", "0.5"), "--ratios requires --method prune"),
        (("--method", "linear", "--bits", "3"), "must be 4 to 8, not 3"),
        (("--method", "luck"), "is not one of"),
        (("--include", "extractor.conv9"), "closest names"),
        (("--histograms", "extractor.conv9"), "closest names"),
        (("--minutes", "0"), "minutes must be positive"),
    ],
)
def test_invalid_options_exit_with_2(
    run: Run, matching: Path, suite: tuple[object, ...], arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run("--model", matching, *suite, "-o", "out", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("out").exists()


def test_failures(run: Run, matching: Path, suite: tuple[object, ...], tmp_path: Path) -> None:
    few = ("--include", "matcher.final_proj", "--ratios", "0.5", "-o", "out")
    assert run("--model", matching, *suite, *few)[0] == 0
    code, _, err = run("--model", matching, *suite[:-1], 2, *few)
    assert code == 2 and "used other settings (--num-pairs was 1)" in err
    code, _, err = run("--model", matching, "--images", tmp_path / "none", *few)
    assert code == 1 and "none" in err
    code, _, err = run("--model", "nothing", *suite, *few)
    assert code == 1 and "no model 'nothing'" in err
    code, _, err = run("--model", matching, *suite, *few, "--metric", "luck")
    assert code == 2 and "is not one of" in err
