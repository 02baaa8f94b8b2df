"""Encoded tensors: exact round trips; inconsistent and damaged data raises."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from featherglue.artifact.encodings import (
    CodebookTensor,
    LinearTensor,
    Quantization,
    group_of,
)
from featherglue.artifact.encodings.sparse_float import decode_sparse_float, encode_sparse_float
from featherglue.artifact.format import load_artifact
from featherglue.artifact.tensors import read_tensors, write_tensors
from featherglue.compression.calibration import CalibrationData
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.config import LayerStorage
from featherglue.errors import ArtifactError, ConfigError
from featherglue.models.model import Model


def linear(
    bits: int = 6, groups: int = 4, affine: bool = False, zeros: float = 0.0
) -> LinearTensor:
    rng = np.random.default_rng(bits)
    half = 2 ** (bits - 1)
    zero = np.zeros(groups, np.int16)
    if affine:
        zero = rng.integers(-half, half, groups).astype(np.int16)
    codes = rng.integers(-half, half, (8, 5, 3, 3)).astype(np.int8)
    each = zero[group_of(8, groups)].reshape(-1, 1, 1, 1).astype(np.int8)
    codes = np.where(rng.random(codes.shape) < zeros, each, codes)
    scale = rng.uniform(0.01, 0.1, groups).astype(np.float32)
    return LinearTensor(codes=codes, scale=scale, zero=zero, bits=bits)


def codebook(bits: int = 4, groups: int = 2, zeros: float = 0.0) -> CodebookTensor:
    rng = np.random.default_rng(bits)
    values = np.sort(rng.standard_normal((groups, 2**bits)).astype(np.float16), 1)
    codes = rng.integers(0, 2**bits, (8, 30)).astype(np.uint8)
    if zeros:
        values[:, 0] = 0
        codes[rng.random(codes.shape) < zeros] = 0
    return CodebookTensor(codes=codes, codebook=values.astype(np.float32), bits=bits)


@pytest.mark.parametrize("bits", range(4, 9))
@pytest.mark.parametrize("groups", [1, 3, 8])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("zeros", [0.0, 0.95])
def test_linear_round_trip(bits: int, groups: int, affine: bool, zeros: float) -> None:
    code = linear(bits, groups, affine, zeros)
    how, parts = code.to_parts()
    read = LinearTensor.from_parts(how, parts, code.codes.shape)
    np.testing.assert_array_equal(read.codes, code.codes)
    np.testing.assert_array_equal(read.scale, code.scale)
    np.testing.assert_array_equal(read.zero, code.zero)
    np.testing.assert_array_equal(read.decode(), code.decode())
    assert (how.scheme, how.bits, how.groups) == ("linear", bits, groups)
    assert (how.positions != "all") == (zeros > 0.5)


def test_linear_decode() -> None:
    code = linear(8, groups=2, affine=True)
    for channel, group in ((0, 0), (3, 0), (4, 1), (7, 1)):
        steps = code.codes[channel].astype(int) - int(code.zero[group])
        np.testing.assert_allclose(code.decode()[channel], steps * code.scale[group], rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_codebook_round_trip(bits: int, zeros: float) -> None:
    code = codebook(bits, zeros=zeros)
    how, parts = code.to_parts()
    read = CodebookTensor.from_parts(how, parts, code.codes.shape)
    np.testing.assert_array_equal(read.codes, code.codes)
    np.testing.assert_array_equal(read.codebook, code.codebook)
    assert read.dtype == code.dtype
    assert (how.scheme, how.bits, how.groups) == ("codebook", bits, 2)
    np.testing.assert_array_equal(code.decode()[5], code.codebook[1][code.codes[5]])


def test_sparse_float_round_trip() -> None:
    array = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    assert encode_sparse_float(array, "float32") is None  # no zeros
    array[np.random.default_rng(1).random(array.shape) < 0.9] = 0
    for dtype in ("float32", "float16"):
        stored = encode_sparse_float(array, dtype)  # type: ignore[arg-type]
        assert stored is not None
        how, parts = stored
        np.testing.assert_array_equal(
            decode_sparse_float(how, parts, array.shape), array.astype(dtype).astype(np.float32)
        )
        assert sum(part.nbytes for part in parts.values()) < 0.25 * array.astype(dtype).nbytes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(linear(), bits=3), "4 to 8 bits"),
        (lambda: replace(linear(8), bits=4), "exceed 4 bits"),
        (lambda: replace(linear(), scale=np.zeros(4, np.float32)), "above 0"),
        (lambda: replace(linear(), zero=np.zeros(3, np.int16)), "one zero point for each"),
        (lambda: replace(linear(), zero=np.full(4, 99, np.int16)), "zero points exceed"),
        (lambda: linear(groups=9), "9 groups"),
        (lambda: replace(codebook(), bits=1), "2 to 8 bits"),
        (lambda: replace(codebook(4), bits=3), "has 8 values"),
        (lambda: replace(codebook(), codes=np.full((8, 2), 16, np.uint8)), "exceed 4 bits"),
        (lambda: replace(codebook(), codebook=np.full((2, 16), np.nan, np.float32)), "finite"),
        (lambda: replace(codebook(), codebook=np.full((2, 16), 0.1, np.float32)), "float16"),
    ],
)
def test_invalid_codes_raise(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_tensors_changed_after_quantization_raise() -> None:
    code = codebook()
    quantization = Quantization(tensors={"a": code})
    with pytest.raises(ConfigError, match="in the last step"):
        write_tensors({"a": code.decode() + 1}, quantization, "float32")
    with pytest.raises(ConfigError, match="no such tensor"):
        write_tensors({"b": code.decode()}, quantization, "float32")


def test_inconsistent_parts_raise() -> None:
    code = codebook()
    stored, storage = write_tensors(
        {"a": code.decode()}, Quantization(tensors={"a": code}), "float32"
    )
    shapes = {"a": code.codes.shape}
    arrays, read = read_tensors(stored, storage, shapes)
    np.testing.assert_array_equal(arrays["a"], code.decode())
    assert isinstance(read.tensors["a"], CodebookTensor)
    cases: list[tuple[dict[str, Any], str]] = [
        ({k: v for k, v in stored.items() if "codebook" not in k}, "a:codebook is missing"),
        (stored | {"a:positions": stored["a:values"]}, "does not belong"),
        (stored | {"a:codebook": stored["a:codebook"][:1]}, "its codebook is"),
        (stored | {"a:values": stored["a:values"][:-1]}, "a: "),
        (stored | {"a:values": stored["a:values"].astype(np.int16)}, "a: "),
    ]
    for damaged, message in cases:
        with pytest.raises(ArtifactError, match=message):
            read_tensors(damaged, storage, shapes)
    with pytest.raises(ArtifactError, match="a: "):
        read_tensors(stored, storage, {"a": (8, 31)})
    how = LayerStorage(scheme="codebook", dtype="int64", bits=4, coding="packed")
    with pytest.raises(ArtifactError, match="cannot be int64"):
        CodebookTensor.from_parts(how, {}, (8, 30))


# --- whole models -----------------------------------------------------------------------------


def pruned_with_codebooks(model: Model) -> Model:
    pruned = prune(model, PruneConfig(ratio=0.8, include=("matcher.*",)))
    return quantize_codebook(pruned, CodebookConfig(bits=5, channels=4))


def linearly_quantized(model: Model, calibration: CalibrationData) -> Model:
    return quantize_linear(model, LinearConfig(weights="affine", bits=6), calibration)


@pytest.mark.parametrize("kind", ["codebook", "linear"])
def test_quantized_model_round_trip(
    kind: str, models: dict[str, Model], calibration: dict[str, CalibrationData], tmp_path: Path
) -> None:
    model = models["one-head"]
    made = (
        pruned_with_codebooks(model)
        if kind == "codebook"
        else linearly_quantized(model, calibration["one-head"])
    )
    saved = made.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    before, after = made.to_artifact(), loaded.to_artifact()
    assert set(before.arrays) == set(after.arrays)
    for name, array in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[name], array, err_msg=name)
    assert set(after.quantization.tensors) == set(before.quantization.tensors)
    assert after.quantization.activations == before.quantization.activations
    again = loaded.save(tmp_path / "again")
    assert again.hash == saved.hash
    for file in ("model.safetensors", "config.json"):
        one, other = ((tmp_path / name / file).read_bytes() for name in ("model", "again"))
        assert one == other


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change the stored arrays and update the hash."""
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    change(arrays)
    data = safetensors.numpy.save(arrays)
    (folder / "model.safetensors").write_bytes(data)
    header = json.loads((folder / "config.json").read_text())
    header["hash"] = hashlib.sha256(data).hexdigest()
    (folder / "config.json").write_text(json.dumps(header))


NAME = "matcher.final_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop(f"{NAME}:codebook"), f"{NAME}:codebook is missing"),
        (lambda a: a[f"{NAME}:codebook"].fill(np.nan), "must be finite"),
        (
            lambda a: a.update({f"{NAME}:codebook": a[f"{NAME}:codebook"][:, :-1].copy()}),
            "its codebook is",
        ),
        (lambda a: a.update({f"{NAME}:values": a[f"{NAME}:values"][:-2].copy()}), NAME),
        (lambda a: a[f"{NAME}:values"].fill(7), "not a stream of symbols"),
        (lambda a: a.update({"extra:values": a[f"{NAME}:values"]}), "does not belong"),
    ],
)
def test_errors_name_the_damaged_tensor(
    change: Callable[[dict[str, np.ndarray]], None],
    message: str,
    models: dict[str, Model],
    tmp_path: Path,
) -> None:
    pruned_with_codebooks(models["one-head"]).save(tmp_path / "model")
    rewrite(tmp_path / "model", change)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: ") as caught:
        load_artifact(tmp_path / "model")
    assert message in str(caught.value)


def test_a_flipped_bit_raises(models: dict[str, Model], tmp_path: Path) -> None:
    pruned_with_codebooks(models["one-head"]).save(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="damaged"):
        load_artifact(tmp_path / "model")
