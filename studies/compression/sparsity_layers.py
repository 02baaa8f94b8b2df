"""Time of single layers at several sparsities in each engine, and the limits of one core."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from featherglue.compression.pruning.fine_grained import PruneConfig
from featherglue.compression.pruning.sparsity_patterns import select_weights
from featherglue.errors import RuntimeUnavailableError
from featherglue.native.library import pointer
from featherglue.native.sparse_networks import TILE
from featherglue.runtime.sparse_weights import Packer

Float = NDArray[np.float32]
Run = Callable[[], Any]

_POSITIONS = 1024  # keypoints of both images
_CACHED = 2**19  # floats of a stream that is larger than all caches: see `limits`
# Layer of the dense model → (height, width) of its map, None for a linear layer.
LAYERS: dict[str, tuple[int, int] | None] = {
    "matcher.gnn.layers.4.attn.proj.0": None,
    "matcher.gnn.layers.4.mlp.2": None,
    "extractor.conv2b": (240, 320),
    "extractor.convPa": (60, 80),
}
# Title → pruning; None leaves the layer dense.
PRUNINGS: dict[str, PruneConfig | None] = {
    "dense": None,
    "2:4": PruneConfig(pattern="2:4"),
    "70 %": PruneConfig(ratio=0.7),
    "89 %": PruneConfig(ratio=0.89),
    "89 %, 4×1": PruneConfig(ratio=0.89, pattern="4x1"),
    "89 %, 1×8": PruneConfig(ratio=0.89, pattern="1x8"),
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A layer on random activations.

    Attributes:
        weight: (out, in) or (out, in, 3, 3).
        x: (positions, in), or (in, H, W).
        positions: number of positions of the output.
    """

    weight: Float
    x: Float
    positions: int


def measure_layers(arrays: Mapping[str, Float], repetitions: int) -> list[dict[str, Any]]:
    """Return a row for each layer and pruning, with ms by engine.

    All engines run in turn with one thread; see `take_turns`. Layers that the model does not have
    are left out.

    Args:
        arrays: the dense model with batch normalization folded.
        repetitions: number of timed repetitions.
    """
    kernels = compile_kernels()
    rows = []
    for name, shape in LAYERS.items():
        if f"{name}.weight" not in arrays:
            continue
        for title, config in PRUNINGS.items():
            weight = arrays[f"{name}.weight"]
            if config is not None:
                ratio = 0.5 if config.pattern == "2:4" else config.ratio
                scores = {name: np.abs(weight).astype(np.float64)}
                weight = weight * select_weights(scores, {name: ratio}, config).kept[name]
            problem = _problem(weight, shape)
            with tempfile.TemporaryDirectory() as folder:
                engines = _engines(problem, kernels, Path(folder))
                times = take_turns(engines, repetitions)
            macs = weight.size * problem.positions
            nonzero = int(np.count_nonzero(weight))
            activations = (weight.shape[1] + len(weight)) * problem.positions
            rows.append(
                {
                    "layer": name,
                    "pruning": title,
                    "shape": list(weight.shape),
                    "map": None if shape is None else list(shape),
                    "positions": problem.positions,
                    "macs": macs,
                    "nonzero": nonzero,
                    "bytes": 4 * activations + (4 if config is None else 8) * nonzero,
                    "ms": times,
                }
            )
            print(f"  {name}, {title}: {times}", flush=True)
    return rows


def take_turns(engines: dict[str, Run], repetitions: int) -> dict[str, float]:
    """Return the median CPU time in ms of each engine, all engines in every repetition.

    CPU time is that of one thread on an idle machine, and other programs do not disturb it.
    """
    found: dict[str, list[float]] = {name: [] for name in engines}
    for repetition in range(repetitions + 1):
        for name, run in engines.items():
            start = time.process_time()
            run()
            if repetition:
                found[name].append(1e3 * (time.process_time() - start))
    return {name: round(float(np.median(times)), 4) for name, times in found.items()}


def limits() -> dict[str, float]:
    """Return what one core computes and what it reads and writes, at most.

    Returns:
        "gflops": 10⁹ operations a second of a loop of multiply–adds. "gbytes": 10⁹ bytes a second
        of a triad of streams that are larger than the caches.
    """
    kernels = compile_kernels()
    iterations, n = 5_000_000, 64 * _CACHED
    a, b, c = (np.ones(n, np.float32) for _ in range(3))
    best = {"gflops": 0.0, "gbytes": 0.0}
    for _ in range(5):
        start = time.process_time()
        kernels.multiply_adds(iterations)
        middle = time.process_time()
        kernels.triad(pointer(a), pointer(b), pointer(c), 0.5, n)
        end = time.process_time()
        best["gflops"] = max(best["gflops"], 192 * iterations / (middle - start) / 1e9)
        best["gbytes"] = max(best["gbytes"], 3 * 4 * n / (end - middle) / 1e9)
    return {name: round(value, 1) for name, value in best.items()}


def compile_kernels() -> ctypes.CDLL:
    """Compile and load sparsity_kernels.c. Raises RuntimeUnavailableError without a compiler."""
    here = Path(__file__).parent
    native = here.parents[1] / "src" / "featherglue" / "native"
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeUnavailableError("a C compiler named cc is needed to measure single layers")
    library = Path(tempfile.mkdtemp()) / "kernels.so"
    flags = ["-O3", "-march=x86-64-v3", "-ffp-contract=fast", "-fopenmp-simd", "-pthread"]
    flags += ["-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", f"-I{native}"]
    sources = [str(here / "sparsity_kernels.c"), str(native / "team.c")]
    command = [compiler, *flags, *sources, "-o", str(library), "-lm"]
    done = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().partition("\n")[0]
        raise RuntimeUnavailableError(f"{compiler} cannot compile {sources[0]}: {reason}")
    loaded = ctypes.CDLL(str(library))
    array, integer = ctypes.c_void_p, ctypes.c_int64
    loaded.linear.argtypes = [*[array] * 4, integer, integer, array]
    loaded.convolution.argtypes = [*[array] * 4, *[integer] * 3, array, array]
    loaded.multiply_adds.argtypes, loaded.multiply_adds.restype = [integer], ctypes.c_float
    loaded.triad.argtypes = [array, array, array, ctypes.c_float, integer]
    return loaded


def _problem(weight: Float, shape: tuple[int, int] | None) -> Problem:
    rng = np.random.default_rng(0)
    inputs = weight.shape[1]
    size = (_POSITIONS, inputs) if shape is None else (inputs, *shape)
    positions = _POSITIONS if shape is None else shape[0] * shape[1]
    x = rng.normal(size=size).astype(np.float32)
    return Problem(weight=weight, x=x, positions=positions)


def _engines(problem: Problem, kernels: ctypes.CDLL, folder: Path) -> dict[str, Run]:
    """Functions that run the layer. Their results are compared first."""
    graph = _graph(problem, folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    linear = problem.weight.ndim == 2
    inputs = {"x": problem.x if linear else problem.x[None]}
    expected = session.run(None, inputs)[0]
    engines: dict[str, Run] = {
        "onnxruntime": lambda: session.run(None, inputs),
        "openvino": lambda: request.infer(inputs),
    }
    if linear:
        torch.set_num_threads(1)
        rows = torch.from_numpy(problem.weight).to_sparse_csr()
        columns = torch.from_numpy(np.ascontiguousarray(problem.x.T))
        engines["torch csr"] = lambda: rows @ columns
        engines["sparse"], result = _own_linear(problem, kernels)
    else:
        engines["sparse"], result = _own_convolution(problem, kernels)
    engines["sparse"]()
    np.testing.assert_allclose(result(), expected, atol=1e-3 * np.abs(expected).max())
    return engines


def _graph(problem: Problem, folder: Path) -> Path:
    """An ONNX graph of the layer: Gemm, or Conv and Relu."""
    weight = helper.make_tensor(
        "w", TensorProto.FLOAT, problem.weight.shape, problem.weight.ravel()
    )
    if problem.weight.ndim == 2:
        nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
        shape: Sequence[int] = problem.x.shape
    else:
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
        ]
        shape = (1, *problem.x.shape)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "layer", [x], [y], [weight])
    path = folder / "layer.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def _own_linear(problem: Problem, kernels: ctypes.CDLL) -> tuple[Run, Run]:
    outputs, inputs = problem.weight.shape
    packer = Packer()
    packer.linear(problem.weight, np.zeros(outputs, np.float32))
    network = packer.packed(outputs)
    tiles = problem.positions // TILE
    x = np.ascontiguousarray(problem.x.reshape(tiles, TILE, inputs).transpose(0, 2, 1))
    out = np.empty((tiles, outputs, TILE), np.float32)
    packed = [pointer(array) for array in (network.plan, network.indices, network.values)]

    def run() -> object:
        kernels.linear(*packed, pointer(x), inputs, tiles, pointer(out))
        return network  # keeps the arrays

    return run, lambda: out.transpose(0, 2, 1).reshape(problem.positions, outputs)


def _own_convolution(problem: Problem, kernels: ctypes.CDLL) -> tuple[Run, Run]:
    outputs, inputs = problem.weight.shape[:2]
    _, height, width = problem.x.shape
    packer = Packer()
    packer.convolution(problem.weight, np.zeros(outputs, np.float32))
    network = packer.packed(outputs)
    stride = ((width + 15) // 16 | 1) * 16
    # Windows begin one position before a row.
    x = np.zeros(height * inputs * stride + 32, np.float32)
    rows = x[16:-16].reshape(height, inputs, stride)
    rows[:, :, :width] = problem.x.transpose(1, 0, 2)
    out = np.empty((height, outputs, stride), np.float32)
    buffer = np.empty(max(inputs, outputs) * 512, np.float32)
    packed = [pointer(array) for array in (network.plan, network.indices, network.values)]

    def run() -> object:
        kernels.convolution(
            *packed, pointer(rows), height, width, stride, pointer(buffer), pointer(out)
        )
        return network, x

    return run, lambda: out[:, :, :width].transpose(1, 0, 2)[None]
