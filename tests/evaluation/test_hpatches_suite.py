"""Suite of HPatches: metrics by group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scenes import Array, Oracle, write_sequence

from featherglue.evaluation import (
    HPatchesSuite,
    evaluate,
)


def test_hpatches(tmp_path: Path, shift_and_turn: Array) -> None:
    write_sequence(tmp_path / "i_light", np.eye(3), 1)
    write_sequence(tmp_path / "v_view", shift_and_turn, 2)
    (tmp_path / "v_view" / "6.ppm").unlink()
    suite = HPatchesSuite(folder=tmp_path)
    found = evaluate(Oracle(shift_and_turn), suite)
    summary = found.summary
    assert (summary["pairs"], summary["failures"]) == (10, 1)
    light, view = summary["illumination"], summary["viewpoint"]
    assert (light["pairs"], view["pairs"]) == (5, 5)
    assert set(summary["mma"]) == {str(t) for t in range(1, 11)}
    assert view["accuracy"] == {"1": 80, "3": 80, "5": 80}
    assert view["auc"]["1"] == pytest.approx(80, abs=1)
    assert view["mma"]["1"] == pytest.approx(80)
    assert view["precision"] == pytest.approx(80)
    # The oracle detects the same places everywhere, and uses another homography here.
    assert (light["repeatability"], light["localization_error"]) == (100, 0)
    assert light["mma"]["1"] < 20 < light["mma"]["10"]
    assert light["accuracy"]["1"] == 0
    table = found.to_markdown().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "oracle",
        "oracle, illumination",
        "oracle, viewpoint",
    ]
