"""The examples in Node and C++ print the matches that ONNX Runtime finds in Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.export.pipeline import PipelineConfig, export_pipeline

Array = np.ndarray
Command = list[str]
ROOT = Path(__file__).parents[2]
NODE, CPP = ROOT / "examples/node", ROOT / "examples/cpp"
SAMPLES = ROOT / "web/public/samples"
SIZES = ((320, 213), (300, 201))  # not multiples of 8
HEADER = "x0,y0,x1,y1,confidence"

pytestmark = pytest.mark.slow


def unavailable(reason: str) -> None:
    """Skip the test, or fail where the examples must run."""
    (pytest.fail if os.environ.get("FEATHERGLUE_REQUIRE_EXAMPLES") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    export_pipeline(load_artifact(find_model("fast")), folder, PipelineConfig(num_keypoints=256))
    return folder


@pytest.fixture(scope="module")
def images() -> list[Array]:
    """Two photographs (H, W, 3) uint8 of one scene, in OpenCV's order of channels."""
    views = [cv2.imread(str(SAMPLES / f"coffee{i}.jpg")) for i in range(2)]
    return [
        cv2.resize(view, size, interpolation=cv2.INTER_AREA)
        for view, size in zip(views, SIZES, strict=True)
    ]


@pytest.fixture(scope="module")
def expected(graphs: Path, images: list[Array]) -> Array:
    return python_matches(graphs, images, "onnx")


@pytest.fixture(scope="module")
def node() -> Command:
    program = shutil.which("node")
    if program is None:
        unavailable("Node is not installed")
    if not (NODE / "node_modules/onnxruntime-node").is_dir():
        unavailable("the packages of examples/node are not installed: run `make examples`")
    return [str(program), str(NODE / "match.mjs")]


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Build the C++ example with the OpenVINO of this Python environment."""
    missing = [name for name in ("cmake", "g++") if shutil.which(name) is None]
    if missing:
        unavailable(f"{' and '.join(missing)}: not installed")
    if find_spec("openvino") is None:
        unavailable("the Python package openvino is not installed")
    folder = str(tmp_path_factory.mktemp("cpp"))
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    run(["cmake", "-S", str(CPP), "-B", folder, python, "-DCMAKE_CXX_FLAGS=-Werror"])
    run(["cmake", "--build", folder])
    return [f"{folder}/match"]


def run(command: Sequence[str | Path], status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def python_matches(graphs: Path, images: list[Array], suffix: str) -> Array:
    """Matches (M, 5) by ONNX Runtime in Python: x0, y0, x1, y1, confidence."""
    names = ("keypoints", "scores", "descriptors")
    extractor, matcher = (
        onnxruntime.InferenceSession(graphs / f"{name}.{suffix}") for name in ("extract", "match")
    )
    inputs = {}
    for i, image in enumerate(images):
        gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        values = extractor.run(list(names), {"image": gray[None, None]})
        inputs |= {f"{name}{i}": value for name, value in zip(names, values, strict=True)}
        inputs[f"image_size{i}"] = np.array(gray.shape[::-1], np.float32)
    matches, confidence = matcher.run(["matches", "confidence"], inputs)
    rows = np.flatnonzero(matches >= 0)
    points = inputs["keypoints0"][rows], inputs["keypoints1"][matches[rows]]
    return np.column_stack((*points, confidence[rows]))


def printed_matches(output: str) -> Array:
    header, *lines = output.splitlines()
    assert header == HEADER
    return np.array([[float(value) for value in line.split(",")] for line in lines])


def assert_same_matches(found: Array, expected: Array) -> None:
    """Compare positions, which identify keypoints, and confidences.

    Keypoints of nearly equal scores may have another order in another runtime.
    """
    assert len(expected) > 100
    assert found.shape == expected.shape
    distances = np.abs(found[None, :, :2] - expected[:, None, :2]).max(2)
    found = found[distances.argmin(1)]
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=2e-3)
    np.testing.assert_allclose(found[:, 4], expected[:, 4], atol=1e-4)


def save_images(folder: Path, images: list[Array], suffix: str) -> list[Path]:
    paths = [folder / f"image{i}{suffix}" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        gray = suffix == ".pgm"
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if gray else image)
    return paths


def test_node_prints_the_matches_of_python(
    node: Command, graphs: Path, images: list[Array], expected: Array, tmp_path: Path
) -> None:
    done = run([*node, graphs, *save_images(tmp_path, images, ".png")])
    assert_same_matches(printed_matches(done.stdout), expected)


def test_node_reads_jpeg_files(
    node: Command, graphs: Path, images: list[Array], tmp_path: Path
) -> None:
    paths = save_images(tmp_path, images, ".jpg")
    found = printed_matches(run([*node, graphs, *paths]).stdout)
    decoded = [cv2.imread(str(path)) for path in paths]
    expected = python_matches(graphs, decoded, "onnx")
    # JPEG decoders differ by a few gray values: most matches are the same within a pixel.
    distances = np.abs(found[None, :, :4] - expected[:, None, :4]).max(2).min(1)
    assert (distances < 1).mean() > 0.75


@pytest.mark.parametrize("suffix", [".ppm", ".pgm"])
def test_cpp_prints_the_matches_of_python(
    suffix: str, cpp: Command, graphs: Path, images: list[Array], expected: Array, tmp_path: Path
) -> None:
    done = run([*cpp, graphs, *save_images(tmp_path, images, suffix)])
    assert_same_matches(printed_matches(done.stdout), expected)


def test_cpp_reads_comments_in_headers(
    cpp: Command, graphs: Path, images: list[Array], expected: Array, tmp_path: Path
) -> None:
    paths = save_images(tmp_path, images, ".pgm")
    width, height = SIZES[0]
    pixels = cv2.cvtColor(images[0], cv2.COLOR_BGR2GRAY).tobytes()
    header = f"P5 # made by hand\n# in two lines\n{width} {height}\n# maximum:\n255\n"
    paths[0].write_bytes(header.encode() + pixels)
    assert_same_matches(printed_matches(run([*cpp, graphs, *paths]).stdout), expected)


@pytest.mark.parametrize("language", ["node", "cpp"])
def test_bad_input_is_named(
    language: str, request: pytest.FixtureRequest, graphs: Path, images: list[Array], tmp_path: Path
) -> None:
    command: Command = request.getfixturevalue(language)
    good = save_images(tmp_path, images, {"node": ".png", "cpp": ".ppm"}[language])[0]
    assert "usage:" in run([*command, graphs, good], status=2).stderr
    bad: dict[str, Callable[[Path], object]] = {
        "absent": lambda path: None,
        "empty": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_text("a text"),
        "truncated": lambda path: path.write_bytes(good.read_bytes()[:-5000]),
        "tiny": lambda path: cv2.imwrite(str(path) + good.suffix, images[0][:5, :5]),
    }
    for name, write in bad.items():
        path = tmp_path / name
        write(path)
        path = path.with_suffix(good.suffix) if name == "tiny" else path
        for pair in ((good, path), (path, good)) if name == "absent" else ((good, path),):
            message = run([*command, graphs, *pair], status=1).stderr
            assert message.startswith("error: ") and str(path) in message
    message = run([*command, tmp_path / "no-graphs", good, good], status=1).stderr
    assert "extract.onnx" in message


def test_graphs_in_ort_format_match_alike(
    graphs: Path, images: list[Array], expected: Array, tmp_path: Path
) -> None:
    # The command of the page on Android and iOS.
    module = "onnxruntime.tools.convert_onnx_models_to_ort"
    options = ["--optimization_style", "Fixed", "--target_platform", "arm"]
    run([sys.executable, "-m", module, graphs, "--output_dir", tmp_path, *options])
    assert_same_matches(python_matches(tmp_path, images, "ort"), expected)
