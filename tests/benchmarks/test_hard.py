"""benchmarks/hard.py on small suites."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from scenes import pair_line


@pytest.fixture
def data(val: Path, photographs: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """The suites `val` and `wide` with one pair each, and `real` with a camera that moves."""
    (val / "homographies.txt").write_text((val / "homographies.txt").read_text().split("\n")[0])
    wide, real = tmp_path / "wide" / "v_camera", tmp_path / "real"
    wide.mkdir(parents=True)
    real.mkdir()
    image = photographs["camera"][:240, :320]
    for k in range(1, 7):
        cv2.imwrite(str(wide / f"{k}.ppm"), cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
        if k > 1:
            np.savetxt(wide / f"H_1_{k}", np.eye(3))
    for k in range(2):
        frame = photographs["camera"][4 * k : 4 * k + 240, 6 * k : 6 * k + 320]
        cv2.imwrite(str(real / f"{k}.png"), frame)
    K, T = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), np.eye(4)
    T[:2, 3] = -6, -4  # parallel to the photograph
    (real / "pairs.txt").write_text(pair_line("0.png", "1.png", K, T))
    return tmp_path


@pytest.mark.slow
def test_results_are_kept_and_shown(
    load_script: Callable[[str], ModuleType],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = load_script("hard")
    for name, value in (("SIZE", (240, 180)), ("DEGREES", (0, 180)), ("FACTORS", ())):
        monkeypatch.setattr(script.invariance, name, value)
    out, page = data / "all.json", data / "page.md"
    arguments = [str(data), "-o", str(data / "results"), "--json", str(out), "--docs", str(page)]
    arguments += ["--max-keypoints", "128", "--max-keypoints-large", "128", "--threads", "1"]
    arguments += ["--num-pairs", "1", "--num-photos", "1", "--num-orders", "2"]
    script.main(arguments)
    first = capsys.readouterr().out
    results = json.loads(out.read_text())["results"]
    assert list(results) == ["val", "real", "wide", "invariance", "unrelated"]
    fast, searched = "fast, 128, search off", "fast, 128, search auto"
    assert list(results["val"])[:2] == [fast, searched]
    assert results["wide"][fast]["auc"]["3"] > 90
    assert results["real"]["SIFT, 128"]["pairs"] == 1
    turned = {name: found["rotated by 180°"] for name, found in results["invariance"].items()}
    assert turned[searched] > 1.15 * turned[fast]
    assert "## Unrelated photographs" in page.read_text()
    assert "means over 2 orders of the matches" in " ".join(page.read_text().split())
    assert "with 1 thread." in " ".join(page.read_text().split())
    lines = [line for line in page.read_text().splitlines() if line[:1] not in ("|", "#")]
    assert sum(len(line) > 100 for line in lines) == 1  # the command
    # A second run measures nothing again.
    monkeypatch.setattr(script, "matched", lambda *_: pytest.fail("measured again"))
    script.main(arguments)
    assert capsys.readouterr().out == first


def test_unknown_suites_and_empty_folders(
    load_script: Callable[[str], ModuleType],
    val: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = load_script("hard")
    for arguments, message in (
        ([str(tmp_path), "--only", "nothing"], "no suite 'nothing'"),
        ([str(val)], "holds none of the suites"),
    ):
        with pytest.raises(SystemExit) as stop:
            script.main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
