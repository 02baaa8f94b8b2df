"""benchmarks/peers.py on a photograph and a pair of frames."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scenes import pair_line

NAMES = ("fast", "fast, not refined", "fast extractor + nn", "SIFT", "SIFT, refined", "ORB")
LARGER = ("balanced, 128", "SIFT, 128")
SUITES = ("val", "val-no-photometric", "real")


@pytest.mark.slow
def test_results_speed_and_page(
    load_script: Callable[[str], ModuleType],
    val: Path,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = load_script("peers")
    suite = functools.partial(script.HomographySuite, size=(192, 144))
    monkeypatch.setattr(script, "HomographySuite", suite)
    monkeypatch.setattr(script, "NUM_KEYPOINTS_LARGE", 128)
    pair_file = val / "homographies.txt"
    pair_file.write_text(pair_file.read_text().splitlines()[0])
    K, T = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), np.eye(4)
    T[:2, 3] = -6, -4  # the frames move parallel to the photograph
    (frames / "pairs.txt").write_text(pair_line("0.png", "1.png", K, T))
    output, page = tmp_path / "results", tmp_path / "page.md"
    arguments = ["--val", str(val), "--real", str(frames), "-o", str(output), "--docs", str(page)]
    arguments += ["--max-keypoints", "100", "--threads", "1", "--num-repetitions", "1"]
    script.main(arguments)
    assert len(capsys.readouterr().out.splitlines()) == 3 * len(NAMES + LARGER)
    for name in NAMES + LARGER:
        for key in SUITES:
            path = output / f"{key}-{name.replace(' ', '-')}.json"
            result = json.loads(path.read_text())
            assert result["model"]["name"] == name
            assert result["precision"] > (55 if name.startswith("fast") else 40), (key, name)
            assert result["pairs"] == 1 and result["matches"] > 15
            assert key == "real" or result["auc_lo"]["25"] > 50, (key, name)
    speed = json.loads((output / "speed.json").read_text())
    assert [row["label"] for row in speed["rows"]] == [*NAMES, *LARGER]
    assert [row["max_keypoints"] for row in speed["rows"]] == [100] * 6 + [128] * 2
    for row in speed["rows"]:
        assert 0 < row["end_to_end"]["median_ms"] <= row["end_to_end"]["p95_ms"] < 10_000
        rate = 1e3 / row["end_to_end"]["median_ms"]
        assert row["frames_per_second"] == pytest.approx(rate, rel=0.05)
    assert speed["rows"][0]["cold_start_ms"] > speed["rows"][0]["end_to_end"]["median_ms"]
    text = page.read_text()
    assert text.count("\n| fast, not refined ") == 9  # 2 + 1 + 3 + 2 tables, and the speed
    assert "(*optimized*)" in text and "| optimized AUC@25 |" in text
    assert "100 keypoints" in text
    speed_file = output / "speed.json"
    before = speed_file.read_bytes()
    page.unlink()
    script.main([*arguments, "--suites", "val"])
    assert len(capsys.readouterr().out.splitlines()) == len(NAMES + LARGER)
    assert speed_file.read_bytes() == before and page.read_text() == text
    speed_file.unlink()
    with pytest.raises(SystemExit, match="2"):
        script.main([*arguments, "--suites", "val"])
    assert "speed.json is missing" in capsys.readouterr().err
