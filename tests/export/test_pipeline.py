"""End-to-end graphs give the keypoints and matches of a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from featherglue.artifact.format import load_artifact
from featherglue.export.pipeline import PipelineConfig, export_pipeline
from featherglue.session import Session, load
from featherglue.types import Features

SIZE, COUNT = (320, 253), 200  # the height is no multiple of 8


@pytest.fixture(scope="module")
def graphs(
    matching: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, onnxruntime.InferenceSession]:
    folder = tmp_path_factory.mktemp("graphs")
    config = PipelineConfig(size=SIZE, num_keypoints=COUNT)
    paths = export_pipeline(load_artifact(matching), folder, config)
    return {path.stem: onnxruntime.InferenceSession(path) for path in paths}


@pytest.fixture(scope="module")
def plain(matching: Path) -> Session:
    """A session with the steps of the graphs only."""
    return load(matching, threads=1, max_keypoints=COUNT, consensus=None, refine=False)


def assert_same_features(outputs: list[np.ndarray], expected: Features) -> None:
    keypoints, scores, descriptors = outputs
    count = int((scores > 0).sum())
    assert count == len(expected)
    assert (np.diff(scores) <= 0).all()
    order, other = (np.lexsort(np.rint(k * 100).T) for k in (keypoints[:count], expected.keypoints))
    np.testing.assert_allclose(keypoints[order], expected.keypoints[other], atol=1e-3)
    np.testing.assert_allclose(scores[order], expected.scores[other], rtol=1e-5)
    np.testing.assert_allclose(descriptors[order], expected.descriptors[other], atol=1e-4)
    assert not keypoints[count:].any() and not descriptors[count:].any()


def test_keypoints_and_matches_equal_those_of_a_session(
    graphs: dict[str, onnxruntime.InferenceSession], plain: Session, grey: np.ndarray
) -> None:
    images = grey[:253], np.roll(grey, (-8, 16), (0, 1))[:253]
    features = [plain.extract(image) for image in images]
    outputs = [graphs["extract"].run(None, {"image": image[None, None]}) for image in images]
    for output, expected in zip(outputs, features, strict=True):
        assert_same_features(output, expected)
    inputs = {f"image_size{i}": np.array(SIZE, np.float32) for i in range(2)}
    for i, output in enumerate(outputs):
        for name, value in zip(("keypoints", "scores", "descriptors"), output, strict=True):
            inputs[f"{name}{i}"] = value
    matches, confidence = graphs["match"].run(None, inputs)
    expected = plain.match(*features).matches
    rows = np.flatnonzero(matches >= 0)
    assert len(rows) > 30
    np.testing.assert_array_equal(np.stack((rows, matches[rows]), 1), expected.indices)
    np.testing.assert_allclose(confidence[rows], expected.scores, atol=1e-4)
    assert (confidence[matches < 0] == 0).all()
    together = graphs["pipeline"].run(
        None, {f"image{i}": image[None, None] for i, image in enumerate(images)}
    )
    for got, wanted in zip(together, (*outputs[0], *outputs[1], matches, confidence), strict=True):
        np.testing.assert_array_equal(got, wanted)
