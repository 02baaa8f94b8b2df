"""End-to-end graphs give the keypoints and matches of a session, in every runtime."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

import featherglue
from featherglue.artifact.format import Artifact, load_artifact, save_artifact
from featherglue.artifact.registry import find_model
from featherglue.compression.calibration import prepare_calibration
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.errors import ConfigError, UsageError
from featherglue.export.pipeline import PipelineConfig, export_pipeline
from featherglue.models.model import Model
from featherglue.session import Session, load
from featherglue.types import Features

pytestmark = pytest.mark.slow

Array = np.ndarray
Run = Callable[[dict[str, Array]], list[Array]]
SIZE, COUNT = (320, 253), 200  # the height is no multiple of 8
NAMES = ("keypoints", "scores", "descriptors")


def open_onnxruntime(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path)
    return lambda inputs: session.run(None, inputs)


@cache
def openvino_core() -> Any:
    """A single one: signals crash Python when several have been destroyed."""
    import openvino

    return openvino.Core()


def open_openvino(path: Path) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(path, "CPU", settings)
    return lambda inputs: [np.array(value) for value in compiled(inputs).values()]


RUNTIMES = {"onnxruntime": open_onnxruntime}
if find_spec("openvino"):
    RUNTIMES["openvino"] = open_openvino


def export(artifact: Artifact, folder: Path, **config: Any) -> dict[str, Path]:
    return {path.stem: path for path in export_pipeline(artifact, folder, PipelineConfig(**config))}


def open_graphs(paths: dict[str, Path]) -> dict[str, Run]:
    return {name: open_onnxruntime(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def paths(matching: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    return export(load_artifact(matching), folder, size=SIZE, num_keypoints=COUNT)


@pytest.fixture(scope="module")
def graphs(paths: dict[str, Path]) -> dict[str, Run]:
    return open_graphs(paths)


@pytest.fixture(scope="module")
def plain(matching: Path) -> Session:
    """A session with the steps of the graphs only."""
    return load(  # the same network: keypoints of equal scores keep their order
        matching,
        runtime="onnxruntime",
        threads=1,
        search="off",
        max_keypoints=COUNT,
        consensus=None,
        refine=False,
    )


@pytest.fixture(scope="module")
def images(gray: Array) -> tuple[Array, Array]:
    return gray[:253], np.roll(gray, (-8, 16), (0, 1))[:253]


def inputs_of(*views: list[Array], size: tuple[int, int] = SIZE) -> dict[str, Array]:
    """The inputs of match.onnx from the outputs of extract.onnx for two images."""
    inputs = {f"image_size{i}": np.array(size, np.float32) for i in range(2)}
    for i, view in enumerate(views):
        inputs |= {f"{name}{i}": value for name, value in zip(NAMES, view, strict=True)}
    return inputs


def sorted_places(keypoints: Array) -> Array:
    return np.lexsort(np.rint(keypoints * 100).T)


def assert_same_features(outputs: list[Array], expected: Features, atol: float = 1e-3) -> None:
    keypoints, scores, descriptors = outputs
    count = int((scores > 0).sum())
    assert count == len(expected)
    assert (np.diff(scores) <= 0).all()
    order, other = sorted_places(keypoints[:count]), sorted_places(expected.keypoints)
    np.testing.assert_allclose(keypoints[order], expected.keypoints[other], atol=atol)
    np.testing.assert_allclose(scores[order], expected.scores[other], rtol=1e-4)
    np.testing.assert_allclose(descriptors[order], expected.descriptors[other], atol=1e-3)
    assert not keypoints[count:].any() and not descriptors[count:].any()


def assert_same_matches(outputs: list[Array], expected: featherglue.Matches) -> None:
    matches, confidence = outputs
    rows = np.flatnonzero(matches >= 0)
    np.testing.assert_array_equal(np.stack((rows, matches[rows]), 1), expected.indices)
    np.testing.assert_allclose(confidence[rows], expected.scores, atol=1e-4)
    assert (confidence[matches < 0] == 0).all()


def features_of(outputs: list[Array], size: tuple[int, int] = SIZE) -> Features:
    """The used places of the outputs of extract.onnx."""
    used = outputs[1] > 0
    values = {name: value[used] for name, value in zip(NAMES, outputs, strict=True)}
    return Features(**values, image_size=size)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_agrees_with_a_session(
    runtime: str, paths: dict[str, Path], plain: Session, images: tuple[Array, Array]
) -> None:
    run = {name: RUNTIMES[runtime](path) for name, path in paths.items()}
    outputs = [run["extract"]({"image": image[None, None]}) for image in images]
    features = [plain.extract(image) for image in images]
    for output, expected in zip(outputs, features, strict=True):
        assert_same_features(output, expected)
    # Equal scores may have another order: compare the matches of the same features.
    found = run["match"](inputs_of(*outputs))
    assert (found[0] >= 0).sum() > 30
    assert_same_matches(found, plain.match(*map(features_of, outputs)).matches)
    together = run["pipeline"]({f"image{i}": image[None, None] for i, image in enumerate(images)})
    for got, wanted in zip(together, (*outputs[0], *outputs[1], *found), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-3)


@pytest.mark.parametrize("counts", [(0, 0), (0, 5), (5, 0), (1, 1), (1, COUNT), (40, 7)])
def test_unused_places_do_not_matter(
    counts: tuple[int, int],
    graphs: dict[str, Run],
    plain: Session,
    images: tuple[Array, Array],
) -> None:
    rng = np.random.default_rng(0)
    views = []
    for image, count in zip(images, counts, strict=True):
        view = graphs["extract"]({"image": image[None, None]})
        # The content of unused places is arbitrary, except their score.
        noise = [rng.uniform(0, 100, value.shape).astype(np.float32) for value in view]
        noise[1][:] = 0
        for value, other in zip(view, noise, strict=True):
            value[count:] = other[count:]
        views.append(view)
    found = graphs["match"](inputs_of(*views))
    assert_same_matches(found, plain.match(*map(features_of, views)).matches)


def test_equal_scores_everywhere(
    graphs: dict[str, Run], plain: Session, images: tuple[Array, Array]
) -> None:
    blank = np.full_like(images[0], 128)
    expected = plain.extract(blank)
    assert len(expected) == COUNT
    assert_same_features(graphs["extract"]({"image": blank[None, None]}), expected)


@pytest.fixture(scope="module")
def shipped_pair(photographs: dict[str, Array]) -> tuple[Array, Array]:
    image = cv2.resize(photographs["camera"], (240, 180), interpolation=cv2.INTER_AREA)
    H = np.array([[0.96, -0.1, 14.0], [0.09, 1.0, -6.0], [1e-4, -5e-5, 1.0]])
    return image, cv2.warpPerspective(image, H, (240, 180))


@pytest.mark.parametrize("name", ["fast", "balanced"])
def test_shipped_models_at_a_dynamic_size(
    name: str, shipped_pair: tuple[Array, Array], tmp_path: Path
) -> None:
    run = open_graphs(export(load_artifact(find_model(name)), tmp_path, num_keypoints=256))
    session = load(
        name,
        runtime="onnxruntime",
        threads=1,
        search="off",
        max_keypoints=256,
        consensus=None,
        refine=False,
    )
    first, second = shipped_pair[0], shipped_pair[1][:150, :213]
    outputs = run["pipeline"]({"image0": first[None, None], "image1": second[None, None]})
    views = outputs[:3], outputs[3:6]
    for view, image in zip(views, (first, second), strict=True):
        assert_same_features(view, session.extract(image))
        alone = run["extract"]({"image": image[None, None]})
        for got, wanted in zip(view, alone, strict=True):
            np.testing.assert_array_equal(got, wanted)
    sizes = [(image.shape[1], image.shape[0]) for image in (first, second)]
    pairs = zip(views, sizes, strict=True)
    expected = session.match(*(features_of(view, size) for view, size in pairs)).matches
    assert len(expected) > 60
    assert_same_matches(outputs[6:], expected)
    blank = np.full_like(first, 128)
    assert len(session.extract(blank)) == 0
    outputs = run["pipeline"]({"image0": blank[None, None], "image1": second[None, None]})
    assert not any(value.any() for value in outputs[:3])
    assert (outputs[6] == -1).all() and not outputs[7].any()


SETTINGS: dict[str, dict[str, Any]] = {
    "no suppression": {"nms_radius": 0, "subpixel": False},
    "radius 1, no border": {"nms_radius": 1, "remove_borders": 0},
    "published sampling": {"descriptor_sampling": "published", "nms_radius": 6},
    "second threshold": {
        "keypoint_threshold": 0.001,
        "high_keypoint_threshold": 0.03,
        "high_threshold_after": 20,
    },
    "high threshold": {"keypoint_threshold": 0.2, "nms_radius": 9},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_at_several_sizes(
    name: str, matching: Path, plain: Session, gray: Array, tmp_path: Path
) -> None:
    """More places than keypoints in some images, and fewer in others."""
    artifact = load_artifact(matching)
    processing = dataclasses.replace(artifact.processing, **SETTINGS[name])
    extractor = dataclasses.replace(artifact.architecture, matcher=None)
    changed = dataclasses.replace(artifact, processing=processing, architecture=extractor)
    run = open_graphs(export(changed, tmp_path, num_keypoints=COUNT))
    assert set(run) == {"extract"}
    session = plain.with_settings(**SETTINGS[name])
    for height, width in ((253, 320), (40, 67), (8, 8), (13, 9)):
        image = np.ascontiguousarray(gray[60 : 60 + height, :width])
        assert_same_features(run["extract"]({"image": image[None, None]}), session.extract(image))


@pytest.mark.parametrize("scheme", ["float16", "linear", "codebook"])
def test_storage_schemes(
    scheme: str, matching: Path, images: tuple[Array, Array], tmp_path: Path
) -> None:
    model = Model.load(matching)
    if scheme == "linear":
        calibration = prepare_calibration(model, list(images[:1]), (96, 72))
        model = quantize_linear(model, LinearConfig(), calibration)
    elif scheme == "codebook":
        model = quantize_codebook(model, CodebookConfig(bits=6))
    model.save(tmp_path / "model")
    half = scheme == "float16"
    paths = export(
        load_artifact(tmp_path / "model"), tmp_path, size=SIZE, num_keypoints=COUNT, float16=half
    )
    run = open_graphs(paths)
    settings = {"max_keypoints": COUNT, "consensus": None, "refine": False}
    session = load(tmp_path / "model", runtime="onnxruntime", threads=1, search="off", **settings)
    views = [run["extract"]({"image": image[None, None]}) for image in images]
    found = run["match"](inputs_of(*views))
    assert (found[0] >= 0).sum() > 20
    if half:  # the session's weights are not rounded
        kinds = {constant.data_type for constant in onnx.load(paths["match"]).graph.initializer}
        assert onnx.TensorProto.FLOAT16 in kinds
        expected = session.extract(images[0]).keypoints
        distance = np.abs(views[0][0][:, None] - expected).max(2).min(1)
        assert (distance < 0.1).mean() > 0.9
        return
    for view, image in zip(views, images, strict=True):
        assert_same_features(view, session.extract(image))
    assert_same_matches(found, session.match(*map(features_of, views)).matches)
    quantized = "QuantizeLinear" in {node.op_type for node in onnx.load(paths["match"]).graph.node}
    assert quantized == (scheme == "linear")


def test_the_metadata_describe_the_graphs(paths: dict[str, Path], matching: Path) -> None:
    stored = {}
    for name, path in paths.items():
        model = onnx.load(path)
        stored[name] = {prop.key: prop.value for prop in model.metadata_props}
        assert stored[name].pop("graph") == name
        assert [opset.version for opset in model.opset_import] == [17]
    assert stored["extract"] == stored["match"] == stored["pipeline"]
    facts = stored["extract"]
    assert facts["featherglue"] == featherglue.__version__
    assert (facts["interface"], facts["model"]) == ("1", matching.name)
    assert (int(facts["num_keypoints"]), tuple(json.loads(facts["size"]))) == (COUNT, SIZE)
    settings = dataclasses.asdict(load_artifact(matching).processing)
    expected = json.loads(json.dumps(settings)) | {"max_keypoints": COUNT}
    assert json.loads(facts["settings"]) == expected


def test_strong_scores_do_not_overflow(matching: Path, tmp_path: Path) -> None:
    """Scores of ±300, and so many iterations that the factors are absorbed."""
    artifact = load_artifact(matching)
    arrays = dict(artifact.arrays)
    for part in ("weight", "bias"):
        arrays[f"matcher.final_proj.{part}"] = arrays[f"matcher.final_proj.{part}"] * 4
    processing = dataclasses.replace(artifact.processing, sinkhorn_iterations=60)
    changed = dataclasses.replace(artifact, arrays=arrays, processing=processing)
    saved = save_artifact(tmp_path / "model", changed)
    run = open_graphs(export(saved, tmp_path, num_keypoints=32))
    session = load(
        tmp_path / "model",
        runtime="onnxruntime",
        threads=1,
        search="off",
        consensus=None,
        refine=False,
    )
    rng = np.random.default_rng(0)
    views: list[list[Array]] = []
    for _ in range(2):
        descriptors = rng.standard_normal((32, 16)).astype(np.float32)
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        views.append(
            [
                rng.uniform(0, 250, (32, 2)).astype(np.float32),
                rng.uniform(0.1, 1, 32).astype(np.float32),
                descriptors,
            ]
        )
    views[1][2][:20] = views[0][2][:20]
    found = run["match"](inputs_of(*views))
    np.testing.assert_array_equal(found[0][:20], np.arange(20))
    assert_same_matches(found, session.match(*map(features_of, views)).matches)


@pytest.mark.parametrize(
    "config", [{"num_keypoints": 0}, {"num_keypoints": 9000}, {"num_keypoints": 10.5}]
)
def test_a_wrong_number_of_keypoints_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="num_keypoints must be an integer in"):
        PipelineConfig(**config)


@pytest.mark.parametrize(
    "size", [(0, 480), (640, 7), (9000, 480), (640,), (-1, -1), (64.5, 64), 640, "64", True]
)
def test_a_wrong_size_is_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"size must be a width and a height in .*, not "):
        PipelineConfig(size=size)


def test_integers_of_numpy_are_a_size() -> None:
    assert PipelineConfig(size=tuple(np.array([640, 480]))).size == (640, 480)
    assert PipelineConfig(num_keypoints=np.int64(64)).num_keypoints == 64  # type: ignore[arg-type]


def test_a_model_without_a_number_of_keypoints(matching: Path, tmp_path: Path) -> None:
    artifact = load_artifact(matching)
    processing = dataclasses.replace(artifact.processing, max_keypoints=-1)
    with pytest.raises(UsageError, match="num_keypoints"):
        export_pipeline(dataclasses.replace(artifact, processing=processing), tmp_path)
    with pytest.raises(UsageError, match="saved before"):
        export_pipeline(dataclasses.replace(artifact, hash=""), tmp_path)
    assert not list(tmp_path.iterdir())
