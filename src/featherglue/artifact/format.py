"""The artifact: a folder with config.json, model.safetensors and a model card.

config.json holds `format`, `version`, the SHA-256 of model.safetensors, and the blocks
`architecture`, `processing`, `storage` and `provenance`. Reading is strict: what is unknown,
newer, damaged or of another shape is an error that says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from featherglue.artifact.encodings import Quantization
from featherglue.artifact.layers import activation_names, is_parameter, tensor_shapes, total_macs
from featherglue.artifact.tensors import read_tensors, write_tensors
from featherglue.config import (
    ArchitectureConfig,
    LayerStorage,
    Provenance,
    StorageConfig,
    from_dict,
    to_dict,
)
from featherglue.errors import ArtifactError, ConfigError, OutputError
from featherglue.fingerprint import fingerprint
from featherglue.options import ProcessingConfig

FORMAT, VERSION = "featherglue", 3  # 1 and 2 are of release 0.1: see `_current_settings`
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Artifact:
    """A model outside any framework.

    Attributes:
        arrays: every tensor by name, float32; see `layers.tensor_shapes`. Of a quantized one,
            what its codes stand for.
        quantization: the codes, and the ranges of what flows between layers.
        storage: how they are stored; filled in by `load` and `save`.
        hash: SHA-256 of model.safetensors, "" before it was saved.
        folder: where it was loaded from.
    """

    architecture: ArchitectureConfig
    processing: ProcessingConfig
    arrays: Arrays
    quantization: Quantization = field(default_factory=Quantization)
    storage: StorageConfig = field(default_factory=StorageConfig)
    provenance: Provenance = field(default_factory=Provenance)
    hash: str = ""
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Name of its folder; "" before it was saved."""
        return self.folder.name if self.folder else ""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that decides what the networks compute: the hash of the weights, the
        architecture and the quantization of activations. "" before it was saved."""
        if not self.hash:
            return ""
        activations = {name: to_dict(how) for name, how in self.storage.activations.items()}
        return fingerprint(self.hash, to_dict(self.architecture), activations)


def load_artifact(folder: str | os.PathLike[str]) -> Artifact:
    """Read an artifact.

    Raises:
        ArtifactError: missing, foreign, newer, damaged, or weights that do not fit the
            architecture.
    """
    folder = Path(folder)
    header = _read_config(folder)
    if header["version"] < 3:
        header["processing"] = _current_settings(header["processing"])
    try:
        architecture = from_dict(ArchitectureConfig, header["architecture"], "architecture")
        processing = from_dict(ProcessingConfig, header["processing"], "processing")
        storage = from_dict(StorageConfig, header["storage"], "storage")
        provenance = from_dict(Provenance, header.get("provenance", {}), "provenance")
    except ConfigError as error:
        raise ArtifactError(f"{folder / CONFIG}: {error}") from None
    stored = _read_weights(folder / WEIGHTS, header["hash"])
    try:
        arrays, quantization = read_tensors(stored, storage, tensor_shapes(architecture))
        _check_shapes(arrays, architecture)
        _check_activations(architecture, storage.activations)
    except (ArtifactError, ConfigError) as error:
        raise ArtifactError(f"{folder / WEIGHTS}: {error}") from None
    return Artifact(
        architecture=architecture,
        processing=processing,
        arrays=arrays,
        quantization=quantization,
        storage=storage,
        provenance=provenance,
        hash=header["hash"],
        folder=folder,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        reason = "no config.json in it" if folder.is_dir() else "no such folder"
        raise ArtifactError(f"{folder}: not a featherglue model ({reason})") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not the configuration of a featherglue model")
    version = header.get("version")
    if type(version) is not int or version > VERSION:
        raise ArtifactError(
            f"{path}: format version {version}; this featherglue reads up to {VERSION}: upgrade it"
        )
    needed = {"format", "version", "hash", "architecture", "processing", "storage"}
    if set(header) | {"provenance"} != needed | {"provenance"}:
        odd = sorted((set(header) | {"provenance"}) ^ (needed | {"provenance"}))
        raise ArtifactError(f"{path}: unknown or missing key {odd[0]!r}")
    return header


# Settings that release 0.1 stored under other names.
_RENAMED = {
    "surplus_threshold": "high_keypoint_threshold",
    "surplus_after": "high_threshold_after",
}


def _current_settings(processing: Any) -> Any:
    """The `processing` block of release 0.1, where a consensus of 0 disabled it, as of today."""
    if not isinstance(processing, dict):
        return processing
    renamed = {_RENAMED.get(key, key): value for key, value in processing.items()}
    return renamed | ({"consensus": None} if renamed.get("consensus") == 0 else {})


def _read_weights(path: Path, expected: str) -> Arrays:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise ArtifactError(f"{path}: damaged, or not the weights that config.json describes")
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise ArtifactError(f"{path}: not a safetensors file ({error})") from None


def _check_shapes(arrays: Arrays, architecture: ArchitectureConfig) -> None:
    expected = tensor_shapes(architecture)
    for name in sorted(set(expected) ^ set(arrays)):
        state = "is missing" if name in expected else "does not belong to this architecture"
        raise ArtifactError(f"the tensor {name} {state}")
    for name, shape in expected.items():
        array = arrays[name]
        if array.dtype != np.float32:
            raise ArtifactError(f"{name} is {array.dtype}, not a float32 or float16")
        if array.shape != shape:
            raise ArtifactError(f"{name} has shape {array.shape}, the architecture says {shape}")
        if not np.isfinite(array).all():
            raise ArtifactError(f"{name} holds values that are not finite")


def _check_activations(architecture: ArchitectureConfig, names: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(activation_names(architecture)))
    if unknown:
        raise ArtifactError(f"no layer takes the activation {unknown[0]!r}")
    parts = (architecture.extractor, architecture.matcher)
    for name in names:
        halves = {name.removesuffix(".message"), f"{name.removesuffix('.message')}.message"}
        if name.endswith((".mlp.0", ".mlp.0.message")) and not halves <= set(names):
            raise ArtifactError(
                f"{name}: features and message are quantized together, or neither is"
            )
    if set(names) and any(part is not None and part.batch_norm for part in parts):
        raise ArtifactError("activations are quantized only where batch normalisation is folded")


def save_artifact(
    folder: str | os.PathLike[str],
    artifact: Artifact,
    dtype: Literal["float32", "float16"] = "float32",
) -> Artifact:
    """Write an artifact, whole or not at all, replacing one that is there with all its files.

    Args:
        dtype: how weights are stored; float16 rounds them.

    Returns:
        the artifact as `load_artifact` will read it.

    Raises:
        OutputError: the folder cannot be written, or holds something else.
    """
    folder = Path(folder)
    try:
        _check_shapes(artifact.arrays, artifact.architecture)
        _check_activations(artifact.architecture, artifact.quantization.activations)
    except ArtifactError as error:
        raise ArtifactError(f"this model: {error}") from None
    stored, storage = write_tensors(artifact.arrays, artifact.quantization, dtype)
    weights = safetensors.numpy.save(stored)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "hash": hashlib.sha256(weights).hexdigest(),
        "architecture": to_dict(artifact.architecture),
        "processing": to_dict(artifact.processing),
        "storage": _storage_dict(storage),
        "provenance": to_dict(artifact.provenance),
    }
    files = {
        WEIGHTS: weights,
        CONFIG: (json.dumps(header, indent=1, ensure_ascii=False) + "\n").encode(),
        CARD: _card(folder.name, artifact, len(weights)).encode(),
    }
    _replace_folder(folder, files)
    return load_artifact(folder)


def _storage_dict(storage: StorageConfig) -> dict[str, Any]:
    """Without what version 1 did not know where nothing needs it; it is short and reads back."""
    default = to_dict(LayerStorage())
    kept = ("dtype", "sparsity")
    tensors = {
        name: {k: v for k, v in to_dict(how).items() if k in kept or v != default[k]}
        for name, how in storage.tensors.items()
    }
    activations = {name: to_dict(how) for name, how in storage.activations.items()}
    return {"tensors": tensors} | ({"activations": activations} if activations else {})


def check_output(folder: str | os.PathLike[str]) -> None:
    """Raise OutputError where `save_artifact` would, for what is in its place."""
    if Path(folder).exists() and not _is_replaceable(Path(folder)):
        raise OutputError(f"{folder}: exists and is not a model of ours; choose another name")


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        check_output(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".featherglue.", dir=folder.parent) as place:
            fresh, old = Path(place) / "new", Path(place) / "old"
            fresh.mkdir()
            for name, data in files.items():
                (fresh / name).write_bytes(data)
            if folder.exists():
                folder.rename(old)
            try:
                fresh.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from None


def _is_replaceable(folder: Path) -> bool:
    """Whether it is an empty folder or an artifact of ours."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        header = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT


def _card(name: str, artifact: Artifact, size: int) -> str:
    macs = total_macs(artifact.architecture)
    count = parameters(artifact)
    lines = [
        f"# {name}",
        "",
        "A featherglue model: a SuperPoint extractor and a SuperGlue matcher."
        if artifact.architecture.extractor and artifact.architecture.matcher
        else "A featherglue model.",
        "",
        f"- parameters: {count:,}",
        f"- MACs at 640×480, 512 keypoints: {macs['extractor'] / 1e9:.2f} G to extract, "
        f"{macs['matcher'] / 1e9:.2f} G to match",
        f"- {WEIGHTS}: {size:,} bytes",
        f"- licence: {artifact.provenance.license or 'unknown'}",
        f"- data: {artifact.provenance.data or 'unknown'}",
    ]
    for i, step in enumerate(artifact.provenance.recipe):
        lines.append(f"- step {i + 1}: {json.dumps(step, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def parameters(artifact: Artifact) -> int:
    """Number of learned parameters."""
    return sum(array.size for name, array in artifact.arrays.items() if is_parameter(name))


def nonzero(artifact: Artifact) -> int:
    """Number of learned parameters that are not 0."""
    return sum(
        int(np.count_nonzero(array))
        for name, array in artifact.arrays.items()
        if is_parameter(name)
    )


def bytes_on_disk(artifact: Artifact) -> dict[str, int]:
    """Bytes of each file of the artifact."""
    if artifact.folder is None:
        return {}
    files = sorted(path for path in artifact.folder.iterdir() if path.is_file())
    return {path.name: path.stat().st_size for path in files}
