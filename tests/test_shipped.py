"""The shipped models: files, agreement of runtimes, and accuracy on photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import featherglue as fg
from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.export.cache import current_graphs
from featherglue.geometry.projection import corner_error

TRUTH = np.array([[0.86, -0.31, 120.0], [0.22, 0.93, -40.0], [-1.5e-4, 2.5e-4, 1.0]])


def test_names_of_shipped_models() -> None:
    assert fg.shipped_models() == ["balanced", "fast"]


@pytest.mark.parametrize("name", fg.shipped_models())
def test_provenance_size_and_graphs(name: str) -> None:
    artifact = load_artifact(find_model(name))
    assert artifact.provenance.license == "Apache-2.0"
    assert artifact.provenance.recipe and artifact.provenance.data
    assert sum(artifact.file_sizes().values()) <= 7_000_000
    # The graphs in the folder are up to date, so that matching does not need the onnx package.
    folder = Path(find_model(name))
    assert {path.parent for path in current_graphs(artifact).values()} == {folder}


@pytest.mark.parametrize("name", fg.shipped_models())
def test_runtimes_agree_on_a_photograph(name: str, photographs: dict[str, np.ndarray]) -> None:
    first, second = (
        fg.load(name, runtime=runtime, threads=1).extract(photographs["coffee"])
        for runtime in ("onnxruntime", "torch")
    )
    assert len(first) == len(second) >= 400
    near = np.abs(first.keypoints[:, None] - second.keypoints[None]).max(-1).min(1)
    assert np.mean(near < 0.05) > 0.99


@pytest.mark.parametrize("name", fg.shipped_models())
@pytest.mark.parametrize("photograph", ["astronaut", "camera"])
def test_homography_of_a_warped_photograph(
    name: str, photograph: str, photographs: dict[str, np.ndarray]
) -> None:
    image = photographs[photograph]
    size = (image.shape[1], image.shape[0])
    view = cv2.warpPerspective(image, TRUTH, size)
    view = np.clip(view.astype(np.float32) * 0.7 + 12, 0, 255).astype(np.uint8)
    result = fg.load(name, threads=1)(image, view)
    homography = result.homography()
    assert corner_error(homography.model, TRUTH, size) < 1.0
    assert homography.num_inliers > 100
    assert result.matches.refined.mean() > 0.5
