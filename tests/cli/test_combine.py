"""`featherglue combine`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from featherglue.artifact.format import load_artifact

Run = Callable[..., tuple[int, str, str]]


def test_combining_a_model_with_itself_gives_its_weights(
    run: Run, matching: Path, gray: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), gray)
    parts = ("combine", "--extractor", matching, "--matcher", matching)
    code, out, err = run(*parts, "-o", "plain")
    assert (code, out, err) == (0, "wrote plain\n", "")
    before, made = load_artifact(matching), load_artifact("plain")
    for name, array in made.arrays.items():
        np.testing.assert_array_equal(array, before.arrays[name])
    code, out, err = run(*parts, "-o", "aligned", "--images", "photos", "--json", "-")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["cosine_before"] > 0.999
    assert facts["cosine_after"] > 0.999
    assert facts["hash"] == load_artifact("aligned").hash
    code, out, _ = run(*parts, "-o", "again", "--images", "photos")
    assert "1.000 before, 1.000 after" in out
